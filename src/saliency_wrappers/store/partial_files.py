"""Half-written files: `partial_path` names them, `sweep` removes those of killed writers."""

from __future__ import annotations

import hashlib
import itertools
import os
import platform
import re
import secrets
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

_RUN = secrets.token_hex(8)
_NUMBERS = itertools.count()
_NAME = re.compile(r"\..+\.(?:(?P<machine>[0-9a-f]{8})-)?[0-9a-f]{16}-(?P<process>\d+)-\d+\.partial")
_OLD = 24 * 3600
"""Seconds after which another machine's file is taken to be left behind: a file is written in seconds."""


def partial_path(folder: str, name: str) -> str:
    """Return a file's path while it is written: hidden, and no other writer's, on any machine."""
    return f"{folder}/.{name}.{_machine()}-{_RUN}-{os.getpid()}-{next(_NUMBERS)}.partial"


def sweep(folder: str) -> None:
    """Remove partial files of dead writers from a folder: of dead processes of this machine, and old files of any machine."""
    with suppress(OSError):
        for name in os.listdir(folder):  # noqa: PTH208 - names, without a Path for each
            found = _NAME.fullmatch(name) if name.endswith(".partial") else None
            if found is not None:
                with suppress(OSError):
                    file = Path(folder, name)
                    if not _is_live(found) or time.time() - file.lstat().st_mtime > _OLD:
                        file.unlink()


def _is_live(found: re.Match[str]) -> bool:
    """Whether the writer may be at work: it is on another machine, or its process is there."""
    if found["machine"] != _machine() or os.name != "posix":  # elsewhere os.kill would end it
        return True
    try:
        os.kill(int(found["process"]), 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


@cache
def _machine() -> str:
    """Return an id of this machine, boot and container, within which process ids are unique."""
    parts = [platform.node()]
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        with suppress(OSError):
            parts.append(os.readlink(path) if path.endswith("pid") else Path(path).read_text())  # noqa: PTH115 - no path
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]
