"""The scripts that made the bundled agents: a student is distilled, goes on where it was interrupted, and is trained further by PPO."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path

import ale_py
import gymnasium as gym
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tiny_agents import seeded

from saliency_wrappers import FramePreprocessor, load_checkpoint
from saliency_wrappers.models.networks import BabyA3CGRU

EXAMPLES = Path(__file__).parents[2] / "examples"
gym.register_envs(ale_py)


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    torch.save(seeded(BabyA3CGRU, 4).state_dict(), tmp_path / "teacher.tar")
    return tmp_path / "teacher.tar"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Run a script by its name, in this process."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    threads = torch.get_num_threads()

    def invoke(script: str, *options: object) -> None:
        arguments = ["--environments", "4", "--keep-every", "128", *map(str, options)]
        CliRunner().invoke(importlib.import_module(script).main, arguments, catch_exceptions=False)

    with torch.random.fork_rng(devices=[]):
        yield invoke
    torch.set_num_threads(threads)


def test_a_student_is_distilled_goes_on_and_is_trained_further(tmp_path: Path, teacher: Path, run: Callable[..., None]) -> None:
    distil = ["--teacher", teacher, "--output", tmp_path / "student", "--updates", 2]
    run("distill_atari", *distil, "--decisions", 128)
    assert torch.load(tmp_path / "student/checkpoint.pt", weights_only=True)["decisions"] == 128
    run("distill_atari", *distil, "--decisions", 256)
    assert torch.load(tmp_path / "student/checkpoint.pt", weights_only=True)["decisions"] == 256
    assert isinstance(load_checkpoint(tmp_path / "student/agent.256.pt"), BabyA3CGRU)
    student = tmp_path / "student/agent.safetensors"
    assert student.stat().st_size <= 2_000_000
    run("finetune_ppo", "--initial", student, "--output", tmp_path / "tuned", "--decisions", 256)
    before, after = (load_checkpoint(file).state_dict() for file in (student, tmp_path / "tuned/agent.safetensors"))
    assert all(weight.dtype == torch.float32 for weight in after.values())
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_games_are_preprocessed_exactly_as_by_the_preprocessor_of_the_agents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    from atari_games import AtariGames, preprocess

    preprocessor = FramePreprocessor.named("greydanus2018")
    for game in ("Breakout", "Pong"):
        env = gym.make(f"ALE/{game}-v5")
        frame, _ = env.reset(seed=0)
        frames = [frame, *(env.step(int(action))[0] for action in np.random.default_rng(0).integers(4, size=20))]
        env.close()
        expected = np.stack([preprocessor(one)[0] for one in frames]) * 255
        np.testing.assert_array_equal(preprocess(np.stack(frames)), expected)
    games = AtariGames("Breakout", 2, seed=0)
    assert games.frames.shape == (2, 80, 80)
    assert games.frames.dtype == torch.uint8
