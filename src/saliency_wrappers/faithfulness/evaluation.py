"""`evaluate`: measures saliency methods, with their controls, on the decisions of an agent."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from saliency_wrappers.agents.base import AgentAdapter, split_rows
from saliency_wrappers.decisions import Decision
from saliency_wrappers.faithfulness.bootstrap import Interval, Resampler, interval
from saliency_wrappers.faithfulness.controls import CentrePrior, ChangeFromFill, OtherDecision, RandomPixels
from saliency_wrappers.faithfulness.measuring import Measured, Measurer, PartialResults, Ratio
from saliency_wrappers.faithfulness.scorecard import Scorecard
from saliency_wrappers.progress import Progress, reporting
from saliency_wrappers.saliency.fills import Background, has_running_background, with_background
from saliency_wrappers.saliency.masks import Fill, GaussianBlur
from saliency_wrappers.saliency.method import SaliencyMethod
from saliency_wrappers.saliency.perturbation import PerturbationSaliency
from saliency_wrappers.saliency.presets import saliency_method

Floats = NDArray[np.float64]
_T = TypeVar("_T")


def spaced(decisions: Sequence[_T], count: int = 100, apart: int = 7) -> list[_T]:
    """At most `count` decisions of an episode, evenly spaced, at least `apart` steps from one another."""
    if count < 1 or apart < 1:
        raise ValueError(f"Expected count and apart of 1 or more, got {count} and {apart}.")
    chosen = max(1, min(count, -(-len(decisions) // apart)))
    step = max(apart, len(decisions) // chosen)
    return [decisions[i * step] for i in range(chosen) if i * step < len(decisions)]


def control_methods(background: Fill, moved: SaliencyMethod, seed: int = 0) -> dict[str, SaliencyMethod]:
    """The controls of every table; `moved` is the method whose maps of other decisions are taken."""
    return {
        "random": RandomPixels(seed),
        "random, smooth": RandomPixels(seed, sigma=3),
        "centre": CentrePrior(),
        "another decision": OtherDecision(moved),
        "|x - background|": ChangeFromFill(background),
        "|x - blur|": ChangeFromFill(GaussianBlur(3)),
    }


def evaluate(
    adapter: AgentAdapter,
    decisions: Sequence[Decision],
    methods: Mapping[str, str | SaliencyMethod] | Sequence[str] = ("xaitk", "change_weighted", "change_weighted_two_fills"),
    *,
    background: Fill | None = None,
    baseline: str | None = None,
    controls: bool = True,
    resamples: int = 2000,
    block: int = 1,
    seed: int = 0,
    progress: Progress = None,
    resume: str | os.PathLike[str] | None = None,
) -> Scorecard:
    """Measure methods by insertion and deletion into a blur and a background, on the policy, the value and the chosen action.

    For distances D (total variation of the policy, absolute difference of the value), areas A of their curves and decisions i, insertion
    is `1 - sum_i A_i / sum_i D_i(everything replaced)`, deletion `sum_i A_i / sum_i D_i(everything replaced)`: ratios of sums. The action
    column is the mean area under the chosen action's probability while pixels are inserted.

    Args:
        adapter: the agent, with the weights that decided.
        decisions: at least 7 steps apart (`spaced`), in order; several rows count one by one.
        methods: by name; or names of presets.
        background: the second fill, which also takes the place of a running `Background` in the methods. None: the decisions' median.
        baseline: the method that differences are taken to. None: the first.
        controls: whether `control_methods` are measured, too, the first method's maps as those of another decision.
        resamples: of the bootstrap.
        block: how many neighbouring decisions are resampled together.
        seed: of ties, random maps and the bootstrap.
        progress: True shows a bar on stderr. A function is called with how many maps are measured, and how many there are. None: no
            progress is shown.
        resume: a JSON file that keeps what was measured of each method. Methods that are there, by name and configuration, are not measured
            again if agent, decisions, fills and seed are the same; a file of another run is replaced. None: nothing is kept.

    Returns:
        Estimates and paired differences with 95 % intervals. `seconds` is the time of one decision's maps.

    Raises:
        ValueError: no decisions or methods, or a baseline that is not among them.
    """
    rows = [row for decision in decisions for row in split_rows(adapter, decision)]
    if not rows or not methods:
        raise ValueError(f"Expected decisions and methods, got {len(rows)} decisions and {len(methods)} methods.")
    fill = Background(rows) if background is None else background
    named = methods if isinstance(methods, Mapping) else {name: name for name in methods}
    chosen = {name: _with_background(saliency_method(method), fill) for name, method in named.items()}
    first = next(iter(chosen)) if baseline is None else baseline
    if controls:
        chosen = control_methods(fill, chosen[next(iter(chosen))], seed) | chosen
    if first not in chosen:
        raise ValueError(f"Expected baseline to be one of {list(chosen)}, got {first!r}.")
    with reporting(progress, "faithfulness", "maps") as report:
        measurer = Measurer(adapter, rows, {"blur": GaussianBlur(3), "background": fill}, seed, report)
        measured = measurer(chosen, PartialResults(resume, measurer.key))
    return _scorecard(measured, first, Resampler(len(rows), resamples, min(block, len(rows)), seed))


def _with_background(method: SaliencyMethod, background: Fill) -> SaliencyMethod:
    """A method whose running backgrounds are replaced by a fixed one."""
    if not isinstance(method, PerturbationSaliency) or not has_running_background(method.fill):
        return method
    return saliency_method(method, fill=with_background(method.fill, background))


def _scorecard(measured: Mapping[str, Measured], baseline: str, resampler: Resampler) -> Scorecard:
    drawn = {name: {metric: _estimate(metric, ratio, resampler) for metric, ratio in one.ratios.items()} for name, one in measured.items()}
    scores = {name: {metric: interval(*pair) for metric, pair in one.items()} for name, one in drawn.items()}
    base = drawn[baseline]
    gains: dict[str, dict[str, Interval]] = {}
    for name, one in drawn.items():
        shared = [metric for metric in one if metric in base and metric != "seconds"]
        gains[name] = {metric: interval(one[metric][0] - base[metric][0], one[metric][1] - base[metric][1]) for metric in shared}
    n = resampler.weights.shape[1]
    return Scorecard(scores, gains, baseline, n, {name: one.curves for name, one in measured.items()})


def _estimate(metric: str, ratio: Ratio, resampler: Resampler) -> tuple[float, Floats]:
    value, drawn = resampler.ratio(*ratio)
    return (1 - value, 1 - drawn) if "insertion" in metric else (value, drawn)
