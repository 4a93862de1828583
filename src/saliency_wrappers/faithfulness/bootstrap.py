"""Intervals of ratios of sums: `Resampler` draws decisions (or blocks of them) once, so that differences between methods are paired."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    @property
    def separate_from_zero(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0


class Resampler:
    """Bootstrap of n decisions by moving blocks."""

    def __init__(self, n: int, resamples: int = 2000, block: int = 1, seed: int = 0) -> None:
        """Draw the resamples.

        Args:
            n: how many decisions.
            resamples: how many draws.
            block: how many neighbouring decisions are drawn together; 1: decisions count as independent.
            seed: of the draws.

        Raises:
            ValueError: a number below 1, or a block longer than n.
        """
        if n < 1 or resamples < 1 or not 1 <= block <= n:
            raise ValueError(f"Expected n, resamples >= 1 and a block of 1 to n, got n={n}, resamples={resamples}, block={block}.")
        starts = np.random.default_rng(seed).integers(0, n - block + 1, size=(resamples, -(-n // block)))
        rows = (starts[..., None] + np.arange(block)).reshape(resamples, -1)[:, :n]
        self.weights: Floats = np.stack([np.bincount(row, minlength=n) for row in rows]).astype(np.float64)
        """`(resamples, n)`: how often each decision was drawn."""

    def ratio(self, parts: NDArray[Any], wholes: NDArray[Any]) -> tuple[float, Floats]:
        """`sum(parts) / sum(wholes)` over decisions, and of every resample `(resamples,)`; 0 where the wholes sum to 0."""
        total = float(wholes.sum())
        sums = self.weights @ wholes
        drawn = np.divide(self.weights @ parts, sums, out=np.zeros(len(sums)), where=sums > 0)
        return (float(parts.sum()) / total if total > 0 else 0.0), drawn


def interval(value: float, drawn: NDArray[Any]) -> Interval:
    """The percentile interval of an estimate."""
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Interval(value, float(low), float(high))
