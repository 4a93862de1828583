"""`call_at_exit`: has methods called when the interpreter exits, while threads can still be started and URLs written."""

from __future__ import annotations

import atexit
import importlib
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

_methods: dict[int, weakref.WeakMethod[Any]] = {}


def call_at_exit(method: Callable[[], object]) -> None:
    """Have a bound method called at exit, unless its object is gone by then; in the order of registration."""
    if not _registered:
        _register()
    key = max(_methods, default=-1) + 1
    _methods[key] = weakref.WeakMethod(method, lambda _: _methods.pop(key, None))


_registered: list[bool] = []


def _register() -> None:
    _registered.append(True)
    importlib.import_module("concurrent.futures.thread")  # its own handler runs after ours: handlers run in reverse order
    register: Callable[[Callable[[], None]], Any] = getattr(threading, "_register_atexit", atexit.register)
    try:
        register(_call)  # `atexit` is too late: executors refuse work by then, and URLs are written by some
    except RuntimeError:  # the interpreter exits already
        atexit.register(_call)


def _call() -> None:
    for key in sorted(_methods):
        reference = _methods.get(key)
        method = None if reference is None else reference()
        if method is not None:
            try:
                method()
            except BaseException:  # one failure must not keep the others from being written
                sys.excepthook(*sys.exc_info())  # pyright: ignore[reportArgumentType]
