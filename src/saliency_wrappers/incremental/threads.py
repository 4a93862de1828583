"""`share`: work that several threads do together, as many as PyTorch may use; within `alone` PyTorch itself uses one."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress

import torch

_PARTS = 4
"""Into how many parts for each thread the work is cut: a thread that is held up does fewer."""

_pools: list[ThreadPoolExecutor] = []
_lock = threading.Lock()


class _Here(threading.local):
    alone = False
    """Whether this thread is in a block of `alone`."""


_here = _Here()


class _Usual:
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
    if _here.alone:
        yield
        return
    with _lock:
        if not _Usual.blocks:
            _Usual.threads = torch.get_num_threads()
        _Usual.blocks += 1
        usual = _Usual.threads
    _here.alone = True
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(usual)
        _here.alone = False
        with _lock:
            _Usual.blocks -= 1


def share(work: Callable[[int, int], object], count: int, least: int) -> None:
    """Call `work(begin, end)` for ranges that make up `range(count)`, of `least` or more each, in several threads.

    Only what does not hold the interpreter's lock gains by it. PyTorch's operators must not be called.
    """
    threads = _Usual.threads if _here.alone else torch.get_num_threads()
    parts = 1 if threads == 1 else max(1, min(_PARTS * threads, count // max(1, least)))
    if parts == 1:
        work(0, count)
        return
    ranges = iter(list(itertools.pairwise([count * part // parts for part in range(parts + 1)])))
    others: list[Future[None]] = []
    with suppress(RuntimeError):  # while the interpreter ends there are no new threads
        for _ in range(min(threads, parts) - 1):
            others.append(_pool().submit(_do, work, ranges))
    try:
        _do(work, ranges)
    finally:
        wait(others)  # what they work on may be used for something else then
    for other in others:
        other.result()


def _do(work: Callable[[int, int], object], ranges: Iterator[tuple[int, int]]) -> None:
    for begin, end in ranges:  # each thread takes the next one
        work(begin, end)


def _pool() -> ThreadPoolExecutor:
    if not _pools:
        _pools.append(ThreadPoolExecutor(thread_name_prefix="saliency_wrappers"))
    return _pools[0]


if hasattr(os, "register_at_fork"):  # threads do not survive a fork
    os.register_at_fork(after_in_child=_pools.clear)
