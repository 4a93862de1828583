"""`RecordingOptions`: how decisions are recorded. `RecordedEnvironments`: what is known of the environments that they are made in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from saliency_wrappers.hooks.replay_check import Verify
from saliency_wrappers.recording.error_policy import OnError
from saliency_wrappers.store.store import EpisodeStore

Mode = Literal["inline", "deferred", "capture"]
"""When maps are made: at the step, in blocks, or not here."""
Trigger = Callable[[int], bool]
"""Selects an episode or a step by its number."""


@dataclass(frozen=True)
class RecordingOptions:
    """Options that `SaliencyRecorder`, `VectorSaliencyRecorder`, `SaliencyVecEnv` and `Recording` share."""

    mode: Mode = "inline"
    """`"inline"`: maps at the step. `"deferred"`: in blocks, at the latest when an episode ends. `"capture"`: none here, every decision
    goes into the store, for `compute_saliency`."""
    episode_trigger: Trigger | None = None
    """Explain the episodes for which it is True, by the number of each environment's episode. None: no episode by its number."""
    step_trigger: Trigger | None = None
    """Explain the steps, counted since construction, for which it is True. None: no step by its number. With neither trigger every step
    is explained; under a video only what it records."""
    verify: Verify = "first"
    """Replay decisions and compare: the `"first"` and the first with memory, `"always"`, or `"never"`."""
    require_decision: bool = False
    """Make a step without a decision an error."""
    on_error: OnError = "raise"
    """`"raise"`, or `"warn"`: a failing computation must not end a training run."""
    keep: bool = False
    """Retain the maps for `maps`."""
    block: int = 64
    """How many decisions are held, and computed together, at most, of all environments; in deferred mode."""
    store: EpisodeStore | None = None
    """Where every decision is kept, explained or not, with the maps that are made. None: nothing is stored."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            TypeError: a trigger that is no function.
            ValueError: another mode, check or error policy, a mode that needs a store and has none, a block below 1.
        """
        for name, kinds in (("mode", Mode), ("verify", Verify), ("on_error", OnError)):
            if getattr(self, name) not in kinds.__args__:
                raise ValueError(f"Expected {name} to be one of {kinds.__args__}, got {getattr(self, name)!r}.")
        if self.mode == "capture" and self.store is None:
            raise ValueError('mode="capture" only stores decisions, for compute_saliency: expected a store to keep them in, pass store=...')
        for trigger in (self.episode_trigger, self.step_trigger):
            if trigger is not None and not callable(trigger):
                raise TypeError(f"Expected a trigger to be a function of a number, or None, got {type(trigger).__name__}.")
        if self.block < 1:
            raise ValueError(f"Expected a positive block, got {self.block}.")

    @property
    def selects(self) -> bool:
        """Whether there is a trigger."""
        return self.episode_trigger is not None or self.step_trigger is not None


@dataclass(frozen=True)
class RecordedEnvironments:
    """Facts about the environments for which the agent acts in one pass."""

    num_envs: int = 1
    """How many there are: the rows of the agent's passes."""
    chosen: Sequence[int] | None = None
    """The numbers of those that are recorded. None: all."""
    resets_at_once: bool = False
    """Whether an environment whose episode ends in a step has begun the next one when the step returns."""
    spec: Any = None
    """Gymnasium's specification of the environments. None: not known."""
    first_action: int = 0
    """The action that the first logit stands for, as `start` of a `Discrete` space."""
    action_names: Sequence[str] | None = None
    """A name for each action, in the order of the logits. None: not known."""
