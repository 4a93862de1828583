"""Threads: `parallel_for` divides work among threads; within `single_torch_thread` PyTorch itself uses one."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import torch

_PARTS = 4
"""Ranges for each thread: a thread that is held up does fewer."""

_pools: list[ThreadPoolExecutor] = []


class _Here(threading.local):
    single_torch_thread = False
    """Whether this thread is within `single_torch_thread`."""


_here = _Here()


class _Usual:
    lock = threading.Lock()
    blocks = 0
    """How many threads of this process are within `single_torch_thread`."""
    threads = 1
    """How many threads PyTorch used before the first of them."""


@contextmanager
def single_torch_thread() -> Generator[None]:
    """Let PyTorch's operators use one thread within the block.

    PyTorch's other threads spin for milliseconds after each operator, on the cores that `parallel_for` needs. A thread that uses PyTorch
    for the first time within the block finds one thread, and keeps it.
    """
    with _Usual.lock:
        usual = _Usual.threads if _Usual.blocks else torch.get_num_threads()
        nothing_to_do = _here.single_torch_thread or usual == 1
        if not nothing_to_do:
            _Usual.threads = usual
            _Usual.blocks += 1
    if nothing_to_do:
        yield
        return
    _here.single_torch_thread = True
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(usual)
        _here.single_torch_thread = False
        with _Usual.lock:
            _Usual.blocks -= 1


def parallel_for(work: Callable[[int, int], object], count: int, min_chunk: int) -> None:
    """Call `work(begin, end)` for consecutive ranges of `range(count)`, in several threads.

    Only work that releases the interpreter's lock gains by it. It must call neither PyTorch's operators nor `parallel_for`. After an error
    or an interrupt no further range is begun; the error is raised when the ranges in progress are done.

    Args:
        work: called with the first index and the one after the last.
        count: how many indices there are.
        min_chunk: how many a range has at least.
    """
    threads = _Usual.threads if _here.single_torch_thread else torch.get_num_threads()
    parts = 1 if threads == 1 else max(1, min(_PARTS * threads, count // max(1, min_chunk)))
    if parts == 1:
        work(0, count)
        return
    shared = _Shared(work, list(itertools.pairwise([count * part // parts for part in range(parts + 1)])))
    try:
        with suppress(RuntimeError):  # there may be no new threads, as while the interpreter ends
            for _ in range(min(threads, parts) - 1):
                _pool().submit(shared.do)
        shared.do()
    except BaseException as error:  # an interrupt, between two ranges
        shared.fail(error)
    shared.wait()


class _Shared:
    """A queue of ranges; each thread takes the next one."""

    def __init__(self, work: Callable[[int, int], object], ranges: list[tuple[int, int]]) -> None:
        self._work = work
        self._ranges = ranges
        self._changed = threading.Condition()
        self._running = 0
        self._error: BaseException | None = None

    def do(self) -> None:
        """Work on ranges until none is left."""
        while (part := self._take()) is not None:
            try:
                self._work(*part)
            except BaseException as error:  # raised by `wait`, in the thread that shares
                self.fail(error)
            finally:
                with self._changed:
                    self._running -= 1
                    self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """Drop the remaining ranges and keep the first error for `wait`."""
        with self._changed:
            self._error = self._error or error
            self._ranges.clear()

    def wait(self) -> None:
        """Block until no range is running, even if interrupted; raise the first error."""
        while True:
            try:
                with self._changed:
                    self._changed.wait_for(lambda: not self._running)
                break
            except KeyboardInterrupt as interrupt:
                self.fail(interrupt)
        if self._error is not None:
            raise self._error

    def _take(self) -> tuple[int, int] | None:
        with self._changed:
            if not self._ranges:
                return None
            self._running += 1
            return self._ranges.pop()


def _pool() -> ThreadPoolExecutor:
    if not _pools:
        _pools.append(ThreadPoolExecutor(thread_name_prefix="saliency_wrappers"))
    return _pools[0]


def _after_fork() -> None:
    """Reset in a forked child, where no other thread exists."""
    _pools.clear()
    _Usual.lock = threading.Lock()
    _Usual.blocks = int(_here.single_torch_thread)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
