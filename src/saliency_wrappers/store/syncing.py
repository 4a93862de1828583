"""`sync_file`, `sync_folder`: wait until what was written is on the disk, so that it survives a crash of the machine."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any


def sync_file(descriptor: int) -> None:
    """Wait until a file's content is on the disk; `OSError` when it cannot be written."""
    if sys.platform == "darwin":  # there fsync leaves it in the drive's cache
        fcntl: Any = importlib.import_module("fcntl")
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fsync(descriptor)


def sync_folder(path: str) -> None:
    """Wait until a folder's names, new and replaced, are on the disk. Windows has no call for that: there nothing is done."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
