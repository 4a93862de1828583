"""The benchmark: it compares equal work, keeps its books, and runs without the reference agent. No time decides."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from saliency_wrappers import Decision, SaliencyMaps
from saliency_wrappers.models import GreydanusLSTM

FOLDER = Path(__file__).parents[1] / "benchmarks"
GRADIENT = np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`bench_saliency.py`, beside whose own folder it finds `baselines.py`, as when it is run."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("bench_saliency")


class TinyAgent(nn.Module):
    """The cheapest recurrent agent for 80x80 inputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 2, 16, stride=16)
        self.gru = nn.GRUCell(50, 3)
        self.critic = nn.Linear(3, 1)
        self.actor = nn.Linear(3, 4)

    def forward(self, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        x, state = inputs
        state = self.gru(self.conv(x).flatten(1), state)
        return self.critic(state), self.actor(state), state


def decisions(count: int) -> list[Decision]:
    """Decisions that say which they are."""
    return [Decision(torch.full((1, 1, 4, 4), float(number)), None, torch.zeros(1, 2), torch.zeros(1, 1)) for number in range(count)]


def numbered(some: Sequence[Decision]) -> list[int]:
    return [int(one.inputs.mean()) for one in some]


def drawing(actor: np.ndarray, critic: np.ndarray | None) -> Callable[[Sequence[Decision]], list[SaliencyMaps]]:
    return lambda some: [SaliencyMaps(actor, critic) for _ in some]


def test_it_compares_all_ways_prints_a_table_and_writes_json(bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "reference_agent", lambda: (TinyAgent(), np.ones(8, np.int64), "a tiny agent"))
    output = tmp_path / "results" / "bench.json"
    arguments = ["--decisions", "2", "--rounds", "1", "--threads", "1", "--output", str(output)]
    run = CliRunner().invoke(bench.main, arguments, catch_exceptions=False)
    report = json.loads(output.read_text(encoding="utf-8"))
    assert run.exit_code == 0
    assert report["setting"]["agent"] == "a tiny agent"
    assert report["setting"]["decisions"] == 2
    assert torch.__version__ in report["setting"]["versions"]
    assert [result["way"] for result in report["results"]] == [way.name for way in bench.ways(TinyAgent(), 1)]
    for result in report["results"]:
        assert 0 < result["fastest"] <= result["seconds"] <= result["slowest"]
        assert result["difference"] <= bench.TOLERANCE
        assert result["times_faster"].keys() == {bench.PUBLISHED, bench.CODE_OF_2018}
        assert math.isclose(result["times_faster"].get(result["way"], 1.0), 1.0)
    rows = [line for line in run.output.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(report["results"])
    assert len({row.count("|") for row in rows}) == 1


def test_every_decision_is_explained_once_by_turns(bench: ModuleType) -> None:
    turns: list[tuple[str, list[int]]] = []

    def way(name: str, slow: bool = False) -> object:
        def explain(some: Sequence[Decision]) -> list[SaliencyMaps]:
            turns.append((name, numbered(some)))
            return drawing(GRADIENT, GRADIENT)(some)

        return bench.Way(name, explain, "quick", slow)

    results = bench.compare([way("quick"), way("slow", slow=True)], decisions(9), rounds=2, threads=1)
    assert turns == [
        ("quick", [0]),  # to warm up
        *[("quick", [0, 2]), ("slow", [0, 2])],
        ("quick", [4, 6, 8]),
        *[("quick", [1]), ("slow", [1])],
        ("quick", [3, 5, 7]),
    ]
    assert [result.decisions for result in results] == [9, 3]


def test_no_thread_is_idle_at_the_end_of_a_block(bench: ModuleType) -> None:
    blocks = list(bench.blocks(decisions(50), rounds=3, multiple=2))
    assert [(len(block.decisions), block.for_slow_ways) for block in blocks] == [
        *[(6, True), (12, False)],
        *[(4, True), (12, False)],
        *[(4, True), (12, False)],
    ]
    assert sorted(number for block in blocks for number in numbered(block.decisions)) == list(range(50))


@pytest.mark.parametrize("rounds", [1, 2, 7])
@pytest.mark.parametrize("count", [1, 3, 8])
def test_blocks_share_all_decisions(bench: ModuleType, count: int, rounds: int) -> None:
    blocks = list(bench.blocks(decisions(count), rounds, multiple=2))
    assert sorted(number for block in blocks for number in numbered(block.decisions)) == list(range(count))
    assert blocks[0].for_slow_ways


def test_the_number_of_threads_is_restored(bench: ModuleType) -> None:
    before = torch.get_num_threads()
    seen: list[int] = []

    def explain(some: Sequence[Decision]) -> list[SaliencyMaps]:
        seen.append(torch.get_num_threads())
        return drawing(GRADIENT, None)(some)

    bench.compare([bench.Way("way", explain, "way")], decisions(1), rounds=1, threads=before + 1)
    assert seen == [before + 1, before + 1]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(("actor", "critic"), [(GRADIENT**1.001, GRADIENT), (GRADIENT, GRADIENT**1.001), (GRADIENT * np.nan, GRADIENT)])
def test_maps_that_differ_are_an_error(bench: ModuleType, actor: np.ndarray, critic: np.ndarray) -> None:
    ways = [bench.Way("reference", drawing(GRADIENT, GRADIENT), "reference"), bench.Way("other", drawing(actor, critic), "reference")]
    with pytest.raises(ValueError, match=r"Expected the maps of other within 0\.0001 of those of reference, got"):
        bench.compare(ways, decisions(2), rounds=1, threads=1)


def test_maps_are_compared_on_their_own_scale(bench: ModuleType) -> None:
    flat = np.ones((4, 4), np.float32)
    ways = [bench.Way("raw", drawing(3 + 5 * GRADIENT, flat), "scaled"), bench.Way("scaled", drawing(GRADIENT, 0 * flat), "scaled")]
    results = bench.compare(ways, decisions(2), rounds=1, threads=1)
    assert all(result.difference < 1e-6 for result in results)


def test_ratios_compare_times_of_the_same_block(bench: ModuleType) -> None:
    own = [bench.Lap("own", 0, 1, 1.0, 0.0), bench.Lap("own", 1, 2, 2.0, 1e-6), bench.Lap("own", 2, 2, 4.0, 0.0)]
    base = [bench.Lap("base", 0, 1, 10.0, 0.0), bench.Lap("base", 2, 2, 60.0, 0.0)]
    result = bench.summary("own", [*own, *base], ["base", "base"], threads=2)
    assert result == bench.Result("own", 2, 5, seconds=2.0, fastest=1.0, slowest=4.0, times_faster={"base": 12.5}, difference=1e-6)
    assert bench.table([result]) == (
        "| threads | way | ms per decision | min..max | times faster than the base | decisions | difference |\n"
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: |\n"
        "| 2 | own | 2000.0 | 1000.0..4000.0 | 12.5 | 5 | 1.0e-06 |"
    )


def test_without_the_reference_agent_a_fresh_one_is_measured_and_said_so(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "SHARED", tmp_path)
    agent, actions, description = bench.reference_agent()
    assert isinstance(agent, GreydanusLSTM)
    assert not agent.training
    assert description == f"a freshly initialised GreydanusLSTM: there is no reference agent in {tmp_path}"
    recorded = bench.record_decisions(agent, actions[:7], 3)
    assert len(recorded) == 3
    assert not any(leaf.any() for leaf in recorded[0].state)
    assert all(leaf.any() for leaf in recorded[1].state)
    assert all(one.inputs.shape == (1, 1, 80, 80) and one.inputs.any() for one in recorded)


def test_numbers_of_threads_are_read(bench: ModuleType) -> None:
    assert bench.numbers("2, 1") == [2, 1]
    for text in ("", "0", "two", "1,,2"):
        with pytest.raises(click.BadParameter, match="Expected numbers of threads such as 2,1, got"):
            bench.numbers(text)
