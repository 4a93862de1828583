"""Memory: what recording to a video takes does not grow with the episode. Run as a script, this file films one and prints its peak."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import torch
from counting import CountingAgent, CountingEnv, network_input, recorded
from peak import ALLOWED, SOURCE, peak_memory, peak_of

from saliency_wrappers import RecordSaliencyVideo


def record(mode: str, steps: int, folder: Path) -> None:
    """One episode of 80x80 frames, a decision and its maps at every step, all of it in one video."""
    torch.set_num_threads(1)
    agent = CountingAgent()
    recorder = recorded(CountingEnv((steps,), size=(80, 80)), agent, mode=mode)
    with RecordSaliencyVideo(recorder, folder, name_prefix=f"{steps}") as env, torch.no_grad():
        observation, _ = env.reset()
        state, ended = agent.initial_state(1), False
        while not ended:
            _, _, state = agent((network_input(observation), state))
            observation, _, ended, _, info = env.step(0)
            assert ("pending" in info["saliency"]) == (mode == "deferred")


def frames_in(video: Path) -> int:
    """How many frames a video has."""
    opened = cv2.VideoCapture(str(video))
    frames = 0
    while opened.grab():
        frames += 1
    opened.release()
    return frames


def start(mode: str, steps: int, folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SOURCE), *sys.path]), "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    command = [sys.executable, __file__, mode, str(steps), str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mode", ["inline", "deferred"])
def test_filming_a_long_episode_takes_no_more_memory_than_a_short_one(mode: str, tmp_path: Path) -> None:
    with start(mode, 400, tmp_path) as short, start(mode, 2400, tmp_path) as long:
        few, many = peak_of(short), peak_of(long)
    assert [frames_in(tmp_path / f"{steps}-episode-0.mp4") for steps in (400, 2400)] == [401, 2401]
    assert many - few <= ALLOWED, f"{few / 1e6:.0f} MB for 400 steps, {many / 1e6:.0f} MB for 2,400"


if __name__ == "__main__":
    record(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
    print(peak_memory())
