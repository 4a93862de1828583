"""`VectorSaliencyRecorder`: the wrapper that puts the decisions of a vector of environments, and their maps, into `infos["saliency"]`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, cast

import gymnasium as gym
import numpy as np
from gymnasium import logger
from gymnasium.error import CustomSpaceError
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import iterate
from numpy.typing import NDArray
from xaitk_saliency.interfaces.gen_classifier_conf_sal import GenerateClassifierConfidenceSaliency
from xaitk_saliency.interfaces.perturb_image import PerturbImage

from saliency_wrappers.decisions import SaliencyMaps
from saliency_wrappers.faithfulness.detailed import with_details
from saliency_wrappers.hooks.hook import RecurrentAgentHook
from saliency_wrappers.hooks.replay_check import Verify
from saliency_wrappers.recording.error_policy import OnError
from saliency_wrappers.recording.options import Mode, RecordedEnvironments, RecordingOptions, Trigger
from saliency_wrappers.recording.recording import Recording
from saliency_wrappers.saliency.fills import Fills
from saliency_wrappers.saliency.method import Detail, SaliencyMethod
from saliency_wrappers.step_saliency import StepSaliency
from saliency_wrappers.store.store import EpisodeStore
from saliency_wrappers.wrappers.actions import first_action
from saliency_wrappers.wrappers.features import feature_names, method_for
from saliency_wrappers.wrappers.kinds import other_kind
from saliency_wrappers.wrappers.vector.rendering import render_environments


# Without type arguments: in older versions of Gymnasium VectorWrapper takes none.
class VectorSaliencyRecorder(VectorWrapper, gym.utils.RecordConstructorArgs):  # pyright: ignore[reportMissingTypeArgument]
    """Adds to the `infos` of n environments what the agent was looking at when it chose each action.

    The `infos` that `step` returns carry the decisions behind that step's actions, as arrays with a leading axis of n::

        infos["_saliency"] == ndarray bool (n,)    # which rows are real; the others are zeros
        infos["saliency"] == {
            "episode": ndarray int (n,),           # of each environment: +1 at each of its resets after the first
            "step": ndarray int (n,),              # counted from 0 at each of its resets
            "action": ndarray int (n,),
            "actor": ndarray float32 (n, h, w),    # network-input resolution, raw scale
            "critic": ndarray float32 (n, h, w),   # object (n,) of None, as "value", when the agent has no value output
            "logits": ndarray float32 (n, num_actions),
            "value": ndarray float64 (n,),
        }

    Of vector observations (a `Box` of one axis) the maps are `(n, features)`, and `"features"` has their names: an object array `(n,)` of
    tuples of str.

    Where `details` name them, also `"memory"` and `"confidence"` as float64 `(n,)`, and `"objects"` and `"sentence"` as objects `(n,)`.

    Deferred: no `"actor"`, no `"critic"` and no details, but `"pending"`, bool `(n,)`. Without any real row there
    are neither of the two keys, nor in the `infos` of `reset`.

    Every way of resetting has its place. When an episode ends, the decision that ended it has the ended episode's numbers; then

    - NEXT_STEP: the environment ignores the next action: that row is not real, and with it the next episode begins.
    - SAME_STEP: the next episode has begun when `step` returns. `final_obs` and `final_info` stay as they are.
    - DISABLED: the next episode begins with `reset(options={"reset_mask": mask})`, for the rows of the mask.

    The agent acts for all environments in one pass of n rows; the maps of one step are made in one call of the method. In training, choose
    a few `environments`, and a `step_trigger`::

        envs = gym.make_vec("ALE/Breakout-v5", num_envs=8)
        envs = VectorSaliencyRecorder(envs, hook, environments=[0], step_trigger=lambda s: s % 100 == 0)
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        hook: RecurrentAgentHook,
        method: str | SaliencyMethod | None = None,
        perturber: PerturbImage | None = None,
        saliency_gen: GenerateClassifierConfidenceSaliency | None = None,
        fill: Fills | None = None,
        mode: Mode = "inline",
        episode_trigger: Trigger | None = None,
        step_trigger: Trigger | None = None,
        verify: Verify = "first",
        require_decision: bool = False,
        on_error: OnError = "raise",
        keep: bool = False,
        block: int = 64,
        store: str | os.PathLike[str] | EpisodeStore | None = None,
        *,
        environments: Sequence[int] | None = None,
        details: Sequence[Detail] = (),
    ) -> None:
        """Record the decisions of a hooked agent.

        Args:
            env: the environments: `SyncVectorEnv`, `AsyncVectorEnv`, `AtariVectorEnv`, or any other `gymnasium.vector.VectorEnv`.
            hook: sees the agent act. Closing the recorder detaches it.
            method: a name, such as `"xaitk"` or `"greydanus2018"` for images and `"features"` for vectors, or a `SaliencyMethod`. None:
                `"features"` where observations are vectors (a `Box` of one axis), otherwise `"xaitk"`.
            perturber: any xaitk `PerturbImage`. None: the method's own.
            saliency_gen: any xaitk `GenerateClassifierConfidenceSaliency`. None: the method's own.
            fill: what shows through where a mask is 0, one or several, see `Fills`. None: the method's own.
            mode: `"inline"`: maps at the step. `"deferred"`: in blocks, at the latest when an episode ends.
            episode_trigger: explain the episodes for which it is True, by the number of each environment's episode.
            step_trigger: explain the steps of the vector, counted since construction, for which it is True. With neither trigger every
                step is explained; under a `RecordSaliencyVideo` only what it records.
            verify: replay decisions, all rows at once, and compare: the `"first"` and the first with memory, `"always"`, or `"never"`.
            require_decision: make a step without decisions an error.
            on_error: `"raise"`, or `"warn"`: a failing computation must not end a training run.
            keep: retain the maps for `maps(episode, environment)`.
            block: how many decisions are held, and computed together, at most, of all environments; in deferred mode.
            store: where every decision is kept, see `SaliencyRecorder`; an episode of the store for each of each environment.
            environments: the numbers of those that are recorded. None: all.
            details: what is added to `info["saliency"]`, some of `"memory"`, `"confidence"` and `"objects"`, see `DetailedSaliency`.

        Raises:
            TypeError, ValueError: a parameter of the wrong kind or value.
        """
        _check_environments(env, hook)
        parts: dict[str, Any] = {"method": method, "perturber": perturber, "saliency_gen": saliency_gen, "fill": fill}
        options = RecordingOptions(
            mode, episode_trigger, step_trigger, verify, require_decision, on_error, keep, block, EpisodeStore.of(store)
        )
        parameters = {**parts, **vars(options), "details": details, "environments": environments}
        gym.utils.RecordConstructorArgs.__init__(self, _disable_deepcopy=True, hook=hook, **parameters)
        VectorWrapper.__init__(self, env)
        self.hook = hook
        self.autoreset_mode = autoreset_mode(env)
        at_once = self.autoreset_mode == AutoresetMode.SAME_STEP
        recorded = RecordedEnvironments(env.num_envs, environments, at_once, env.spec, first_action(env.single_action_space))
        space = env.single_observation_space
        chosen = with_details(method_for(space, feature_names(env, space), **parts), details)
        self.recording = Recording(hook, chosen, options, recorded)

    @property
    def enabled(self) -> bool:
        """Whether steps are recorded. While they are not, the agent is not watched, and it costs nothing."""
        return self.recording.enabled

    @enabled.setter
    def enabled(self, enabled: bool) -> None:
        self.recording.enabled = enabled

    def maps(self, episode: int, environment: int) -> list[SaliencyMaps]:
        """Return the maps of one episode of one environment, in order; needs `keep=True`."""
        return self.recording.maps(episode, environment)

    def flush(self) -> None:
        """Compute pending maps now, before a block is full or an episode ends; in deferred mode useful before the weights change."""
        self.recording.flush()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environments, or those of `options["reset_mask"]`; the `infos` have no `"saliency"`: nothing has been decided.

        When maps that were due at an episode's end could not be computed, the error is raised here, before the reset (or by `step` or
        `close`, if they come first), and only once: the transition that ended the episode was not to be lost.
        """
        begun = reset_rows(options)  # before the reset, which takes the mask out
        self.recording.end_episodes(begun)
        observations, infos = self.env.reset(seed=seed, options=options)
        self.recording.begin_episodes(begun, None if begun is not None else _seeds(seed, self.num_envs))
        self.recording.observe(observations)
        return observations, infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step the environments; `infos["saliency"]` are the decisions behind `actions`, if there were some and they were wanted."""
        decided = self.recording.decide(_each(self.env.action_space, actions, self.num_envs), self._frames)
        saliency = _in_rows(decided)
        observations, rewards, terminations, truncations, infos = self.env.step(actions)
        self.recording.advance(np.logical_or(terminations, truncations).tolist(), rewards, observations)
        return observations, rewards, terminations, truncations, {**infos, **saliency}

    def close(self, **kwargs: Any) -> None:
        """Compute pending maps, close the environments and detach the hook."""
        try:
            self.recording.close()
        finally:
            self.env.close(**kwargs)

    def _frames(self) -> list[NDArray[np.uint8] | None]:
        if self.env.render_mode != "rgb_array":
            return []
        recorded = self.recording.clocks
        frames = [frame if isinstance(frame, np.ndarray) else None for frame in render_environments(self.env, recorded)]
        return frames if len(frames) == self.num_envs and all(frames[index] is not None for index in recorded) else []


