"""Train sb3-contrib's RecurrentPPO on an Atari game and watch where it learns to look.

    python examples/sb3_recurrent_ppo.py --game ALE/Breakout-v5 --steps 1000000 --output runs/sb3

While it learns, an episode is filmed now and then (`videos/saliency-<steps>-steps-episode-<n>.mp4`, and TensorBoard's IMAGES); at the end
the agent plays once more, explained at every step. Needs `pip install 'saliency_wrappers[sb3]' tensorboard`.
"""

import argparse
from pathlib import Path

import ale_py
import gymnasium as gym
import numpy as np
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.env_util import make_vec_env

from saliency_wrappers import RecordSaliencyVideo, RecurrentAgentHook, SaliencyRecorder
from saliency_wrappers.sb3.callbacks import SaliencyCallback

gym.register_envs(ale_py)
parser = argparse.ArgumentParser(description="Film what a RecurrentPPO agent looks at while it learns.")
parser.add_argument("--game", default="ALE/Breakout-v5")
parser.add_argument("--steps", type=int, default=1_000_000, help="of training, over all environments")
parser.add_argument("--environments", type=int, default=8)
parser.add_argument("--rollout", type=int, default=128, help="steps of each environment between updates")
parser.add_argument("--film-every", type=int, default=100_000, help="in steps, over all environments")
parser.add_argument("--max-steps", type=int, default=1000, help="of an evaluation")
parser.add_argument("--output", type=Path, default=Path("runs/sb3"))
options = parser.parse_args()


def make_game() -> gym.Env:
    """One grey 84x84 frame at a time: which way the ball flies, the agent has to remember."""
    game = gym.make(options.game, frameskip=1, render_mode="rgb_array")
    return gym.wrappers.AtariPreprocessing(game, grayscale_newaxis=True)


# Train. The callback plays its own game: the training goes on as if nothing had happened.
games = make_vec_env(make_game, options.environments, seed=1)
agent = RecurrentPPO(
    "CnnLstmPolicy",
    games,
    n_steps=options.rollout,
    batch_size=options.rollout * options.environments // 4,
    learning_rate=2.5e-4,
    n_epochs=4,
    clip_range=0.1,
    ent_coef=0.01,
    policy_kwargs={"lstm_hidden_size": 256},
    tensorboard_log=str(options.output / "tensorboard"),
    seed=1,
)
film = SaliencyCallback(
    make_game(),
    options.output / "videos",
    eval_freq=max(options.film_every // options.environments, 1),
    preprocessor="atari84",  # which part of the frame the agent sees: all of it
    max_steps=options.max_steps,
    verbose=1,
)
agent.learn(options.steps, callback=film)
agent.save(options.output / "agent.zip")

# Play: one line hooks the agent, two wrap the game.
hook = RecurrentAgentHook(agent, preprocessor="atari84")
recorder = SaliencyRecorder(gym.wrappers.TimeLimit(make_game(), options.max_steps), hook)
game = RecordSaliencyVideo(recorder, options.output / "videos", name_prefix="final", zoom=2, strip=True)

observation, info = game.reset(seed=2)
state, episode_start, ended, score = None, np.ones(1, bool), False, 0.0
while not ended:
    action, state = agent.predict(observation, state=state, episode_start=episode_start, deterministic=True)
    observation, reward, terminated, truncated, info = game.step(action)
    ended = terminated or truncated
    episode_start = np.array([ended])
    score += float(reward)
game.close()
print(f"score {score:.0f}; the last value was {info['saliency']['value']:.3f}; video: {options.output / 'videos/final-episode-0.mp4'}")
