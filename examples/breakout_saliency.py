"""What does a Breakout agent look at? The application of Greydanus et al. (2018) with xaitk-saliency, from the first frame to the last.

    python examples/breakout_saliency.py --checkpoint path/to/agent.tar --output runs/breakout

Read it from top to bottom, or run it cell by cell (`# %%` is a cell in VS Code, Spyder, PyCharm and Jupytext). Without a checkpoint the
agent that ships with the package plays. `--help` lists the parameters.
"""

# %% What we need
import argparse
from pathlib import Path
from typing import Any

import ale_py
import gymnasium as gym
import matplotlib.pyplot as plt
from gymnasium.wrappers import RecordVideo
from tqdm import tqdm
from xaitk_saliency.impls.perturb_image.rise import RISEGrid
from xaitk_saliency.impls.perturb_image.sliding_window import SlidingWindow

from saliency_wrappers import (
    FramePreprocessor,
    RecordSaliencyVideo,
    RecurrentAgentHook,
    SaliencyMaps,
    SaliencyRecorder,
    draw,
    load_checkpoint,
    load_pretrained,
)

gym.register_envs(ale_py)

# %% Parameters
# "Published frame" i is what the environment showed after step i, counted from 0: the agent decided on it at step i + 1. So the published
# frames 638 to 1238 are the decisions 639 to 1239, and a `step_trigger` that is True at step 638 begins with the frame of decision 639.
parser = argparse.ArgumentParser(description="Film what a Breakout agent looks at.")
parser.add_argument("--game", default="ALE/Breakout-v5", help="any Atari game the agent was trained for")
parser.add_argument("--checkpoint", type=Path, help="a file, or a folder with checkpoints (default: the bundled agent)")
parser.add_argument("--preprocessor", default="greydanus2018", help="what the checkpoint was trained with")
parser.add_argument("--sticky", type=float, default=0.0, help="probability that the game repeats the last action")
parser.add_argument("--seed", type=int, default=1)
parser.add_argument("--steps", type=int, default=3000, help="play at most so many steps")
parser.add_argument("--first-frame", type=int, default=638, help="first published frame to explain")
parser.add_argument("--last-frame", type=int, default=1238, help="last published frame to explain")
parser.add_argument("--show", type=int, default=700, help="the decision to look at more closely")
parser.add_argument("--masks", type=int, default=250, help="how many random masks RISE gets")
parser.add_argument("--output", type=Path, default=Path("runs/breakout"))
settings, _ = parser.parse_known_args()  # a notebook has arguments of its own

# %% The agent
# Any `nn.Module` called as `value, logits, state = model((x, state))` would do. The preprocessor makes network inputs from frames, and
# knows where on the frame a map belongs.
agent: Any
if settings.checkpoint is None:
    agent, preprocessor = load_pretrained(settings.game)
else:
    agent, preprocessor = load_checkpoint(settings.checkpoint), FramePreprocessor.named(settings.preprocessor)


# %% The environment
def make_environment() -> gym.Env[Any, Any]:
    """The game, as the agent knows it."""
    return gym.make(settings.game, render_mode="rgb_array", frameskip=4, repeat_action_probability=settings.sticky)


# %% Three wrappers
# `RecordVideo` is Gymnasium's own: a plain clip. The hook sees every pass of the agent, and the recorder takes from it the decision behind
# each step: the network input and the memory that went in, the logits and the value that came out. `RecordSaliencyVideo` has the parameters
# of `RecordVideo`, so that both clips show the same frames. A recorder without triggers of its own explains just what is being filmed:
# no map is computed before the first of these frames, and none after the last.
def starts(step: int) -> bool:
    """Whether the clips begin at this step."""
    return bool(step == settings.first_frame)


clip: dict[str, Any] = {
    "step_trigger": starts,
    "video_length": settings.last_frame - settings.first_frame + 1,
    "disable_logger": True,
}
hook = RecurrentAgentHook(agent, preprocessor)
environment: gym.Env[Any, Any] = RecordVideo(make_environment(), str(settings.output), name_prefix="plain", **clip)
environment = SaliencyRecorder(environment, hook, mode="deferred")
environment = RecordSaliencyVideo(environment, settings.output, name_prefix="saliency", **clip)

