"""`RecordVectorSaliencyVideo`: what the agent looked at in chosen environments of a vector, a video for each of their episodes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import gymnasium as gym
from gymnasium.vector import VectorEnv, VectorWrapper

from saliency_wrappers.preprocessing import FramePreprocessor
from saliency_wrappers.video.camera import tell_of_whole_frame
from saliency_wrappers.video.observation_images import check_pictures, newest_picture
from saliency_wrappers.video.overlay import HEADS, Frame, Scale
from saliency_wrappers.video.painter import DrawingOptions
from saliency_wrappers.wrappers.actions import action_names, first_action
from saliency_wrappers.wrappers.egocentric import any_egocentric, row_view
from saliency_wrappers.wrappers.features import drawn_beside
from saliency_wrappers.wrappers.vector.filming import EnvironmentFilming, Shown
from saliency_wrappers.wrappers.vector.recorder import VectorSaliencyRecorder, reset_rows
from saliency_wrappers.wrappers.vector.rendering import can_render, render_environments


# Without type arguments: in older versions of Gymnasium VectorWrapper takes none.
class RecordVectorSaliencyVideo(EnvironmentFilming, VectorWrapper, gym.utils.RecordConstructorArgs):  # pyright: ignore[reportMissingTypeArgument]
    """Records videos of what the agent looked at in chosen environments of a vector: `RecordSaliencyVideo(envs, ...)` makes one.

        envs = VectorSaliencyRecorder(gym.make_vec("ALE/Breakout-v5", 8, "sync", render_mode="rgb_array"), hook)
        envs = RecordSaliencyVideo(envs, "videos", environments=[0, 3], episode_trigger=lambda episode: episode % 100 == 0)

    Each chosen environment has its own files, one for each of its own episodes: `saliency-env-0-episode-100.mp4`. As in a single
    environment, an episode of T steps gives T + 1 frames, of which the last one is plain, and frames are streamed.

    Frames are what the environments render (`render_mode="rgb_array"`); where they cannot render (`AtariVectorEnv`), maps are drawn on the
    observations, if these are images of uint8: of a stack on its newest frame. Under SAME_STEP autoreset the state that ended an episode
    can no longer be rendered, and `final_obs` is the last frame, enlarged if it is smaller. Only when observations are no images, that
    frame is missing, and there are T.
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
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
        """Record what chosen environments show.

        Args:
            env: has a `VectorSaliencyRecorder` beneath; renders images, or observes them.
            video_folder: where the videos go; made if it does not exist.
            episode_trigger: starts a recording at the episodes for which it is True, by the number of each environment's episode. With
                neither trigger Gymnasium's `capped_cubic_video_schedule`: episodes 0, 1, 8, 27, ... and every thousandth.
            step_trigger: starts recordings at the steps of the vector, counted since construction, for which it is True.
            video_length: a recording ends when it has more frames than this, at any episode; 0: when the episode does.
            name_prefix: files are `{name_prefix}-env-{environment}-episode-{episode}.mp4` and `...-step-{step}.mp4`.
            fps: frames per second. None: `render_fps` of the environments' metadata, or 30.
            disable_logger: False says, as moviepy does, when a video is ready.
            gc_trigger: collects garbage after the episodes for which it is True. None never does.
            environments: the numbers of those that are filmed. None: the first one that the recorder records.
            style: as in `draw`.
            scale: as in `draw`; or `"episode"`: by the peak of the episode so far, see `EpisodeScale`.
            heads: as in `draw`.
            colormap: as in `draw`.
            panels: as in `draw`.
            strip: shows value, action probabilities and action below the frame, see `draw_strip`; legible from 320 pixels' width.
            zoom: enlarges every pixel to `zoom` x `zoom`.

        Raises:
            ValueError: no `VectorSaliencyRecorder` beneath, nothing to draw on, an environment that is not recorded, or a wrong drawing
                option.
        """
        drawing = DrawingOptions(style, scale, tuple(heads), colormap, panels, strip, zoom)
        filming: dict[str, Any] = {
            "video_folder": video_folder,
            "episode_trigger": episode_trigger,
            "step_trigger": step_trigger,
            "video_length": video_length,
            "name_prefix": name_prefix,
            "fps": fps,
            "disable_logger": disable_logger,
            "gc_trigger": gc_trigger,
        }
        gym.utils.RecordConstructorArgs.__init__(self, **filming, environments=environments, **vars(drawing))
        VectorWrapper.__init__(self, env)
        self._recorder = _recorder_beneath(env)
        chosen = self._chosen(self._recorder.recording, environments)
        self._renders = can_render(env, chosen)
        self._egocentric = self._renders and any_egocentric(env.unwrapped, env.single_observation_space)
        if not self._renders:
            check_pictures(env.single_observation_space, env.render_mode)
        if fps is None:
            filming["fps"] = self.metadata.get("render_fps", 30)
        self._prepare_filming(
            self._recorder.recording,
            chosen,
            drawing=drawing,
            action_names=_action_names(env),
            first_action=first_action(env.single_action_space),
            beside=drawn_beside(self._recorder.recording.method, self._recorder.env.single_observation_space),
            **filming,
        )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environments, or those of `options["reset_mask"]`; their recordings end, and new ones perhaps start."""
        begun = reset_rows(options)
        with self._rescued():
            observations, infos = self.env.reset(seed=seed, options=options)
            shown = self._shown(observations)
            for index in self._cameras:
                if begun is None or index in begun:
                    self._begin(index)
                    self._capture(index, shown)
        return observations, infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step the environments and record the frames that the agents saw and now see.

        Where filming fails once the environments have stepped, the transitions are returned, and the error is raised by the next `step`,
        `reset` or `close` (or is a warning, by the recorder's `on_error`).
        """
        with self._rescued():
            observations, rewards, terminations, truncations, infos = self.env.step(actions)
            self.step_id += 1
            shown = self._shown(observations)
            starts = self._starts()
            for index in self._cameras:
                with self._recorder.recording.failures.postponed():
                    self._film_step(index, starts, bool(terminations[index] or truncations[index]), self._final(infos, index), shown)
        return observations, rewards, terminations, truncations, infos

    def close(self, **kwargs: Any) -> None:
        """Finish the videos that are being recorded and close the environments."""
        try:
            self._stop_all()
        finally:
            self.env.close(**kwargs)

    def _final(self, infos: dict[str, Any], index: int) -> Frame | None:
        if self._egocentric or "final_obs" not in infos:  # a view does not show how the frame was
            return None
        return newest_picture(infos["final_obs"][index], self._colour_first)

    def _shown(self, observations: Any) -> Shown:
        @cache
        def rendered() -> list[Any]:  # for all cameras together, and for none when none is running
            return render_environments(self.env, self._cameras)

        def frame(index: int) -> tuple[Any, Frame | None]:
            return rendered()[index], row_view(observations, index) if self._egocentric else None

        def observed(index: int) -> tuple[Any, None]:
            return newest_picture(observations[index], self._colour_first), None

        return frame if self._renders else observed

    @property
    def _colour_first(self) -> bool:
        """Whether an observation `(3, H, W)` is one RGB frame: not where the vector or the preprocessor tells of grey frames."""
        preprocessor = self._recorder.hook.preprocessor
        grey = getattr(self.env.unwrapped, "grayscale", None) is True or (preprocessor is not None and preprocessor.stack == 3)
        return not grey

    def _geometry(self) -> FramePreprocessor | None:
        preprocessor = self._recorder.hook.preprocessor
        if not self._renders:
            # An observation as large as the network input is the network input: what was cropped, is.
            whole = newest_picture(self.single_observation_space.sample(), self._colour_first)
            return None if preprocessor is None or whole is None or whole.shape[:2] == preprocessor.size else preprocessor
        if preprocessor is None and not self._told and not self._egocentric and self._maps_on_frame:
            self._told = True
            tell_of_whole_frame()
        return preprocessor


def _recorder_beneath(envs: VectorEnv[Any, Any, Any]) -> VectorSaliencyRecorder:
    beneath: Any = envs
    while isinstance(beneath, VectorWrapper):
        if isinstance(beneath, VectorSaliencyRecorder):
            return beneath
        beneath = beneath.env
    raise ValueError(
        f"Expected a VectorSaliencyRecorder beneath RecordVectorSaliencyVideo, found none in {envs}. "
        "The recorder comes first: envs = RecordSaliencyVideo(VectorSaliencyRecorder(envs, hook), video_folder)."
    )


def _action_names(envs: VectorEnv[Any, Any, Any]) -> list[str] | None:
    base: Any = envs.unwrapped
    if hasattr(base, "ale"):  # AtariVectorEnv
        return [action.name for action in base.ale.get_action_set()]
    first = next(iter(getattr(base, "envs", [])), None)  # SyncVectorEnv
    return action_names(getattr(first, "unwrapped", None))
