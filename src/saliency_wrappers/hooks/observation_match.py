"""`ObservationMatch`: whether an agent's input is the observation that an environment returned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from saliency_wrappers.decisions import array_of

_SCALES = (1.0, 1 / 255)
_TRIES = 4


class _Relation(NamedTuple):
    """Relation between an observation and the network input."""

    layout: str
    """`"same"`; `"channels first"`; `"one channel"`, of images without that axis; `"grey"`, the mean over the channels."""
    scale: float
    """What each number is multiplied by."""
    key: str | None
    """Where the image is in a dictionary. None: the observation is the image."""


class ObservationMatch:
    """Learns at the first decisions how inputs are made from observations, and later finds the observation that an input belongs to."""

    def __init__(self) -> None:
        self.assumed = False
        """Whether agents of this kind are given the observation as it was returned, until a decision shows otherwise."""
        self.unfinished = True
        """Whether the relation is still to be found."""
        self._relation: _Relation | None = None
        self._tries = _TRIES

    @property
    def known(self) -> bool:
        """Whether the relation is known: then an input that does not fit comes from elsewhere."""
        return self._relation is not None

    def learn(self, observation: Any, *inputs: Tensor) -> bool:
        """Learn the relation between an observation and one of these inputs `(n, C, h, w)`; return whether there is one.

        It is given up after some steps at which there was none.
        """
        try:
            self._relation = next((found for one in inputs if (found := _relation(observation, one)) is not None), None)
            if self._relation is None and _tells(observation):
                self._tries -= 1
        except Exception:  # observations of any kind come here, and what cannot be compared has no relation that could be used
            self._tries -= 1
        self.unfinished = self._relation is None and self._tries > 0
        return self._relation is not None

    def fits(self, observation: Any, inputs: Tensor) -> bool:
        """Whether an input `(n, C, h, w)` is this observation, by the relation that is known."""
        if self._relation is None:
            return False
        try:
            image = _image(observation, self._relation.key)
            return any(
                layout == self._relation.layout and _same(laid, self._relation.scale, array_of(inputs))
                for layout, laid in _layouts(image, inputs.shape)
            )
        except Exception:  # another kind of observation than before
            return False


def _relation(observation: Any, inputs: Tensor) -> _Relation | None:
    if not _tells(observation):
        return None
    array = array_of(inputs)
    for key in cast("Mapping[str, Any]", observation) if isinstance(observation, Mapping) else (None,):
        for layout, laid in _layouts(_image(observation, key), inputs.shape):
            for scale in _SCALES if laid.ndim == 4 else _SCALES[:1]:
                if _same(laid, scale, array):
                    return _Relation(layout, scale, key)
    return None


def _tells(observation: Any) -> bool:
    """Whether the relation can be seen at this observation: one of zeros is the same at every scale."""
    if observation is None:
        return False
    parts = cast("Mapping[str, Any]", observation).values() if isinstance(observation, Mapping) else (observation,)
    return any(bool(np.any(_array(part))) for part in parts)


def _image(observation: Any, key: str | None) -> NDArray[Any]:
    return _array(observation if key is None else observation[key])


def _array(part: Any) -> NDArray[Any]:
    return array_of(part) if isinstance(part, Tensor) else np.asarray(part)


def _layouts(image: NDArray[Any], shape: tuple[int, ...]) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield the image or images as inputs of the shape `(n, C, h, w)`, in each layout that gives this shape."""
    for batch in (image, image[None]):
        if batch.shape == shape:
            yield "same", batch
        if batch.ndim == 4 and (batch.shape[0], batch.shape[3], *batch.shape[1:3]) == shape:
            yield "channels first", batch.transpose(0, 3, 1, 2)
        if batch.ndim == 3 and (batch.shape[0], 1, *batch.shape[1:]) == shape:
            yield "one channel", batch[:, None]
        if batch.ndim == 4 and batch.shape[3] == 3 and (batch.shape[0], 1, *batch.shape[1:3]) == shape:
            yield "grey", batch.mean(axis=3)[:, None]


def _same(image: NDArray[Any], scale: float, inputs: NDArray[Any]) -> bool:
    """Whether an input is this image, to half a grey level where numbers were computed, and exactly where they were handed on."""
    if scale == 1 and np.issubdtype(image.dtype, np.integer):
        return np.array_equal(image, inputs)
    margin = 0.5 * scale if scale != 1 else 1e-5 * np.maximum(1.0, np.abs(inputs)) if image.ndim == 2 else 1e-5
    return bool(np.all(np.abs(image * np.float32(scale) - inputs) <= margin))
