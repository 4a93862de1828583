"""`FileClaim`: a file that one writer writes and no other, in this process or another one. `claim_free`: the first free name."""

from __future__ import annotations

import os
import stat
import weakref
from contextlib import suppress
from itertools import count
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: claims are seen by this process only
    fcntl = None

_claimed: set[tuple[int, int]] = set()
"""Device and inode of every file that this process has claimed."""


class FileClaim:
    """An exclusive lock (`flock`) on an open file. It ends with `release`, or with the process."""

    def __init__(self, descriptor: int) -> None:
        """Hold the descriptor of a locked file."""
        self._descriptor: int | None = descriptor
        identity = _identity(os.fstat(descriptor))
        _claimed.add(identity)
        self._finalizer = weakref.finalize(self, _let_go, descriptor, identity)  # Ctrl-C may come before anybody holds the claim
        self._finalizer.atexit = False

    @property
    def deleted(self) -> bool:
        """Whether the file has no name any more: what is written to it is lost."""
        return self._descriptor is not None and os.fstat(self._descriptor).st_nlink == 0

    def release(self) -> None:
        """Let others claim the file. More than once does no harm."""
        self._descriptor = None
        self._finalizer()


def _let_go(descriptor: int, identity: tuple[int, int]) -> None:
    _claimed.discard(identity)
    os.close(descriptor)


def claim_free(path: Path) -> tuple[Path, FileClaim | None]:
    """Claim a file, or the first of `name-1.mp4`, `name-2.mp4`, ... that no other writer has claimed.

    Args:
        path: the file; made, empty, if it does not exist.

    Returns:
        The claimed path, and its claim. None for what cannot be claimed: no regular file, no permission, no folder.
    """
    for number in count():
        candidate = path if number == 0 else path.with_name(f"{path.stem}-{number}{path.suffix}")
        try:
            return candidate, _claim(candidate)
        except BlockingIOError:
            continue
    raise RuntimeError("unreachable: count() does not end")


def _claim(path: Path) -> FileClaim | None:
    """Return the claim of a file, None for what cannot be locked; `BlockingIOError` when another writer has it."""
    with suppress(OSError):
        if not stat.S_ISREG(path.stat().st_mode):
            return None
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:
        return None  # ffmpeg says what is wrong
    try:
        if _identity(os.fstat(descriptor)) in _claimed:
            raise BlockingIOError
        _lock(descriptor)
        return FileClaim(descriptor)
    except BaseException:
        os.close(descriptor)
        raise


def _lock(descriptor: int) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return  # a file system without locks


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
