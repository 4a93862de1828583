"""`Collector`: plays a trained agent and keeps what it decides in a store, as the command line does; nothing is computed meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym

from saliency_wrappers.hooks.hook import RecurrentAgentHook
from saliency_wrappers.store.store import EpisodeStore
from saliency_wrappers.wrappers.recorder import SaliencyRecorder


class Collector:
    """Plays a hooked agent. Close it, or use it in a `with` block: only then is everything written."""

    explained = 0
    """No maps are made."""

    def __init__(self, env: gym.Env[Any, Any], hook: RecurrentAgentHook, store: EpisodeStore) -> None:
        """Keep the decisions in a store; `env` shows the RGB frames that the agent acts on."""
        self.returns: list[float] = []
        """The return of each episode, that of the present one so far."""
        self.decisions = 0
        """How many were made, in all episodes."""
        self.store = store
        self._hook = hook
        self._env = SaliencyRecorder(env, hook, mode="capture", store=store)

    @property
    def recorder(self) -> SaliencyRecorder[Any, Any]:
        """What records the decisions."""
        return self._env

    @property
    def files(self) -> list[Path]:
        """The store's folder, if it has one."""
        return [] if self.store.location.folder is None else [self.store.location.folder]

    def play(
        self, seed: int | None = None, steps: int = 3000, greedy: bool = True, watch: Callable[[float], None] = lambda total: None
    ) -> None:
        """Play one episode, of so many steps at most; otherwise as `Player.play`."""
        observation, _ = self._env.reset(seed=seed)
        self.returns.append(0.0)
        for _ in range(steps):
            observation, reward, terminated, truncated, _ = self._env.step(self._hook.act(observation, greedy=greedy))
            self.decisions += 1
            self.returns[-1] += float(reward)
            watch(self.returns[-1])
            if terminated or truncated:
                break

    def close(self) -> None:
        """Write what is left, close the environment and detach the hook."""
        self._env.close()

    def __enter__(self) -> Collector:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
