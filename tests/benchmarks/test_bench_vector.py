"""The benchmark of watched training compares runs that learn the same, and writes what it prints. No time decides."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from click.testing import CliRunner
from xaitk_saliency.impls.perturb_image.sliding_window import SlidingWindow

from saliency_wrappers import PerturbationSaliency

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    module = importlib.import_module("bench_vector")
    monkeypatch.setattr(module, "PerturbationSaliency", lambda: PerturbationSaliency(SlidingWindow((42, 42), (42, 42))))
    return module


def test_a_watched_run_learns_exactly_what_a_plain_one_does(bench: ModuleType) -> None:
    method = bench.Stopwatch()
    runs = bench.make_runs(2, 4, method)
    for _ in range(2):
        for run in runs.values():
            bench.timed(run, 4, method)
    plain, watched = (runs[name].agent.state_dict() for name in ("plain", "watched"))
    assert all(torch.equal(plain[name], watched[name]) for name in plain)
    assert torch.equal(runs["plain"].frames, runs["watched"].frames)
    assert method.seconds > 0
    for run in runs.values():
        run.games.close()


def test_it_prints_a_table_and_writes_json(bench: ModuleType, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    output = tmp_path / "runs" / "bench.json"
    arguments = ["--environments", "2", "--rounds", "1", "--threads", "1", "--steps", "4", "--output", str(output)]
    run = CliRunner().invoke(bench.main, arguments, catch_exceptions=False)
    assert run.exit_code == 0
    report = json.loads(output.read_text(encoding="utf-8"))
    (result,) = report["results"]
    assert (result["environments"], result["threads"], result["rounds"]) == (2, 1, 1)
    assert result["maps"] > 0
    assert torch.__version__ in report["machine"]["versions"]
    rows = [line for line in run.output.splitlines() if line.startswith("|")]
    assert len(rows) == 3
    assert len({row.count("|") for row in rows}) == 1
    assert torch.get_num_threads() == threads


def test_overheads_are_those_of_rounds_that_took_turns(bench: ModuleType) -> None:
    plain = [bench.Lap(10.0, 20.0, 0.0), bench.Lap(20.0, 20.0, 0.0), bench.Lap(30.0, 20.0, 0.0)]
    watched = [bench.Lap(11.0, 21.0, 1.0), bench.Lap(24.0, 21.0, 4.0), bench.Lap(31.5, 22.0, 1.5)]
    result = bench.summary(8, 1, plain, watched, ("0", "1"))
    assert (result.plain, result.watched, result.rounds) == (20.0, 24.0, 3)
    assert [round(share, 6) for share in (result.overhead, result.processor_overhead, result.maps)] == [0.1, 0.05, 0.1]
    assert (result.load_before, result.load_after) == ("0", "1")
