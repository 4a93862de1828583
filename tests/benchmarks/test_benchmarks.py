"""Every benchmark runs, with a tiny agent and a small budget, and writes what it prints. No time decides."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn
from xaitk_saliency.impls.perturb_image.sliding_window import SlidingWindow

from saliency_wrappers import Decision, PerturbationSaliency
from saliency_wrappers.models.networks import GreydanusLSTM

FOLDER = Path(__file__).parents[2] / "benchmarks"
COARSE = SlidingWindow((40, 40), (40, 40))

Run = Callable[..., Any]


class TinyAgent(nn.Module):
    """The cheapest recurrent agent for 80x80 inputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 2, 16, stride=16)
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


def decided(agent: TinyAgent, count: int) -> list[Decision]:
    """What the agent decides on images of smooth noise."""
    made = []
    for seed in range(count):
        noise = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
        inputs, state = nn.functional.interpolate(noise, size=(80, 80), mode="bilinear"), agent.initial_state(1)
        with torch.no_grad():
            value, logits, _ = agent((inputs, state))
        made.append(Decision(inputs, state, logits, value))
    return made


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Imports a benchmark, which finds the others beside it as when it is run."""
    monkeypatch.syspath_prepend(str(FOLDER))
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        yield importlib.import_module
    assert torch.get_num_threads() == threads
    torch.set_num_threads(threads)


@pytest.fixture
def run(load: Callable[[str], ModuleType], tmp_path: Path) -> Run:
    """Runs a script: what it wrote as JSON, and what it printed."""

    def invoke(name: str, *arguments: object) -> tuple[Any, str]:
        output = tmp_path / "results" / "bench.json"
        done = CliRunner().invoke(load(name).main, [*map(str, arguments), "--output", str(output)], catch_exceptions=False)
        assert done.exit_code == 0
        return json.loads(output.read_text(encoding="utf-8")), done.stdout

    return invoke


def rows(said: str) -> list[str]:
    """The first cells of the tables that were printed."""
    lines = [line for line in said.splitlines() if line.startswith("|") and "---" not in line]
    return [line.split("|")[1].strip() for line in lines]


@pytest.fixture
def tiny(load: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Gives a benchmark a tiny agent and its decisions."""

    def patch(name: str) -> ModuleType:
        bench, agent = load(name), TinyAgent()
        player = load("cases").Player(agent, np.array([1, 2, 3, 0]), "a tiny agent")
        monkeypatch.setattr(bench, "breakout_player", lambda: player)
        monkeypatch.setattr(bench, "recorded", lambda player, count: decided(agent, count), raising=False)
        return bench

    return patch


def test_saliency(load: Callable[[str], ModuleType], run: Run, monkeypatch: pytest.MonkeyPatch):
    bench, agent = load("bench_saliency"), TinyAgent()
    case = load("cases").Case("grey", "tiny", agent, decided(agent, 1))
    monkeypatch.setattr(bench, "cases", lambda count: iter([case]))
    monkeypatch.setattr(bench, "peak_rate", lambda threads: 1e9)
    report, said = run("bench_saliency", "--rounds", 1, "--threads", 1, "--compiled", "")
    (measured,) = report["measured"]
    assert {bench.CODE_OF_2018, bench.PUBLISHED, bench.PLAIN, "exact (default), inline"} <= {one["way"] for one in measured["results"]}
    assert measured["roofline"] == 257 * measured["flops"] / 1e9
    for result in measured["results"]:
        assert 0 < result["seconds"]["least"] <= result["seconds"]["median"] <= result["seconds"]["most"]
        assert result["difference"] <= (0.1 if "tolerance" in result["way"] else 1e-4)
    assert rows(said) == ["way", *[one["way"] for one in measured["results"]]]


def test_perturbers(tiny: Callable[[str], ModuleType], run: Run, monkeypatch: pytest.MonkeyPatch):
    bench = tiny("bench_perturbers")
    monkeypatch.setattr(bench, "SIZES", (42,))
    monkeypatch.setattr(bench, "named_perturber", lambda *_, **__: COARSE)
    report, said = run("bench_perturbers", "--decisions", 2, "--rounds", 1, "--threads", 1)
    assert [name for name in rows(said) if name] == [one["setting"] for one in report["measured"]]
    assert all(result["difference"] <= 1e-4 for one in report["measured"] for result in one["results"])


