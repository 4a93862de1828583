"""Memory: what recording takes does not grow with the episode. Run as a script, this file plays one and prints its peak."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from counting import CountingAgent, CountingEnv, network_input, recorded

import saliency_wrappers

SOURCE = Path(saliency_wrappers.__file__).parents[1]
ALLOWED = 20_000_000


def peak_memory() -> int:
    """This program's largest resident set, in bytes. (`ru_maxrss` counts what the parent had when it forked, too.)"""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def record(mode: str, steps: int) -> None:
    """One episode of 80x80 frames, a decision and its maps at every step."""
    torch.set_num_threads(1)
    agent = CountingAgent()
    with recorded(CountingEnv((steps,), size=(80, 80)), agent, mode=mode) as recorder, torch.no_grad():
        observation, _ = recorder.reset()
        state, ended = agent.initial_state(1), False
        while not ended:
            _, _, state = agent((network_input(observation), state))
            observation, _, ended, _, info = recorder.step(0)
            assert ("pending" in info["saliency"]) == (mode == "deferred")


def start(mode: str, steps: int) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    command = [sys.executable, __file__, mode, str(steps)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def peak_of(process: subprocess.Popen[str]) -> int:
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    return int(output)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mode", ["inline", "deferred"])
def test_a_long_episode_takes_no_more_memory_than_a_short_one(mode: str) -> None:
    with start(mode, 500) as short, start(mode, 5000) as long:
        few, many = peak_of(short), peak_of(long)
    assert many - few <= ALLOWED, f"{few / 1e6:.0f} MB for 500 steps, {many / 1e6:.0f} MB for 5,000"


if __name__ == "__main__":
    record(sys.argv[1], int(sys.argv[2]))
    print(peak_memory())
