"""The benchmarks: they compare equal work, keep their books, and run without the reference agents. No time decides."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from saliency_wrappers import Decision, SaliencyMaps
from saliency_wrappers.models.networks import GreydanusLSTM

FOLDER = Path(__file__).parents[2] / "benchmarks"
GRADIENT = np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)

Explain = Callable[[Sequence[Decision]], list[SaliencyMaps]]
Load = Callable[[str], ModuleType]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Imports a benchmark beside whose own folder it finds the others, as when it is run."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


@pytest.fixture
def comparing(load: Load) -> ModuleType:
    return load("comparing")


@pytest.fixture
def measuring(load: Load) -> ModuleType:
    return load("measuring")


class TinyAgent(nn.Module):
    """The cheapest recurrent agent for 80x80 inputs, or for several channels of them."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(channels, 2, 16, stride=16)
        self.gru = nn.GRUCell(50, 3)
        self.critic = nn.Linear(3, 1)
        self.actor = nn.Linear(3, 4)
        with torch.no_grad():
            # Or rounding would be a part of the maps: of outputs that hardly change, or of gates that are saturated.
            self.conv.weight *= 4
            self.critic.bias.zero_()
            self.actor.bias.zero_()

    def forward(self, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        x, state = inputs
        state = self.gru(self.conv(x).flatten(1), state)
        return self.critic(state), self.actor(state), state

    def initial_state(self, n: int) -> Tensor:
        return torch.zeros(n, 3)


def decided(agent: TinyAgent, channels: int, count: int) -> list[Decision]:
    """What the agent decides on images of smooth noise."""
    made = []
    for seed in range(count):
        noise = torch.rand(1, channels, 8, 8, generator=torch.Generator().manual_seed(seed))
        inputs, state = nn.functional.interpolate(noise, size=(80, 80), mode="bilinear"), agent.initial_state(1)
        with torch.no_grad():
            value, logits, _ = agent((inputs, state))
        made.append(Decision(inputs, state, logits, value))
    return made


def decisions(count: int) -> list[Decision]:
    """Decisions that say which they are."""
    return [Decision(torch.full((1, 1, 4, 4), float(number)), None, torch.zeros(1, 2), torch.zeros(1, 1)) for number in range(count)]


def numbered(some: Sequence[Decision]) -> list[int]:
    return [int(one.inputs.mean()) for one in some]


def drawing(actor: np.ndarray, critic: np.ndarray | None) -> Explain:
    return lambda some: [SaliencyMaps(actor, critic) for _ in some]


def way(comparing: ModuleType, name: str, explain: Explain, agrees_with: str, **options: Any) -> Any:
    return comparing.Way(name, explain, agrees_with, options.pop("difference", comparing.of_own_scale), **options)


def run(module: ModuleType, output: Path, *arguments: str) -> tuple[Any, list[list[str]]]:
    """A script's JSON, and the cells of the tables that it printed."""
    done = CliRunner().invoke(module.main, [*arguments, "--output", str(output)], catch_exceptions=False)
    assert done.exit_code == 0
    lines = [line for line in done.output.splitlines() if line.startswith("|") and "---" not in line]
    return json.loads(output.read_text(encoding="utf-8")), [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def test_all_ways_are_compared_on_agents_of_one_and_of_several_channels(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, cases = load("bench_saliency"), load("cases")
    agents = {"grey": TinyAgent(), "stacked": TinyAgent(channels=2)}
    made = [cases.Case(name, "tiny", agent, decided(agent, agent.conv.in_channels, 2)) for name, agent in agents.items()]
    monkeypatch.setattr(bench, "cases", lambda count: iter(made))
    monkeypatch.setattr(bench, "peak_rate", lambda threads: 1e9)
    report, cells = run(bench, tmp_path / "results" / "bench.json", "--rounds", "1", "--threads", "1", "--compiled", "")
    names = [[result["way"] for result in one["results"]] for one in report["measured"]]
    assert names[0] == [one.name for one in bench.ways(made[0], 1)]
    assert {
        bench.CODE_OF_2018,
        bench.PUBLISHED,
        bench.PLAIN,
        "exact (default), inline",
        "tolerance 1e-4, deferred",
        "exact, inline, without Numba",
    } <= set(names[0])
    assert names[1] == [name for name in names[0] if "2018" not in name]
    for one in report["measured"]:
        assert one["passes"] == 257
        assert one["roofline"] == 257 * one["flops"] / 1e9
        for result in one["results"]:
            assert 0 < result["seconds"]["least"] <= result["seconds"]["median"] <= result["seconds"]["most"]
            assert result["incremental"] == (2 if "exact" in result["way"] or "tolerance" in result["way"] else None)
            assert result["difference"] <= (0.1 if "tolerance" in result["way"] else 1e-4)
    assert torch.__version__ in report["setting"]["versions"]
    assert [row[0] for row in cells] == ["way", *names[0], "way", *names[1]]


def test_the_operations_of_a_pass_are_counted(load: Load) -> None:
    agent = TinyAgent()
    (decision,) = decided(agent, 1, 1)
    convolution, cell, heads = 25 * 2 * 256, 9 * (50 + 3), 3 * (1 + 4)
    assert load("machine").flops_of_a_pass(agent, decision) == 2 * (convolution + cell + heads)


def test_the_roofline_is_all_passes_at_the_peak(load: Load) -> None:
    measured = load("bench_saliency").Measured("some", passes=257, flops=1000, peak=1e6, results=[])
    assert measured.roofline == 0.257


def test_an_agent_that_cannot_be_compiled_is_left_out_and_that_is_said(
    load: Load, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench, cases = load("bench_saliency"), load("cases")

    def refuse(agent: nn.Module, backend: str) -> nn.Module:
        def forward(inputs: Any) -> None:
            raise RuntimeError("no compiler\nfound")

        agent.forward = forward
        return agent

    monkeypatch.setattr(bench, "compiled_agent", refuse)
    agent = TinyAgent()
    case = cases.Case("grey", "tiny", agent, decided(agent, 1, 1))
    assert bench.compiled_ways(case, 1) == []
    assert "torch.compile with backend inductor is left out: RuntimeError: no compiler" in capsys.readouterr().out
    assert agent.forward.__func__ is TinyAgent.forward


def test_every_decision_is_explained_once_by_turns(comparing: ModuleType) -> None:
    turns: list[tuple[str, list[int]]] = []

    def one(name: str, **options: Any) -> Any:
        def explain(some: Sequence[Decision]) -> list[SaliencyMaps]:
            turns.append((name, numbered(some)))
            return drawing(GRADIENT, GRADIENT)(some)

        return way(comparing, name, explain, "quick", **options)

    some = [one("quick", warm_up=2), one("slow", slow=True, warm_up=0), one("other", warm_up=0)]
    results = comparing.compare(some, decisions(7), rounds=3, threads=1, baselines=["slow"])
    assert turns == [
        ("quick", [0, 1]),  # to warm up
        *[("quick", [0, 3, 6]), ("slow", [0, 3, 6]), ("other", [0, 3, 6])],
        *[("other", [1, 4]), ("quick", [1, 4])],
        *[("other", [2, 5]), ("quick", [2, 5]), ("slow", [2, 5])],
    ]
    assert [result.decisions for result in results] == [7, 5, 7]
    assert [result.way for result in results] == ["quick", "slow", "other"]


def test_no_thread_is_idle_at_the_end_of_a_block(comparing: ModuleType) -> None:
    blocks = list(comparing.blocks(decisions(50), rounds=3, multiple=2))
    assert [len(block) for block in blocks] == [18, 16, 16]
    assert numbered(blocks[1])[:4] == [2, 3, 8, 9]
    assert sorted(number for block in blocks for number in numbered(block)) == list(range(50))


@pytest.mark.parametrize("rounds", [1, 2, 7])
@pytest.mark.parametrize("count", [1, 3, 8])
def test_blocks_share_all_decisions(comparing: ModuleType, count: int, rounds: int) -> None:
    blocks = list(comparing.blocks(decisions(count), rounds, multiple=2))
    assert sorted(number for block in blocks for number in numbered(block)) == list(range(count))
    assert all(blocks)


def test_the_number_of_threads_is_restored(comparing: ModuleType) -> None:
    before = torch.get_num_threads()
    seen: list[int] = []

    def explain(some: Sequence[Decision]) -> list[SaliencyMaps]:
        seen.append(torch.get_num_threads())
        return drawing(GRADIENT, None)(some)

    comparing.compare([way(comparing, "way", explain, "way")], decisions(1), rounds=1, threads=before + 1, baselines=[])
    assert seen == [before + 1, before + 1]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(("actor", "critic"), [(GRADIENT**1.001, GRADIENT), (GRADIENT, GRADIENT**1.001), (GRADIENT * np.nan, GRADIENT)])
@pytest.mark.parametrize("difference", ["of_own_scale", "of_the_peak"])
def test_maps_that_differ_are_an_error(comparing: ModuleType, actor: np.ndarray, critic: np.ndarray, difference: str) -> None:
    reference = way(comparing, "reference", drawing(GRADIENT, GRADIENT), "reference")
    other = way(comparing, "other", drawing(actor, critic), "reference", difference=getattr(comparing, difference))
    with pytest.raises(ValueError, match=r"Expected the maps of other within 0\.0001 of those of reference, got"):
        comparing.compare([reference, other], decisions(2), rounds=1, threads=1, baselines=[])


def test_maps_are_compared_on_their_own_scale_or_by_the_peak(comparing: ModuleType) -> None:
    flat = np.ones((4, 4), np.float32)
    assert comparing.of_own_scale(3 + 5 * GRADIENT, GRADIENT) < 1e-6
    assert comparing.of_own_scale(flat, 0 * flat) == 0
    assert comparing.of_the_peak(3 * GRADIENT, 2 * GRADIENT) == 0.5
    assert comparing.of_the_peak(0 * flat, 0 * flat) == 0


def test_differences_are_kept_for_every_map(comparing: ModuleType) -> None:
    other = np.where(GRADIENT == 1, 0.99, GRADIENT).astype(np.float32)
    reference = way(comparing, "reference", drawing(GRADIENT, GRADIENT), "reference")
    some = way(comparing, "some", drawing(other, GRADIENT), "reference", difference=comparing.of_the_peak, bound=0.1)
    _, result = comparing.compare([reference, some], decisions(3), rounds=2, threads=1, baselines=[])
    assert result.difference == pytest.approx(0.01, rel=1e-4)
    assert result.usual_difference == pytest.approx(0.005, rel=1e-4)


def test_inline_explains_one_decision_a_call_and_deferred_all(comparing: ModuleType) -> None:
    calls: list[list[int]] = []

    def method(adapter: Any, some: Sequence[Decision]) -> list[SaliencyMaps]:
        calls.append(numbered(some))
        return drawing(GRADIENT, None)(some)

    assert len(comparing.inline(method, None)(decisions(2))) == len(comparing.deferred(method, None)(decisions(2))) == 2
    assert calls == [[0], [1], [0, 1]]


def test_ratios_compare_times_of_the_same_block(measuring: ModuleType) -> None:
    laps = [measuring.Lap("own", block, 2, seconds) for block, seconds in enumerate([1.0, 2.0, 4.0])]
    laps += [measuring.Lap("base", 0, 2, 10.0), measuring.Lap("base", 2, 2, 60.0)]
    assert measuring.seconds(laps, "own") == measuring.Spread(2.0, 1.0, 4.0)
    assert measuring.ratios(laps, "base", "own") == measuring.Spread(12.5, 10.0, 15.0)
    assert measuring.ratios(laps, "absent", "own") is None


def test_seconds_are_for_one_unit_and_each_block_begins_with_another_way(measuring: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: float(next(clock)))
    order: list[str] = []
    ways = {name: lambda name=name: order.append(name) or name for name in "abc"}
    laps, results = measuring.in_turns(ways, block=4, units=2, threads=1)
    assert order == ["b", "c", "a"]
    assert results == {"a": "a", "b": "b", "c": "c"}
    assert [(lap.way, lap.block, lap.units, lap.seconds) for lap in laps] == [(name, 4, 2, 0.5) for name in "bca"]


def test_tables_align_numbers_but_never_the_first_column(load: Load) -> None:
    assert load("reporting").markdown(["", "ms", "added"], [["1 at once", "2.0", "+3%"], ["2 at once", "-", "-"]]) == (
        "|  | ms | added |\n| --- | ---: | ---: |\n| 1 at once | 2.0 | +3% |\n| 2 at once | - | - |"
    )


def test_without_the_reference_agents_fresh_ones_are_measured_and_said_so(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = load("cases")
    monkeypatch.setattr(cases, "SHARED", tmp_path)
    made = {case.name: case for case in cases.cases(3)}
    assert list(made) == ["Breakout", "bundled", "Nature-CNN"]
    assert isinstance(made["Breakout"].agent, GreydanusLSTM)
    assert made["Breakout"].description == f"a freshly initialised GreydanusLSTM: there is no reference agent in {tmp_path}"
    for case, shape in zip(made.values(), [(1, 80, 80), (1, 80, 80), (4, 84, 84)], strict=True):
        assert not case.agent.training
        assert [one.inputs.shape for one in case.decisions] == [(1, *shape)] * 3
        assert all(one.inputs.any() and 0 <= one.inputs.min() <= one.inputs.max() <= 1 for one in case.decisions)
        assert not torch.equal(case.decisions[0].inputs, case.decisions[2].inputs)
    assert made["Nature-CNN"].decisions[0].state is None
    assert not any(leaf.any() for leaf in made["Breakout"].decisions[0].state)
    assert all(leaf.any() for leaf in made["Breakout"].decisions[1].state)


def test_perturbers_and_growth_are_compared(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench, cases = load("bench_perturbers"), load("cases")
    agent = TinyAgent()
    monkeypatch.setattr(bench, "breakout_player", lambda: cases.Player(agent, np.ones(2, np.int64), "a tiny agent"))
    monkeypatch.setattr(bench, "recorded", lambda player, count: decided(agent, 1, count))
    monkeypatch.setattr(bench, "SIZES", (42,))
    monkeypatch.setattr(bench, "STRIDES", (20, 10))
    report, cells = run(bench, tmp_path / "p.json", "--decisions", "2", "--rounds", "1", "--threads", "1")
    measured = {one["setting"]: one for one in report["measured"]}
    masks = {"SlidingWindow (10, 10)/(5, 5)": 256, "SlidingRadial, stride (2, 2)": 1600, "stride 20": 16, "stride 10": 64, "2 at once": 256}
    assert {name: measured[name]["masks"] for name in masks} == masks
    assert measured["RISE, 1000 masks"]["path"] == "plain"
    assert measured["SlidingRadial (5, 5)"]["path"] == "incremental"
    assert all(result["difference"] <= 1e-4 and result["decisions"] in (1, 2) for one in measured.values() for result in one["results"])
    assert [row[0] for row in cells if row[0]] == list(measured)


def test_decisions_of_one_call_stay_together(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = load("bench_perturbers")
    calls: list[int] = []

    class Watched(bench.PerturbationSaliency):
        def __call__(self, adapter: Any, some: Sequence[Decision]) -> list[SaliencyMaps]:
            calls.append(len(some))
            return super().__call__(adapter, some)

    monkeypatch.setattr(bench, "PerturbationSaliency", Watched)
    agent, perturber = TinyAgent(), bench.named_perturber("sliding-window", (80, 80), window_size=(40, 40), stride=(40, 40))
    bench.measure("growth", bench.Setting("3 at once", perturber, agent, decided(agent, 1, 3), together=True), rounds=2, threads=1)
    assert calls == [1, 6, *[3] * 4]


def test_a_recorder_is_compared_on_the_same_game(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench, cases = load("bench_recorder"), load("cases")
    monkeypatch.setattr(bench, "breakout_player", lambda: cases.Player(TinyAgent(), np.array([1, 2, 3, 0] * 3), "a tiny agent"))
    report, cells = run(bench, tmp_path / "r.json", "--rounds", "2", "--steps", "5", "--videos", "1", "--video-steps", "3")
    ways = [bench.ALONE, bench.IDLE, bench.CAPTURE, bench.INLINE, bench.UNFILMED, bench.FILMED]
    assert [result["way"] for result in report["results"]] == ways == [row[0] for row in cells[1:]]
    assert [result["rounds"] for result in report["results"]] == [2, 2, 2, 2, 1, 1]


def test_the_recorders_do_what_their_names_say(load: Load) -> None:
    bench, cases = load("bench_recorder"), load("cases")
    player = cases.Player(TinyAgent(), np.array([1, 2]), "a tiny agent")
    for wrap, wanted in ((bench.idle, False), (bench.capturing, True), (bench.explaining, True)):
        playing = bench.Playing(player, wrap)
        infos: list[dict[str, Any]] = []
        step = playing.env.step
        playing.env.step = lambda action, step=step, infos=infos: (out := step(action), infos.append(out[4]))[0]
        playing.advance(2)
        assert ["saliency" in info for info in infos] == [wanted] * 2
        assert ["pending" in info.get("saliency", {}) for info in infos] == [wrap is bench.capturing] * 2
        playing.env.close()
    assert not infos[1]["saliency"]["actor"].any()
    assert infos[1]["saliency"]["logits"].any()


def test_turns_go_on_where_the_last_one_ended(load: Load) -> None:
    taken: list[int] = []
    player = load("cases").Player(TinyAgent(), np.array([1, 2, 3, 0]), "a tiny agent")
    playing = load("bench_recorder").Playing(player, lambda env, agent: env)
    step = playing.env.step
    playing.env.step = lambda action: (taken.append(action), step(action))[1]
    playing.advance(3)
    playing.advance(1)
    playing.env.close()
    assert taken == [1, 2, 3, 0]


def test_different_games_are_an_error(load: Load) -> None:
    with pytest.raises(ValueError, match="Expected the same game with and without a recorder"):
        load("bench_recorder").check_same({"alone": 1.0, "recorder": 1.5})


def test_turns_add_up_by_their_steps(load: Load, measuring: ModuleType) -> None:
    turns = [measuring.Lap(way, 0, units, seconds) for way, units, seconds in (("alone", 3, 1.0), ("more", 3, 2.0), ("alone", 1, 5.0))]
    assert load("bench_recorder").summed(turns, 7) == [measuring.Lap("alone", 7, 4, 2.0), measuring.Lap("more", 7, 3, 2.0)]


def test_costs_are_what_is_added_within_a_round(load: Load, measuring: ModuleType) -> None:
    laps = [measuring.Lap("alone", block, 1, seconds) for block, seconds in enumerate([1.0, 2.0, 4.0])]
    laps += [measuring.Lap("more", block, 1, seconds) for block, seconds in enumerate([1.5, 2.5, 4.0])]
    alone, more = load("bench_recorder").costs(laps, "alone")
    assert alone.added == measuring.Spread(0.0, 0.0, 0.0)
    assert (more.added, more.seconds.median, more.rounds) == (measuring.Spread(0.25, 0.0, 0.5), 2.5, 3)


def test_the_shares_of_all_stages_add_up(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench, cases = load("bench_stages"), load("cases")
    agent = TinyAgent()
    monkeypatch.setattr(bench, "breakout_player", lambda: cases.Player(agent, np.ones(2, np.int64), "a tiny agent"))
    monkeypatch.setattr(bench, "recorded", lambda player, count: decided(agent, 1, count))
    report, cells = run(bench, tmp_path / "s.json", "--decisions", "1", "--threads", "1")
    assert [result["path"] for result in report["results"]] == ["plain", "exact", "exact, without Numba"]
    for result in report["results"]:
        assert sum(result["shares"].values()) == pytest.approx(1)
        assert result["shares"]["matrix products and convolutions"] > 0
    assert report["results"][1]["shares"]["where masks reach, compiled"] > 0
    assert report["results"][2]["shares"]["gathering"] > 0
    assert [row[0] for row in cells] == ["", *report["results"][0]["shares"], "ms per decision, profiled"]


def test_each_operator_counts_for_one_stage(load: Load) -> None:
    bench = load("bench_stages")
    spent = bench.shares({"mm": 1.0, "index_select": 2.0, "copy_": 3.0}, spent=10.0)
    assert (spent["matrix products and convolutions"], spent["gathering"]) == (0.1, 0.2)
    assert (spent[bench.OTHER], spent[bench.OUTSIDE]) == pytest.approx((0.3, 0.4))
    names = [name for stage in bench.STAGES.values() for name in stage]
    assert len(set(names)) == len(names)


def test_numbers_of_threads_are_read(load: Load) -> None:
    reporting = load("reporting")
    assert reporting.thread_counts("2, 1") == [2, 1]
    for text in ("", "0", "two", "1,,2"):
        with pytest.raises(click.BadParameter, match="Expected numbers of threads such as 2,1, got"):
            reporting.thread_counts(text)
