"""`Failures`: error policy of a recording, which raises, postpones or warns. `MissingDecisionError` is always raised."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from typing import Literal

OnError = Literal["raise", "warn"]


class MissingDecisionError(RuntimeError):
    """A step had no decision although `require_decision=True`."""


class Failures:
    """Error policy of a recording: raise now, postpone, or warn."""

    def __init__(self, on_error: OnError) -> None:
        if on_error not in OnError.__args__:
            raise ValueError(f"Expected on_error to be one of {OnError.__args__}, got {on_error!r}.")
        self._on_error: OnError = on_error
        self._warned: set[tuple[str, type[Exception]]] = set()
        self._unsaid: Counter[tuple[str, type[Exception]]] = Counter()
        self.waiting: Exception | None = None
        """The error that was postponed, if any."""

    def new_episode(self) -> None:
        """Allow the warnings of the last episode again."""
        self._warned.clear()

    @contextmanager
    def handled(self, subject: str, place: str) -> Generator[None]:
        """Raise errors of the block, or warn `subject place: error`, once per subject and type of error in an episode."""
        try:
            yield
        except Exception as error:
            if self._on_error == "raise":
                raise
            kind = (subject, type(error))
            if kind in self._warned:
                self._unsaid[kind] += 1
                return
            self._warned.add(kind)
            before = self._unsaid.pop(kind, 0)
            more = f" ({before} more since the last such warning)" if before else ""
            warnings.warn(f"{subject} {place}: {type(error).__name__}: {error}{more}", stacklevel=4)

    @contextmanager
    def postponed(self) -> Generator[None]:
        """Postpone errors of the block until `raise_postponed`: the environment has stepped, and its transition must not be lost."""
        try:
            yield
        except Exception as error:
            self.postpone(error)

    def postpone(self, error: Exception) -> None:
        """Postpone an error until `raise_postponed`; the first one wins."""
        self.waiting = self.waiting or error

    def raise_postponed(self) -> None:
        """Raise the error that waits, if any, once."""
        error, self.waiting = self.waiting, None
        if error is not None:
            raise error
