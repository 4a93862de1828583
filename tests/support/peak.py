"""The largest memory that a process took."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import saliency_wrappers

SOURCE = Path(saliency_wrappers.__file__).parents[1]


ALLOWED = 20_000_000


def peak_memory() -> int:
    """This program's largest resident set, in bytes. (`ru_maxrss` counts what the parent had when it forked, too.)"""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def peak_of(process: subprocess.Popen[str]) -> int:
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    return int(output)
