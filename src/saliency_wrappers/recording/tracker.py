"""`EpisodeTracker`: which episode and step each recorded environment is in, and what their steps say about a misplaced recorder."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from saliency_wrappers.recording.clock import EpisodeClock, chosen_environments
from saliency_wrappers.recording.diagnostics import Fault, StepPattern
from saliency_wrappers.recording.options import RecordedEnvironments

_BEGINNING = 64
"""Steps of each episode in which the agent is watched in any case: an episode without decisions is to be noticed."""


class EpisodeTracker:
    """The clocks of environments that are stepped together, each with the pattern of its episode's steps and decisions."""

    def __init__(self, environments: RecordedEnvironments) -> None:
        """Track the chosen environments, from before their first reset; `TypeError` or `ValueError` for others than there are."""
        self._alone = environments.num_envs == 1
        self._resets_at_once = environments.resets_at_once
        chosen = chosen_environments(environments.chosen, environments.num_envs)
        self.clocks = {index: EpisodeClock(index, alone=self._alone) for index in chosen}
        """By the environment's number."""
        self.ordered = list(self.clocks.values())
        self._patterns = {index: StepPattern() for index in chosen}
        self._told: set[Fault] = set()
        self.running: list[EpisodeClock] = []
        """Those whose next action is one of an episode's: an autoreset ignores the others."""
        self.begun = False
        """Whether any episode has begun."""
        self.total_steps = 0
        """How many steps were taken since construction."""

    @property
    def first(self) -> EpisodeClock:
        """The clock of the first environment: of many, it sets the pace."""
        return self.ordered[0]

    @property
    def beginning(self) -> bool:
        """Whether any episode is in its first steps."""
        return any(pattern.steps < _BEGINNING for pattern in self._patterns.values())

    @property
    def moment(self) -> str:
        """The step to come, in words: `"step 17 of episode 3"`, or `"step 17 of the vector"`."""
        if not self._alone:
            return f"step {self.total_steps} of the vector"
        return f"step {self.first.step} of {self.first.in_words}"

    def clock(self, environment: int) -> EpisodeClock:
        """Return the clock of an environment; `ValueError` for one that is not recorded."""
        if environment not in self.clocks:
            raise ValueError(f"Expected one of the environments that are recorded, {sorted(self.clocks)}, got {environment!r}.")
        return self.clocks[environment]

    def select(self, environments: Iterable[int] | None) -> list[EpisodeClock]:
        """Return the clocks of those of these environments that are recorded. None: all."""
        chosen: Collection[int] = self.clocks if environments is None else set(environments)
        return [clock for index, clock in self.clocks.items() if index in chosen]

    def see(self, decided: bool, actions: Sequence[Any]) -> None:
        """Count a step that is about to be taken, with or without a decision."""
        for clock in self.running:
            self._patterns[clock.environment].see(decided, actions[clock.environment])

    def advance(self, ended: Sequence[bool]) -> tuple[list[EpisodeClock], list[EpisodeClock]]:
        """Count a step that was taken.

        Args:
            ended: says of each environment whether its episode is over.

        Returns:
            The clocks of environments of which a new episode is to begin, and of those whose episode is over. The step after an episode's
            end, without a reset, was an autoreset's if the environment goes on.
        """
        self.total_steps += 1
        begun: list[EpisodeClock] = []
        over: list[EpisodeClock] = []
        for clock in self.ordered:
            ends = bool(ended[clock.environment])
            if clock.ended and not ends:
                begun.append(clock)
            elif clock.episode >= 0:
                clock.tick(ends)
                if ends:
                    over.append(clock)
        if begun or over:
            self._find_running()
        return begun + over if self._resets_at_once else begun, over

    def begin(self, clocks: Sequence[EpisodeClock]) -> None:
        """Begin the next episode of these environments."""
        self.begun |= bool(clocks)
        for clock in clocks:
            clock.begin()
            self._patterns[clock.environment] = StepPattern()
        self._find_running()

    def complaints(self, clocks: Iterable[EpisodeClock]) -> list[str]:
        """Return what shows that the recorder is misplaced, of each kind once: sentences to be followed by the hook's."""
        found: list[str] = []
        for clock in clocks:
            pattern = self._patterns[clock.environment]
            if pattern.fault is not None and pattern.fault not in self._told:
                self._told.add(pattern.fault)
                text = f"{clock.in_words} {pattern.complaint}"
                found.append(text[0].upper() + text[1:])
        return found

    def forget(self) -> None:
        """Forget the steps of the present episodes: they are no reason to complain any more."""
        self._patterns = {index: StepPattern() for index in self.clocks}

    def _find_running(self) -> None:
        self.running = [clock for clock in self.ordered if clock.running]
