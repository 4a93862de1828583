"""Programs that are killed while they write to a store: run as a script, this file forks one after another and kills each.

`python killing.py recording|computing FOLDER MOMENTS` does its work in FOLDER/0, FOLDER/1, ... Half of the moments are an n-th write to the
store, before, within or after it; the others come from outside, after a while.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from counting import Blackout, CountingAgent, CountingEnv, play, recorded

from saliency_wrappers import Decision, EpisodeStore, PerturbationSaliency, SaliencyMaps, compute_saliency
from saliency_wrappers.store.files import Location

BLOCK = 8
STEPS = 120


class Counted:
    """Blackout's maps; every decision that is explained leaves a byte in a file."""

    def __init__(self, tally: Path) -> None:
        self.method = PerturbationSaliency(Blackout(), fill=0.0, batch_size=4)
        self.tally = tally

    def __call__(self, adapter: Any, decisions: Sequence[Decision]) -> list[SaliencyMaps]:
        with self.tally.open("ab") as file:
            file.write(b"." * len(decisions))
        return self.method(adapter, decisions)

    def get_config(self) -> dict[str, Any]:
        return {}


def record(folder: Path) -> None:
    """An episode into a store; every step that was taken leaves a byte in a file."""
    agent = CountingAgent()
    with (folder / "steps").open("ab", buffering=0) as steps, torch.no_grad():
        store = EpisodeStore(folder / "store", frames=True, block=BLOCK)
        with recorded(CountingEnv((STEPS,)), agent, mode="capture", store=store) as recorder:
            play(recorder, agent, between=lambda: steps.write(b"."))


def compute(folder: Path) -> Any:
    return compute_saliency(folder / "store", CountingAgent(), method=Counted(folder / "explained"))


def die_at(write: int, when: str) -> None:
    """From now on the program kills itself at a write to the store."""
    put, count = Location.put, iter(range(1_000_000))

    def deadly(self: Location, key: str, content: bytes) -> None:
        now = next(count) == write
        if now and when == "within":
            (self.folder / key).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / key).with_suffix(".partial").write_bytes(content[: len(content) // 2])
        if now and when != "after":
            os.kill(os.getpid(), signal.SIGKILL)
        put(self, key, content)
        if now:
            os.kill(os.getpid(), signal.SIGKILL)

    Location.put = deadly


def killed(work: Callable[[Path], Any], folder: Path, moment: random.Random, writes: int, seconds: float, inside: bool) -> None:
    """Do the work in a child, and kill it."""
    write, when, delay = moment.randrange(writes), moment.choice(["before", "within", "after"]), moment.uniform(0.02, seconds)
    child = os.fork()
    if not child:
        if inside:
            die_at(write, when)
        work(folder)
        os._exit(0)
    if not inside:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def main(what: str, folder: Path, moments: int) -> None:
    moment = random.Random(7)
    torch.set_num_threads(1)
    for number in range(moments):
        place = folder / str(number)
        place.mkdir(parents=True)
        if what == "recording":
            killed(record, place, moment, writes=170, seconds=0.3, inside=number % 2 == 0)
        else:
            shutil.copytree(folder.parent / "recorded" / "store", place / "store")
            killed(compute, place, moment, writes=50, seconds=0.25, inside=number % 2 == 0)


if __name__ == "__main__":
    import killing  # its classes have the same names in the rerun

    killing.main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
