"""The default masks: `default_perturber`, whose spacing `spaced_for` adapts to the size of the image."""

from __future__ import annotations

import math

from xaitk_saliency.impls.perturb_image.sliding_radial import SlidingRadial
from xaitk_saliency.interfaces.perturb_image import PerturbImage

_STRIDE = 5
"""Pixels between centres on the small images of Atari agents."""

_LARGEST = 100 * 100
"""Pixels of the largest image that this stride is used for."""

_USUAL = 84 * 84
"""Pixels of an image on which the stride gives 289 masks; on larger ones it grows so that there are about as many."""


def default_perturber() -> SlidingRadial:
    """`SlidingRadial(radius=(1, 1), stride=(5, 5), sigma=(5, 5))`, marked as the default one, whose spacing depends on the image."""
    perturber = SlidingRadial(radius=(1, 1), stride=(_STRIDE, _STRIDE), sigma=(_STRIDE, _STRIDE))
    vars(perturber)["spacing_scales"] = True
    return perturber


def spaced_for(perturber: PerturbImage, height: int, width: int) -> PerturbImage:
    """Return the perturber for an image of this size.

    The default one is spaced wider on images of more than 100x100 pixels, with a radius and a sigma in proportion: on 240x320 pixels a
    stride of 16 and 300 masks, not 3,072. Every other perturber is returned as it is.
    """
    if not vars(perturber).get("spacing_scales") or height * width <= _LARGEST:
        return perturber
    stride = round(_STRIDE * math.sqrt(height * width / _USUAL))
    return SlidingRadial(radius=(stride / _STRIDE, stride / _STRIDE), stride=(stride, stride), sigma=(stride, stride))
