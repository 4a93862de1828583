"""Many Atari games side by side, seen as the agents in the line of Greydanus et al. (2018) see them.

`AtariGames` plays plain `ALE/<game>-v5` (sticky actions, 4 frames per action) and gives frames preprocessed exactly as
`FramePreprocessor.named("greydanus2018")` does, a batch at a time.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import ale_py
import gymnasium
import numpy as np
import torch
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from PIL import Image

FRAMES_PER_ACTION = 4
STICKINESS = 0.25

gymnasium.register_envs(ale_py)


class AtariGames:
    """Games with the frame, the lives and the score of each; an ended episode is followed by the next one at once."""

    def __init__(self, game: str, count: int, seed: int, max_decisions: int = 4500, threads: int = 1) -> None:
        self.environment = AtariVectorEnv(
            gymnasium.spec(f"ALE/{game}-v5").kwargs["game"],
            count,
            num_threads=threads,
            stack_num=1,
            frameskip=FRAMES_PER_ACTION,
            repeat_action_probability=STICKINESS,
            img_height=210,
            img_width=160,
            grayscale=False,
            max_num_frames_per_episode=FRAMES_PER_ACTION * max_decisions,
            autoreset_mode=AutoresetMode.SAME_STEP,
            maxpool=False,
            noop_max=30,  # Else every episode begins alike.
            use_fire_reset=False,
            reward_clipping=False,
        )
        frames, infos = self.environment.reset(seed=seed)
        self.frames = torch.from_numpy(preprocess(frames[:, 0]))
        """`(count, 80, 80)` uint8: what the agents see next."""
        self.episode_starts = torch.ones(count)
        """`(count,)` float32: 1.0 where that frame is the first of an episode."""
        self.lives: NDArray[Any] = infos["lives"].copy()
        self.scores = np.zeros(count)
        self.lengths = np.zeros(count, dtype=np.int64)
        self.finished: deque[tuple[float, int]] = deque(maxlen=100)
        """Return and length of the latest episodes."""

    def step(self, actions: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Play one action in each game: the rewards `(count,)`, and where a life was lost."""
        frames, rewards, terminated, truncated, infos = self.environment.step(actions)
        ended = terminated | truncated
        life_ends = ended | (infos["lives"] < self.lives)
        self.frames = torch.from_numpy(preprocess(frames[:, 0]))
        self.episode_starts = torch.tensor(ended, dtype=torch.float32)
        self.lives = infos["lives"].copy()
        self._keep_score(rewards, ended)
        return rewards, life_ends

    def _keep_score(self, rewards: NDArray[Any], ended: NDArray[np.bool_]) -> None:
        self.scores += rewards
        self.lengths += 1
        for index in np.flatnonzero(ended):
            self.finished.append((float(self.scores[index]), int(self.lengths[index])))
        self.scores[ended] = 0
        self.lengths[ended] = 0


def preprocess(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Frames `(n, 210, 160, 3)` to `(n, 80, 80)`: the preprocessing `"greydanus2018"` before its division by 255."""
    # A stretched grey depends only on the sum of the channels: one table for each frame.
    cropped = frames[:, 35:195]
    sums = cropped[..., 0].astype(np.uint16)
    sums += cropped[..., 1]
    sums += cropped[..., 2]
    return np.stack([_stretch_and_resize(plane) for plane in sums])


def _stretch_and_resize(sums: NDArray[np.uint16]) -> NDArray[np.uint8]:
    low, high = sums.min() / 3, sums.max() / 3
    table = ((np.arange(766) / 3 - low) * (255.0 / (high - low or 1.0)) + 0.5).clip(0, 255).astype(np.uint8)
    return np.asarray(Image.fromarray(table[sums]).resize((80, 80), Image.Resampling.BILINEAR))
