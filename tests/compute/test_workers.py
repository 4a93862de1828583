"""Workers end with the process that started them, and leave nothing in shared memory."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

PROGRAM = textwrap.dedent("""
    import os, sys, time
    from functools import partial
    from pathlib import Path
    from saliency_wrappers.compute.backends import run

    def task(folder, number):
        (Path(folder) / f"{os.getpid()}.worker").touch()
        time.sleep(0.05 if number < 2 else 600)
        return 1

    if __name__ == "__main__":
        for _ in run([partial(task, sys.argv[1], number) for number in range(6)], "loky", 2):
            print("one", flush=True)
""")


def is_alive(process: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


def shared_folders(process: int) -> list[Path]:
    """The folders in shared memory that the process made for its workers."""
    return [*Path("/dev/shm").glob(f"*folder_{process}_*")]


@pytest.mark.timeout(240)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="processes are found in /proc")
def test_workers_do_not_outlive_a_parent_that_is_killed(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    with subprocess.Popen([sys.executable, str(program), str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"one\n"
        parent.send_signal(signal.SIGKILL)
    workers = [int(file.stem) for file in tmp_path.glob("*.worker")]
    assert workers
    end = time.monotonic() + 60  # far less than the ten minutes that the tasks would take
    while (any(map(is_alive, workers)) or shared_folders(parent.pid)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(map(is_alive, workers))
    assert not shared_folders(parent.pid)
