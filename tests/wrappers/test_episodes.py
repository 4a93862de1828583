"""Instrumenting changes nothing: trained agents replay their reference episodes action for action, explained as the reference says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ale_py
import gymnasium as gym
import imageio_ffmpeg
import numpy as np
import pytest
import torch

from saliency_wrappers import FramePreprocessor, RecordSaliencyVideo, RecurrentAgentHook, SaliencyRecorder, load_checkpoint

gym.register_envs(ale_py)
PREPROCESSOR = FramePreprocessor.named("greydanus2018")


@dataclass(frozen=True)
class Episode:
    """A reference episode: its agent, its numbers, and the steps that are explained again here, all of them described there."""

    name: str
    game: str
    checkpoint: str
    steps: int
    total: float
    explained: tuple[int, ...]


EPISODES = [
    Episode("breakout", "ALE/Breakout-v5", "breakout-v4.model.80.tar", 1882, 280, (0, 1, 141, 961, 1838)),
    Episode("pong", "ALE/Pong-v5", "pong-v4.model.80.tar", 1719, 21, (0, 1, 384, 999, 1494)),
    Episode("breakout_lstm", "ALE/Breakout-v5", "breakout-lstm", 1438, 97, (0, 1, 370, 892, 1126)),
]


class Published:
    """The loop of the published application: the model called by hand, the state carried by hand."""

    def __init__(self, hook: RecurrentAgentHook, agent: Any) -> None:
        self.agent, self.state = agent, agent.initial_state(1)

    def __call__(self, frame: Any) -> int:
        x = torch.from_numpy(PREPROCESSOR(frame))[None]
        with torch.no_grad():
            _value, logits, self.state = self.agent((x, self.state))
        return int(logits.argmax())


class Hooked:
    """The hook's own `act`."""

    def __init__(self, hook: RecurrentAgentHook, agent: Any) -> None:
        self.hook = hook

    def __call__(self, frame: Any) -> int:
        return self.hook.act(frame)


def check_step(saliency: dict[str, Any], action: int, reference: dict[str, Any], row: int) -> None:
    """What a step says of its decision is what the reference says of it: outputs within 1e-5, maps, scaled, within 1e-4."""
    assert (saliency["episode"], saliency["step"]) == (0, reference["step"][row])
    assert saliency["action"] == action
    np.testing.assert_allclose(saliency["logits"], reference["logits"][row], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(saliency["value"], reference["value"][row, 0], rtol=1e-5, atol=1e-5)
    for head in ("actor", "critic"):
        raw = saliency[head]
        np.testing.assert_allclose((raw - raw.min()) / np.ptp(raw), reference[f"{head}_map"][row], atol=1e-4)


@pytest.mark.timeout(300)  # 5 s of work, on a machine that may be busy
@pytest.mark.parametrize("loop", [Published, Hooked])
@pytest.mark.parametrize("episode", EPISODES, ids=lambda episode: episode.name)
def test_the_recorded_episode_is_the_reference_episode_action_for_action(episode: Episode, loop: Any, shared: Path, tmp_path: Path) -> None:
    with np.load(shared / "reference" / f"{episode.name}.npz") as arrays:
        reference = {name: arrays[name] for name in ("actions", "rewards", "step", "logits", "value", "actor_map", "critic_map")}
    agent = load_checkpoint(shared / "agents" / episode.checkpoint)
    wanted = episode.explained if loop is Published else episode.explained[::4]
    env = gym.make(episode.game, frameskip=4, repeat_action_probability=0.0, render_mode="rgb_array")
    hook = RecurrentAgentHook(agent, PREPROCESSOR)
    actions, rewards, explained, ended = [], [], [], False
    recorder = SaliencyRecorder(env, hook, step_trigger=lambda step: step in wanted)
    with RecordSaliencyVideo(recorder, tmp_path) as filmed:
        frame, _ = filmed.reset(seed=1)
        act = loop(hook, agent)
        while not ended:
            actions.append(act(frame))
            frame, reward, terminated, truncated, info = filmed.step(actions[-1])
            ended = terminated or truncated
            rewards.append(float(reward))
            if "saliency" in info:
                explained.append(len(actions) - 1)
                check_step(info["saliency"], actions[-1], reference, int(np.flatnonzero(reference["step"] == explained[-1])[0]))
    assert tuple(explained) == wanted
    assert actions == reference["actions"].tolist()
    assert rewards == reference["rewards"].tolist()
    assert (len(actions), sum(rewards)) == (episode.steps, episode.total)
    assert imageio_ffmpeg.count_frames_and_secs(str(tmp_path / "saliency-episode-0.mp4"))[0] == episode.steps + 1
