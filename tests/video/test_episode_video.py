"""A recorded episode is rendered from Python, with progress."""

from __future__ import annotations

from pathlib import Path

import pytest
from counting import Blackout, CountingAgent, CountingEnv, play, recorded
from videos import frames_of

from saliency_wrappers import EpisodeStore, compute_saliency, evaluate
from saliency_wrappers.agents import as_adapter
from saliency_wrappers.video.episode_video import render_episode


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    env, agent = CountingEnv((6,), size=(32, 32)), CountingAgent()
    with recorded(env, agent, mode="capture", store=EpisodeStore(tmp_path / "store", block=4, frames=True)) as recorder:
        play(recorder, agent)
    return tmp_path / "store"


def test_an_episode_is_rendered_with_progress(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    compute_saliency(folder, CountingAgent(), perturber=Blackout(), fill=0.0, decisions=slice(0, 4))
    told: list[tuple[int, int]] = []
    episode = EpisodeStore.open(folder).episode(0)
    frames = render_episode(episode, tmp_path / "new" / "e.mp4", zoom=2, progress=lambda done, total: told.append((done, total)))
    shown = frames_of(tmp_path / "new" / "e.mp4")
    assert frames == len(shown) == 4
    assert shown[0].shape == (64, 64, 3)
    assert told == [(1, 6), (2, 6), (3, 6), (4, 6)]
    assert render_episode(episode, tmp_path / "e.mp4", start=1, end=3, progress=True) == 2
    assert "2/2" in capsys.readouterr().err
    assert render_episode(episode, tmp_path / "none.mp4", start=5) == 0
    assert not (tmp_path / "none.mp4").exists()
    with pytest.raises(ValueError, match="Expected one method whose maps are in"):
        render_episode(episode, tmp_path / "e.mp4", method="f" * 16)


def test_an_episode_without_frames_is_refused(tmp_path: Path):
    env, agent = CountingEnv((2,)), CountingAgent()
    with recorded(env, agent, mode="capture", store=EpisodeStore(tmp_path / "bare", frames=False)) as recorder:
        play(recorder, agent)
    with pytest.raises(ValueError, match="Expected an episode with frames to draw on"):
        render_episode(EpisodeStore.open(tmp_path / "bare").episode(0), tmp_path / "e.mp4")


def test_evaluate_shows_progress(folder: Path, capsys: pytest.CaptureFixture[str]):
    decisions = [stored.decision for stored in EpisodeStore.open(folder).episode(0).decisions()][:2]
    agent = as_adapter(CountingAgent())
    evaluate(agent, decisions, ["change_weighted"], controls=False, resamples=2, progress=True)
    assert "faithfulness: 100%" in capsys.readouterr().err
    told: list[tuple[int, int]] = []
    evaluate(agent, decisions, ["change_weighted"], controls=False, resamples=2, progress=lambda *counts: told.append(counts))
    assert told == [(1, 2), (2, 2)]
