"""`plain_number`: one number from what environments give for it: an array, a tensor, a list of one."""

from __future__ import annotations

from typing import Any

import numpy as np


def plain_number(number: Any, name: str) -> float:
    """Return a plain number.

    Args:
        number: a number, or an array, tensor or sequence with one element, of any shape.
        name: what it is, for errors: `"a reward"`.

    Raises:
        TypeError: not numeric.
        ValueError: no element, or more than one.
    """
    if type(number) is float or type(number) is int:
        return float(number)
    detach = getattr(number, "detach", None)  # a tensor, on any device
    array = np.asarray(number if detach is None else detach().cpu())
    if array.size != 1:
        raise ValueError(f"Expected {name} as one number, got shape {array.shape}: {number!r}.")
    if array.dtype.kind not in "biufO":
        raise TypeError(f"Expected {name} as a number, got {type(number).__name__}: {number!r}.")
    try:
        return float(array.item())
    except (TypeError, ValueError):
        raise TypeError(f"Expected {name} as a number, got {type(number).__name__}: {number!r}.") from None
