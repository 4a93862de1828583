"""Where a decision's time goes on either path, by PyTorch's profiler: `python benchmarks/bench_stages.py`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import click
from cases import breakout_player, recorded
from machine import facts, load
from measuring import torch_threads, without_kernels
from reporting import FOLDER, markdown, say, thread_counts, write
from torch.profiler import ProfilerActivity, profile, record_function

from saliency_wrappers import Decision, PerturbationSaliency, as_adapter
from saliency_wrappers.saliency.incremental import conv_chain, feature_ops, gathered_matmul, masked_input, positions
from saliency_wrappers.saliency.incremental.parallel import parallel_for

STAGES: dict[str, tuple[str, ...]] = {
    "matrix products and convolutions": (
        "mm",
        "addmm",
        "addmm_",
        "addmv_",
        "bmm",
        "mkldnn_convolution",
        "_slow_conv2d_forward",
        "thnn_conv2d",
        "kernels of conv_chain",
        "kernels of gathered_matmul",
        "kernels of feature_ops",
    ),
    "gathering": ("index_select", "index", "index_put_", "_index_put_impl_", "nonzero", "gather", "scatter_", "repeat_interleave"),
    "activations and cells": (
        *("elu", "elu_", "exp_", "maximum", "clamp", "clamp_min", "clamp_max", "relu", "relu_", "clamp_min_"),
        *("sigmoid", "sigmoid_", "tanh", "tanh_", "lerp", "_thnn_fused_gru_cell", "_thnn_fused_lstm_cell", "sub_"),
    ),
    "perturbing": ("addcmul", "kernels of masked_input"),
    "where masks reach, compiled": ("kernels of positions",),
}
"""PyTorch's operators, and this library's kernels, by what they are for.

Kernels of layers apply the masks, find where they reach and do the activations, too, those of features the cells.
"""

OTHER = "other operators: copies, sums, where masks reach"
OUTSIDE = "outside operators: Python, NumPy, SciPy, adding up masks"


@dataclass(frozen=True)
class Stages:
    """The shares of one path's time."""

    path: str
    threads: int
    seconds: float
    """Per decision, while being profiled: more than without."""
    shares: dict[str, float]
    """By stage; they add up to 1."""


@click.command()
@click.option("--decisions", default=8, show_default=True, type=click.IntRange(1), help="How many, spread over an episode.")
@click.option("--threads", default="2,1", show_default=True, help="Numbers of threads, comma-separated.")
@click.option("--output", default=FOLDER / "stages.json", show_default=True, type=click.Path(path_type=Path), help="JSON file.")
def main(decisions: int, threads: str, output: Path) -> None:
    """Profile the plain and the exact path on Breakout."""
    counts = thread_counts(threads)
    player = breakout_player()
    setting: dict[str, Any] = {"agent": player.description, "decisions": decisions, **facts(), "load before": load()}
    say(setting)
    with torch_threads(1):
        own = recorded(player, decisions)
    results = [result for count in counts for result in both_paths(player.agent, own, count)]
    setting["load after"] = load()
    say({"load after": setting["load after"]})
    click.echo(f"\n{table(results)}")
    write({"setting": setting, "results": [asdict(result) for result in results]}, output)


def both_paths(agent: Any, decisions: Sequence[Decision], threads: int) -> list[Stages]:
    """Profile the dense path, and the exact one with and without Numba."""
    plain, exact = PerturbationSaliency(path="plain"), PerturbationSaliency()
    with kernels_named():
        results = [stages(name, method, agent, decisions, threads) for name, method in (("plain", plain), ("exact", exact))]
    with without_kernels():
        return [*results, stages("exact, without Numba", exact, agent, decisions, threads)]


@contextmanager
def kernels_named() -> Iterator[None]:
    """Let the profiler see the kernels, by the module that has them run."""
    modules = (feature_ops, conv_chain, masked_input, positions, gathered_matmul)
    for module in modules:
        module.parallel_for = _named(module)
    try:
        yield
    finally:
        for module in modules:
            module.parallel_for = parallel_for


def _named(module: ModuleType) -> Callable[[Callable[[int, int], object], int, int], None]:
    def named(work: Callable[[int, int], object], count: int, least: int) -> None:
        with record_function(f"kernels of {module.__name__.rpartition('.')[2]}"):
            parallel_for(work, count, least)

    return named


def stages(name: str, method: PerturbationSaliency, agent: Any, decisions: Sequence[Decision], threads: int) -> Stages:
    """Profile a method, one decision a call, after a decision to warm up."""
    adapter = as_adapter(agent)
    with torch_threads(threads):
        for decision in decisions[:2]:
            method(adapter, [decision])
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            start = time.perf_counter()
            for decision in decisions:
                method(adapter, [decision])
            spent = time.perf_counter() - start
    operators = {event.key.removeprefix("aten::"): event.self_cpu_time_total / 1e6 for event in profiler.key_averages()}
    return Stages(name, threads, spent / len(decisions), shares(operators, spent))


def shares(operators: dict[str, float], spent: float) -> dict[str, float]:
    """Each stage's share of the seconds that were spent, from each operator's own seconds."""
    known = {stage: sum(operators.get(name, 0.0) for name in names) / spent for stage, names in STAGES.items()}
    inside = sum(operators.values()) / spent
    return {**known, OTHER: inside - sum(known.values()), OUTSIDE: 1 - inside}


def table(results: Sequence[Stages]) -> str:
    """The shares as a Markdown table."""
    titles = ["", *(f"{one.path}, threads={one.threads}" for one in results)]
    rows = [[stage, *(f"{one.shares[stage]:.0%}" for one in results)] for stage in results[0].shares]
    return markdown(titles, [*rows, ["ms per decision, profiled", *(f"{1000 * one.seconds:.1f}" for one in results)]])


if __name__ == "__main__":
    main()
