"""`Explainer`: has decisions explained at once, or holds them for later; consumers are told of them.

`Decided` is one on its way, `pending` what it says so far.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from saliency_wrappers.agents import AgentAdapter
from saliency_wrappers.decisions import (
    AgentPass,
    Captured,
    Decision,
    Numbers,
    SaliencyMaps,
    StepSaliency,
    decisions_of,
    plain_action,
    row_of,
)
from saliency_wrappers.hooks.replay_check import replay_held
from saliency_wrappers.recording.clock import EpisodeClock
from saliency_wrappers.recording.error_policy import Failures
from saliency_wrappers.saliency.method import SaliencyMethod, maps_of


@dataclass(frozen=True, eq=False)
class Decided:
    """A decision of one environment that is to be explained."""

    saliency: StepSaliency
    """Without maps."""
    captured: Captured
    """Of one row."""
    adapter: AgentAdapter
    """Of the agent that decided."""
    clock: EpisodeClock
    """Of its environment; it goes on."""
    first_action: int = 0
    """The action that the first logit stands for."""

    @staticmethod
    def at(clock: EpisodeClock, row: Decision | AgentPass, action: Any, adapter: AgentAdapter, first_action: int = 0) -> Decided:
        """Return the decision of `row`, which is copied, to take `action` now."""
        captured = Captured(row)
        return Decided(pending(clock, captured.numbers, action), captured, adapter, clock, first_action)

    @property
    def action(self) -> int | None:
        """The index of the logit that was taken. None unless the action is a number."""
        return self.saliency.action - self.first_action if isinstance(self.saliency.action, int) else None

    @property
    def place(self) -> str:
        """`"step 17 of episode 3"`."""
        return f"step {self.saliency.step} of {self.clock.words_for(self.saliency.episode)}"


def pending(clock: EpisodeClock, numbers: Numbers, action: Any) -> StepSaliency:
    """What is known of a decision before its maps; `numbers` are of one row, or have one for each environment."""
    logits, value = row_of(numbers, clock.environment if len(numbers[0]) > 1 else 0)
    own = action if type(action) is int else plain_action(action)
    return StepSaliency(clock.episode, clock.step, own, logits, value, None, clock.environment)


HandOn = Callable[[StepSaliency, bool], None]
"""What is done with a decision; the flag says that it was pending, and is now explained."""


class Explainer:
    """Turns decisions into `StepSaliency`, each handed on when it was made and, if it was held, again when it is explained."""

    def __init__(self, method: SaliencyMethod, block: int, failures: Failures, hand_on: HandOn, replay_tolerance: float | None) -> None:
        """Explain by a method.

        Args:
            method: makes the maps.
            block: how many decisions are held at most.
            failures: what becomes of errors.
            hand_on: is told of every decision.
            replay_tolerance: for the replay of the first of a block, as in `replay`. None: blocks are not replayed.
        """
        if block < 1:
            raise ValueError(f"Expected a positive block, got {block}.")
        self.method = method
        self.block = block
        self._failures = failures
        self._hand_on = hand_on
        self._replay_tolerance = replay_tolerance
        self._held: list[Decided] = []

    def explain_now(self, decided: Sequence[Decided]) -> list[StepSaliency]:
        """The decisions of one step with their maps, from one call of the method."""
        explained = [one.saliency.explained(maps) for one, maps in zip(decided, self._maps(decided), strict=True)]
        for saliency in explained:
            self._hand_on(saliency, False)
        return explained

    def explain_later(self, decided: Sequence[Decided]) -> list[StepSaliency]:
        """The decisions of one step without maps; they are held until the block is full, or `explain_held` is called."""
        for one in decided:
            if self._held and self._held[0].adapter is not one.adapter:
                self.explain_held()  # another agent was attached
            self._held.append(one)
            self._hand_on(one.saliency, False)
            if len(self._held) >= self.block:
                self.explain_held()
        return [one.saliency for one in decided]

    def explain_held(self) -> None:
        """Explain what is held, in one call of the method; what cannot be explained is handed on without maps."""
        held, self._held = self._held, []
        if not held:
            return
        explained: list[SaliencyMaps | None] = [None] * len(held)
        place = f"for the {len(held)} decisions from {held[0].place}"
        try:
            with self._failures.handled("No saliency", place):
                if self._replay_tolerance is not None:
                    replay_held(held[0].adapter, held[0].captured.decision(held[0].action), self._replay_tolerance)
                explained = [*self._maps(held)]
        finally:
            for one, maps in zip(held, explained, strict=True):
                with self._failures.handled("Saliency was not handed on", place):
                    self._hand_on(one.saliency.explained(maps), True)

    def _maps(self, decided: Sequence[Decided]) -> list[SaliencyMaps]:
        decisions = decisions_of([one.captured for one in decided], [one.action for one in decided])
        return maps_of(self.method, decided[0].adapter, decisions)
