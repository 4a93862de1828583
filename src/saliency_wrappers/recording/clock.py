"""`EpisodeClock`: which episode an environment is in, which step, and whether it is over. `chosen_environments`: which have one."""

from __future__ import annotations

from collections.abc import Iterable
from operator import index


class EpisodeClock:
    """Counts the episodes and steps of one environment."""

    def __init__(self, environment: int = 0, alone: bool = True) -> None:
        """Start before the first episode; unless the environment is `alone`, texts name it."""
        self.environment = environment
        self.episode = -1
        """0-based; -1 before the first reset."""
        self.step = 0
        """How many steps were taken since the episode began."""
        self.ended = False
        """Whether the episode is over: until the next one begins, actions are ignored, or refused."""
        self.running = False
        """Whether the next action is one of an episode's."""
        self.triggered = False
        """Whether the episode's decisions are explained, by the trigger for episodes."""
        self._name = "" if alone else f" of environment {environment}"

    @property
    def in_words(self) -> str:
        """`"episode 3"`, or `"episode 3 of environment 1"`."""
        return self.words_for(self.episode)

    def words_for(self, episode: int) -> str:
        """Return the same text for any episode of this environment."""
        return f"episode {episode}{self._name}"

    def begin(self) -> None:
        """Begin the next episode."""
        self.episode += 1
        self.step = 0
        self.ended = self.triggered = False
        self.running = True

    def tick(self, ended: bool) -> None:
        """Count a step of the episode; `ended` when it was the last."""
        self.step += 1
        self.ended, self.running = ended, not ended


def chosen_environments(environments: Iterable[int] | None, num_envs: int) -> list[int]:
    """Return the numbers of the recorded environments, ascending. None: all.

    Raises:
        TypeError, ValueError: no numbers, or numbers of no environments.
    """
    if environments is None:
        return list(range(num_envs))
    try:
        chosen = sorted(index(number) for number in environments)
    except TypeError as error:
        raise TypeError(f"Expected environments as a sequence of numbers, got {environments!r}.") from error
    if not chosen or len(set(chosen)) < len(chosen) or not 0 <= chosen[0] <= chosen[-1] < num_envs:
        raise ValueError(f"Expected environments as different numbers from 0 to {num_envs - 1}, at least one, got {environments!r}.")
    return chosen
