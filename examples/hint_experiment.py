"""Do maps find what an agent is known to look at? Three agents from the same weights, on frames in which a mark tells an action.

    python examples/hint_experiment.py                       # Breakout, the agent that ships with the package
    python examples/hint_experiment.py --game ALE/Pong-v5 --json hints.json

The mark is random. "follows" is trained to take the action that is shown now ("overfit" in Greydanus et al. 2018), "follows late" the one
that was shown a step ago, "control" goes on as the expert and learns that the mark means nothing. The mass of a map in the mark's box
should be large for the first and small for the control; the share of memory small for the first and large for the second.
"""

from __future__ import annotations

import argparse
import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import ale_py
import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saliency_wrappers import ActionHint, Decision, FramePreprocessor, as_adapter, load_pretrained, memory_share
from saliency_wrappers.faithfulness import spaced
from saliency_wrappers.saliency.presets import saliency_method

AGENTS = ("follows", "follows late", "control")
METHODS = ("xaitk", "change_weighted")


@dataclass(frozen=True, eq=False)
class Recorded:
    """One episode of the expert on frames with random marks."""

    inputs: Tensor
    """`(n, 1, 80, 80)`."""
    states: Tensor
    """`(n, 256)`: the expert's incoming states."""
    expert: Tensor
    """`(n,)` int64: what the expert did, without seeing marks."""
    hints: Tensor
    """`(n,)` int64: what the marks showed."""

    def targets(self, agent: str) -> Tensor:
        """What an agent is to do, `(n,)` int64; the first of a late follower is any."""
        return {"follows": self.hints, "follows late": self.hints.roll(1), "control": self.expert}[agent]


def make(game: str, seed: int) -> ActionHint:
    """The game with random marks."""
    return ActionHint(gym.make(game, frameskip=4, repeat_action_probability=0.0), seed=seed)


def record(expert: Any, preprocessor: FramePreprocessor, game: str, steps: int, seed: int) -> Recorded:
    """Let the expert play on clean frames, beside the same frames with marks; several games, if one is too short."""
    env, adapter, rows = make(game, seed), as_adapter(expert), []
    actions = int(cast(gym.spaces.Discrete, env.action_space).n)
    clean, _ = env.env.reset(seed=seed)
    state: Any
    state, random = adapter.initial_state(1), np.random.default_rng(seed)
    for _ in range(steps):
        action, following = act(adapter, preprocessor(clean), state)
        hint = int(random.integers(actions))
        rows.append((torch.as_tensor(preprocessor(env.paint(clean, hint))), state[0], action, hint))
        state = following
        clean, _, terminated, truncated, _ = env.env.step(action)
        if terminated or truncated:
            clean, _ = env.env.reset()
            state = adapter.initial_state(1)
    inputs, states, expert_actions, hints = zip(*rows, strict=True)
    return Recorded(torch.stack(inputs), torch.stack(states), torch.tensor(expert_actions), torch.tensor(hints))


def act(adapter: Any, inputs: NDArray[np.float32], state: Any) -> tuple[int, Any]:
    """The greedy action and the next state."""
    logits, following = adapter.act(torch.as_tensor(inputs)[None], state)
    return int(logits.argmax()), following


def train(expert: Any, recorded: Recorded, agent: str, updates: int, seed: int, length: int = 8, batch: int = 16) -> Any:
    """Clone the targets, starting from the expert's weights, by truncated backpropagation through `length` steps."""
    torch.manual_seed(seed)
    network, random = copy.deepcopy(expert).train(), np.random.default_rng(seed)
    optimiser = torch.optim.Adam(network.parameters(), lr=5e-4)
    targets, last = recorded.targets(agent), len(recorded.inputs) - length
    for _ in range(updates):
        starts = torch.as_tensor(random.integers(1, last, batch))
        state, loss = recorded.states[starts], torch.zeros(())
        for step in range(length):
            _, logits, state = network((recorded.inputs[starts + step], state))
            loss = loss + torch.nn.functional.cross_entropy(logits, targets[starts + step]) / length
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
    return network.eval()


