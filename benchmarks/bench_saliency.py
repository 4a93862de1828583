"""Seconds per decision, actor and critic map, against the ways there were before: `make bench`.

All ways run in one process, in turns, on the same decisions of each agent. Every map is compared with those of the way it must agree with
before a time is printed. The dense roofline is what all forward passes would take at the fastest matrix product of the same run.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from baselines import code_of_2018, published_application
from cases import Case, cases
from comparing import EQUAL, SIMILAR, Explain, Result, Way, compare, deferred, inline, of_own_scale, of_the_peak
from machine import facts, flops_of_a_pass, load, peak_rate
from measuring import torch_threads, without_kernels
from reporting import FOLDER, markdown, milliseconds, say, thread_counts, times, write
from torch import nn

from saliency_wrappers import Decision, PerturbationSaliency, SaliencyMaps, as_adapter
from saliency_wrappers.saliency.presets import PRESETS

CODE_OF_2018 = "code of 2018"
PUBLISHED = "published application"
PLAIN = "plain"
BASELINES = (PUBLISHED, CODE_OF_2018, PLAIN)


@dataclass(frozen=True)
class Measured:
    """One agent's results for one number of threads."""

    case: str
    passes: int
    """Forward passes of one decision: the masks, and the input itself."""
    flops: int
    """Of one pass."""
    peak: float
    """FLOP/s of the fastest matrix product, before and after the agent was measured."""
    results: list[Result]

    @property
    def roofline(self) -> float:
        """Seconds that all passes of one decision would take at the peak."""
        return self.passes * self.flops / self.peak


@click.command()
@click.option("--decisions", default=32, show_default=True, type=click.IntRange(1), help="How many of each agent, spread over an episode.")
@click.option("--rounds", default=4, show_default=True, type=click.IntRange(1), help="In how many blocks they are explained.")
@click.option("--threads", default="2,1", show_default=True, help="Numbers of threads, comma-separated.")
@click.option("--agents", default="", help="Only those whose name contains this, say Pong.")
@click.option("--compiled", default="Breakout", show_default=True, help="Agents to be compiled as well, comma-separated; it takes minutes.")
@click.option("--output", default=FOLDER / "saliency.json", show_default=True, type=click.Path(path_type=Path), help="JSON file.")
def main(decisions: int, rounds: int, threads: str, agents: str, compiled: str, output: Path) -> None:
    """Time saliency maps against the published application's way and the 2018 way."""
    counts, measured = thread_counts(threads), []
    setting: dict[str, Any] = {"decisions": decisions, "rounds": rounds, **facts(), "load before": load()}
    say(setting)
    with torch_threads(1):
        chosen = [case for case in cases(decisions) if agents.lower() in case.name.lower()]
    for case in chosen:
        click.echo(f"\n### {case.name}: {case.description}")
        for count in counts:
            measured.append(measure(case, rounds, count, compiled=case.name in compiled.split(",")))
            click.echo(f"\n{summary(measured[-1])}\n\n{table(measured[-1])}")
    setting["load after"] = load()
    say({"\nload after": setting["load after"]})
    setting["agents"] = {case.name: case.description for case in chosen}
    write({"setting": setting, "measured": [asdict(one) | {"roofline": one.roofline} for one in measured]}, output)


def measure(case: Case, rounds: int, threads: int, compiled: bool) -> Measured:
    """Time all ways on one agent's decisions."""
    some = ways(case, threads) + (compiled_ways(case, threads) if compiled else [])
    before = peak_rate(threads)
    results = compare(some, case.decisions, rounds, threads, BASELINES)
    plan = PerturbationSaliency().plan(as_adapter(case.agent), case.decisions[0])
    flops = flops_of_a_pass(case.agent, case.decisions[0])
    return Measured(case.name, 1 + plan.masks, flops, max(before, peak_rate(threads)), results)


