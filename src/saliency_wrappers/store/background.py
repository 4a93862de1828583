"""`Background`: a worker thread with at most one job in flight; `do` blocks until the previous one is done."""

from __future__ import annotations

import os
import queue
import threading
import weakref
from collections.abc import Callable

Job = Callable[[], None]
"""Must not raise; stores its exception for the caller."""


class Background:
    """A worker thread. Any wait may be interrupted (Ctrl-C) and the call repeated: no job is lost, and none overtakes another."""

    def __init__(self) -> None:
        self._worker = _Worker()
        self._finalizer = weakref.finalize(self, self._worker.stop)

    def do(self, job: Job) -> None:
        """Wait until the previous job is done, then start this one. An interrupted call may be repeated; a job may then run twice."""
        self._worker.start(job)

    def wait(self) -> None:
        """Wait until nothing is in flight."""
        self._worker.wait()

    def close(self) -> None:
        """Let what is in flight finish, and end the thread; a later job starts another."""
        self._worker.stop()


class _Task:
    """A job that was submitted."""

    def __init__(self, job: Job) -> None:
        self.job: Job | None = job
        self.queued = False
        self.done = threading.Event()

    def run(self) -> None:
        job, self.job = self.job, None
        if job is not None:  # an interrupted call may have queued it twice
            try:
                job()
            finally:
                self.done.set()


class _Worker:
    """Apart from `Background`, so that its thread does not keep that alive."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._last: _Task | None = None
        self._thread: threading.Thread | None = None
        self._process = os.getpid()

    def start(self, job: Job) -> None:
        if self._process != os.getpid():
            raise RuntimeError("This store is written by another process; open it anew in this one.")
        self.wait()
        if not self._has_thread():
            job()
            return
        self._last = _Task(job)
        self._queue(self._last)

    def wait(self) -> None:
        task = self._last
        if task is not None:
            if not task.queued:  # the call that brought it was interrupted
                self._queue(task)
            task.done.wait()

    def stop(self) -> None:
        thread = self._thread
        if thread is not None and self._process == os.getpid():
            self._jobs.put(None)
            self._thread = None
            if thread is not threading.current_thread():  # the last reference to a store may be a job's
                thread.join()

    def _queue(self, task: _Task) -> None:
        self._jobs.put(task)
        task.queued = True

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
        while (task := self._jobs.get()) is not None:
            task.run()
            del task  # what it holds may be large
