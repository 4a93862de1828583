"""Vectors of the counting environments, in which a decision of another row, step or episode shows as a wrong number.

`World` knows what happens at every step of the vector, from nothing but the lengths of the episodes and the autoreset mode; its `play` is
the loop of someone who trains, and `check` compares what a recorder said.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from counting import NUM_ACTIONS, SIZE, Blackout, CountingAgent, CountingEnv, Expected, check_maps, check_saliency, expected
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray
from torch import Tensor

from saliency_wrappers import FramePreprocessor, RecurrentAgentHook, VectorSaliencyRecorder

NEXT_STEP, SAME_STEP, DISABLED = AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED
KINDS = {"sync": SyncVectorEnv, "async": AsyncVectorEnv}


@dataclass(frozen=True)
class Moment:
    """What a step of the vector is to one environment. None for the episode: its action is ignored by an autoreset."""

    episode: int | None
    t: int = 0


class World:
    """Environments whose episodes have the given lengths, for each its own, the last one repeated."""

    def __init__(self, lengths: Sequence[Sequence[int]], mode: AutoresetMode, render_mode: str | None = "rgb_array") -> None:
        self.lengths, self.mode, self.render_mode = lengths, mode, render_mode
        self.n = len(lengths)
        self.envs = [self._make(i) for i in range(self.n)]

    def _make(self, i: int) -> CountingEnv:
        return CountingEnv(self.lengths[i], first=13 * i, render_mode=self.render_mode)

    def make(self, kind: str = "sync", **options: Any) -> Any:
        """A `SyncVectorEnv` or `AsyncVectorEnv` of them."""
        return KINDS[kind]([lambda i=i: self._make(i) for i in range(self.n)], autoreset_mode=self.mode, **options)

    def timeline(self, i: int, steps: int) -> list[Moment]:
        """What each of the vector's first steps is to environment i."""
        moments: list[Moment] = []
        episode = 0
        while len(moments) < steps:
            length = self.lengths[i][min(episode, len(self.lengths[i]) - 1)]
            moments += [Moment(episode, t) for t in range(length)] + [Moment(None)] * (self.mode == NEXT_STEP)
            episode += 1
        return moments[:steps]

    def action(self, i: int, moment: Moment) -> int:
        return NUM_ACTIONS - 1 if moment.episode is None else (moment.t + 2 * moment.episode + i) % NUM_ACTIONS

    def expected(self, i: int, moment: Moment) -> Expected:
        """The decision of an agent that forgets where episodes begin."""
        assert moment.episode is not None
        env, (episode, t) = self.envs[i], (moment.episode, moment.t)
        return expected(env.level(episode, t), passes=t, last=env.level(episode, t - 1) if t else 0)

    def frame(self, i: int, moment: Moment) -> NDArray[np.uint8]:
        assert moment.episode is not None
        return self.envs[i].frame(moment.episode, moment.t)

    def play(
        self,
        envs: Any,
        agent: Any,
        steps: int,
        act: Callable[[Any, Tensor, Any], Any] = lambda agent, inputs, state: agent((inputs, state))[2],
        between: Callable[[], None] = lambda: None,
    ) -> list[dict[str, Any]]:
        """Step as one who trains: one pass for all, states forgotten where episodes begin, reset by mask where nothing else resets."""
        observations, _ = envs.reset(seed=0)
        state, played = agent.initial_state(self.n), []
        timelines = [self.timeline(i, steps + 1) for i in range(self.n)]
        for step in range(steps):
            now = [timeline[step] for timeline in timelines]
            begins = torch.tensor([moment.t == 0 for moment in now])
            state = act(agent, vector_input(observations), torch.where(begins[:, None], 0.0, state))
            actions = np.array([self.action(i, moment) for i, moment in enumerate(now)])
            observations, _, terminations, truncations, infos = envs.step(actions)
            ended = terminations | truncations
            if self.mode == DISABLED and ended.any():
                observations, _ = envs.reset(options={"reset_mask": ended})
            played.append(infos)
            between()
        return played

    def check(self, infos: dict[str, Any], step: int, rows: Sequence[int] | None = None) -> None:
        """Check `infos` of a step: the decisions of these environments, or of all, and zeros elsewhere."""
        chosen = range(self.n) if rows is None else rows
        moments = [self.timeline(i, step + 1)[step] for i in range(self.n)]
        real = [i in chosen and moment.episode is not None for i, moment in enumerate(moments)]
        if not any(real):
            assert not {"saliency", "_saliency"} & infos.keys()
            return
        assert infos["_saliency"].dtype == bool
        assert infos["_saliency"].tolist() == real
        for i, moment in enumerate(moments):
            row = row_of(infos["saliency"], i, self.n)
            if real[i]:
                assert moment.episode is not None
                check_saliency(row, moment.episode, moment.t, self.expected(i, moment), self.action(i, moment))
            else:
                assert not any(np.any(value) for value in row.values())

    def check_kept(self, recorder: Any, steps: int, rows: Sequence[int] | None = None) -> None:
        """Check the maps that a recorder kept of the vector's first steps, of these environments or of all."""
        for i in range(self.n) if rows is None else rows:
            moments = [moment for moment in self.timeline(i, steps) if moment.episode is not None]
            for episode in {moment.episode for moment in moments}:
                right = [self.expected(i, moment) for moment in moments if moment.episode == episode]
                kept = recorder.maps(episode, i)
                assert len(kept) == len(right)
                for maps, one in zip(kept, right, strict=True):
                    check_maps(maps, one)


def row_of(saliency: dict[str, Any], i: int, n: int) -> dict[str, Any]:
    """One row of `infos["saliency"]`, whose arrays must have n."""
    for value in saliency.values():
        assert len(value) == n
    return {name: value[i] for name, value in saliency.items()}


def vector_input(observations: NDArray[np.uint8]) -> Tensor:
    """Observations `(n, H, W, 3)` as the agent's input `(n, 1, H, W)`, in [0, 1]."""
    return torch.as_tensor(observations[:, None, :, :, 0].copy()).float() / 255


def recorded_vector(envs: Any, agent: Any = None, **options: Any) -> VectorSaliencyRecorder:
    """A recorder around vector environments that hooks `agent` and explains it under `Blackout`."""
    hook = RecurrentAgentHook(CountingAgent() if agent is None else agent, FramePreprocessor(size=SIZE))
    return VectorSaliencyRecorder(envs, hook, **{"perturber": Blackout(), "fill": 0.0, **options})
