"""Playing a trained agent, as the command line does.

`make_game` makes the environment, `load_agent` the agent, `check_agent` sees that they fit. A `Player` plays episodes, and films or stores
them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from saliency_wrappers.cli.filming import Cameras, EpisodeFilming
from saliency_wrappers.hooks.hook import RecurrentAgentHook
from saliency_wrappers.models.checkpoints import load_checkpoint, load_pretrained
from saliency_wrappers.models.networks import AtariLSTM
from saliency_wrappers.models.vector_networks import VectorActorCritic
from saliency_wrappers.preprocessing import FramePreprocessor
from saliency_wrappers.recording.options import Mode
from saliency_wrappers.saliency.method import SaliencyMethod
from saliency_wrappers.store.store import EpisodeStore
from saliency_wrappers.wrappers.features import is_vector
from saliency_wrappers.wrappers.recorder import SaliencyRecorder

Environment = gym.Env[Any, Any]


def make_game(env_id: str, frameskip: int | None = None, sticky: float | None = None) -> Environment:
    """Make an environment that shows RGB frames; Atari games are registered.

    Args:
        env_id: as for `gym.make`.
        frameskip: emulator frames for each action. None: the environment's own.
        sticky: the probability that the emulator repeats the last action. None: the environment's own.

    Raises:
        ValueError: no such environment, one that cannot be made like this, or one whose observations are neither RGB frames nor vectors.
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
    frames = isinstance(space, gym.spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3 and space.shape[2] == 3
    if not frames and not is_vector(space):
        env.close()
        raise ValueError(
            f"Expected an environment whose observations are RGB frames (H, W, 3) of uint8 or vectors, got {space} from {env_id}."
        )
    return env


def load_agent(env_id: str, checkpoint: Path | None = None, preprocessor: str | None = None) -> tuple[nn.Module, FramePreprocessor | None]:
    """An agent and the preprocessing it is fed with; None for an agent on vectors.

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
        if isinstance(agent, VectorActorCritic):
            if preprocessor is not None:
                raise ValueError(f"Expected no preprocessor for an agent on vectors, got {preprocessor!r}.")
            return agent, None
        own = FramePreprocessor.named("atari84" if isinstance(agent, AtariLSTM) else "greydanus2018")
    chosen = own if preprocessor is None else FramePreprocessor.named(preprocessor)
    return agent, replace(chosen, determines_input=True)  # a Player feeds the agent with nothing but the frame it sees


def check_agent(hook: RecurrentAgentHook, env: Environment) -> None:
    """See that the hooked agent takes what its preprocessor makes of this environment's frames, and chooses among its actions.

    Raises:
        ValueError: it does not.
    """
    if is_vector(env.observation_space) and hook.preprocessor is not None:
        raise ValueError(f"The agent takes images, but {_name(env)} gives vectors: give --checkpoint of an agent on vectors.")
    frame: Any = np.zeros(env.observation_space.shape or (), np.float32 if is_vector(env.observation_space) else np.uint8)
    image = frame if hook.preprocessor is None else hook.preprocessor(frame)
    try:
        logits, _ = hook.adapter.evaluate(torch.as_tensor(image)[None], hook.adapter.initial_state(1), None)
    except RuntimeError as error:
        raise ValueError(f"The agent does not take inputs of shape {image.shape}, as its preprocessor makes them: {error}") from error
    actions = logits.shape[1]
    space = env.action_space
    if not isinstance(space, gym.spaces.Discrete) or space.n != actions:
        raise ValueError(f"The agent chooses among {actions} actions, but {_name(env)} expects {space}.")


class Player:
    """Plays a hooked agent, and films it or stores its decisions. Close it, or use it in a `with` block, to have everything written."""

    def __init__(
        self,
        env: Environment,
        hook: RecurrentAgentHook,
        cameras: Cameras | None = None,
        method: str | SaliencyMethod | None = None,
        mode: Mode = "inline",
        store: EpisodeStore | None = None,
    ) -> None:
        """Record an environment.

        Args:
            env: shows the RGB frames that the agent acts on.
            hook: of the agent.
            cameras: what is filmed. None: nothing.
            method: as for `SaliencyRecorder`.
            mode: as for `SaliencyRecorder`; `"capture"` with a store makes no maps.
            store: where decisions are kept. None: nowhere.
        """
        self.returns: list[float] = []
        """The return of each episode, that of the present one so far."""
        self.decisions = 0
        """How many were made, in all episodes."""
        self.recorder = SaliencyRecorder(env, hook, method, mode=mode, store=store)
        """What records the decisions."""
        self._hook, self._store = hook, store
        self._filming = None if cameras is None else EpisodeFilming(self.recorder, cameras)
        self._env: Environment = self.recorder if self._filming is None else self._filming.env

    @property
    def explained(self) -> int:
        """How many decisions have their maps."""
        return 0 if self._filming is None else self._filming.explained

    @property
    def files(self) -> list[Path]:
        """What was to be written, and, once the player is closed, is there if the episodes were long enough; of a store its folder."""
        folder = None if self._store is None else self._store.location.folder
        filmed = [] if self._filming is None else self._filming.files(len(self.returns))
        return filmed if folder is None else [*filmed, folder]

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
        filming = self._filming
        for file in [] if filming is None else filming.cameras.files(len(self.returns)):
            file.unlink(missing_ok=True)  # what is there in the end is of this episode
        observation, _ = self._env.reset(seed=seed)
        self.returns.append(0.0)
        with nullcontext() if filming is None else filming.episode():
            for step in range(steps):
                if filming is not None:
                    filming.before(step)
                action = self._hook.act(observation, greedy=greedy)
                observation, reward, terminated, truncated, _ = self._env.step(action)
                if filming is not None:
                    filming.shown()
                self.decisions += 1
                self.returns[-1] += float(reward)
                watch(self.returns[-1])
                if terminated or truncated:
                    break

    def close(self) -> None:
        """Compute the maps that are held, finish what is written, close the environment and detach the hook."""
        self._env.close()

    def __enter__(self) -> Player:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _name(env: Environment) -> str:
    return str(env) if env.spec is None else env.spec.id
