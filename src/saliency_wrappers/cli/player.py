"""Playing a trained agent and filming what it looks at, as the command line does.

`make_game` makes the environment, `load_agent` the agent, `check_agent` sees that they fit. A `Player` plays episodes and films them as its
`Cameras` say; `DecisionPictures` are the stills.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import cv2
import gymnasium as gym
import numpy as np
import torch
from torch import nn

from saliency_wrappers.hooks.hook import RecurrentAgentHook
from saliency_wrappers.models.checkpoints import load_checkpoint, load_pretrained
from saliency_wrappers.models.networks import AtariLSTM
from saliency_wrappers.preprocessing import FramePreprocessor
from saliency_wrappers.recording.options import Mode
from saliency_wrappers.saliency.method import SaliencyMethod
from saliency_wrappers.step_saliency import StepSaliency
from saliency_wrappers.video.film import Painter
from saliency_wrappers.video.overlay import Drawing, Frame, Scale
from saliency_wrappers.video.writer import StreamingWriter
from saliency_wrappers.wrappers.recorder import SaliencyRecorder
from saliency_wrappers.wrappers.video import RecordSaliencyVideo

Environment = gym.Env[Any, Any]


def make_game(env_id: str, frameskip: int | None = None, sticky: float | None = None) -> Environment:
    """Make an environment that shows RGB frames; Atari games are registered.

    Args:
        env_id: as for `gym.make`.
        frameskip: emulator frames for each action. None: the environment's own.
        sticky: the probability that the emulator repeats the last action. None: the environment's own.

    Raises:
        ValueError: no such environment, one that cannot be made like this, or one whose observations are no RGB frames.
    """
    import ale_py

    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    gym.register_envs(ale_py)
    settings = {"frameskip": frameskip, "repeat_action_probability": sticky}
    given = {name: value for name, value in settings.items() if value is not None}
    try:
        env: Environment = gym.make(env_id, render_mode="rgb_array", **cast("dict[str, Any]", given))
    except (gym.error.Error, ImportError, TypeError, ValueError) as error:
        raise ValueError(f"Cannot make {env_id}{f' with {given}' if given else ''}: {error}") from error
    space = env.observation_space
    if not isinstance(space, gym.spaces.Box) or space.dtype != np.uint8 or len(space.shape) != 3 or space.shape[2] != 3:
        env.close()
        raise ValueError(f"Expected an environment whose observations are RGB frames (H, W, 3) of uint8, got {space} from {env_id}.")
    return env


def load_agent(env_id: str, checkpoint: Path | None = None, preprocessor: str | None = None) -> tuple[nn.Module, FramePreprocessor]:
    """An agent and the preprocessing it is fed with.

    Args:
        env_id: the game.
        checkpoint: a file or folder, see `load_checkpoint`. None: the agent for this game that ships with the package.
        preprocessor: the name of one. None: what the agent was trained with.

    Raises:
        ValueError, FileNotFoundError: as `load_checkpoint`, `load_pretrained` and `FramePreprocessor.named`.
    """
    if checkpoint is None:
        agent, own = load_pretrained(env_id)
    else:
        agent = load_checkpoint(checkpoint)
        own = FramePreprocessor.named("atari84" if isinstance(agent, AtariLSTM) else "greydanus2018")
    chosen = own if preprocessor is None else FramePreprocessor.named(preprocessor)
    return agent, replace(chosen, determines_input=True)  # a Player feeds the agent with nothing but the frame it sees


def check_agent(hook: RecurrentAgentHook, env: Environment) -> None:
    """See that the hooked agent takes what its preprocessor makes of this environment's frames, and chooses among its actions.

    Raises:
        ValueError: it does not.
    """
    frame = np.zeros(env.observation_space.shape or (), np.uint8)
    image = frame if hook.preprocessor is None else hook.preprocessor(frame)
    try:
        logits, _ = hook.adapter.evaluate(torch.as_tensor(image)[None], hook.adapter.initial_state(1), None)
    except RuntimeError as error:
        raise ValueError(f"The agent does not take inputs of shape {image.shape}, as its preprocessor makes them: {error}") from error
    actions = logits.shape[1]
    space = env.action_space
    if not isinstance(space, gym.spaces.Discrete) or space.n != actions:
        raise ValueError(f"The agent chooses among {actions} actions, but {_name(env)} expects {space}.")


@dataclass(frozen=True)
class Cameras:
    """What is filmed of every episode, into one folder; style, scale, panels, strip and zoom are those of `RecordSaliencyVideo`."""

    folder: Path
    """Where `saliency-episode-0.mp4`, `raw-episode-0.mp4` and `decision-17-episode-0.png` go."""
    first: int = 0
    """The first decision that is explained and in the saliency video, counted from 0 in each episode."""
    end: int | None = None
    """The first decision that no longer is. None: all until the episode's end."""
    raw: bool = True
    """Whether there is a video of the whole episode as it was."""
    pictures: frozenset[int] = frozenset()
    """Decisions that are shown in a PNG of their own."""
    style: str = "xaitk"
    scale: Scale = "frame"
    panels: bool = False
    strip: bool = False
    zoom: int = 1

    def saliency_video(self, episode: int) -> Path:
        """The video of the explained decisions, with maps."""
        return self.folder / f"saliency-episode-{episode}.mp4"

    def raw_video(self, episode: int) -> Path:
        """The video of the whole episode, without."""
        return self.folder / f"raw-episode-{episode}.mp4"

    def picture(self, episode: int, step: int) -> Path:
        """The picture of one decision."""
        return self.folder / f"decision-{step}-episode-{episode}.png"

    def files(self, episode: int) -> list[Path]:
        """All files of an episode that is long enough."""
        raw = [self.raw_video(episode)] if self.raw else []
        return [self.saliency_video(episode), *raw, *(self.picture(episode, step) for step in sorted(self.pictures))]