def autoreset_mode(envs: VectorEnv[Any, Any, Any]) -> AutoresetMode:
    """Return the autoreset mode of the environments; NEXT_STEP, with a warning, where they declare none."""
    # The metadata of AtariVectorEnv belong to its class: the latest instance's mode stands there.
    mode: Any = getattr(envs.unwrapped, "autoreset_mode", None) or envs.metadata.get("autoreset_mode")
    if mode is None:
        logger.warn(f"{envs} declares no autoreset mode (metadata['autoreset_mode']); assuming NEXT_STEP.")
        return AutoresetMode.NEXT_STEP
    return AutoresetMode(mode)


def _each(space: Any, actions: Any, n: int) -> Sequence[Any]:
    """Return the action of each environment, also where the action space is that of a single one, as EnvPool's."""
    try:
        each = list(iterate(space, actions))
    except (TypeError, ValueError, CustomSpaceError):  # a space that is not batched
        each = list(actions)
    if len(each) != n and len(actions) == n:
        each = list(actions)
    if len(each) != n:
        raise ValueError(f"Expected an action for each of {n} environments, got {len(each)}: {actions!r}.")
    return each


def reset_rows(options: Mapping[str, Any] | None) -> list[int] | None:
    """Return the numbers of the environments that `reset(options=options)` resets. None: all."""
    mask = None if options is None else options.get("reset_mask")
    return None if mask is None else [int(row) for row in np.flatnonzero(np.asarray(mask))]


