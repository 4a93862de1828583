"""`Triggers`: which decisions are explained, by the number of the episode or of the step."""

from __future__ import annotations

from saliency_wrappers.recording.clock import EpisodeClock
from saliency_wrappers.recording.options import Trigger


class Triggers:
    """Asks each trigger once for each number, and before the agent acts, so that the hook stays detached on steps that none selects."""

    def __init__(self, episode_trigger: Trigger | None, step_trigger: Trigger | None) -> None:
        """Ask either, both or none."""
        self._episode_trigger = episode_trigger
        self._step_trigger = step_trigger
        self._asked = -1
        self._step_wanted = False
        self._error: Exception | None = None
        self.given = episode_trigger is not None or step_trigger is not None
        """Whether there are any."""

    def begin(self, clock: EpisodeClock) -> None:
        """An episode begins; raises what its trigger raises."""
        clock.triggered = self._episode_trigger is not None and bool(self._episode_trigger(clock.episode))

    def prepare(self, step: int) -> None:
        """A step is to come, counted since construction; what its trigger raises is kept for `wanted`."""
        if self._step_trigger is None or step == self._asked:
            return
        self._asked = step
        try:
            self._step_wanted, self._error = bool(self._step_trigger(step)), None
        except Exception as error:
            self._step_wanted, self._error = True, error

    def may_want(self, clocks: list[EpisodeClock]) -> bool:
        """Whether a decision of these environments may be wanted at the step to come."""
        return self._step_wanted or any(clock.triggered for clock in clocks)

    def wanted(self, clocks: list[EpisodeClock]) -> list[EpisodeClock]:
        """Those whose decisions are wanted now; raises what the step's trigger raised."""
        if self._error is not None:
            raise self._error
        return clocks if self._step_wanted else [clock for clock in clocks if clock.triggered]
