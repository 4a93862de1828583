"""Play Breakout and film what the agent looks at: `python examples/minimal.py [checkpoint [steps]]`."""

import sys

import ale_py
import gymnasium as gym

from saliency_wrappers import RecordSaliencyVideo, RecurrentAgentHook, SaliencyRecorder, load_checkpoint, load_pretrained

ENV_ID = "ALE/Breakout-v5"
gym.register_envs(ale_py)
agent, preprocessor = (load_checkpoint(sys.argv[1]), "greydanus2018") if len(sys.argv) > 1 else load_pretrained(ENV_ID)
steps = int(sys.argv[2]) if len(sys.argv) > 2 else 300

hook = RecurrentAgentHook(agent, preprocessor)
recorder = SaliencyRecorder(gym.make(ENV_ID, render_mode="rgb_array", max_episode_steps=steps), hook)
env = RecordSaliencyVideo(recorder, "videos", zoom=3, strip=True)

observation, info = env.reset(seed=1)
ended = False
while not ended:
    observation, reward, terminated, truncated, info = env.step(hook.act(observation))
    ended = terminated or truncated
env.close()  # videos/saliency-episode-0.mp4
