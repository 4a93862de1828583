"""Fills, what shows through where a mask is 0: `Background`, `ChannelMean`, `Noise`; `as_fills` reads one fill or several.

A blurred input is `masks.GaussianBlur`, a black one the constant 0.0.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from saliency_wrappers.decisions import Array, Decision
from saliency_wrappers.saliency.masks import Fill, GaussianBlur, check_fill

Fills = Fill | Sequence[Fill]
"""One fill, or a list or tuple of them: then the maps of all fills are normalised to sum 1 and added."""


class Background:
    """The per-pixel median of network inputs: the scene without what moves.

    Fixed when it is given inputs, an episode or a store; else the running median of the last inputs that it was called with, which needs
    no preparation but depends on the order of calls, and is the input itself at the first one.
    """

    def __init__(self, inputs: Iterable[Any] | Any = None, *, last: int = 64, at_most: int = 256) -> None:
        """Choose the inputs.

        Args:
            inputs: an array or tensor of network inputs `(n, C, h, w)`; or an iterable of `Decision`s or stored decisions (an episode's
                `decisions()`); or an `EpisodeStore`, whose episodes all count. None: a running median.
            last: of how many inputs the running median is taken.
            at_most: of so many inputs, evenly spaced, the fixed median is taken; this bounds memory and time.

        Raises:
            ValueError: no inputs, inputs of several shapes, or numbers below 1.
        """
        if last < 1 or at_most < 1:
            raise ValueError(f"Expected last and at_most of 1 or more, got last={last} and at_most={at_most}.")
        self.last = last
        self.at_most = at_most
        self.image: Array | None = None if inputs is None else _median(network_inputs(inputs, at_most), at_most)
        self._recent: deque[Array] = deque(maxlen=last)
        self._running: Array | None = None
        self._calls = 0

    def __call__(self, image: Array) -> Array:
        """The background `(C, h, w)` for an input of that shape, in the input's units and dtype; a running median counts the input."""
        if self.image is not None:
            return self.image.astype(image.dtype)
        if self._recent and self._recent[-1].shape != image.shape:
            self.reset()
        self._recent.append(image.copy())
        if self._running is None or self._calls < 16 or self._calls % 8 == 0:  # a median is slow, and hardly changes with one input
            self._running = np.median(np.stack(self._recent), axis=0)
        self._calls += 1
        return self._running.astype(image.dtype)

    def reset(self) -> None:
        """Forget the inputs of a running median, as another game begins. A fixed background stays."""
        self._recent.clear()
        self._running, self._calls = None, 0

    def get_config(self) -> dict[str, Any]:
        """What the fill depends on: the content's hash of a fixed background, the length of a running one."""
        if self.image is None:
            return {"last": self.last}
        content = np.ascontiguousarray(self.image, np.float32)
        return {"shape": list(content.shape), "sha256": hashlib.sha256(content.data).hexdigest()}

    def __repr__(self) -> str:
        return f"Background(last={self.last})" if self.image is None else f"Background(<{'x'.join(map(str, self.image.shape))}>)"


class ChannelMean:
    """Each channel's mean over the input."""

    def __call__(self, image: Array) -> Array:
        """`(C, h, w)`, constant within each channel."""
        return np.broadcast_to(image.mean(axis=(1, 2), keepdims=True, dtype=np.float64), image.shape).astype(image.dtype)

    def get_config(self) -> dict[str, Any]:
        """No arguments."""
        return {}

    def __repr__(self) -> str:
        return "ChannelMean()"


class Noise:
    """Uniform noise between each channel's lowest and highest value, the same pattern at every call."""

    def __init__(self, seed: int = 0) -> None:
        """Draw the pattern with this seed."""
        self.seed = seed

    def __call__(self, image: Array) -> Array:
        """`(C, h, w)`, within the range of the input's own values."""
        low, high = image.min(axis=(1, 2), keepdims=True), image.max(axis=(1, 2), keepdims=True)
        pattern = np.random.default_rng(self.seed).random(image.shape)
        return (low + pattern * (high - low)).astype(image.dtype)

    def get_config(self) -> dict[str, Any]:
        """The constructor's argument."""
        return {"seed": self.seed}

    def __repr__(self) -> str:
        return f"Noise(seed={self.seed})"


