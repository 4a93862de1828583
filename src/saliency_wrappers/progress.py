"""Progress of long calls: `Progress` is what they take, `reporting` turns it into a function to call."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

Report = Callable[[int, int], None]
"""Called with how much is done, and how much there is to be done."""

Progress = bool | Report | None
"""How progress is shown: True: a bar on stderr; a function: called with the numbers of items done and to be done; None: not at all."""


@contextmanager
def reporting(progress: Progress, description: str, unit: str) -> Generator[Report]:
    """Return what a long call reports to.

    Args:
        progress: as the call was given it.
        description: what is done, in front of the bar.
        unit: what is counted, `"decisions"`.
    """
    if callable(progress):
        yield progress
        return
    from tqdm.auto import tqdm

    with tqdm(total=0, unit=f" {unit}", desc=description, disable=not progress) as bar:

        def advance(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield advance
