"""Memory: what recording into a store takes does not grow with the recording. Run as a script, this file records and prints its peak."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from counting import CountingAgent, CountingEnv, network_input, recorded
from peak import ALLOWED, SOURCE, peak_memory, peak_of

from saliency_wrappers import EpisodeStore


def record(steps: int, folder: Path) -> None:
    """One episode of 80x80 frames, all of them and every decision in the store."""
    torch.set_num_threads(1)
    agent = CountingAgent()
    store = EpisodeStore(folder / str(steps), frames=True)
    with recorded(CountingEnv((steps,), size=(80, 80)), agent, mode="capture", store=store) as env, torch.no_grad():
        observation, _ = env.reset()
        state, ended = agent.initial_state(1), False
        while not ended:
            _, _, state = agent((network_input(observation), state))
            observation, _, ended, _, _ = env.step(0)


def start(steps: int, folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SOURCE), *sys.path]), "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
    command = [sys.executable, __file__, str(steps), str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.timeout(300)
def test_recording_20000_steps_takes_no_more_memory_than_1000(tmp_path: Path) -> None:
    with start(1000, tmp_path) as short, start(20_000, tmp_path) as long:
        few, many = peak_of(short), peak_of(long)
    for steps in (1000, 20_000):
        assert len(EpisodeStore.open(tmp_path / str(steps)).episodes[0]) == steps
    assert many - few <= ALLOWED, f"{few / 1e6:.0f} MB for 1,000 steps, {many / 1e6:.0f} MB for 20,000"


if __name__ == "__main__":
    record(int(sys.argv[1]), Path(sys.argv[2]))
    print(peak_memory())
