"""`Scorecard`: what the methods reached, as intervals, as a table of text, and as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from saliency_wrappers.faithfulness.bootstrap import Interval

SHOWN = (
    "insertion blur lin",
    "insertion background lin",
    "insertion blur log",
    "insertion background log",
    "deletion blur log",
    "deletion background log",
    "critic insertion blur log",
    "critic insertion background log",
    "action blur",
    "seconds",
)
"""The metrics of the table, of those that were measured."""


@dataclass(frozen=True)
class Scorecard:
    """Methods by metrics. Higher is better, but for `seconds`."""

    scores: Mapping[str, Mapping[str, Interval]]
    """By method, then by metric."""
    gains: Mapping[str, Mapping[str, Interval]]
    """The paired difference of each method to the baseline, by method and metric."""
    baseline: str
    """The method that `gains` are measured against."""
    decisions: int
    """How many decisions were measured."""
    curves: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict[str, Mapping[str, Sequence[float]]])
    """By method, then by direction and fill (`"insertion blur"`): the mean total variation of the policy at `FRACTIONS`, 13 numbers."""

    @property
    def metrics(self) -> list[str]:
        """Every metric that was measured."""
        return list(next(iter(self.scores.values())))

    def table(self, metrics: Sequence[str] | None = None) -> str:
        """A table of text: an estimate with half the width of its interval; `+` and `-` mark paired differences separate from 0.

        Args:
            metrics: the columns. None: those of `SHOWN` that were measured.
        """
        columns = [one for one in (SHOWN if metrics is None else metrics) if one in self.metrics]
        heads = [column.split() for column in columns]
        depth = max(map(len, heads))
        rows = [["" if i else f"n={self.decisions}", *(head[i] if i < len(head) else "" for head in heads)] for i in range(depth)]
        rows += [[name, *(self._cell(name, metric) for metric in columns)] for name in self.scores]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
        lines.insert(depth, "-" * max(map(len, lines)))
        return "\n".join([*lines, f"+ better, - worse than {self.baseline}: the paired 95 % interval leaves 0 out."])

    def _cell(self, method: str, metric: str) -> str:
        one = self.scores[method][metric]
        if metric == "seconds":
            return f"{one.value:.4f} "
        gain = self.gains[method].get(metric)
        mark = " " if gain is None or not gain.separate_from_zero else "+" if gain.value > 0 else "-"
        return f"{one.value:.2f}±{(one.high - one.low) / 2:.2f}{mark}"

    def as_dict(self) -> dict[str, object]:
        """Everything, as JSON can hold it."""
        return {
            "decisions": self.decisions,
            "baseline": self.baseline,
            "scores": _plain(self.scores),
            "gains": _plain(self.gains),
            "curves": {name: {kind: list(curve) for kind, curve in one.items()} for name, one in self.curves.items()},
        }

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Write the curves as a picture: a panel for each direction and fill, over the fraction of pixels on a logarithmic axis.

        Args:
            path: of a PNG, or another format that Matplotlib knows by its ending.

        Raises:
            DependencyNotInstalled: Matplotlib is missing.
        """
        from saliency_wrappers.faithfulness.plots import plot_curves

        plot_curves(self.curves, path)

    def to_json(self) -> str:
        """Everything, as JSON."""
        return json.dumps(self.as_dict(), indent=2)


def _plain(intervals: Mapping[str, Mapping[str, Interval]]) -> dict[str, dict[str, dict[str, float]]]:
    return {method: {metric: asdict(one) for metric, one in by_metric.items()} for method, by_metric in intervals.items()}