def ways(case: Case, threads: int) -> list[Way]:
    """What is measured of every agent."""
    agent, adapter = case.agent, as_adapter(case.agent)
    plain, exact, tolerant = PerturbationSaliency(path="plain"), PerturbationSaliency(), PerturbationSaliency(tolerance=1e-4)
    published = Way(PUBLISHED, lambda some: published_application(agent, some, workers=threads), PLAIN, of_own_scale, warm_up=1)
    own = [Way(PLAIN, inline(plain, adapter), PUBLISHED, of_own_scale)]
    for name, method, bound in (("exact (default)", exact, EQUAL), ("tolerance 1e-4", tolerant, SIMILAR)):
        plan = partial(method.plan, adapter)
        own.append(Way(f"{name}, inline", inline(method, adapter), PLAIN, of_the_peak, bound, plan=plan))
        own.append(Way(f"{name}, deferred", deferred(method, adapter), PLAIN, of_the_peak, bound, plan=plan))
    for name, explain in (("inline", inline(exact, adapter)), ("deferred", deferred(exact, adapter))):
        plan = partial(exact.plan, adapter)
        own.append(Way(f"exact, {name}, without Numba", _without_kernels(explain), PLAIN, of_the_peak, EQUAL, plan=plan))
    channels = case.decisions[0].inputs.shape[1]
    return [*(ways_of_2018(case) if channels == 1 else []), published, *own]


def _without_kernels(explain: Explain) -> Explain:
    def explained(decisions: Sequence[Decision]) -> list[SaliencyMaps]:
        with without_kernels():
            return explain(decisions)

    return explained


def ways_of_2018(case: Case) -> list[Way]:
    """The 2018 code, which knows one channel, and the preset that gives its maps."""
    preset = 'preset "greydanus2018"'
    own = inline(PRESETS["greydanus2018"](), as_adapter(case.agent))
    return [
        Way(CODE_OF_2018, lambda some: code_of_2018(case.agent, some), preset, of_own_scale, warm_up=0, slow=True),
        Way(preset, own, CODE_OF_2018, of_own_scale),
    ]


def compiled_ways(case: Case, threads: int) -> list[Way]:
    """The agent compiled; none where it cannot be, which is said."""
    agent = copy.deepcopy(case.agent)
    for backend in ("inductor", "eager"):
        adapter = as_adapter(compiled_agent(agent, backend))
        method = PerturbationSaliency(batch_size=64)  # each size would be compiled for itself
        try:
            with torch_threads(threads):
                method(adapter, case.decisions[:1])
        except Exception as error:  # a compiler that is missing says so in many ways
            click.echo(f"torch.compile with backend {backend} is left out: {type(error).__name__}: {str(error).splitlines()[0][:150]}")
            continue
        return [Way(f"compiled ({backend})", inline(method, adapter), PLAIN, of_the_peak)]
    return []


def compiled_agent(agent: nn.Module, backend: str) -> Any:
    """A `torch.compile`d agent, compiled anew."""
    torch._dynamo.reset()
    return torch.compile(agent, backend=backend, dynamic=False)


def summary(measured: Measured) -> str:
    """What the table is about."""
    threads = measured.results[0].threads
    return (
        f"{threads} thread{'s' * (threads > 1)}: {measured.passes} passes of {measured.flops / 1e6:.1f} MFLOP, "
        f"fastest matrix product {measured.peak / 1e9:.0f} GFLOP/s, dense roofline {1000 * measured.roofline:.1f} ms."
    )


def table(measured: Measured) -> str:
    """The results as a Markdown table."""
    titles = ["way", "ms per decision", "least..most", *[f"times faster than {name}" for name in BASELINES]]
    titles += ["share of the dense roofline", "difference: most", "median", "to", "decisions", "incremental"]
    return markdown(titles, [row(result, measured.roofline) for result in measured.results])


def row(result: Result, roofline: float) -> Sequence[str]:
    """One way's cells."""
    faster = [times(result.times_faster[name]) if name != result.way else "1" for name in BASELINES]
    differences = [f"{result.difference:.1e}", f"{result.usual_difference:.1e}", result.agrees_with]
    reached = f"{roofline / result.seconds.median:.2f}"
    paths = "-" if result.incremental is None else str(result.incremental)
    return [result.way, *milliseconds(result.seconds), *faster, reached, *differences, str(result.decisions), paths]


if __name__ == "__main__":
    main()