def test_recorder(tiny: Callable[[str], ModuleType], run: Run):
    bench = tiny("bench_recorder")
    report, said = run("bench_recorder", "--rounds", 1, "--steps", 4, "--videos", 1, "--video-steps", 2)
    ways = [bench.ALONE, bench.IDLE, bench.CAPTURE, bench.INLINE, bench.UNFILMED, bench.FILMED]
    assert [result["way"] for result in report["results"]] == ways == rows(said)[1:]


def test_stages(tiny: Callable[[str], ModuleType], run: Run):
    tiny("bench_stages")
    report, said = run("bench_stages", "--decisions", 1, "--threads", 1)
    assert [result["path"] for result in report["results"]] == ["plain", "exact", "exact, without Numba"]
    assert all(sum(result["shares"].values()) == pytest.approx(1) for result in report["results"])
    assert rows(said) == ["", *report["results"][0]["shares"], "ms per decision, profiled"]


def test_vector(load: Callable[[str], ModuleType], run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(load("bench_vector"), "PerturbationSaliency", lambda: PerturbationSaliency(COARSE))
    report, said = run("bench_vector", "--environments", 2, "--rounds", 1, "--threads", 1, "--steps", 4)
    (result,) = report["results"]
    assert (result["environments"], result["threads"], result["rounds"]) == (2, 1, 1)
    assert result["maps"] > 0
    assert len(rows(said)) == 2


def test_store(load: Callable[[str], ModuleType], run: Run, monkeypatch: pytest.MonkeyPatch):
    bench = load("bench_store")
    monkeypatch.setattr(bench, "reference_agent", lambda: (TinyAgent(), bench.FramePreprocessor.named("greydanus2018")))
    report, said = run("bench_store", "--rounds", 1, "--steps", 12, "--decisions", 0)
    laps = {lap["way"]: lap for lap in report["laps"]}
    assert {lap["steps"] for lap in laps.values()} == {12}
    assert laps["nothing"]["bytes"] == laps["recorder"]["bytes"] == 0 < laps["store"]["bytes"] < laps["store with frames"]["bytes"]
    assert set(laps) == set(bench.WAYS) <= set(rows(said))


def test_agent(load: Callable[[str], ModuleType], run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(load("bench_agent"), "MAX_DECISIONS", 60)
    report, said = run("bench_agent", "--episodes", 1, "--decisions", 1)
    assert report == json.loads(said)
    assert report["mean return"] == report["returns"][0]
    assert report["ratio"] > 0


def test_tunnel(load: Callable[[str], ModuleType], run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    bench = load("bench_tunnel")
    monkeypatch.setattr(bench, "find_tunnel", lambda agent, preprocessor, seed, decisions: (bench.Tunnel(seed, 2, 3), 5.0))
    report, _ = run("bench_tunnel", "--seed", 0, "--window", 1, "--picture", 2, tmp_path / "picture.png")
    assert (report["tunnel opens at decision"], report["column"]) == (2, 3)
    assert 0 < report["critic's mass on the column, after"] < 1
    assert (tmp_path / "picture.png").stat().st_size > 0


def test_object_mass(load: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr("sys.argv", ["object_mass.py", "--decisions", "2", "--steps", "90"])
    load("object_mass").main()
    said = capsys.readouterr().out
    assert "2 decisions; area 0." in said
    assert all(f"\n{name}: " in said for name in ("default", "change, blur", "object Shapley", "leave one out", "memory"))


def test_agents_without_the_reference_ones(load: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cases = load("cases")
    monkeypatch.setattr(cases, "SHARED", tmp_path)
    first = next(iter(cases.cases(1)))
    assert isinstance(first.agent, GreydanusLSTM)
    assert first.description.startswith("a freshly initialised GreydanusLSTM: there is no reference agent")
    with pytest.raises(click.BadParameter, match="Expected numbers of threads such as 2,1, got"):
        load("reporting").thread_counts("two")
