"""The examples of agents from other libraries run as they stand, with small budgets, and write what they say."""

from __future__ import annotations

from pathlib import Path

import torch
from programs import run
from videos import frames_of


def test_sb3_recurrent_ppo_films_while_it_learns_and_at_the_end(tmp_path: Path) -> None:
    budget = ["--steps", 32, "--environments", 2, "--rollout", 16, "--film-every", 16, "--max-steps", 3]
    said = run("sb3_recurrent_ppo.py", *budget, "--output", "out", folder=tmp_path)
    videos = sorted(file.name for file in (tmp_path / "out/videos").iterdir())
    assert videos == ["final-episode-0.mp4", "saliency-16-steps-episode-0.mp4", "saliency-32-steps-episode-1.mp4"]
    assert {len(frames_of(tmp_path / "out/videos" / name)) for name in videos} == {4}
    assert "the last value was" in said
    assert (tmp_path / "out/agent.zip").is_file()


def test_cleanrl_ppo_lstm_trains_and_films_its_evaluations(tmp_path: Path) -> None:
    budget = ["--total-timesteps", 32, "--num-envs", 2, "--num-steps", 8, "--num-minibatches", 2, "--update-epochs", 1]
    film = ["--evaluate-every", 1, "--evaluation-steps", 3]
    said = run("cleanrl_ppo_lstm.py", *budget, *film, "--output", "out", folder=tmp_path)
    assert "evaluation after 32 steps" in said
    videos = sorted(file.name for file in (tmp_path / "out/videos").iterdir())
    assert videos == ["saliency-00000016-episode-0.mp4", "saliency-00000032-episode-0.mp4"]
    assert {len(frames_of(tmp_path / "out/videos" / name)) for name in videos} == {4}
    assert "actor.weight" in torch.load(tmp_path / "out/agent.pt", weights_only=True)


def test_custom_agent_checks_its_adapter_and_films(tmp_path: Path) -> None:
    said = run("custom_agent.py", 3, folder=tmp_path)
    assert "the adapter keeps its contract" in said
    assert "3 decisions" in said
    assert len(frames_of(tmp_path / "videos/saliency-episode-0.mp4")) == 4
