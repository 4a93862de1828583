"""Which features of CartPole's observation does a trained PPO depend on? A fifth feature, pure noise, shows what none is.

    python examples/cartpole_features.py --output runs/cartpole

Trains Stable-Baselines3's PPO (a minute or two; `--agent` takes one that was saved), records episodes into a store, computes exact Shapley
values of the five features for every decision, and prints and draws each feature's share with 95 % intervals over episodes. One episode is
filmed, with bars beside the frame. Needs `pip install 'saliency_wrappers[sb3,store]' matplotlib`; frames are drawn here, without pygame.
"""

import argparse
from pathlib import Path
from typing import Any

import cv2
import gymnasium as gym
import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

from saliency_wrappers import (
    EpisodeStore,
    FeatureShapley,
    Marginal,
    RecordSaliencyVideo,
    RecurrentAgentHook,
    SaliencyRecorder,
    compute_saliency,
)
from saliency_wrappers.faithfulness.bootstrap import Resampler, interval

parser = argparse.ArgumentParser(description="Shapley values of CartPole's features, and of noise.")
parser.add_argument("--steps", type=int, default=100_000, help="of training")
parser.add_argument("--agent", type=Path, help="a saved agent, instead of training one")
parser.add_argument("--episodes", type=int, default=20, help="that are explained")
parser.add_argument("--max-steps", type=int, default=500, help="of each of them")
parser.add_argument("--spread", type=float, default=0.05, help="episodes begin with numbers up to this; 0.05 is CartPole's own")
parser.add_argument("--seed", type=int, default=1)
parser.add_argument("--output", type=Path, default=Path("runs/cartpole"))
options = parser.parse_args()


class NoisyCartPole(gym.ObservationWrapper):
    """CartPole with a fifth feature of standard normal noise, drawn anew at every step; frames without pygame."""

    feature_names = ("cart position", "cart velocity", "pole angle", "pole angular velocity", "noise")

    def __init__(self) -> None:
        super().__init__(gym.make("CartPole-v1"))
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (5,), np.float32)
        self.noise = np.random.default_rng()
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": 50}

    @property
    def render_mode(self) -> str:  # type: ignore[override]
        """Frames are drawn here, whatever CartPole itself was made with."""
        return "rgb_array"

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        """Begin an episode; a seed is the noise's, too."""
        if seed is not None:
            self.noise = np.random.default_rng(seed)
        return super().reset(seed=seed, options=options)

    def observation(self, observation: Any) -> Any:
        """Append the noise."""
        return np.append(observation, self.noise.standard_normal()).astype(np.float32)

    def render(self) -> Any:
        """Draw cart and pole, `(200, 300, 3)` uint8."""
        cartpole: Any = self.unwrapped
        x, _, angle, _ = cartpole.state
        frame = np.full((200, 300, 3), 245, np.uint8)
        cart = (round(150 + 60 * x), 150)
        tip = (round(cart[0] + 90 * np.sin(angle)), round(cart[1] - 90 * np.cos(angle)))
        cv2.line(frame, (0, 165), (300, 165), (120, 120, 120), 1)
        cv2.rectangle(frame, (cart[0] - 20, 145), (cart[0] + 20, 164), (40, 40, 40), -1)
        cv2.line(frame, cart, tip, (200, 150, 90), 6, cv2.LINE_AA)
        return frame


def play(env: gym.Env, seed: int) -> int:
    """One greedy episode; how many steps it had."""
    observation, _ = env.reset(seed=seed, options={"low": -options.spread, "high": options.spread})
    steps, over = 0, False
    while not over and steps < options.max_steps:
        observation, _, terminated, truncated, _ = env.step(int(agent.predict(observation, deterministic=True)[0]))
        steps, over = steps + 1, terminated or truncated
    return steps


# Train.
options.output.mkdir(parents=True, exist_ok=True)
if options.agent is None:
    agent = PPO(
        "MlpPolicy",
        make_vec_env(NoisyCartPole, 8, seed=options.seed),
        n_steps=32,
        batch_size=256,
        n_epochs=20,
        gamma=0.98,
        gae_lambda=0.8,
        learning_rate=lambda left: 1e-3 * left,  # to 0: while it is large, the weights of the noise do not settle
        clip_range=lambda left: 0.2 * left,
        seed=options.seed,
        device="cpu",
    )
    agent.learn(options.steps)
    agent.save(options.output / "agent.zip")
else:
    agent = PPO.load(options.agent, device="cpu")

# Record decisions; their maps are made later, from the store, which tells what features are replaced by: values of its other moments.
store = EpisodeStore(options.output / "store")
hook = RecurrentAgentHook(agent)
recorder = SaliencyRecorder(NoisyCartPole(), hook, mode="capture", store=store)
lengths = [play(recorder, 1000 + episode) for episode in range(options.episodes)]
recorder.close()
print(f"episodes of {np.mean(lengths):.0f} steps on average, {min(lengths)} at least")
method = FeatureShapley(names=NoisyCartPole.feature_names)
computed = compute_saliency(store, agent, method=method)

# The share of each feature: the sum of |phi| over decisions, of all features' sum; intervals by drawing episodes.
shares: dict[str, list[Any]] = {}
for head in ("actor", "critic"):
    sums = np.array(
        [np.sum([np.abs(getattr(maps, head)) for _, maps in one.maps(method=computed.fingerprint)], axis=0) for one in store.episodes]
    )
    resampler = Resampler(len(sums), seed=options.seed)
    shares[head] = [interval(*resampler.ratio(sums[:, i], sums.sum(axis=1))) for i in range(5)]
    for name, share in zip(NoisyCartPole.feature_names, shares[head], strict=True):
        print(f"{head:6}  {name:22} {100 * share.value:5.1f} %  [{100 * share.low:.1f}, {100 * share.high:.1f}]")

# Draw them.
import matplotlib.pyplot as plt  # noqa: E402

figure, axes = plt.subplots(figsize=(7, 3))
for offset, (head, colour) in enumerate((("actor", "tab:blue"), ("critic", "tab:red"))):
    height = [100 * share.value for share in shares[head]]
    low, high = ([100 * getattr(share, end) for share in shares[head]] for end in ("low", "high"))
    error = np.abs(np.array([low, high]) - height)
    axes.bar(np.arange(5) + 0.4 * offset - 0.2, height, 0.38, yerr=error, capsize=3, color=colour, label=head)
axes.set_xticks(range(5), NoisyCartPole.feature_names, fontsize=8)
axes.set_ylabel("share of sum |phi|, %")
axes.legend()
figure.tight_layout()
figure.savefig(options.output / "features.png", dpi=120)

# Film an episode, against the values of the store.
hook = RecurrentAgentHook(agent)
method = FeatureShapley(Marginal(store), names=NoisyCartPole.feature_names)
film = RecordSaliencyVideo(SaliencyRecorder(NoisyCartPole(), hook, method), options.output / "videos", strip=True, scale="episode")
play(film, 2000)
film.close()
print(f"wrote: {options.output / 'features.png'}, {film.video_path}")