class Player:
    """Plays a hooked agent and films it. Close it, or use it in a `with` block: only then is everything written."""

    def __init__(
        self, env: Environment, hook: RecurrentAgentHook, cameras: Cameras, method: str | SaliencyMethod = "xaitk", mode: Mode = "inline"
    ) -> None:
        """Set up the cameras; `env` shows the RGB frames that the agent acts on, and the rest is as for `SaliencyRecorder`."""
        self.cameras = cameras
        self.returns: list[float] = []
        """The return of each episode, that of the present one so far."""
        self.decisions = 0
        """How many were made, in all episodes."""
        self._hook = hook
        self._pictures = DecisionPictures(cameras, hook.preprocessor)
        self._recorder = SaliencyRecorder(env, hook, method, mode=mode)
        self._recorder.recording.subscribe(self._pictures)
        self._env = RecordSaliencyVideo(
            self._recorder,
            cameras.folder,
            episode_trigger=lambda _: cameras.first == 0,
            style=cameras.style,
            scale=cameras.scale,
            panels=cameras.panels,
            strip=cameras.strip,
            zoom=cameras.zoom,
        )

    @property
    def recorder(self) -> SaliencyRecorder[Any, Any]:
        """What records the decisions."""
        return self._recorder

    @property
    def explained(self) -> int:
        """How many decisions have their maps."""
        return self._pictures.count

    @property
    def files(self) -> list[Path]:
        """What was to be written, and, once the player is closed, is there if the episodes were long enough."""
        return [file for episode in range(len(self.returns)) for file in self.cameras.files(episode)]

    def play(
        self, seed: int | None = None, steps: int = 3000, greedy: bool = True, watch: Callable[[float], None] = lambda total: None
    ) -> None:
        """Play one episode.

        Args:
            seed: for the environment. None: it goes on with the randomness it has.
            steps: the episode is left after so many decisions.
            greedy: take the most probable action; otherwise sample, with the hook's own seed.
            watch: is called after every step, with the return so far.
        """
        for file in self.cameras.files(len(self.returns)):
            file.unlink(missing_ok=True)  # what is there in the end is of this episode
        observation, _ = self._env.reset(seed=seed)
        self.returns.append(0.0)
        with self._raw_video() as film:
            film()
            for step in range(steps):
                self._aim(step)
                action = self._hook.act(observation, greedy=greedy)
                observation, reward, terminated, truncated, _ = self._env.step(action)
                film()
                self.decisions += 1
                self.returns[-1] += float(reward)
                watch(self.returns[-1])
                if terminated or truncated:
                    break

    def close(self) -> None:
        """Explain what is held, finish the videos, close the environment and detach the hook."""
        self._env.close()

    def __enter__(self) -> Player:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _aim(self, step: int) -> None:
        """Before decision `step`: start, stop, and take the picture. A recording starts with the frame after the next step."""
        cameras = self.cameras
        if step + 1 == cameras.first:
            self._env.start_recording(cameras.saliency_video(self._env.episode_id).stem)
        if step == cameras.end and self._env.recording:
            self._env.stop_recording()
        if step in cameras.pictures:
            self._pictures.expect(self._frame())

    @contextmanager
    def _raw_video(self) -> Generator[Callable[[], None]]:
        """A function that films what is shown now; nothing, when no raw video is wanted."""
        if not self.cameras.raw:
            yield lambda: None
            return
        with closing(StreamingWriter(self.cameras.raw_video(self._env.episode_id), self._env.frames_per_sec)) as writer:
            yield lambda: writer.write(self._frame())

    def _frame(self) -> Frame:
        frame: Any = self._env.render()
        return frame


class DecisionPictures:
    """Single decisions as PNG files: the frame, what the actor looked at, what the critic looked at. A `SaliencyConsumer`."""

    def __init__(self, cameras: Cameras, preprocessor: FramePreprocessor | None) -> None:
        scale: Scale = "frame" if cameras.scale == "episode" else cameras.scale
        self.count = 0
        """How many decisions came with maps, pictured or not."""
        self._cameras = cameras
        self._painter = Painter(Drawing(cameras.style, scale, panels=True), zoom=cameras.zoom)
        self._preprocessor = preprocessor
        self._expected: Frame | None = None
        self._waiting: dict[tuple[int, int], Frame] = {}

    def expect(self, frame: Frame) -> None:
        """The next decision, made on this frame, gets a picture."""
        self._expected = frame.copy()

    def wants_step(self) -> bool:
        """Whether the next decision gets a picture."""
        return self._expected is not None

    def decided(self, saliency: StepSaliency) -> None:
        """A decision. Its picture is made when its maps are there."""
        if self._expected is not None:
            self._waiting[saliency.episode, saliency.step] = self._expected
            self._expected = None
        if saliency.maps is not None:
            self.explained(saliency)

    def explained(self, saliency: StepSaliency) -> None:
        """A decision's maps. They are None when they could not be computed: then there is no picture."""
        frame = self._waiting.pop((saliency.episode, saliency.step), None)
        self.count += saliency.maps is not None
        if frame is None or saliency.maps is None:
            return
        file = self._cameras.picture(saliency.episode, saliency.step)
        picture = self._painter.paint(frame, saliency, self._preprocessor)
        if not cv2.imwrite(str(file), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)):
            raise OSError(f"Cannot write {file}.")


def _name(env: Environment) -> str:
    return str(env) if env.spec is None else env.spec.id
