"""`SaliencySource`: what a video asks of whatever records decisions, so that drawing does not depend on recording."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from saliency_wrappers.step_saliency import SaliencyConsumer


class ErrorPolicy(Protocol):
    """Whether an error in recording is raised or is a warning."""

    def handled(self, subject: str, place: str) -> AbstractContextManager[None]:
        """Return a context in which errors are raised, or are warnings `subject place: error`."""
        ...

    def postponed(self) -> AbstractContextManager[None]:
        """Return a context whose error is raised by the next call of the recording: the environment has stepped."""
        ...


class SaliencySource(Protocol):
    """Computes maps at once or in blocks, and hands them to consumers."""

    @property
    def block(self) -> int:
        """The largest number of decisions that wait for their maps."""
        ...

    @property
    def failures(self) -> ErrorPolicy:
        """The error policy of the recording."""
        ...

    def subscribe(self, consumer: SaliencyConsumer, environment: int = 0) -> None:
        """Hand the decisions of an environment to a consumer."""
        ...

    def flush(self) -> None:
        """Compute and hand on the maps that are pending."""
        ...
