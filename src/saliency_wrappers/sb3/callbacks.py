"""For Stable-Baselines3, which importing this module imports.

`SaliencyCallback` films what an agent looks at while it learns; `FlushSaliency` lets recorders on training environments be deferred.
"""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from inspect import signature
from pathlib import Path
from typing import Any

import cv2
import gymnasium as gym
import numpy as np
import torch
from gymnasium.error import DependencyNotInstalled
from torch import Tensor

from saliency_wrappers.hooks.hook import RecurrentAgentHook
from saliency_wrappers.preprocessing import FramePreprocessor
from saliency_wrappers.recording.numbers import plain_number
from saliency_wrappers.wrappers.recorder import SaliencyRecorder
from saliency_wrappers.wrappers.video import RecordSaliencyVideo

try:
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.logger import TensorBoardOutputFormat, Video
    from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize
except ImportError as error:
    raise DependencyNotInstalled(
        "SaliencyCallback needs stable-baselines3 and sb3-contrib: pip install 'saliency_wrappers[sb3]'."
    ) from error

_NO_VIDEO = ("stdout", "log", "json", "csv")


class SaliencyCallback(BaseCallback):
    """Plays an episode every `eval_freq` calls with `model.predict`, writes its saliency video and logs it to TensorBoard.

        callback = SaliencyCallback(gym.make("ALE/Breakout-v5", render_mode="rgb_array"), "videos", eval_freq=50_000)
        model.learn(1_000_000, callback=callback)                      # videos/saliency-50000-steps-episode-0.mp4

    The logger gets `saliency/episode_return`, `saliency/episode_length`, and for TensorBoard `saliency/video`. Training goes on as if
    nothing had happened: random states of torch, NumPy, Python and the model's action space, training flags and the rollout are as they
    were, and what a hook on the training environments sees does not change.

    Memory: the video is streamed to its file. What TensorBoard gets is read from there, at most `max_frames` frames, evenly thinned, and is
    let go as soon as it is written.
    """

    def __init__(
        self,
        eval_env: gym.Env[Any, Any] | VecEnv,
        video_folder: str | os.PathLike[str],
        eval_freq: int = 10_000,
        preprocessor: FramePreprocessor | str | None = None,
        deterministic: bool = True,
        seed: int | None = None,
        max_steps: int | None = None,
        max_frames: int = 250,
        recorder_kwargs: Mapping[str, Any] | None = None,
        video_kwargs: Mapping[str, Any] | None = None,
        verbose: int = 0,
    ) -> None:
        """Choose what is filmed, and when.

        Args:
            eval_env: one environment with `render_mode="rgb_array"` whose observations are those that the model is trained on (wrapped the
                same: frame skip, frame stack), or a `VecEnv`, of which the first environment is filmed. It is not closed. Observations
                are normalised by the model's `VecNormalize`, if it has one, and action masks are passed on to a model that takes them.
            video_folder: where the videos go: `saliency-{timesteps}-steps-episode-{n}.mp4`.
            eval_freq: evaluate at every so many calls of the callback, steps of the training environments, as with `EvalCallback`.
            preprocessor: how frames become network inputs, or its name: how a map lies on the frame. None: over the whole frame.
            deterministic: take the likeliest action; False samples.
            seed: of the evaluation environment, for the same episode each time. None: not reseeded.
            max_steps: the evaluation ends after so many steps, too. None: only when the episode does.
            max_frames: the most frames that TensorBoard gets.
            recorder_kwargs: options of the `SaliencyRecorder`. Its `on_error` is `"warn"` here: an evaluation that fails, in the
                environment too, must not end the training.
            video_kwargs: options of the `RecordSaliencyVideo`.
            verbose: 1 says where each video is.

        Raises:
            TypeError, ValueError: no environment that can be filmed, or a number below 1.
        """
        super().__init__(verbose)
        for name, number in (("eval_freq", eval_freq), ("max_frames", max_frames), ("max_steps", 1 if max_steps is None else max_steps)):
            if number < 1:
                raise ValueError(f"Expected {name} to be at least 1, got {number}.")
        self.eval_freq, self.deterministic, self.seed = eval_freq, deterministic, seed
        self.max_steps, self.max_frames = max_steps, max_frames
        self.hook = RecurrentAgentHook(preprocessor=preprocessor)
        recorded: dict[str, Any] = {"on_error": "warn", **(recorder_kwargs or {})}
        filmed: dict[str, Any] = {"episode_trigger": lambda _: self._starts, **(video_kwargs or {})}  # pyright: ignore[reportUnknownLambdaType]
        from saliency_wrappers.sb3.vec_env import SaliencyVecEnv  # not at the top: this module says what is not installed

        self._on_error = recorded["on_error"]
        self._starts = False
        self._vector = isinstance(eval_env, VecEnv)
        recorder: Any = SaliencyVecEnv if self._vector else SaliencyRecorder
        self.recorder: Any = recorder(eval_env, self.hook, **recorded)
        self._video: Any = RecordSaliencyVideo(self.recorder, video_folder, **filmed)
        self._prefix = self._video.name_prefix
        self.recorder.enabled = False

    def _init_callback(self) -> None:
        self.hook.attach(self.model)

    def _on_step(self) -> bool:
        if self.n_calls % self.eval_freq == 0:
            try:
                with _undisturbed_training(self.model), self.hook.alone():
                    path, rewards = self._film()
            except Exception as error:
                if self._on_error != "warn":
                    raise
                told = f"The evaluation after {self.num_timesteps} steps failed, and training goes on: {type(error).__name__}: {error}"
                warnings.warn(told, stacklevel=2)
            else:
                self._log(path, rewards)
        return True

    def _on_training_end(self) -> None:
        self.hook.close()

    def _film(self) -> tuple[Path, list[float]]:
        """Play an episode and return its video and rewards."""
        self._video.name_prefix = f"{self._prefix}-{self.num_timesteps}-steps"
        self.recorder.enabled = self._starts = True
        try:
            rewards = self._play_first() if self._vector else self._play()
        finally:
            self.recorder.enabled = self._starts = False
            self._stop()
        return self._video.video_path or Path(self._video.video_folder), rewards

    def _stop(self) -> None:
        if self._video.recording:
            self._video.stop_recording(*([self._video.filmed[0]] if self._vector else []))

    def _play(self) -> list[float]:
        """Play an episode of the environment and return its rewards."""
        observation, _ = self._video.reset(seed=self.seed)
        state, rewards, ended = None, [], False
        while not ended and len(rewards) != self.max_steps:
            action, state = self._predicted(observation, state, np.array([not rewards]))
            observation, reward, terminated, truncated, _ = self._video.step(action)
            rewards.append(plain_number(reward, "a reward"))
            ended = terminated or truncated
        self.recorder.flush()
        return rewards

    def _play_first(self) -> list[float]:
        """Play until the filmed environment's episode ends, and return its rewards."""
        filmed = self._video.filmed[0]
        evaluated, trained = unwrap_vec_normalize(self._video), self.model.get_vec_normalize_env()
        if evaluated is not None and trained is not None:
            evaluated.obs_rms, evaluated.ret_rms = deepcopy(trained.obs_rms), deepcopy(trained.ret_rms)
        if self.seed is not None:
            self._video.seed(self.seed)
        observations = self._video.reset()
        self._starts = False  # the environment begins its next episode by itself
        state, rewards, starts = None, [], np.ones(self._video.num_envs, bool)
        while not (rewards and starts[filmed]) and len(rewards) != self.max_steps:
            actions, state = self._predicted(observations, state, starts)
            observations, reward, starts, _ = self._video.step(actions)
            rewards.append(plain_number(reward[filmed], "a reward"))
        self.recorder.flush()
        return rewards

    def _predicted(self, observation: Any, state: Any, starts: Any) -> tuple[Any, Any]:
        """Return the model's action, with the environment's action masks where both support them."""
        options: dict[str, Any] = {"deterministic": self.deterministic}
        if "action_masks" in signature(self.model.predict).parameters:
            from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported

            if is_masking_supported(self._video):
                options["action_masks"] = get_action_masks(self._video)
        return self.model.predict(self._normalised(observation), state, starts, **options)

    def _normalised(self, observation: Any) -> Any:
        """Normalise an observation by the statistics of the model's `VecNormalize`, if it has one, without updating them."""
        normalize: Any = self.model.get_vec_normalize_env()
        own = self._vector and unwrap_vec_normalize(self._video) is not None
        if own or normalize is None or not normalize.norm_obs:
            return observation
        shape = getattr(getattr(normalize.obs_rms, "mean", None), "shape", None)
        if isinstance(observation, np.ndarray) and shape is not None and shape != observation.shape[-len(shape) :]:
            observation = np.moveaxis(observation, -1, -3)  # statistics of what a VecTransposeImage beneath gives
        return normalize.normalize_obs(observation)

    def _log(self, path: Path, rewards: list[float]) -> None:
        if self.verbose:
            print(f"Saliency video: {path}")  # noqa: T201 as every callback says what it does
        self.logger.record("saliency/episode_return", sum(rewards))
        self.logger.record("saliency/episode_length", len(rewards))
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        if path.is_file() and any(isinstance(output, TensorBoardOutputFormat) for output in self.logger.output_formats):
            frames, stride = _thinned(path, self.max_frames)
            if len(frames):
                self.logger.record("saliency/video", Video(frames, self._video.frames_per_sec / stride), exclude=_NO_VIDEO)
        self.logger.dump(self.num_timesteps)