def accuracy(network: Any, recorded: Recorded, agent: str) -> tuple[float, float]:
    """How many of an episode's targets are met, and how many the most frequent target would meet."""
    state, met, targets = network.initial_state(1), [], recorded.targets(agent)
    with torch.no_grad():
        for inputs in recorded.inputs:
            _, logits, state = network((inputs[None], state))
            met.append(int(logits.argmax()))
    right = (torch.tensor(met) == targets).float()[1:].mean()
    return float(right), float(torch.bincount(targets).max() / len(targets))


def play(network: Any, preprocessor: FramePreprocessor, game: str, steps: int, seed: int) -> tuple[list[Decision], list[int]]:
    """One greedy episode with random marks: the decisions, and what each frame's mark showed."""
    env, decisions, hints = make(game, seed), [], []
    adapter: Any = as_adapter(network)
    observation, info = env.reset(seed=seed)
    state = adapter.initial_state(1)
    for _ in range(steps):
        inputs = torch.as_tensor(preprocessor(observation))[None]
        logits, value = adapter.evaluate(inputs, state, None)
        action = logits.argmax(dim=1)
        decisions.append(Decision.of(Decision(inputs, state, logits, value), action))
        hints.append(info["hint"])
        _, state = adapter.act(inputs, state)
        observation, _, terminated, truncated, info = env.step(int(action))
        if terminated or truncated:
            break
    return decisions, hints


def box_mask(game: str, preprocessor: FramePreprocessor) -> NDArray[np.bool_]:
    """`(80, 80)`: where the network input shows the box of the marks."""
    env = make(game, 0)
    top, bottom, left, right = env.box
    frame = np.zeros(cast("tuple[int, ...]", env.observation_space.shape), np.uint8)
    frame[top:bottom, left:right] = 255
    return np.asarray(preprocessor(frame)[0] > 0.05, np.bool_)


def measure(network: Any, agent: str, preprocessor: FramePreprocessor, game: str, settings: argparse.Namespace) -> dict[str, float]:
    """Hints followed, mass of the maps in the box, share of memory; means over decisions of an episode that was not trained on."""
    decisions, hints = play(network, preprocessor, game, settings.play, settings.seed + 2)
    late = agent == "follows late"
    actions = [int(one.action) for one in decisions if one.action is not None]
    followed = np.mean([a == h for a, h in (zip(actions[1:], hints, strict=False) if late else zip(actions, hints, strict=True))])
    adapter, chosen, box = as_adapter(network), spaced(decisions[1:], settings.decisions), box_mask(game, preprocessor)
    made = {"followed": float(followed), "area": float(box.mean())}
    for name in METHODS:
        maps = [np.abs(one.actor) for one in saliency_method(name)(adapter, chosen)]
        made[name] = float(np.mean([one[box].sum() / one.sum() for one in maps if one.sum() > 0]))
    made["memory"] = float(np.mean([memory_share(adapter, one, decisions[::7]).share for one in chosen]))
    return made


def main() -> None:
    """Record, train, measure, print."""
    gym.register_envs(ale_py)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--game", default="ALE/Breakout-v5")
    parser.add_argument("--agent", choices=AGENTS, nargs="+", default=AGENTS, help="which of the three")
    parser.add_argument("--steps", type=int, default=1500, help="of the expert, to train on")
    parser.add_argument("--updates", type=int, default=400)
    parser.add_argument("--play", type=int, default=400, help="steps of each agent's episode")
    parser.add_argument("--decisions", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--save", type=Path, help="folder for the agents' weights")
    settings = parser.parse_args()
    expert, preprocessor = load_pretrained(settings.game)
    recorded = record(expert, preprocessor, settings.game, settings.steps, settings.seed)
    held_out = record(expert, preprocessor, settings.game, settings.play, settings.seed + 1)
    table = {}
    for agent in settings.agent:
        network = train(expert, recorded, agent, settings.updates, settings.seed)
        right, majority = accuracy(network, held_out, agent)
        table[agent] = {"accuracy": right, "majority": majority} | measure(network, agent, preprocessor, settings.game, settings)
        print(agent, " ".join(f"{name} {number:.3f}" for name, number in table[agent].items()), flush=True)
        if settings.save is not None:
            settings.save.mkdir(parents=True, exist_ok=True)
            torch.save(network.state_dict(), settings.save / f"{agent.replace(' ', '-')}.pt")
    if settings.json is not None:
        settings.json.write_text(json.dumps(table, indent=2))


if __name__ == "__main__":
    main()
