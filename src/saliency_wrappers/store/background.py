"""`Background`: one thread that does one job after another; whoever brings the next one waits until the last is done."""

from __future__ import annotations

import os
import queue
import threading
import weakref
from collections.abc import Callable

Job = Callable[[], None]
"""Keeps its failure to itself, for whoever brought it."""


class Background:
    """At most one job is under way, and what it holds is all that waits."""

    def __init__(self) -> None:
        self._worker = _Worker()
        self._finalizer = weakref.finalize(self, self._worker.stop)

    def do(self, job: Job) -> None:
        """Wait until the job before is done, then have this one done."""
        self._worker.start(job)

    def wait(self) -> None:
        """Until nothing is under way."""
        self._worker.idle.wait()

    def close(self) -> None:
        """Let what is under way finish, and end the thread; a later job starts another."""
        self._worker.stop()


class _Worker:
    """Apart from `Background`, so that its thread does not keep that alive."""

    def __init__(self) -> None:
        self.idle = threading.Event()
        self.idle.set()
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._process = os.getpid()

    def start(self, job: Job) -> None:
        if self._process != os.getpid():
            raise RuntimeError("This store is written by another process; open it anew in this one.")
        self.idle.wait()
        if not self._has_thread():
            job()
            return
        self.idle.clear()
        self._jobs.put(job)

    def stop(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None and self._process == os.getpid():
            self._jobs.put(None)
            thread.join()

    def _has_thread(self) -> bool:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="saliency-store", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the interpreter exits
                return False
            self._thread = thread
        return True

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            finally:
                del job  # what it holds may be large
                self.idle.set()
