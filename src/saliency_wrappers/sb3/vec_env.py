"""`SaliencyVecEnv`: the twin of `VectorSaliencyRecorder` for the vector environments of Stable-Baselines3."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.error import DependencyNotInstalled
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
from saliency_wrappers.wrappers.features import as_names, is_vector, method_for, names_or_known

try:  # a base class cannot wait: it is this module that is imported where it is used
    from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
except ImportError as error:
    raise DependencyNotInstalled('SaliencyVecEnv needs Stable-Baselines3: pip install "saliency_wrappers[sb3]".') from error


class SaliencyVecEnv(VecEnvWrapper):
    """Adds to the `infos` of an SB3 `VecEnv` what the agent was looking at when it chose each action, in training and evaluation.

        hook = RecurrentAgentHook()
        venv = SaliencyVecEnv(make_atari_env("BreakoutNoFrameskip-v4", n_envs=8), hook, step_trigger=lambda s: s % 100 == 0)
        model = PPO("CnnPolicy", venv)
        hook.attach(model)
        model.learn(100_000)

    The info of each environment carries the decision behind its action::

        infos[i]["saliency"] == {
            "episode": 3,                          # of this environment: +1 at each of its resets after the first
            "step": 17,                            # counted from 0 at each of its resets
            "action": 2,
            "actor": ndarray float32 (h, w),       # network-input resolution, raw scale
            "critic": ndarray float32 (h, w),      # None, together with "value", when the agent has no value output
            "logits": ndarray float32 (num_actions,),
            "value": float,
        }

    Of vector observations (a `Box` of one axis) the maps are `(features,)`, and `"features"` has their names, a tuple of str.

    Deferred: no `"actor"`, no `"critic"`, but `"pending": True`. An info without a decision, or whose decision was not wanted, has no
    `"saliency"`. An environment whose episode ends has begun the next one when the step returns; its info still tells of the decision that
    ended the episode, beside SB3's `"terminal_observation"`. The training itself is the same with and without this wrapper.

    Deferred while the agent learns, what is held must be explained before the weights change: `model.learn(..., callback=FlushSaliency())`.
    """

    def __init__(
        self,
        venv: VecEnv,
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
        """Record the decisions of a hooked agent in `venv`; the parameters are those of `VectorSaliencyRecorder`.

        Raises:
            TypeError, ValueError: a parameter of the wrong kind or value.
        """
        if not isinstance(venv, VecEnv):
            raise TypeError(f"Expected a VecEnv of Stable-Baselines3, got {type(venv).__name__}. Gymnasium's need VectorSaliencyRecorder.")
        if not isinstance(hook, RecurrentAgentHook):
            raise TypeError(
                f"Expected a RecurrentAgentHook, got {type(hook).__name__}. Use SaliencyVecEnv(venv, RecurrentAgentHook(agent))."
            )
        super().__init__(venv)
        self.hook = hook
        options = RecordingOptions(
            mode, episode_trigger, step_trigger, verify, require_decision, on_error, keep, block, EpisodeStore.of(store)
        )
        recorded = RecordedEnvironments(venv.num_envs, environments, resets_at_once=True, first_action=first_action(venv.action_space))
        chosen = with_details(method_for(venv.observation_space, _feature_names(venv), method, perturber, saliency_gen, fill), details)
        self.recording = Recording(hook, chosen, options, recorded)
        self._decided: list[StepSaliency | None] = [None] * venv.num_envs

    @property
    def saliency_video_wrapper(self) -> type[VecEnvWrapper]:
        """The class of video wrapper that `RecordSaliencyVideo` creates for this one and for wrappers around it."""
        from saliency_wrappers.sb3.video import RecordSaliencyVecVideo  # imports this module

        return RecordSaliencyVecVideo

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

    def reset(self) -> Any:
        """Reset all environments; the observations `(n, ...)`."""
        self.recording.end_episodes()
        observations = self.venv.reset()
        self.recording.begin_episodes()
        self.recording.observe(observations)
        return observations

    def step_async(self, actions: NDArray[Any]) -> None:
        """Take the decisions behind the actions, and have the environments begin their step."""
        self._decided = self.recording.decide(list(actions), self._frames)
        self.venv.step_async(actions)

    def step_wait(self) -> tuple[Any, NDArray[Any], NDArray[Any], list[dict[str, Any]]]:
        """Wait for the environments; `infos[i]["saliency"]` is the decision of environment i, if there was one and it was wanted."""
        observations, rewards, dones, infos = self.venv.step_wait()
        self.recording.advance(dones.tolist(), rewards.tolist(), observations)
        told = [info if one is None else {**info, "saliency": one.info()} for info, one in zip(infos, self._decided, strict=True)]
        return observations, rewards, dones, told

    def close(self) -> None:
        """Compute pending maps, close the environments and detach the hook."""
        try:
            self.recording.close()
        finally:
            self.venv.close()

    def _frames(self) -> list[NDArray[np.uint8]]:
        frames = self.venv.get_images() if self.venv.render_mode == "rgb_array" else []
        shown = [frame for frame in frames if isinstance(frame, np.ndarray)]
        return shown if len(shown) == self.num_envs else []


def _feature_names(venv: VecEnv) -> tuple[str, ...] | None:
    """The names of the features of vector observations. None where they are not known."""
    shape = venv.observation_space.shape
    if not is_vector(venv.observation_space) or not shape:
        return None
    try:
        own: Any = venv.get_attr("feature_names", [0])[0] if venv.has_attr("feature_names") else None
        return names_or_known(as_names(own), venv.get_attr("spec", [0])[0], shape[0])
    except Exception:  # an environment's own code, or one that cannot be asked
        return None
