"""Perturbing a network input: which masks (`Masks`, `SlidingDisc`), what shows through them (`GaussianBlur`), and how they are applied."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor
from xaitk_saliency.impls.perturb_image.sliding_radial import SlidingRadial
from xaitk_saliency.impls.perturb_image.sliding_window import SlidingWindow
from xaitk_saliency.interfaces.perturb_image import PerturbImage

from saliency_wrappers.decisions import Array
from saliency_wrappers.saliency.default_masks import spaced_for

Fill = float | NDArray[Any] | Callable[[Array], NDArray[Any]]
"""What shows through where a mask is 0: a constant in [0, 1], relative to the input range; an array that broadcasts to `(C, h, w)`, or
a callable that makes one from the input `(C, h, w)`, both in the input's own units."""


class GaussianBlur:
    """The fill of Greydanus et al. (2018), eq. 1: the input itself, blurred within each channel."""

    def __init__(self, sigma: float = 3.0) -> None:
        """Blur with a Gaussian of standard deviation `sigma`, in pixels of the network input."""
        if not sigma > 0:
            raise ValueError(f"Expected a positive sigma, got {sigma}.")
        self.sigma = sigma

    def __call__(self, image: Array) -> Array:
        """The blurred image, of the same shape `(C, h, w)`, dtype and range. The image is not modified."""
        return np.asarray(gaussian_filter(image, sigma=(0, self.sigma, self.sigma)), image.dtype)

    def __repr__(self) -> str:
        return f"GaussianBlur(sigma={self.sigma})"


