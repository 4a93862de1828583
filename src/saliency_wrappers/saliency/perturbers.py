"""`Searchlight`: masks that leave only a small place of the image as it is."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray
from xaitk_saliency.interfaces.perturb_image import PerturbImage

from saliency_wrappers.decisions import Array
from saliency_wrappers.saliency.masks import SlidingDisc


class Searchlight(PerturbImage):
    """The opposite of `SlidingDisc`: everything is replaced but a blurred disc, so that a map tells what suffices, not what is needed."""

    depends_on_shape_only = True

    def __init__(self, radius: float = 1.0, stride: int = 5, sigma: float = 5.0) -> None:
        """Slide a disc; the parameters are those of `SlidingDisc`."""
        self._disc = SlidingDisc(radius, stride, sigma)

    def perturb(self, ref_image: NDArray[Any]) -> Array:
        """The masks for an image of this shape.

        Args:
            ref_image: `(h, w)` or `(h, w, C)`; only its shape matters.

        Returns:
            `(ceil(h / stride) * ceil(w / stride), h, w)` float32 in [0, 1]; 1: untouched (the centre of the disc), 0: replaced by the fill.
        """
        return 1 - self._disc.perturb(ref_image)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return self._disc.get_config()