def _seeds(seed: Any, n: int) -> list[int | None] | None:
    """Return the seed of each of n environments from Gymnasium's `seed`: a number, or one for each."""
    if seed is None:
        return None
    if isinstance(seed, int | np.integer):
        return [int(seed) + i for i in range(n)]
    return [None if one is None else int(one) for one in seed]


def _in_rows(saliencies: Sequence[StepSaliency | None]) -> dict[str, Any]:
    """Return what is added to `infos`: nothing when no row is real."""
    rows = {row: saliency.info() for row, saliency in enumerate(saliencies) if saliency is not None}
    if not rows:
        return {}
    mask = np.array([saliency is not None for saliency in saliencies])
    return {"saliency": _stacked(rows, len(saliencies)), "_saliency": mask}


def _stacked(rows: Mapping[int, Any], n: int) -> Any:
    """Return an array of n rows, zeros where there is none, or a dictionary of such arrays, as Gymnasium's infos are.

    What is no numeric array (None, a tuple of actions) goes into an array of objects, None where there is no row.
    """
    first = next(iter(rows.values()))
    if isinstance(first, dict):
        return {name: _stacked({row: values[name] for row, values in rows.items()}, n) for name in cast("dict[str, Any]", first)}
    like = None if isinstance(first, tuple | list) else np.asarray(first)
    numeric = like is not None and like.dtype.kind in "biuf" and {np.shape(value) for value in rows.values()} == {like.shape}
    stacked: NDArray[Any] = np.zeros((n, *like.shape), like.dtype) if numeric and like is not None else np.full(n, None, object)
    for row, value in rows.items():
        stacked[row] = value
    return stacked


def _check_environments(envs: Any, hook: Any) -> None:
    if not isinstance(envs, VectorEnv):
        raise TypeError(f"Expected a gymnasium.vector.VectorEnv, got {type(envs).__name__}. {other_kind(envs)}")
    if not isinstance(hook, RecurrentAgentHook):
        raise TypeError(
            f"Expected a RecurrentAgentHook, got {type(hook).__name__}. Use VectorSaliencyRecorder(envs, RecurrentAgentHook(agent))."
        )
    batch = getattr(envs.unwrapped, "batch_size", envs.num_envs)
    if batch != envs.num_envs:
        raise ValueError(f"Expected every step to step all {envs.num_envs} environments, got a batch_size of {batch}.")
