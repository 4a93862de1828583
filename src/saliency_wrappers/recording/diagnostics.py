"""`StepPattern`: detects a misplaced recorder from an episode's steps and decisions."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from saliency_wrappers.step_saliency import plain_action

Fault = Literal["silent", "repeating"]


class StepPattern:
    """Detects a misplaced recorder from an episode's steps and decisions."""

    def __init__(self) -> None:
        self.steps = 0
        self.decisions = 0
        self._repeats = 0
        self._irregular = False
        self._decided: Any = None
        self._just_decided = False

    def see(self, decided: bool, action: Any) -> None:
        """Count a step before it is taken."""
        self.steps += 1
        self.decisions += decided
        if decided:
            self._irregular |= self._just_decided
            self._decided = action if type(action) is int else plain_action(action)
        elif self.decisions and not self._irregular:
            self._irregular = isinstance(action, tuple | dict) or not np.array_equal(self._decided, plain_action(action))
            self._repeats += 1
        self._just_decided = decided

    @property
    def fault(self) -> Fault | None:
        """Return `"silent"` where nothing was decided, `"repeating"` where actions are repeated as with frame skip, else None."""
        if self.steps and not self.decisions:
            return "silent"
        # Twice or more on average: a scripted action at every other step may well be the same by chance.
        repeating = self.decisions > 1 and not self._irregular and self._repeats >= 2 * (self.decisions - 1)
        return "repeating" if repeating else None

    @property
    def complaint(self) -> str:
        """Return the fault as text, to follow `Episode 3`."""
        if self.fault == "silent":
            return f"had no decision in {self.steps} steps."
        return (
            f"had {self.decisions} decisions in {self.steps} steps, each followed by its action again, without saliency: "
            "the recorder belongs outside wrappers that step several times for one decision (frame skip, AtariPreprocessing)."
        )
