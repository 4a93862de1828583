"""What is installed here: `installation` gathers versions, devices, extras and agents."""

from __future__ import annotations

import importlib
import platform
from importlib import metadata
from typing import Any

import torch

from saliency_wrappers.models.checkpoints import pretrained_agents

PACKAGES = ("gymnasium", "ale-py", "xaitk-saliency", "opencv-python-headless", "moviepy")
EXTRAS = {
    "captum": ("captum",),
    "plots": ("matplotlib",),
    "fast": ("numba",),
    "store": ("joblib", "zarr"),
    "dask": ("dask",),
    "ray": ("ray",),
    "sb3": ("sb3-contrib", "stable-baselines3"),
    "viewer": ("joblib", "starlette", "uvicorn", "zarr"),
}
"""The packages that each extra of the library's users brings."""


def package_version() -> str:
    """Return the version of this package, installed or run from its source."""
    return importlib.import_module("saliency_wrappers").__version__


def installation() -> dict[str, Any]:
    """Return what is installed, by name.

    Returns:
        Versions by package (None: not installed), `"python"`, `"torch threads"`, the path of `"ffmpeg"` (None: not found), and lists of
        `"devices"`, `"extras installed"`, `"extras missing"` and `"bundled agents"`; all of it fit for JSON.
    """
    devices = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    complete = {extra: all(_version(package) for package in packages) for extra, packages in EXTRAS.items()}
    return {
        "saliency_wrappers": package_version(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch threads": torch.get_num_threads(),
        "devices": [device for device, available in devices.items() if available],
        **{package: _version(package) for package in PACKAGES},
        "ffmpeg": _ffmpeg(),
        "extras installed": [extra for extra, there in complete.items() if there],
        "extras missing": [extra for extra, there in complete.items() if not there],
        "bundled agents": pretrained_agents(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _ffmpeg() -> str | None:
    """Return the ffmpeg program, as moviepy finds it."""
    try:
        found = importlib.import_module("moviepy.config").FFMPEG_BINARY
    except (ImportError, OSError, RuntimeError):
        return None
    return None if found == "unset" else str(found)
