"""xaitk's perturbers by name: `named_perturber` makes one, with parameters that suit a network input, and tries it."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
from xaitk_saliency.impls.perturb_image.random_grid import RandomGrid
from xaitk_saliency.impls.perturb_image.rise import RISEGrid
from xaitk_saliency.impls.perturb_image.sliding_radial import SlidingRadial
from xaitk_saliency.impls.perturb_image.sliding_window import SlidingWindow
from xaitk_saliency.interfaces.perturb_image import PerturbImage

from saliency_wrappers.saliency.masks import MaskCache

_NAMED: dict[str, tuple[type[PerturbImage], dict[str, Any]]] = {
    "sliding-radial": (SlidingRadial, {"radius": (1, 1), "stride": (5, 5), "sigma": (5, 5)}),
    "sliding-window": (SlidingWindow, {"window_size": (10, 10), "stride": (5, 5)}),
    "rise": (RISEGrid, {"n": 250, "s": 8, "p1": 0.5, "threads": 0}),
    "random-grid": (RandomGrid, {"n": 250, "s": (10, 10), "p1": 0.5, "threads": 0}),
}
"""The class, and its parameters unless others are given: xaitk's own defaults are made for photographs."""

PERTURBERS = tuple(_NAMED)
"""The names."""


def named_perturber(name: str, size: tuple[int, int], default_seed: int | None = 0, **parameters: Any) -> PerturbImage:
    """Return a perturber by its name.

    Args:
        name: one of `PERTURBERS`.
        size: `(h, w)` of the network input that it is tried on.
        default_seed: of random masks, unless `seed` is among the parameters. None: new ones for every decision.
        parameters: those of the xaitk class' constructor; where it takes a pair, one number stands for two equal ones.

    Raises:
        ValueError: an unknown name or parameter, or parameters that make no masks.
    """
    if name not in _NAMED:
        raise ValueError(f"Expected the name of a perturber, one of {PERTURBERS}, got {name!r}.")
    kind, usual = _NAMED[name]
    known = inspect.signature(kind).parameters
    for key in parameters.keys() - known.keys():
        raise ValueError(f"{kind.__name__} has no parameter {key!r}: expected some of {', '.join(known)}.")
    seeded = {"seed": default_seed} if "seed" in known else {}
    settings = usual | seeded | {key: _as_usual(key, value, usual.get(key)) for key, value in parameters.items()}
    try:
        perturber = kind(**settings)
        # With a seed and in one thread the random masks are the same for every image: they need not be made for each.
        if settings.get("seed") is not None and not settings["threads"]:
            perturber.depends_on_shape_only = True  # pyright: ignore[reportAttributeAccessIssue]
        MaskCache(perturber)(np.zeros((1, *size), np.float32))
    except Exception as error:
        text = ", ".join(f"{key}={value}" for key, value in settings.items())
        raise ValueError(f"{kind.__name__}({text}) makes no masks for an input of {size[0]}x{size[1]}: {error}") from error
    return perturber


def _as_usual(key: str, value: Any, usual: Any) -> Any:
    """Return a pair for parameters that are usually pairs, else one number."""
    if value is None:
        return None
    count = len(usual) if isinstance(usual, tuple) else 1
    parts = value if isinstance(value, tuple) else (value,) * count
    if len(parts) != count:
        raise ValueError(f"Expected {'one number' if count == 1 else f'one number or {count}'} as {key}, got {value}.")
    return parts if isinstance(usual, tuple) else parts[0]
