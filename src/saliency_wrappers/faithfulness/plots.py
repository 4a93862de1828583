"""`plot_curves`: insertion and deletion curves; `plot_memory`: the share of memory over an episode. Both need Matplotlib."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from saliency_wrappers.faithfulness.curves import FRACTIONS


def plot_curves(curves: Mapping[str, Mapping[str, Sequence[float]]], path: str | os.PathLike[str]) -> None:
    """Write mean curves as a picture.

    Args:
        curves: by method, then by direction and fill: 13 numbers in [0, 1] at `FRACTIONS`.
        path: of the picture.

    Raises:
        DependencyNotInstalled: Matplotlib is missing.
        ValueError: no curves.
    """
    if not curves:
        raise ValueError("Expected curves of at least one method, got none.")
    kinds = list(next(iter(curves.values())))
    figure, axes = _figure(len(kinds))
    for axis, kind in zip(axes, kinds, strict=True):
        for index, (method, of_kind) in enumerate(curves.items()):
            style = "-" if index < 10 else "--"
            axis.plot(FRACTIONS[1:], of_kind[kind][1:], style, label=method, linewidth=1.2)
        axis.set(xscale="log", title=kind, xlabel="fraction of pixels", ylim=(0, None))
    axes[0].set_ylabel("total variation of the policy")
    axes[-1].legend(fontsize=6, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, dpi=120, bbox_inches="tight")


def plot_memory(shares: Sequence[float], path: str | os.PathLike[str], critic: Sequence[float] | None = None) -> None:
    """Write the share of memory at each decision of an episode as a picture.

    Args:
        shares: of the policy output, in [0, 1]; NaN leaves a gap.
        path: of the picture.
        critic: of the value, as many. None: only those of the policy output are shown.

    Raises:
        DependencyNotInstalled: Matplotlib is missing.
    """
    figure, (axis,) = _figure(1)
    for label, colour, line in (("actor", "tab:blue", shares), ("critic", "tab:red", critic)):
        if line is not None:
            axis.plot(range(len(line)), line, color=colour, label=label, linewidth=1)
    axis.set(xlabel="decision", ylabel="share of memory", ylim=(0, 1))
    axis.legend()
    figure.savefig(path, dpi=120, bbox_inches="tight")


def _figure(panels: int) -> tuple[Any, list[Any]]:
    """A figure that needs no window, and its axes side by side."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        from gymnasium.error import DependencyNotInstalled

        raise DependencyNotInstalled('Plots need Matplotlib: pip install "saliency_wrappers[plots]".') from error
    figure = Figure(figsize=(4 * panels, 3.2))
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, panels, squeeze=False)[0])