# %% Play
# `hook.act` preprocesses, runs the agent and carries its memory. A loop of your own with your own calls of the model is seen as well.
observation, info = environment.reset(seed=settings.seed)
total = 0.0
with tqdm(range(settings.steps), unit=" steps") as progress:
    for _ in progress:
        action = hook.act(observation)
        observation, reward, terminated, truncated, info = environment.step(action)
        total += float(reward)
        progress.set_postfix({"return": total}, refresh=False)
        if terminated or truncated:
            break
environment.close()  # the last maps are computed and the videos finished
print(f"return: {total:g}")
videos = sorted(settings.output.glob(f"*-step-{settings.first_frame}.mp4"))
for video in videos:
    print(f"wrote: {video}")
if not videos:
    print(f"The game ended after {progress.n} steps, before published frame {settings.first_frame}: no clip.")


# %% One decision
# The agent is greedy and the game seeded, so it plays the same game again; this time a single step is explained, and what the recorder
# says about it is in `info["saliency"]`.
def look(step: int, **method: Any) -> tuple[Any, dict[str, Any]]:
    """The frame on which decision `step` was made, and what `info` says about it; `method` is for the recorder."""
    hook = RecurrentAgentHook(agent, preprocessor)
    environment = SaliencyRecorder(make_environment(), hook, step_trigger=lambda count: count == step, **method)
    observation, info = environment.reset(seed=settings.seed)
    frame = environment.render()
    for _ in range(step + 1):
        frame = environment.render()
        observation, _, terminated, truncated, info = environment.step(hook.act(observation))
        if terminated or truncated:
            break
    environment.close()
    if "saliency" not in info:
        raise SystemExit(f"The game ended before decision {step}. Choose another one with --show.")
    return frame, info["saliency"]


frame, decision = look(settings.show)
print(f"decision {decision['step']}: action {decision['action']}, value {decision['value']:.2f}, logits {decision['logits'].round(2)}")

# %% Plain and overlaid
# Blue is what the choice of the action depends on, red what the expected return depends on. The maps are raw: their magnitude can be
# compared between frames. Drawing scales them.
maps = SaliencyMaps(decision["actor"], decision["critic"])
figure, axes = plt.subplots(1, 4, figsize=(12, 4.3), layout="constrained")
pictures = {
    "what the agent saw": frame,
    "actor": draw(frame, maps, preprocessor, heads=("actor",)),
    "critic": draw(frame, maps, preprocessor, heads=("critic",)),
    "both": draw(frame, maps, preprocessor),
}
for axis, (title, picture) in zip(axes, pictures.items(), strict=True):
    axis.imshow(picture)
    axis.set(title=title, xticks=[], yticks=[])
figure.savefig(settings.output / f"decision-{settings.show}.png", dpi=120)
print(f"wrote: {settings.output / f'decision-{settings.show}.png'}")

# %% Other perturbers
# Any xaitk `PerturbImage` can take the place of the sliding radial masks; nothing else changes. Large masks give coarse maps, random
# ones grainy maps. `method="greydanus2018"` is the 2018 paper's own code: its masks, its grid, its scores.
alternatives: dict[str, dict[str, Any]] = {
    "SlidingWindow": {"perturber": SlidingWindow(window_size=(8, 8), stride=(4, 4))},
    "RISEGrid": {"perturber": RISEGrid(n=settings.masks, s=10, p1=0.8, seed=0, threads=0)},
    "greydanus2018": {"method": "greydanus2018"},
}
pictures = {"SlidingRadial (as above)": draw(frame, maps, preprocessor)}
for title, method in alternatives.items():
    frame, decision = look(settings.show, **method)
    pictures[title] = draw(frame, SaliencyMaps(decision["actor"], decision["critic"]), preprocessor)
figure, axes = plt.subplots(1, 4, figsize=(12, 4.3), layout="constrained")
for axis, (title, picture) in zip(axes, pictures.items(), strict=True):
    axis.imshow(picture)
    axis.set(title=title, xticks=[], yticks=[])
figure.savefig(settings.output / f"perturbers-{settings.show}.png", dpi=120)
print(f"wrote: {settings.output / f'perturbers-{settings.show}.png'}")
