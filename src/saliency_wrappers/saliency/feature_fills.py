"""What stands for features of a vector that are left out: `Marginal`, `FeatureMean`, `FeatureNoise`; `fill_rows` reads any of them."""

from __future__ import annotations

import copy
import hashlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from saliency_wrappers.saliency.fills import network_inputs

Floats = NDArray[np.float64]

FeatureFill = float | NDArray[Any] | Callable[[Floats], NDArray[Any]]
"""What stands for the features that are left out, in the observation's own units: a constant; an array `(features,)`, or `(rows, features)`
over whose rows outputs are averaged; or a callable that makes such an array of the vector `(features,)`."""


class ObservedFill(ABC):
    """A fill made of the values that features had at other moments.

    With given values it is fixed. Without, the values are the vectors of the decisions that were explained so far, the present one
    included: nothing has to be prepared, but the first decision of a recording has no other moment to compare with, and its map is 0.
    `compute_saliency` replaces them by values of the whole store, so that maps do not depend on the order of blocks.
    """

    def __init__(self, values: Any = None, *, rows: int = 32, last: int = 512, at_most: int = 256) -> None:
        """Choose the moments.

        Args:
            values: an array or tensor of vectors `(n, features)`; an iterable of `Decision`s or stored decisions; an `EpisodeStore` or one
                of its episodes. None: the vectors of the decisions so far.
            rows: how many rows the fill has, where it has several. More of them take more passes and make the estimate more precise.
            last: how many of the latest decisions are kept, without values.
            at_most: how many vectors are taken from `values`, evenly spaced.

        Raises:
            ValueError: no vectors, vectors of several sizes or not finite, or numbers below 1.
        """
        if min(rows, last, at_most) < 1:
            raise ValueError(f"Expected rows, last and at_most of 1 or more, got {rows}, {last} and {at_most}.")
        self.rows, self.last, self.at_most = rows, last, at_most
        self.values: Floats | None = None if values is None else _given(values, at_most)
        """`(n, features)`. None: those of the decisions so far."""
        self._recent: deque[Floats] = deque(maxlen=last)

    def observe(self, vector: Floats) -> None:
        """Take the vector `(features,)` of a decision that is about to be explained; without effect where values were given."""
        if self.values is not None:
            return
        if self._recent and self._recent[-1].shape != vector.shape:
            self._recent.clear()
        self._recent.append(np.array(vector, np.float64))

    def fixed(self, values: Any) -> Self:
        """Return the same fill with these values instead of those of the decisions so far; itself where it has values."""
        if self.values is not None:
            return self
        made = copy.copy(self)
        made.values, made._recent = _given(values, self.at_most), deque(maxlen=self.last)
        return made

    def __call__(self, vector: Floats) -> Floats:
        """Return the fill for a vector `(features,)`: `(rows, features)`, or `(features,)`."""
        values = np.stack(self._recent) if self.values is None and self._recent else self.values
        if values is None:
            values = vector[None]
        if values.shape[1:] != vector.shape:
            raise ValueError(f"Expected a fill of {vector.size} features, as the input has, got values of {values.shape[1]} features.")
        return self._of(values)

    def get_config(self) -> dict[str, Any]:
        """Return what the fill depends on: the content's hash of given values, or how many of the latest decisions count."""
        if self.values is None:
            return {"rows": self.rows, "last": self.last}
        return {"rows": self.rows, "shape": list(self.values.shape), "sha256": hashlib.sha256(self.values.tobytes()).hexdigest()}

    @abstractmethod
    def _of(self, values: Floats) -> Floats:
        """The fill from values `(n, features)`."""


class Marginal(ObservedFill):
    """Values of other moments: the features that are left out take the values that they had there, all of one moment together.

    Outputs are averaged over `rows` moments, evenly spaced among the values (the interventional or marginal expectation, as in SHAP).
    """

    def _of(self, values: Floats) -> Floats:
        return values[np.unique(np.linspace(0, len(values) - 1, min(self.rows, len(values))).round().astype(int))]


class FeatureMean(ObservedFill):
    """The mean of each feature over other moments."""

    def _of(self, values: Floats) -> Floats:
        return values.mean(axis=0)


class FeatureNoise(ObservedFill):
    """Gaussian noise with each feature's own mean and standard deviation over other moments, the same at every call."""

    def __init__(self, values: Any = None, *, rows: int = 32, last: int = 512, at_most: int = 256, seed: int = 0) -> None:
        """Draw the noise with this seed; the other parameters are those of `ObservedFill`."""
        super().__init__(values, rows=rows, last=last, at_most=at_most)
        self.seed = seed

    def get_config(self) -> dict[str, Any]:
        """Return what the fill depends on."""
        return {**super().get_config(), "seed": self.seed}

    def _of(self, values: Floats) -> Floats:
        pattern = np.random.default_rng(self.seed).standard_normal((self.rows, values.shape[1]))
        return values.mean(axis=0) + pattern * values.std(axis=0)


def fill_rows(fill: FeatureFill, vector: Floats) -> Floats:
    """Return the rows `(rows, features)` of a fill for a vector `(features,)`, in the vector's units.

    Raises:
        ValueError: a fill of another number of features, or not finite.
    """
    made = np.asarray(fill(vector) if callable(fill) else fill, np.float64)
    if made.ndim == 0:
        made = np.full(vector.shape, made)
    rows = made[None] if made.ndim == 1 else made
    if rows.ndim != 2 or not len(rows) or rows.shape[1:] != vector.shape:
        raise ValueError(f"Expected a fill as a number, ({vector.size},) or (rows, {vector.size}), got shape {made.shape}.")
    if not np.isfinite(rows).all():
        raise ValueError("Expected a fill of finite numbers, got NaN or infinity.")
    return rows


def check_feature_fill(fill: Any) -> None:
    """Refuse what is no `FeatureFill`: `TypeError`."""
    if callable(fill) and not isinstance(fill, type):
        return
    kind = np.asarray(fill).dtype.kind if isinstance(fill, int | float | list | tuple | np.ndarray | np.generic) else "O"
    if kind not in "biuf":
        raise TypeError(f"Expected a fill for features: a number, an array, Marginal() or another callable, got {type(fill).__name__}.")


def _given(values: Any, at_most: int) -> Floats:
    vectors = network_inputs(values, at_most, axes=2)
    if not vectors or len({vector.shape for vector in vectors}) > 1:
        shapes = sorted({vector.shape for vector in vectors})
        raise ValueError(f"Expected at least one vector, all of one size, got {len(vectors)} of shapes {shapes}.")
    if vectors[0].ndim != 1:
        raise ValueError(f"Expected vectors (features,), got network inputs of shape {vectors[0].shape}.")
    chosen = np.linspace(0, len(vectors) - 1, min(at_most, len(vectors))).round().astype(int)
    stacked = np.stack([vectors[i] for i in chosen]).astype(np.float64)
    if not np.isfinite(stacked).all():
        raise ValueError("Expected vectors of finite numbers, got NaN or infinity.")
    return stacked
