"""An agent that no library made, hooked in ten lines: `python examples/custom_agent.py [steps]`.

It takes frames as the environment gives them (uint8, channels last), keeps its memory to itself, and returns an action and nothing else.
`FunctionAdapter` says where to find what is needed, and `check_adapter` whether that is right.
"""

import sys

import ale_py
import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from saliency_wrappers import FunctionAdapter, RecordSaliencyVideo, RecurrentAgentHook, SaliencyRecorder
from saliency_wrappers.testing import check_adapter


class MyAgent(nn.Module):
    """Your own code: a small network with a memory, untrained."""

    def __init__(self, num_actions: int) -> None:
        super().__init__()
        self.see = nn.Sequential(nn.Conv2d(3, 8, 8, 4), nn.ReLU(), nn.Conv2d(8, 16, 4, 4), nn.ReLU(), nn.Flatten())
        self.gru = nn.GRUCell(16 * 5 * 5, 32)
        self.policy, self.value = nn.Linear(32, num_actions), nn.Linear(32, 1)
        self.memory = torch.zeros(1, 32)

    def act(self, frames: Tensor) -> Tensor:
        """Frames `(n, 84, 84, 3)` uint8; the actions `(n,)`."""
        self.memory = self.gru(self.see(frames.permute(0, 3, 1, 2) / 255.0), self.memory)
        self.value(self.memory)
        logits: Tensor = self.policy(self.memory)
        return logits.argmax(dim=1)


def run_heads(agent: MyAgent, frames: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and values, for the saliency's own passes."""
    agent.act(frames)
    return agent.policy(agent.memory), agent.value(agent.memory)


gym.register_envs(ale_py)
torch.manual_seed(0)
steps = int(sys.argv[1]) if len(sys.argv) > 1 else 200
env = gym.make("ALE/Breakout-v5", render_mode="rgb_array", max_episode_steps=steps)
env = gym.wrappers.ResizeObservation(env, (84, 84))
agent = MyAgent(gym.spaces.flatdim(env.action_space))

# %% The recipe
adapter = FunctionAdapter(
    agent,
    evaluate=lambda frames, memory, episode_start: run_heads(agent, frames),
    method="act",  # what you call to act
    actor=agent.policy,  # act returns no logits: this layer gives them
    critic=agent.value,
    state_attribute="memory",  # read before each call, and left as it was by the saliency's own
    initial_state=lambda n: torch.zeros(n, 32),
    channels_last=True,
    input_range=(0.0, 255.0),
)

# %% Is it right? Two frames are enough to find a dropped memory, a wrong axis or a side effect.
examples = torch.tensor(np.stack([env.reset(seed=seed)[0] // (seed + 1) for seed in range(2)])).permute(0, 3, 1, 2)
with torch.no_grad():
    check_adapter(adapter, examples, lambda x: agent.act(x.permute(0, 2, 3, 1)))
print("the adapter keeps its contract")

# %% Film an episode
env = RecordSaliencyVideo(SaliencyRecorder(env, RecurrentAgentHook(adapter)), "videos", zoom=2, strip=True)
frame, info = env.reset(seed=1)
agent.memory = torch.zeros(1, 32)
ended = False
while not ended:
    with torch.no_grad():
        action = int(agent.act(torch.tensor(frame)[None]))
    frame, reward, terminated, truncated, info = env.step(action)
    ended = terminated or truncated
env.close()  # videos/saliency-episode-0.mp4
print(f"{info['saliency']['step'] + 1} decisions; the last map peaks at {info['saliency']['actor'].max():.2e}")
