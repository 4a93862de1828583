"""What fails while filming never costs a transition, nor another recording's file."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from counting import CountingAgent, CountingEnv, play, recorded
from counting_vector import NEXT_STEP, World, recorded_vector

from saliency_wrappers import RecordSaliencyVideo
from saliency_wrappers.video.film import Film

Env = RecordSaliencyVideo[Any, Any]


def filmed(folder: Path, length: int = 12, **options: Any) -> tuple[Env, CountingEnv, CountingAgent]:
    env, agent = CountingEnv((length,)), CountingAgent()
    return RecordSaliencyVideo(recorded(env, agent, **options), folder), env, agent


def _no_frame(*_: Any) -> None:
    raise OSError("no frame")


@pytest.mark.filterwarnings("ignore:Episode 0")
def test_wrappers_that_share_a_folder_and_a_prefix_keep_all_their_videos(tmp_path: Path) -> None:
    envs = [filmed(tmp_path)[0] for _ in range(3)]
    for env in envs:
        env.reset()
    envs[0].step(0)
    for env in envs[1:]:
        with pytest.warns(UserWarning, match="is being written by another recording"):
            env.step(0)
    for env in envs:
        env.close()
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"saliency-episode-0{end}.mp4" for end in ("-1", "-2", "")]


def test_a_folder_that_is_deleted_while_filming_is_told(tmp_path: Path) -> None:
    env, _, agent = filmed(tmp_path / "videos")
    steps: list[int] = []

    def between() -> None:
        steps.append(1)
        if len(steps) == 6:
            shutil.rmtree(tmp_path / "videos")

    with pytest.raises(OSError, match=r"saliency-episode-0\.mp4"):
        play(env, agent, between=between)
    env.close()


def test_a_failing_film_does_not_lose_the_transition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env, inner, agent = filmed(tmp_path)
    seen: list[int] = []

    def between() -> None:
        seen.append(1)
        if len(seen) == 5:
            monkeypatch.setattr(Film, "add", _no_frame)

    with pytest.raises(OSError, match="no frame"):
        play(env, agent, between=between)
    assert len(seen) == inner.t
    env.close()


def test_a_failure_at_the_last_step_is_raised_by_close(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env, _, agent = filmed(tmp_path, length=5)
    seen: list[int] = []

    def between() -> None:
        seen.append(1)
        if len(seen) == 4:
            monkeypatch.setattr(Film, "add", _no_frame)

    play(env, agent, between=between)
    assert len(seen) == 5
    with pytest.raises(OSError, match="no frame"):
        env.close()


@pytest.mark.filterwarnings("ignore:Episode 0")
def test_a_failing_film_does_not_lose_the_transitions_of_a_vector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent, world = CountingAgent(), World([[9], [9]], NEXT_STEP)
    vector = world.make()
    envs = RecordSaliencyVideo(recorded_vector(vector, agent), tmp_path)
    envs.reset()
    envs.step(np.zeros(2, np.int64))
    monkeypatch.setattr(Film, "add", _no_frame)
    envs.step(np.zeros(2, np.int64))
    with pytest.raises(OSError, match="no frame"):
        envs.step(np.zeros(2, np.int64))
    assert vector.envs[0].unwrapped.t == 2
    envs.close()
