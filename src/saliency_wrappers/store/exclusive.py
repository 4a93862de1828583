"""`exclusive`: one writer at a time, among the threads of this process and, in a local folder, among processes."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from saliency_wrappers.store.files import Location

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

PATIENCE = 30.0
"""Seconds to wait for another writer at most. A writer that goes on without its turn must recognise by content what the other overwrote."""

_locks: list[threading.Lock] = []


@contextmanager
def exclusive(location: Location, key: str) -> Generator[None]:
    """Hold the lock to write beneath a folder of a store within the block.

    Threads of this process take turns. So do processes that use the same local folder, where the system locks folders (not on Windows, nor
    on every network file system). At a URL other processes do not wait. Nobody waits longer than `PATIENCE`.

    Args:
        location: the store.
        key: the folder, such as an episode's name.
    """
    lock = _locks[hash(f"{location}/{key}") % len(_locks)]  # different folders may share one
    taken = lock.acquire(timeout=PATIENCE)
    try:
        with _locked_folder(None if location.folder is None else f"{location.folder}/{key}"):
            yield
    finally:
        if taken:
            lock.release()


@contextmanager
def _locked_folder(folder: str | None) -> Generator[None]:
    """Lock a folder against other processes, where the system can."""
    descriptor = None if folder is None or fcntl is None else _opened(folder)
    if descriptor is None:
        yield
        return
    module: Any = fcntl
    try:
        taken = _take_turn(module, descriptor)
        try:
            yield
        finally:
            if taken:
                module.flock(descriptor, module.LOCK_UN)  # closing is not enough: a child that was forked meanwhile has it open
    finally:
        os.close(descriptor)


def _opened(folder: str) -> int | None:
    """Return a descriptor of a folder. None where there is no folder yet, so that no other process writes there."""
    try:
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None


def _take_turn(module: Any, descriptor: int) -> bool:
    """Whether the folder is locked now; not after `PATIENCE`, nor in a file system without locks."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            module.flock(descriptor, module.LOCK_EX | module.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > end:
                return False
            time.sleep(0.005)
        except OSError:
            return False


def _make_locks() -> None:
    """Create new locks in a forked child, where the parent's may stay locked."""
    _locks[:] = [threading.Lock() for _ in range(256)]


_make_locks()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_make_locks)
