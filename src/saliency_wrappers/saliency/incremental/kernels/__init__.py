"""`load_kernels`: what processors run instead of PyTorch's operators, where Numba is installed."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any

from torch import Tensor

_logger = logging.getLogger(__name__)


def load_kernels(tensor: Tensor) -> ModuleType | None:
    """Return the compiled kernels for a tensor's device. None where there are none."""
    return _kernels() if tensor.device.type == "cpu" else None


@contextmanager
def _announced() -> Generator[None]:
    """Print a line to stderr when Numba compiles within the block; nothing where kernels are read from its cache."""
    event: Any = importlib.import_module("numba.core.event")

    class Announcement(event.Listener):
        said = False

        def on_start(self, event: object) -> None:
            if not self.said:
                self.said = True
                sys.stderr.write("saliency_wrappers: compiling kernels for this processor, once, which takes 10 to 40 s ...\n")
                sys.stderr.flush()

        def on_end(self, event: object) -> None:
            pass

    with event.install_listener("numba:compile", Announcement()):
        yield


@cache
def _kernels() -> ModuleType | None:
    try:
        found = importlib.import_module("saliency_wrappers.saliency.incremental.kernels.all")
        with _announced():
            found.warm_up()
    except ImportError as error:
        _logger.info("Without compiled kernels: %s", error)
        return None
    except Exception as error:  # a full disk, no sources, a damaged file in __pycache__, another Numba than this was written for
        _logger.warning("Without compiled kernels, which could not be made or read: %s: %s", type(error).__name__, error)
        return None
    return found
