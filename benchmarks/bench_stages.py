"""Where a decision's time goes on either path, by PyTorch's profiler: `python benchmarks/bench_stages.py`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import click
from cases import breakout_player, recorded
from machine import facts, load
from measuring import torch_threads
from reporting import FOLDER, markdown, say, thread_counts, write
from torch.profiler import ProfilerActivity, profile

from saliency_wrappers import Decision, PerturbationSaliency, as_adapter

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
    ),
    "gathering": ("index_select", "index", "index_put_", "_index_put_impl_", "nonzero", "gather", "scatter_", "repeat_interleave"),
    "activations and cells": (
        *("elu", "elu_", "exp_", "maximum", "clamp", "clamp_min", "clamp_max", "relu", "relu_", "clamp_min_"),
        *("sigmoid", "sigmoid_", "tanh", "tanh_", "lerp", "_thnn_fused_gru_cell", "_thnn_fused_lstm_cell", "sub_"),
    ),
    "perturbing": ("addcmul",),
}
"""PyTorch's operators by what they are for."""

OTHER = "other operators: copies, sums, where masks reach"
OUTSIDE = "outside PyTorch's operators: Python, NumPy, SciPy"


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
    results = [stages(name, PerturbationSaliency(path=path), player.agent, own, count) for count in counts for name, path in _PATHS.items()]
    setting["load after"] = load()
    say({"load after": setting["load after"]})
    click.echo(f"\n{table(results)}")
    write({"setting": setting, "results": [asdict(result) for result in results]}, output)


_PATHS: dict[str, Literal["plain", "auto"]] = {"plain": "plain", "exact": "auto"}


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
