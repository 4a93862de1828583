"""Every example runs as it stands, with a small budget, and writes what it says."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest
import torch
from programs import EXAMPLES, run
from tiny_agents import seeded
from videos import frames_of

from saliency_wrappers.models.networks import GreydanusLSTM


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """An untrained agent of the published architecture."""
    torch.save(seeded(GreydanusLSTM, 4).state_dict(), tmp_path / "tiny.1.tar")
    return tmp_path / "tiny.1.tar"


def test_minimal_films_an_episode(tmp_path: Path, checkpoint: Path) -> None:
    run("minimal.py", checkpoint, 4, folder=tmp_path)
    assert len(frames_of(tmp_path / "videos/saliency-episode-0.mp4")) == 5


def test_minimal_plays_the_bundled_agent(tmp_path: Path) -> None:
    run("minimal.py", folder=tmp_path)
    assert len(frames_of(tmp_path / "videos/saliency-episode-0.mp4")) > 1


def test_minimal_fits_in_twenty_lines() -> None:
    lines = (EXAMPLES / "minimal.py").read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if line.strip()]) <= 20


def test_breakout_saliency_is_the_whole_application(tmp_path: Path, checkpoint: Path) -> None:
    budget = ["--steps", 12, "--first-frame", 3, "--last-frame", 6, "--show", 5, "--masks", 8]
    said = run("breakout_saliency.py", "--checkpoint", checkpoint, *budget, "--output", "out", folder=tmp_path)
    written = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert written == ["decision-5.png", "perturbers-5.png", "plain-step-3.mp4", "saliency-step-3.mp4"]
    assert all(f"wrote: out/{name}" in said for name in written)
    assert "decision 5: action" in said
    plain, saliency = (frames_of(tmp_path / f"out/{kind}-step-3.mp4") for kind in ("plain", "saliency"))
    assert len(plain) == len(saliency) == 5  # published frames 3 to 6, and the plain one that the last action led to
    assert cv2.imread(str(tmp_path / "out/decision-5.png")) is not None


def test_vector_training_learns_and_films_the_first_game(tmp_path: Path) -> None:
    said = run("vector_training.py", "--steps", 36, "--environments", 2, "--rollout", 9, "--output", "out", folder=tmp_path)
    assert said.startswith("step 0 (episode 0, step 0): value ")
    assert len(frames_of(tmp_path / "out/saliency-env-0-episode-0.mp4")) == 19
    assert {"network.0.weight", "lstm.weight_hh_l0", "actor.weight"} <= torch.load(tmp_path / "out/agent.pt", weights_only=True).keys()


@pytest.mark.timeout(300)
def test_cluster_computes_the_same_on_loky_dask_and_ray(tmp_path: Path) -> None:
    said = run("cluster.py", 4, folder=tmp_path)
    assert said.count("4 decisions explained, 0 had their maps already") == 3
    assert "4 decisions)" in said
