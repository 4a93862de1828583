"""The benchmark of the store plays the same episode in every way, and writes what it prints. No time decides."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from click.testing import CliRunner

from saliency_wrappers import load_pretrained

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    module = importlib.import_module("bench_store")
    monkeypatch.setattr(module, "reference_agent", lambda: load_pretrained("ALE/Breakout-v5"))
    return module


def test_every_way_plays_the_same_steps_and_only_stores_take_space(bench: ModuleType, tmp_path: Path) -> None:
    threads, output = torch.get_num_threads(), tmp_path / "runs" / "store.json"
    arguments = ["--rounds", "1", "--steps", "70", "--decisions", "0", "--output", str(output)]
    try:
        run = CliRunner().invoke(bench.main, arguments, catch_exceptions=False)
    finally:
        torch.set_num_threads(threads)
    assert run.exit_code == 0
    laps = {lap["way"]: lap for lap in json.loads(output.read_text(encoding="utf-8"))["laps"]}
    assert set(laps) == set(bench.WAYS)
    assert {lap["steps"] for lap in laps.values()} == {70}
    assert laps["nothing"]["bytes"] == laps["recorder"]["bytes"] == 0
    assert 0 < laps["store"]["bytes"] < laps["store with frames"]["bytes"]
    assert all(f"| {way} |" in run.output for way in bench.WAYS)


def test_an_overhead_is_the_median_of_the_rounds_ratios(bench: ModuleType) -> None:
    times = {"nothing": [1.0, 2.0, 4.0], "recorder": [1.0, 2.0, 4.0], "store": [1.5, 2.2, 4.0], "store with frames": [2.0, 4.0, 8.0]}
    laps = [bench.Lap(way, number, 10, time, 0.0) for way, own in times.items() for number, time in enumerate(own)]
    assert bench.overheads(laps, "store", "nothing") == pytest.approx([50.0, 10.0, 0.0])
    assert "| store | 2.200 | 1.500..4.000 | +10.0 % | +0.0..+50.0 |" in bench.overhead_table(laps)
