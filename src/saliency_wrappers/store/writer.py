"""`EpisodeWriter`: one episode's decisions into a store, written in blocks by a background thread.

When a block is full it is handed over, and a committed length, in a file of its own, follows what was written: whoever reads sees whole
decisions only, and a kill loses the block that is being written and the one that is being filled at most.
"""

from __future__ import annotations

import os
import weakref
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saliency_wrappers.decisions import AgentPass, Decision, SaliencyMaps
from saliency_wrappers.step_saliency import StepSaliency
from saliency_wrappers.store.at_exit import call_at_exit
from saliency_wrappers.store.background import Background
from saliency_wrappers.store.columns import DecisionColumns, Row
from saliency_wrappers.store.episode_files import EpisodeFiles, ExplainedBlock
from saliency_wrappers.store.files import Location


class EpisodeWriter:
    """Appends the decisions of one episode. Close it; at the latest when it is forgotten, or the interpreter exits, the rest is written."""

    def __init__(self, location: Location, name: str, background: Background, block: int, frames: bool, **known: Any) -> None:
        """Prepare an episode; its arrays are made when the first decision shows their shapes.

        Args:
            location: the store.
            name: the episode's group.
            background: what writes.
            block: decisions in a chunk.
            frames: whether every decision comes with its frame.
            known: fields of the `EpisodeHeader`: episode, seed, env_spec, agent, preprocessor.
        """
        self.name = name
        self._rows = _Rows(location, name, background, block, frames, known)
        self._finalizer = weakref.finalize(self, self._rows.close)
        call_at_exit(self._rows.close)
        # At every step: as attributes they are called at once.
        self.decide = self._rows.decide
        """`append` before the environment steps: the record and its frame; the reward follows by `reward`. Returns the row. The input is
        copied; steps may be left out."""
        self.reward = self._rows.reward
        """The reward for the last decision, which is complete now."""

    def __len__(self) -> int:
        return self._rows.count

    def append(self, decision: AgentPass | Decision, action: Any, reward: float, frame: NDArray[np.uint8] | None = None) -> None:
        """Append a decision, its action, and the reward that followed; its step is the number of decisions before.

        Args:
            decision: what went into the agent and what came out; copied.
            action: what the environment was given.
            reward: what it returned.
            frame: `(H, W, 3)` uint8, what the agent saw. None when frames are not stored.

        Raises:
            TypeError, ValueError: the first decision has more than one row, or shapes that cannot be stored; a frame is none.
            OSError, RuntimeError: what came before could not be written, or had other shapes or dtypes than the first decision.
        """
        self.decide(StepSaliency.capture(decision, action, 0, len(self), by_reference=True), frame)
        self.reward(reward)

    def explain(self, row: int, maps: SaliencyMaps, fingerprint: str, method: dict[str, Any]) -> None:
        """Store the maps of a decision, in order of rows, and the method that made them."""
        self._rows.explain(row, maps, fingerprint, method)

    def flush(self) -> None:
        """Write all there is, and wait for it; raises what failed, unless it was raised before."""
        self._rows.flush()

    def close(self, complete: bool = False, learned: bool = False) -> None:
        """Write all there is, and what is known now of the episode. More than once does no harm.

        Args:
            complete: the episode ran to its end.
            learned: the agent's weights changed during the episode.

        Raises:
            OSError: something could not be written; the episode ends with what was.
        """
        if self._finalizer.alive:
            try:
                self._rows.close(complete, learned)
            except Exception:
                self._finalizer.detach()
                raise
            self._finalizer.detach()  # not when it was interrupted: then it can be closed again

    def __enter__(self) -> EpisodeWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Rows:
    """The blocks of an episode. Apart from the writer, so that they can be written when the writer is gone."""

    def __init__(self, location: Location, name: str, background: Background, block: int, frames: bool, known: dict[str, Any]) -> None:
        self._files = EpisodeFiles(location, name, block, frames, known)
        self._background = background
        self._block, self._frames = block, frames
        self._columns: DecisionColumns | None = None
        self._decided: Row | None = None
        """The decision whose reward is not known yet."""
        self._pending: tuple[int, list[tuple[Row, float]]] = 0, []
        """How many decisions were handed over, and the others: one attribute, so that an interrupt falls before or after a change."""
        self._failure: BaseException | None = None
        self._told = False
        self._explained: ExplainedBlock | None = None
        self._process = os.getpid()

    @property
    def count(self) -> int:
        """The number of decisions."""
        put, rows = self._pending
        return put + len(rows)

    def decide(self, record: StepSaliency, frame: NDArray[np.uint8] | None = None) -> int:
        if self._decided is not None:
            self.reward(np.nan)
        put, rows = self._pending
        index = put + len(rows)
        if rows and index % self._block == 0:  # here and not with the reward: an interrupt of the wait comes before the environment steps
            self._hand_over()
        if self._failure is not None:
            self._raise_failure()
        columns = self._columns or DecisionColumns(self._block, self._frames, record, frame)
        taken = columns.take(index, record, frame)
        if self._columns is None:
            self._files.check(columns)
            self._columns = columns  # of the first decision that could be taken
        self._decided = taken
        return index

    def reward(self, reward: float) -> None:
        decided, self._decided = self._decided, None
        if decided is None:
            raise ValueError("Expected one reward after each decision, got one without.")
        self._pending[1].append((decided, reward))

    def explain(self, row: int, maps: SaliencyMaps, fingerprint: str, method: dict[str, Any]) -> None:
        self._raise_failure()
        block, place = divmod(row, self._block)
        if self._explained is not None and (self._explained.block, self._explained.fingerprint) != (block, fingerprint):
            self._hand_over_maps()
        if self._explained is None:
            self._explained = ExplainedBlock(block, fingerprint, method)
        self._explained.maps.append((place, maps))

    def flush(self) -> None:
        if self._told:
            return
        self._hand_over()
        self._hand_over_maps()
        self._wait()

    def close(self, complete: bool = False, learned: bool = False) -> None:
        columns = self._columns
        if columns is None or self._told or self._process != os.getpid():  # in a forked child the episode is its parent's
            return
        if self._decided is not None:
            self.reward(np.nan)
        self._hand_over()
        self._hand_over_maps()
        self._do(lambda: self._files.finish(columns, complete, learned))
        self._wait()
        self._columns = None

    def _hand_over(self) -> None:
        """Hand over what is pending. Repeating it after an interrupt does the same again."""
        columns, (put, rows) = self._columns, self._pending
        if columns is None or not rows:
            return
        taken, error = _fill(columns, put, rows)
        if taken:
            block = columns.filled(put + taken)
            self._do(lambda: self._files.write(columns, block))
        if error is not None:
            self._do(partial(_fail, error))
        self._pending = put + len(rows), []

    def _hand_over_maps(self) -> None:
        explained, count = self._explained, self.count
        if explained is not None:
            written = replace(explained, maps=[*explained.maps])
            self._do(lambda: self._files.write_maps(written, count))
            self._explained = None

    def _do(self, work: Any) -> None:
        def job() -> None:
            if self._failure is None:
                try:
                    work()
                except BaseException as error:  # the thread goes on, and the next call raises it
                    self._failure = error

        self._background.do(job)

    def _wait(self) -> None:
        self._background.wait()
        self._raise_failure()

    def _raise_failure(self) -> None:
        error = self._failure
        if error is not None:
            self._told = True
            text = f"The episode {self._files.name} of the store {self._files.location} ended early, writing it failed: {error}"
            raise (OSError if isinstance(error, OSError) else RuntimeError)(text) from error


def _fill(columns: DecisionColumns, put: int, rows: list[tuple[Row, float]]) -> tuple[int, Exception | None]:
    """Put rows in, and return how many could be; the first that could not ends the episode."""
    try:
        columns.put(put, rows)
    except (TypeError, ValueError):  # one by one it shows which; those before it are written
        for taken, row in enumerate(rows):
            try:
                columns.put(put + taken, [row])
            except (TypeError, ValueError) as error:
                return taken, error
    return len(rows), None


def _fail(error: Exception) -> None:
    raise error