def with_background(fills: Fills, background: Fill) -> Fills:
    """The same fills with a fixed background in place of a running one, so that maps do not depend on what was computed before."""

    def fixed(one: Fill) -> Fill:
        return background if isinstance(one, Background) and one.image is None else one

    first, *others = as_fills(fills)
    return (fixed(first), *(fixed(one) for one in others)) if others else fixed(first)


def has_running_background(fills: Fills) -> bool:
    """Whether the maps of these fills depend on the order in which inputs come."""
    return any(isinstance(one, Background) and one.image is None for one in as_fills(fills))


FILLS: dict[str, Callable[[], Fill]] = {
    "background": Background,
    "black": lambda: 0.0,
    "blur": GaussianBlur,
    "mean": ChannelMean,
    "noise": Noise,
}
"""Fills by name."""


def as_fills(fill: Fills) -> tuple[Fill, ...]:
    """The fills of one argument; a list or tuple is several, unless it is nested, which is an array.

    Raises:
        TypeError, ValueError: as `check_fill`; ValueError also for no fill at all.
    """
    several = isinstance(fill, list | tuple) and not any(isinstance(part, list | tuple) for part in fill)
    fills: tuple[Any, ...] = tuple(fill) if several else (fill,)  # type: ignore[arg-type]
    if not fills:
        raise ValueError("Expected a fill or several, got an empty sequence.")
    for one in fills:
        check_fill(one)
    return fills


def network_inputs(inputs: Any, at_most: int, axes: int = 4) -> list[Array]:
    """Return the network inputs of whatever holds them, images `(C, h, w)` or vectors `(features,)`.

    Args:
        inputs: as for `Background`.
        at_most: of the episodes of a store so many inputs are read, evenly spaced; of anything else all.
        axes: of a batch of inputs: 4 for images, 2 for vectors.

    Raises:
        TypeError, ValueError: anything else.
    """
    if isinstance(inputs, Tensor | np.ndarray):
        array = np.asarray(inputs.detach().cpu().float() if isinstance(inputs, Tensor) else inputs)
        if array.ndim != axes:
            expected = "(n, C, h, w)" if axes == 4 else "(n, features)"
            raise ValueError(f"Expected network inputs {expected}, got an array of shape {array.shape}.")
        return list(array)
    if isinstance(inputs, Decision):
        return list(_rows(inputs))
    if hasattr(inputs, "episodes") or hasattr(inputs, "block_at"):
        inputs = stored_decisions(inputs.episodes if hasattr(inputs, "episodes") else [inputs], at_most)
    return [image for one in inputs for image in _rows(one)]


def stored_decisions(episodes: Sequence[Any], at_most: int) -> Iterator[Any]:
    """Return about `at_most` evenly spaced decisions of stored episodes, read block by block."""
    lengths = [len(episode) for episode in episodes]
    step = max(1, -(-sum(lengths) // at_most))
    skipped = 0
    for episode, length in zip(episodes, lengths, strict=True):
        chosen = range(-skipped % step, length, step)
        for index, rows in groupby(chosen, key=lambda i: i // episode.block):
            decisions = episode.block_at(index).decisions
            yield from (decisions[i % episode.block] for i in rows)
        skipped += length


def _rows(one: Any) -> NDArray[Any]:
    decision = one if isinstance(one, Decision) else getattr(one, "decision", None)
    if not isinstance(decision, Decision):
        raise TypeError(f"Expected network inputs as an array, or decisions, got {type(one).__name__}.")
    return np.asarray(decision.inputs.detach().cpu().float())


def _median(images: list[Array], at_most: int) -> Array:
    if not images:
        raise ValueError("Expected at least one network input to take the median of, got none.")
    if len({image.shape for image in images}) > 1:
        raise ValueError(f"Expected network inputs of one shape, got {sorted({image.shape for image in images})}.")
    chosen = np.linspace(0, len(images) - 1, min(at_most, len(images))).round().astype(int)
    return np.median(np.stack([images[i] for i in chosen]), axis=0).astype(np.float32)
