"""Names of objects. `place_names` names those without a name of their own by where they are on the input."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

NameObjects = Callable[[NDArray[np.int64]], Sequence[str]]
"""From segments `(h, w)`, 0 where no object is and i on the i-th, to a name for each object."""

_ROWS, _COLUMNS = ("top", "", "bottom"), ("left", "", "right")


def place_names(segments: NDArray[np.int64]) -> list[str]:
    """Where the middle of each object is, in thirds of the input: `"bottom left"`, `"centre"`, `"top 2"` for the second one at the top.

    Args:
        segments: `(h, w)`: 0 where no object is, i on the i-th object.
    """
    places = [
        _place(np.argwhere(segments == number).mean(axis=0) / segments.shape) for number in range(1, int(segments.max(initial=0)) + 1)
    ]
    seen: Counter[str] = Counter()
    names: list[str] = []
    for place in places:
        seen[place] += 1
        names.append(place if seen[place] == 1 else f"{place} {seen[place]}")
    return names


def _place(middle: NDArray[np.float64]) -> str:
    row, column = (min(2, int(3 * part)) for part in middle)
    return " ".join(word for word in (_ROWS[row], _COLUMNS[column]) if word) or "centre"