class FlushSaliency(BaseCallback):
    """Computes the pending maps of the training environments' recorders at the end of each rollout, before the weights change.

        env = SaliencyRecorder(env, hook, mode="deferred", step_trigger=lambda step: step % 1000 == 0)
        model.learn(1_000_000, callback=FlushSaliency())

    With `mode="inline"` nothing is held, and it is not needed.
    """

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        flush = getattr(self.training_env, "flush", None)  # a recorder of the whole vector
        if callable(flush):
            flush()
        else:
            self.training_env.env_method("flush")


@contextmanager
def _undisturbed_training(model: Any) -> Generator[None]:
    """Restore random states and training flags after acting within the block."""
    flags = [(part, part.training) for part in model.policy.modules()]
    devices = [model.device.index or 0] if model.device.type == "cuda" else []
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    generator = model.action_space.np_random.bit_generator
    actions_state = generator.state
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        for part, training in flags:
            part.training = training
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)
        generator.state = actions_state


def _thinned(path: Path, most: int) -> tuple[Tensor, int]:
    """Return at most so many frames of a video, `(1, T, 3, H, W)` uint8, evenly spaced, and their spacing in frames."""
    kept: list[Tensor] = []
    capture, stride, number = cv2.VideoCapture(str(path)), 1, 0
    try:
        while (read := capture.read())[0]:
            if number % stride == 0:
                kept.append(torch.as_tensor(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB)).permute(2, 0, 1))
            number += 1
            if len(kept) > most:
                kept, stride = kept[::2], 2 * stride
    finally:
        capture.release()
    return (torch.stack(kept)[None] if kept else torch.empty(0)), stride
