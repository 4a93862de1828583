"""`SaliencyRecorder`: the Gymnasium wrapper that puts each step's decision and its maps into `info["saliency"]`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Generic, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium.core import ActType, ObsType
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
from saliency_wrappers.store.store import EpisodeStore
from saliency_wrappers.wrappers.actions import action_names, first_action
from saliency_wrappers.wrappers.features import feature_names, method_for
from saliency_wrappers.wrappers.kinds import is_env_pool, other_kind


class SaliencyRecorder(gym.Wrapper[ObsType, ActType, ObsType, ActType], Generic[ObsType, ActType], gym.utils.RecordConstructorArgs):
    """Adds to `info`, at every step, what the agent was looking at when it chose the action.

    The `info` that `step` returns carries the decision behind that step's action::

        info["saliency"] == {
            "episode": 3,                          # +1 at every reset after the first
            "step": 17,                            # counted from 0 at each reset
            "action": 2,
            "actor": ndarray float32 (h, w),       # network-input resolution, raw scale
            "critic": ndarray float32 (h, w),      # None, together with "value", when the agent has no value output
            "logits": ndarray float32 (num_actions,),
            "value": float,
        }

    Of vector observations (a `Box` of one axis) the maps are `(features,)`, and `"features"` has their names, a tuple of str.

    Where `details` name them, also::

        info["saliency"] == {
            ...,
            "memory": 0.62,                        # share of the logits that comes from the recurrent state, in [0, 1]
            "confidence": 0.91,                    # of the actor map, in [0, 1]; 0: there is nothing to explain
            "objects": [{"label": "bottom left", "mask": ndarray bool (h, w), "phi": 0.31, "standard_error": 0.0}, ...],
            "sentence": "bottom left 49 %, centre 36 %",
        }

    Deferred: no `"actor"`, no `"critic"` and no details, but `"pending": True`. A step without a decision (a random or scripted action) and
    the `info` of `reset` have no `"saliency"`, nor has a step whose action an `Autoreset` beneath ignored: it begins an episode.
    Place the recorder outside wrappers that step the environment several times for one decision (frame skip, `AtariPreprocessing`).

    Example:
        >>> hook = RecurrentAgentHook(agent, preprocessor="greydanus2018")
        >>> env = gym.make("ALE/Breakout-v5", render_mode="rgb_array")
        >>> env = RecordSaliencyVideo(SaliencyRecorder(env, hook), "videos")
    """

    def __init__(
        self,
        env: gym.Env[ObsType, ActType],
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
        details: Sequence[Detail] = (),
    ) -> None:
        """Record the decisions of a hooked agent.

        Args:
            env: the environment.
            hook: sees the agent act. Closing the recorder detaches it.
            method: a name, such as `"xaitk"` or `"greydanus2018"` for images and `"features"` for vectors, or a `SaliencyMethod`. None:
                `"features"` where observations are vectors (a `Box` of one axis), otherwise `"xaitk"`.
            perturber: any xaitk `PerturbImage`. None: the method's own.
            saliency_gen: any xaitk `GenerateClassifierConfidenceSaliency`. None: the method's own.
            fill: what shows through where a mask is 0, one or several, see `Fills`. None: the method's own.
            mode: `"inline"`: maps at the step. `"deferred"`: in blocks, at the latest when the episode ends. `"capture"`: none here, every
                decision goes into the store, for `compute_saliency`.
            episode_trigger: explain the episodes for which it is True.
            step_trigger: explain the steps, counted since construction, for which it is True. With neither trigger every step is
                explained; under a `RecordSaliencyVideo` only what it records.
            verify: replay decisions and compare: the `"first"` and the first with memory, `"always"`, or `"never"`.
            require_decision: make a step without a decision an error.
            on_error: `"raise"`, or `"warn"`: a failing computation must not end a training run.
            keep: retain the maps for `maps(episode)`.
            block: how many decisions are held, and computed together, at most, in deferred mode.
            store: where every decision is kept, explained or not, with the maps that are made: an `EpisodeStore`, or the path or URL
                of one without frames. None: nothing is stored.
            details: what is added to `info["saliency"]`, some of `"memory"`, `"confidence"` and `"objects"`, see `DetailedSaliency`.

        Raises:
            TypeError, ValueError: a parameter of the wrong kind or value.
            DependencyNotInstalled: a store needs Zarr.
        """
        if not isinstance(env, gym.Env) or is_env_pool(env):
            raise TypeError(f"Expected a gymnasium.Env, got {type(env).__name__}. {other_kind(env)}")
        if not isinstance(hook, RecurrentAgentHook):
            raise TypeError(
                f"Expected a RecurrentAgentHook, got {type(hook).__name__}. Use SaliencyRecorder(env, RecurrentAgentHook(agent))."
            )
        parts: dict[str, Any] = {"method": method, "perturber": perturber, "saliency_gen": saliency_gen, "fill": fill}
        options = RecordingOptions(
            mode, episode_trigger, step_trigger, verify, require_decision, on_error, keep, block, EpisodeStore.of(store)
        )
        gym.utils.RecordConstructorArgs.__init__(self, _disable_deepcopy=True, hook=hook, details=details, **parts, **vars(options))
        gym.Wrapper.__init__(self, env)
        self.hook = hook
        first, names = first_action(env.action_space), action_names(env.unwrapped)
        recorded = RecordedEnvironments(spec=env.spec, first_action=first, action_names=names)
        chosen = method_for(env.observation_space, feature_names(env, env.observation_space), **parts)
        self.recording = Recording(hook, with_details(chosen, details), options, recorded)

    @property
    def enabled(self) -> bool:
        """Whether steps are recorded. While they are not, the agent is not watched, and it costs nothing."""
        return self.recording.enabled

    @enabled.setter
    def enabled(self, enabled: bool) -> None:
        self.recording.enabled = enabled

    def maps(self, episode: int) -> list[SaliencyMaps]:
        """Return the maps of an episode's decisions, in order; needs `keep=True`."""
        return self.recording.maps(episode)

    def flush(self) -> None:
        """Compute pending maps now, before a block is full or the episode ends; in deferred mode useful before the weights change.

        Through other wrappers: `env.get_wrapper_attr("flush")()`.
        """
        self.recording.flush()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[ObsType, dict[str, Any]]:
        """Reset the environment; its `info` has no `"saliency"`: nothing has been decided.

        When the maps that were due at the last episode's end could not be computed, the error is raised here, before the reset (or by
        `step` or `close`, if they come first), and only once: the transition that ended the episode was not to be lost.
        """
        self.recording.end_episodes()
        observation, info = self.env.reset(seed=seed, options=options)
        self.recording.begin_episodes(seeds=[seed])
        self.recording.observe(observation)
        return observation, info

    def step(self, action: ActType) -> tuple[ObsType, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step the environment; `info["saliency"]` is the decision behind `action`, if there was one and it was wanted."""
        (saliency,) = self.recording.decide([action], self._frames)
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.recording.advance([terminated or truncated], [reward], observation)
        if saliency is not None:
            info = {**info, "saliency": saliency.info()}
        return observation, reward, terminated, truncated, info

    def close(self) -> None:
        """Compute pending maps, close the environment and detach the hook."""
        try:
            self.recording.close()
        finally:
            self.env.close()

    def _frames(self) -> list[NDArray[np.uint8]]:
        frame = self.env.render() if self.env.render_mode == "rgb_array" else None
        return [frame] if isinstance(frame, np.ndarray) else []
