"""`draw_details`: the share of memory as a bar, the confidence of the map and the sentence about objects, in two lines below a video."""

from __future__ import annotations

import math

import numpy as np

from saliency_wrappers.details import SaliencyDetails
from saliency_wrappers.video.overlay import CHOSEN, DARK, GREY, LIGHT, SMALL, Frame, text_width, write_text

DETAILS_HEIGHT = 34
"""The height in pixels of what `draw_details` draws, the same for every decision and width."""

_BAR = 60


def draw_details(width: int, details: SaliencyDetails | None) -> Frame:
    """Draw a decision's details; what does not fit is cut off.

    Args:
        width: in pixels, at least 1; legible from about 320.
        details: of the decision. None draws an empty strip.

    Returns:
        `(DETAILS_HEIGHT, width, 3)` uint8.

    Raises:
        ValueError: a width below 1.
    """
    if width < 1:
        raise ValueError(f"Expected a strip at least 1 pixel wide, got {width}.")
    strip = np.full((DETAILS_HEIGHT, width, 3), DARK, np.uint8)
    if details is None:
        return strip
    left = 4
    if details.memory is not None:
        left = _draw_memory(strip, details.memory)
    if details.confidence is not None:
        text = "nothing to explain" if details.doubtful else f"confidence {details.confidence:.2f}"
        write_text(strip[:16, left:], text, (0, 12), GREY if details.doubtful else LIGHT, SMALL)
    if details.sentence is not None:
        write_text(strip, details.sentence, (4, 28), CHOSEN, SMALL)
    return strip


def _draw_memory(strip: Frame, share: float) -> int:
    """A bar from the frame's share to the memory's; returns where the next text begins."""
    label, number = "memory", "-" if math.isnan(share) else f"{100 * share:.0f} %"
    write_text(strip[:16], label, (4, 12), LIGHT, SMALL)
    left = 4 + text_width(label, SMALL) + 4
    strip[4:13, left : left + _BAR] = GREY
    if not math.isnan(share):
        strip[4:13, left : left + round(share * _BAR)] = CHOSEN
    write_text(strip[:16, left + _BAR + 4 :], number, (0, 12), LIGHT, SMALL)
    return left + _BAR + 4 + text_width("100 %", SMALL) + 10
