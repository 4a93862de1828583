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
        return importlib.import_module("saliency_wrappers.incremental.kernels")
    except (ImportError, OSError) as error:
        _logger.info("Without compiled kernels: %s", error)
        return None