class SlidingDisc(PerturbImage):
    """The masks of Greydanus et al. (2018): a small disc, blurred and scaled to peak 1, slid over the image.

    Differs from xaitk's `SlidingRadial` in the disc: `x² + y² <= radius²`, its border included.
    """

    def __init__(
        self,
        radius: float | Sequence[float] = 1.0,
        stride: int | Sequence[int] = 5,
        sigma: float | Sequence[float] | None = 5.0,
    ) -> None:
        """Slide a disc. Each parameter is one number, or two for y and x, as `SlidingRadial` takes them.

        Args:
            radius: of the disc, in pixels, `>= 0`; two: an ellipse.
            stride: pixels between neighbouring centres, `>= 1`; the first is at (0, 0).
            sigma: standard deviation of the blur, in pixels, `> 0`. None: no blur, masks of 0 and 1.

        Raises:
            TypeError: a parameter that is neither a number nor two.
            ValueError: a parameter out of its range.
        """
        self.radius, self.stride, self.sigma = radius, stride, sigma
        radii, strides = _two("radius", radius), _two("stride", stride)
        sigmas = (1.0, 1.0) if sigma is None else _two("sigma", sigma)
        if not (min(radii) >= 0 and min(strides) >= 1 and min(sigmas) > 0):
            raise ValueError(f"Expected radius >= 0, stride >= 1 and sigma > 0, got radius={radius}, stride={stride}, sigma={sigma}.")

    def perturb(self, ref_image: NDArray[Any]) -> Array:
        """The masks for an image of this shape.

        Args:
            ref_image: `(h, w)` or `(h, w, C)`; only its shape matters.

        Returns:
            `(ceil(h / stride) * ceil(w / stride), h, w)` float32 in [0, 1]; 1: untouched, 0: replaced by the fill.
        """
        height, width = ref_image.shape[:2]
        y, x = np.ogrid[:height, :width]
        steps = [int(step) for step in _two("stride", self.stride)]
        centres = [(cy, cx) for cy in range(0, height, steps[0]) for cx in range(0, width, steps[1])]
        masks = np.empty((len(centres), height, width), np.float32)
        for mask, (cy, cx) in zip(masks, centres, strict=True):
            disc = self._disc(y - cy, x - cx).astype(np.float64)
            blurred = disc if self.sigma is None else gaussian_filter(disc, _two("sigma", self.sigma))
            mask[:] = 1 - blurred / blurred.max()
        return masks

    def _disc(self, y: NDArray[Any], x: NDArray[Any]) -> NDArray[np.bool_]:
        """Where the disc is, `(h, w)`, from the distances to its centre."""
        high, wide = _two("radius", self.radius)
        if high == wide:
            return y**2 + x**2 <= high**2
        smallest = np.finfo(np.float64).tiny ** 0.25  # a radius of 0 leaves the line through the centre
        return (y / max(high, smallest)) ** 2 + (x / max(wide, smallest)) ** 2 <= 1

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, as every plugin of smqtk has them; tuples as lists, as JSON has them."""
        given = {"radius": self.radius, "stride": self.stride, "sigma": self.sigma}
        return {name: list(value) if isinstance(value, Sequence) else value for name, value in given.items()}


def _two(name: str, given: float | Sequence[float]) -> tuple[float, float]:
    """A number for y and one for x."""
    both = (given, given) if isinstance(given, Real) else tuple(cast("Sequence[float]", given))
    if len(both) != 2 or not all(isinstance(one, Real) for one in both):
        raise TypeError(f"Expected {name} to be a number or two, (y, x), got {given!r}.")
    return cast("tuple[float, float]", both)


@dataclass(frozen=True, eq=False)
class Masks:
    """A set of masks in the forms that the computation needs."""

    untouched: Array
    """`(n, h, w)` float32 in [0, 1]; 1: untouched, 0: replaced by the fill."""
    colours: Array | None = None
    """`(k, n, h, w)` float32 in [0, 1]: the masks of each colour, where `untouched` is of all together. None: masks without colours."""

    @cached_property
    def replaced(self) -> Array:
        """`(n, h, w)` float32: `1 - untouched`, how much of the fill shows through."""
        return 1 - self.untouched

    @cached_property
    def coverage(self) -> Array:
        """`(h, w)` float32: how much all masks together replace at each place."""
        return self.replaced.sum(axis=0, dtype=np.float64).astype(np.float32)

    @cached_property
    def boxes(self) -> NDArray[np.int64]:
        """`(n, 4)`: the first row and the one after the last, the first column and the one after the last; else nothing is replaced."""
        ends: list[NDArray[np.int64]] = []
        for axis in (2, 1):
            there: NDArray[np.bool_] = np.any(self.replaced, axis=axis)
            ends += [there.argmax(axis=1), np.where(there.any(axis=1), there.shape[1] - there[:, ::-1].argmax(axis=1), 0)]
        return np.stack(ends, axis=1)

    def on(self, like: Tensor) -> Tensor:
        """`(1 + n, 1, h, w)` of the device and dtype of `like`: nothing replaced, then each mask's `replaced`; kept for the next call."""
        key = (like.device, like.dtype)
        if key not in self._tensors:
            rows = np.concatenate([np.zeros_like(self.replaced[:1]), self.replaced])
            self._tensors[key] = torch.as_tensor(rows)[:, None].to(device=like.device, dtype=like.dtype)
        return self._tensors[key]

    def changed(self, like: Tensor, change: Tensor, tolerance: float) -> Tensor:
        """Where the rows of `on(like)` change a pixel.

        Args:
            like: of the device and dtype of the inputs.
            change: `f - x`, `(C, h, w)`.
            tolerance: what counts as none. Of changes a little smaller than that, some count nevertheless.

        Returns:
            `(1 + n, h, w)` bool.
        """
        largest = change.abs().amax(dim=0)
        threshold = torch.where(largest > tolerance, tolerance / largest, 1.0)
        return self._levels(like) > (threshold.pow(0.25) * 255).to(torch.uint8)

    def _levels(self, like: Tensor) -> Tensor:
        """`replaced` in 255 levels, finer towards 0, rounded up: to compare bytes takes a tenth of the time. Kept for the next call."""
        key = (like.device, like.dtype)
        if key not in self._kept_levels:
            self._kept_levels[key] = (self.on(like)[:, 0].pow(0.25) * 255).ceil().to(torch.uint8)
        return self._kept_levels[key]

    @cached_property
    def _tensors(self) -> dict[tuple[torch.device, torch.dtype], Tensor]:
        return {}

    @cached_property
    def _kept_levels(self) -> dict[tuple[torch.device, torch.dtype], Tensor]:
        return {}


