"""`share`: work that several threads do together, as many as PyTorch may use; within `alone` PyTorch itself uses one."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import torch

_PARTS = 4
"""Into how many parts for each thread the work is cut: a thread that is held up does fewer."""

_pools: list[ThreadPoolExecutor] = []


class _Here(threading.local):
    alone = False
    """Whether this thread is in a block of `alone`."""


_here = _Here()


class _Usual:
    lock = threading.Lock()
    blocks = 0
    """How many threads of this process are in a block of `alone`."""
    threads = 1
    """How many threads PyTorch used before the first of them."""


@contextmanager
def alone() -> Generator[None]:
    """Let PyTorch's operators use one thread within the block.

    Its other threads would not sleep after each operator, but wait for the next one busily, for milliseconds, where `share` needs them. (A
    thread that uses PyTorch for the first time meanwhile finds one, and keeps it.)
    """
    with _Usual.lock:
        usual = _Usual.threads if _Usual.blocks else torch.get_num_threads()
        nothing_to_do = _here.alone or usual == 1
        if not nothing_to_do:
            _Usual.threads = usual
            _Usual.blocks += 1
    if nothing_to_do:
        yield
        return
    _here.alone = True
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(usual)
        _here.alone = False
        with _Usual.lock:
            _Usual.blocks -= 1


def share(work: Callable[[int, int], object], count: int, least: int) -> None:
    """Call `work(begin, end)` for ranges that make up `range(count)`, of `least` or more each, in several threads.

    Only what does not hold the interpreter's lock gains by it. It must call neither PyTorch's operators nor `share`. After an error or an
    interrupt no range is begun any more, and it is raised when those that were begun are done.
    """
    threads = _Usual.threads if _here.alone else torch.get_num_threads()
    parts = 1 if threads == 1 else max(1, min(_PARTS * threads, count // max(1, least)))
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
    """Ranges that several threads do, each taking the next one."""

    def __init__(self, work: Callable[[int, int], object], ranges: list[tuple[int, int]]) -> None:
        self._work = work
        self._ranges = ranges
        self._changed = threading.Condition()
        self._running = 0
        self._error: BaseException | None = None

    def do(self) -> None:
        """Do ranges until there are none."""
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
        """Begin no more ranges."""
        with self._changed:
            self._error = self._error or error
            self._ranges.clear()

    def wait(self) -> None:
        """Until nothing is running, even if interrupted; raises what failed."""
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
    """In the child there is no other thread, whatever it was doing."""
    _pools.clear()
    _Usual.lock = threading.Lock()
    _Usual.blocks = int(_here.alone)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
