"""`kernels`: what processors run instead of PyTorch's operators, where Numba is installed."""

from __future__ import annotations

import importlib
import logging
from functools import cache
from types import ModuleType

from torch import Tensor

_logger = logging.getLogger(__name__)


def kernels(tensor: Tensor) -> ModuleType | None:
    """The compiled kernels for a tensor's device. None where there are none."""
    return _kernels() if tensor.device.type == "cpu" else None


@cache
def _kernels() -> ModuleType | None:
    try:
        found = importlib.import_module("saliency_wrappers.saliency.incremental.kernels.all")
        found.warm_up()
    except ImportError as error:
        _logger.info("Without compiled kernels: %s", error)
        return None
    except Exception as error:  # a full disk, no sources, a damaged file in __pycache__, another Numba than this was written for
        _logger.warning("Without compiled kernels, which could not be made or read: %s: %s", type(error).__name__, error)
        return None
    return found
