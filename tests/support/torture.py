"""The whole of the reliability tests, of which `make test` runs samples: `make torture`, or `python torture.py [--fuzz N] [--kills N]`.

Every operation on files fails in every way; so many mutated stores and checkpoints are read; so many recordings and computations are
killed. Prints counts, and ends with 1 where something was wrong.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from failing import JOBS, torture
from fuzzing import CASES, fuzz

BATCH = 250
"""Mutations in one child process."""


def parts(fuzzed: int, kills: int) -> Iterator[tuple[str, Callable[[Path], str]]]:
    """What is run, by name; each returns what it counted."""
    for name in JOBS:
        yield f"{name}, every operation fails", lambda folder, name=name: _failures(name, folder)
    for name in CASES:
        yield f"{name}s, mutated", lambda folder, name=name: _mutations(name, folder, fuzzed)
    yield "recordings, killed", lambda folder: _kills("recording", folder, kills)
    yield "computations, killed", lambda folder: _kills("computing", folder, kills // 10)


def _failures(name: str, folder: Path) -> str:
    failed, cases = torture(name, folder)
    return f"{cases} cases, {failed} failures; all committed decisions right, at most one block lost, no hooks left"


def _mutations(name: str, folder: Path, count: int) -> str:
    outcomes: Counter[str] = Counter()
    for first in range(0, count, BATCH):
        outcomes += fuzz(name, folder / str(first), first, min(BATCH, count - first))
    return f"{count} mutations: {', '.join(f'{number} {outcome}' for outcome, number in outcomes.most_common())}"


def _kills(what: str, folder: Path, count: int) -> str:
    sys.path.insert(0, str(Path(__file__).parents[1] / "store"))
    import test_kills

    check = test_kills.check_recordings if what == "recording" else test_kills.check_computations
    return check(folder, count)


def main() -> None:
    """Run everything; a failure does not keep the rest from being run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fuzz", type=int, default=10_000, help="mutated stores, and mutated checkpoints")
    parser.add_argument("--kills", type=int, default=640, help="killed recordings; a tenth as many computations")
    parser.add_argument("--only", default="", help="parts whose names have this in them")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    wrong = 0
    for name, run in parts(options.fuzz, options.kills):
        if options.only not in name:
            continue
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            try:
                said = run(Path(folder))
            except Exception:
                wrong += 1
                said = f"WRONG\n{traceback.format_exc()}"
        print(f"{name}: {said} ({time.perf_counter() - start:.0f} s)", flush=True)
    print(f"{wrong} wrong")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
