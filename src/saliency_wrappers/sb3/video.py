"""`RecordSaliencyVecVideo`: what the agent looked at in chosen environments of an SB3 `VecEnv`, a video for each of their episodes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from saliency_wrappers.preprocessing import FramePreprocessor
from saliency_wrappers.sb3.vec_env import SaliencyVecEnv
from saliency_wrappers.video.camera import tell_of_whole_frame
from saliency_wrappers.video.observation_images import check_pictures, newest_picture
from saliency_wrappers.video.overlay import HEADS, Frame, Scale
from saliency_wrappers.video.painter import DrawingOptions
from saliency_wrappers.wrappers.actions import action_names, first_action
from saliency_wrappers.wrappers.egocentric import any_egocentric, row_view
from saliency_wrappers.wrappers.features import drawn_beside
from saliency_wrappers.wrappers.vector.filming import EnvironmentFilming, Shown


class RecordSaliencyVecVideo(EnvironmentFilming, VecEnvWrapper):
    """Records videos of what the agent looked at in an SB3 `VecEnv`: `RecordSaliencyVideo(SaliencyVecEnv(venv, hook), ...)` makes one.

        venv = SaliencyVecEnv(make_atari_env("BreakoutNoFrameskip-v4", n_envs=8, env_kwargs={"render_mode": "rgb_array"}), hook)
        venv = RecordSaliencyVideo(venv, "videos", environments=[0])

    Files and frames are those of `RecordVectorSaliencyVideo` under SAME_STEP autoreset: when a step ends an episode, the environment has
    begun the next one, and the last frame is SB3's `"terminal_observation"`, enlarged; it is missing where that is no image of uint8.
    """

    def __init__(
        self,
        venv: VecEnv,
        video_folder: str | os.PathLike[str],
        episode_trigger: Callable[[int], bool] | None = None,
        step_trigger: Callable[[int], bool] | None = None,
        video_length: int = 0,
        name_prefix: str = "saliency",
        fps: float | None = None,
        disable_logger: bool = True,
        gc_trigger: Callable[[int], bool] | None = None,
        *,
        environments: Sequence[int] | None = None,
        style: str = "xaitk",
        scale: Scale = "frame",
        heads: Sequence[str] = HEADS,
        colormap: str | None = None,
        panels: bool = False,
        strip: bool = False,
        zoom: int = 1,
    ) -> None:
        """Record what chosen environments show; the parameters are those of `RecordVectorSaliencyVideo`.

        Raises:
            ValueError: no `SaliencyVecEnv` beneath, nothing to draw on, an environment that is not recorded, or a wrong drawing option.
        """
        VecEnvWrapper.__init__(self, venv)
        self._recorder = _recorder_beneath(venv)
        chosen = self._chosen(self._recorder.recording, environments)
        self._renders = venv.render_mode == "rgb_array"
        self._egocentric = self._renders and any_egocentric(venv.unwrapped, venv.observation_space)
        if not self._renders:
            check_pictures(venv.observation_space, venv.render_mode)
        self._prepare_filming(
            self._recorder.recording,
            chosen,
            video_folder,
            episode_trigger,
            step_trigger,
            video_length,
            name_prefix,
            _rate(venv) if fps is None else fps,
            disable_logger,
            gc_trigger,
            DrawingOptions(style, scale, tuple(heads), colormap, panels, strip, zoom),
            _names(venv, chosen[0]),
            first_action(venv.action_space),
            beside=drawn_beside(self._recorder.recording.method, self._recorder.venv.observation_space),
        )

    def reset(self) -> Any:
        """Reset all environments; their recordings end, and new ones perhaps start."""
        with self._rescued():
            observations = self.venv.reset()
            shown = self._shown(observations)
            for index in self._cameras:
                self._begin(index)
                self._capture(index, shown)
        return observations

    def step_wait(self) -> tuple[Any, NDArray[Any], NDArray[Any], list[dict[str, Any]]]:
        """Wait for the environments, recording what the agent saw and what it sees now.

        Where filming fails once the environments have stepped, the transitions are returned, and the error is raised by the next `step`,
        `reset` or `close` (or is a warning, by the recorder's `on_error`).
        """
        with self._rescued():
            observations, rewards, dones, infos = self.venv.step_wait()
            self.step_id += 1
            shown = self._shown(observations)
            starts = self._starts()
            for index in self._cameras:
                final = None if self._egocentric else newest_picture(infos[index].get("terminal_observation"))
                with self._recording.failures.postponed():
                    self._film_step(index, starts, bool(dones[index]), final, shown)
        return observations, rewards, dones, infos

    def close(self) -> None:
        """Finish the videos that are being recorded and close the environments."""
        try:
            self._stop_all()
        finally:
            self.venv.close()

    def _shown(self, observations: Any) -> Shown:
        @cache
        def rendered() -> dict[int, Any]:
            filmed = list(self._cameras)
            return dict(zip(filmed, self.venv.env_method("render", indices=filmed), strict=True))

        def frame(index: int) -> tuple[Any, Frame | None]:
            return rendered()[index], row_view(observations, index) if self._egocentric else None

        return frame if self._renders else lambda index: (newest_picture(observations[index]), None)

    def _geometry(self) -> FramePreprocessor | None:
        preprocessor = self._recorder.hook.preprocessor
        if not self._renders:
            whole = newest_picture(np.asarray(self.observation_space.sample()))
            return None if preprocessor is None or whole is None or whole.shape[:2] == preprocessor.size else preprocessor
        if preprocessor is None and not self._told and not self._egocentric and self._maps_on_frame:
            self._told = True
            tell_of_whole_frame()
        return preprocessor


def _recorder_beneath(venv: Any) -> SaliencyVecEnv:
    beneath = venv
    while isinstance(beneath, VecEnvWrapper):
        if isinstance(beneath, SaliencyVecEnv):
            return beneath
        beneath = beneath.venv
    raise ValueError(
        f"Expected a SaliencyVecEnv beneath RecordSaliencyVecVideo, found none in {venv}. "
        "The recorder comes first: venv = RecordSaliencyVideo(SaliencyVecEnv(venv, hook), video_folder)."
    )


def _rate(venv: VecEnv) -> float:
    """Return the `render_fps` of the environments' metadata, or 30: a `VecEnv` has no metadata."""
    try:
        return venv.get_attr("metadata", [0])[0].get("render_fps", 30)
    except AttributeError:
        return 30


def _names(venv: VecEnv, index: int) -> list[str] | None:
    try:
        return action_names(venv.get_attr("unwrapped", [index])[0])
    except Exception:  # a process of its own may have an environment that cannot be pickled
        return None
