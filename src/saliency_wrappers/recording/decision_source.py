"""`DecisionSource`: watches an agent through a hook, and gives the records of what it decided at a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from saliency_wrappers.agents import AgentAdapter
from saliency_wrappers.agents.base import split_rows
from saliency_wrappers.decisions import AgentPass, Decision, numbers_of
from saliency_wrappers.hooks.hook import RecurrentAgentHook
from saliency_wrappers.hooks.replay_check import FramesNow, ReplayCheck, Verify, frames_of
from saliency_wrappers.recording.clock import EpisodeClock
from saliency_wrappers.step_saliency import StepSaliency


class DecisionSource:
    """Turns an agent's deciding passes, checked by replay, into one record for each environment."""

    def __init__(self, hook: RecurrentAgentHook, num_envs: int, verify: Verify) -> None:
        """Watch the agent of a hook, which acts for `num_envs` environments in one pass; `verify` as in `RecordingOptions`."""
        self.hook = hook
        self._num_envs = num_envs
        self.window = hook.open_window(num_envs)
        """Through which it is seen."""
        self._check = ReplayCheck(verify)

    @property
    def unfinished(self) -> bool:
        """Whether a decision is still to be checked."""
        return self._check.unfinished

    def watch(self, wanted: bool) -> None:
        """Watch the agent from now on, or detach from it, so that it costs nothing."""
        if self.window.enabled != wanted:
            self.hook.enable_window(self.window, wanted)

    def begin(self, first: bool) -> None:
        """Begin episodes; with that of the `first` environment the counts of passes are reset."""
        if first:
            self.window.forget_counts()
        self.window.clear()
        if self._num_envs == 1:  # hook.act carries the memory of one
            self.hook.new_episode(self.window)

    def records(
        self, seen: AgentPass, clocks: Sequence[EpisodeClock], actions: Sequence[Any], *, by_reference: bool = False
    ) -> list[StepSaliency]:
        """Return the record of each of these environments, of the `actions` of all; `by_reference` as in `StepSaliency.capture`."""
        if self._num_envs == 1:
            clock = clocks[0]
            return [StepSaliency.capture(seen, actions[clock.environment], clock.episode, clock.step, by_reference=by_reference)]
        rows = split_rows(self.hook.adapter, Decision.by_reference(seen))
        logits, value = seen.numbers or numbers_of(seen.logits, seen.value)
        records: list[StepSaliency] = []
        for clock in clocks:
            index = clock.environment
            numbers = [logits[index]], None if value is None else [value[index]]
            place = clock.episode, clock.step, index
            records.append(StepSaliency.capture(rows[index], actions[index], *place, numbers, by_reference=by_reference))
        return records

    def checked(self, adapter: AgentAdapter) -> bool:
        """Return whether no decision of this agent is left to be checked."""
        return adapter is self._check.done_for

    def check(self, seen: AgentPass, clocks: Sequence[EpisodeClock], frames: FramesNow, wanted: bool) -> None:
        """Replay a decision that is due; decisions that no trigger selects are replayed only while checks are unfinished.

        Args:
            seen: the pass that decided.
            clocks: of the environments that it decided for.
            frames: what each environment shows now, to compare with the input.
            wanted: whether maps of it, or its record, are wanted.

        Raises:
            ReplayMismatchError: the replay differs from what was recorded.
            ValueError: outputs of other shapes; an input outside the agent's range, or another one than the preprocessor makes.
        """
        if wanted or self._check.unfinished:
            rows = [clock.environment for clock in clocks]
            self._check(self.hook.adapter, Decision.by_reference(seen), self.hook.preprocessor, frames_of(rows, frames))

    def close(self) -> None:
        """Close the hook's window."""
        self.hook.close_window(self.window)
