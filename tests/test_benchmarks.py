"""The benchmark: it compares equal work, keeps its books, and runs with and without the reference agent. No time decides."""

from __future__ import annotations

import json
import math
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from saliency_wrappers import Decision, SaliencyMaps

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`benchmarks/bench_saliency.py`, imported as the script does it: beside its own files."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import bench_saliency

    return bench_saliency


def decision(number: float = 0.0) -> Decision:
    return Decision(torch.full((1, 1, 4, 4), number), None, torch.zeros(1, 2), torch.zeros(1, 1))


def maps_of(decisions: Sequence[Decision], scale: float = 1.0) -> list[SaliencyMaps]:
    gradient = np.arange(16, dtype=np.float32).reshape(4, 4)
    return [SaliencyMaps(scale * gradient, 2 * scale * gradient + float(one.inputs.mean())) for one in decisions]


@pytest.mark.parametrize("threads", ["1", "2,1"])
def test_it_prints_a_table_and_writes_json(bench: ModuleType, tmp_path: Path, threads: str) -> None:
    output = tmp_path / "results" / "bench.json"
    arguments = ["--decisions", "2", "--rounds", "1", "--threads", threads, "--output", str(output)]
    run = CliRunner().invoke(bench.main, arguments, catch_exceptions=False)
    assert run.exit_code == 0
    report = json.loads(output.read_text(encoding="utf-8"))
    assert report["setting"]["decisions"] == 2
    assert report["setting"]["versions"].count(torch.__version__) == 1
    assert [(result["threads"], result["way"]) for result in report["results"]] == [
        (int(count), way.name) for count in threads.split(",") for way in bench.ways(torch.nn.Linear(1, 1), 1)
    ]
    for result in report["results"]:
        assert 0 < result["fastest"] <= result["seconds"] <= result["slowest"]
        assert result["difference"] <= bench.TOLERANCE
        assert result["times_faster"].keys() == {bench.PUBLISHED, bench.CODE_OF_2018}
        assert math.isclose(result["times_faster"].get(result["way"], 1.0), 1.0)
    rows = [line for line in run.output.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(report["results"])
    assert {row.count("|") for row in rows} == {rows[0].count("|")}
