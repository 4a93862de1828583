"""What watching costs a training run: `python benchmarks/bench_vector.py`.

Two runs of `examples/vector_training.py` take turns in one process, round by round: one plain, one whose first environment is explained,
inline, at every 100th step. A round is 100 steps of 8 environments and what is learned from them: in each watched round one decision is
explained. Printed, and written as JSON, are medians over the rounds, and the median of the rounds' own ratios.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import click
import torch
from gymnasium.vector import VectorEnv
from machine import facts, load

from saliency_wrappers import AgentAdapter, Decision, PerturbationSaliency, RecurrentAgentHook, SaliencyMaps, VectorSaliencyRecorder

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from vector_training import Agent, Training, make_games

EXPLAINED_EVERY = 100
"""Steps of the vector; as many make a round."""


@dataclass(frozen=True)
class Result:
    """What was measured; times are seconds a round."""

    environments: int
    threads: int
    rounds: int
    plain: float
    watched: float
    overhead: float
    """The median over the rounds of watched / plain - 1, by the clock."""
    overhead_quartiles: tuple[float, float]
    processor_overhead: float
    """The same by the processor time of this process, which other programs disturb less."""
    maps: float
    """The share of the maps alone: the median over the watched rounds of the method's seconds by all the others."""
    load_before: str
    load_after: str


@dataclass(frozen=True)
class Lap:
    """One round of one run."""

    seconds: float
    processor_seconds: float
    maps: float
    """Seconds in the method."""


class Stopwatch:
    """The default method, timed."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._method = PerturbationSaliency()

    def __call__(self, adapter: AgentAdapter, decisions: Sequence[Decision]) -> list[SaliencyMaps]:
        """The maps."""
        start = time.perf_counter()
        maps = self._method(adapter, decisions)
        self.seconds += time.perf_counter() - start
        return maps


def make_runs(environments: int, every: int, method: Stopwatch) -> dict[str, Training]:
    """The plain run and the watched one, which learn the same."""
    runs: dict[str, Training] = {}
    for name in ("plain", "watched"):
        torch.manual_seed(1)
        games: VectorEnv[Any, Any, Any] = make_games(environments)
        agent = Agent(num_actions=int(games.single_action_space.n))
        if name == "watched":
            hook = RecurrentAgentHook(agent)
            games = VectorSaliencyRecorder(games, hook, method, environments=[0], step_trigger=lambda step: step % every == 0)
        runs[name] = Training(games, agent, seed=1)
    return runs


def timed(run: Training, steps: int, method: Stopwatch) -> Lap:
    """Play and learn one round."""
    torch.manual_seed(run.steps)  # both runs draw the same actions
    start, processor, maps = time.perf_counter(), time.process_time(), method.seconds
    run.one_round(steps)
    return Lap(time.perf_counter() - start, time.process_time() - processor, method.seconds - maps)


def measure(environments: int, rounds: int, threads: int, steps: int = EXPLAINED_EVERY) -> Result:
    """Let the two runs take turns; the first round, in which batch sizes are measured, is not timed."""
    before_threads, load_before = torch.get_num_threads(), load()
    torch.set_num_threads(threads)
    method = Stopwatch()
    runs = make_runs(environments, steps, method)
    laps: dict[str, list[Lap]] = {name: [] for name in runs}
    try:
        for number in range(rounds + 1):
            for name in sorted(runs, reverse=bool(number % 2)):  # neither always goes first
                laps[name].append(timed(runs[name], steps, method))
    finally:
        torch.set_num_threads(before_threads)
        for run in runs.values():
            run.games.close()
    return summary(environments, threads, laps["plain"][1:], laps["watched"][1:], (load_before, load()))


def summary(environments: int, threads: int, plain: Sequence[Lap], watched: Sequence[Lap], loads: tuple[str, str]) -> Result:
    """The medians of rounds that took turns."""
    ratios = [b.seconds / a.seconds - 1 for a, b in zip(plain, watched, strict=True)]
    quarters = quantiles(ratios, n=4) if len(ratios) > 1 else [ratios[0]] * 3
    return Result(
        environments=environments,
        threads=threads,
        rounds=len(plain),
        plain=median(lap.seconds for lap in plain),
        watched=median(lap.seconds for lap in watched),
        overhead=median(ratios),
        overhead_quartiles=(quarters[0], quarters[-1]),
        processor_overhead=median(b.processor_seconds / a.processor_seconds - 1 for a, b in zip(plain, watched, strict=True)),
        maps=median(lap.maps / (lap.seconds - lap.maps) for lap in watched),
        load_before=loads[0],
        load_after=loads[1],
    )


def table(results: list[Result]) -> str:
    """The results as a Markdown table."""
    lines = [
        "| threads | s per round, plain | watched | overhead (quartiles) | by processor time | maps alone | rounds | load before, after |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for one in results:
        low, high = one.overhead_quartiles
        overhead = f"{100 * one.overhead:.1f} % ({100 * low:.1f}..{100 * high:.1f})"
        times = f"{one.plain:.2f} | {one.watched:.2f} | {overhead} | {100 * one.processor_overhead:.1f} % | {100 * one.maps:.1f} %"
        lines.append(f"| {one.threads} | {times} | {one.rounds} | {one.load_before}; {one.load_after} |")
    return "\n".join(lines)


@click.command(help="Measure what watching costs a training run.")
@click.option("--environments", default=8, show_default=True)
@click.option("--rounds", default=15, show_default=True, help="Of 100 steps each.")
@click.option("--threads", multiple=True, type=int, default=(2, 1), show_default=True, help="Of torch; may be given several times.")
@click.option("--steps", default=EXPLAINED_EVERY, show_default=True, help="Of a round, one of which is explained.")
@click.option("--output", type=click.Path(path_type=Path), default=Path("runs/bench_vector.json"), show_default=True)
def main(environments: int, rounds: int, threads: tuple[int, ...], steps: int, output: Path) -> None:
    """Measure, print and write down."""
    results = [measure(environments, rounds, count, steps) for count in threads]
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps({"machine": facts(), "results": [asdict(one) for one in results]}, indent=2), encoding="utf-8")
    click.echo(table(results))
    click.echo(f"wrote {output}")


if __name__ == "__main__":
    main()