class MaskCache:
    """Asks a perturber for its masks: once for each image shape when only that matters, else for every image."""

    def __init__(self, perturber: PerturbImage, shapes: int = 4) -> None:
        """Ask `perturber`; masks for the last few `shapes` are kept."""
        self.perturber = perturber
        self._depends_on_shape_only = depends_on_shape_only(perturber)
        self._kept: OrderedDict[tuple[int, ...], Masks] = OrderedDict()
        self._shapes = shapes

    def __call__(self, image: Array) -> Masks:
        """The masks for an image `(C, h, w)`."""
        shape = image.shape
        if shape in self._kept:
            self._kept.move_to_end(shape)
            return self._kept[shape]
        masks = self._ask(image)
        if self._depends_on_shape_only:
            self._kept[shape] = masks
            if len(self._kept) > self._shapes:
                self._kept.popitem(last=False)
        return masks

    def _ask(self, image: Array) -> Masks:
        picture = image[0] if len(image) == 1 else np.moveaxis(image, 0, -1)
        masks = np.asarray(spaced_for(self.perturber, *image.shape[1:]).perturb(picture.copy()))
        expected = f"(n, {image.shape[1]}, {image.shape[2]})"
        if masks.ndim not in (3, 4) or masks.shape[-2:] != image.shape[1:] or not masks.size:
            raise ValueError(f"Expected masks of shape {expected} from {type(self.perturber).__name__}, got {masks.shape}.")
        if masks.ndim == 4 and len(image) % 3:
            raise ValueError(
                f"Expected masks of shape {expected} from {type(self.perturber).__name__}, got {masks.shape}: colour masks need an input "
                f"with red, green and blue channels (3, or 3 for each stacked frame), not {len(image)}. Use RISEGrid with RISEScoring."
            )
        masks = masks.astype(np.float32)
        if not (masks.min() >= 0 and masks.max() <= 1):
            raise ValueError(f"Expected masks in [0, 1] from {type(self.perturber).__name__}, got {masks.min()} to {masks.max()}.")
        return Masks(masks) if masks.ndim == 3 else Masks((1 - (1 - masks).sum(axis=0)).clip(0, 1), masks)


def depends_on_shape_only(perturber: PerturbImage) -> bool:
    """Whether masks may be cached by image shape: those of sliding perturbers, and of any with `depends_on_shape_only = True`."""
    declared = inspect.getattr_static(perturber, "depends_on_shape_only", None)
    return declared is True or (declared is None and type(perturber) in (SlidingRadial, SlidingWindow, SlidingDisc))


def check_fill(fill: object) -> None:
    """Refuse at once what cannot be a `Fill`.

    Raises:
        TypeError: neither a number nor an array nor a callable.
        ValueError: a constant outside [0, 1].
    """
    if isinstance(fill, Real):
        if not 0 <= float(fill) <= 1:
            raise ValueError(f"Expected a constant fill in [0, 1], relative to the input range (0.5 is 127.5 in 0..255), got {fill}.")
    elif not callable(fill) and np.asarray(fill).dtype.kind not in "biuf":
        raise TypeError(f"Expected fill to be a constant, an array or a callable, got {type(fill).__name__}.")


def filled(fill: Fill, image: Array, input_range: tuple[float, float]) -> Array:
    """The fill for one image.

    Args:
        fill: a constant, an array or a callable, see `Fill`.
        image: `(C, h, w)` float; not modified.
        input_range: the lowest and highest value of inputs.

    Returns:
        `(C, h, w)` float of the image's dtype.

    Raises:
        ValueError: a fill that does not broadcast to the image, or is not finite.
    """
    if isinstance(fill, Real):
        low, high = input_range
        content: Any = low + float(fill) * (high - low)
    else:
        content = fill(image.copy()) if callable(fill) else fill
    content = np.asarray(content, image.dtype)
    try:
        whole = np.broadcast_to(content, image.shape).copy()
    except ValueError as error:
        raise ValueError(f"Expected a fill that broadcasts to the input's shape {image.shape}, got {content.shape}.") from error
    if not np.isfinite(whole).all():
        raise ValueError("Expected a finite fill, got NaN or infinity.")
    return whole


def perturbed(inputs: Tensor, change: Tensor, replaced: Tensor, out: Tensor | None = None) -> Tensor:
    """Apply masks: `x_k = m_k x + (1 - m_k) f` (Greydanus et al. 2018, eq. 1), exact where a mask leaves x untouched.

    Args:
        inputs: x, `(C, h, w)`.
        change: `f - x`, `(C, h, w)`.
        replaced: `1 - m`, `(k, 1, h, w)`.
        out: where to write, `(k, C, h, w)`. None: a new tensor.

    Returns:
        `(k, C, h, w)`.
    """
    return torch.addcmul(inputs, replaced, change, out=out)
