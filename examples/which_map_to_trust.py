"""Which map can be trusted? Plays an Atari agent and prints how faithful each method's maps are, beside controls that know nothing of it.

    python examples/which_map_to_trust.py                                                     # the agent that ships with the package
    python examples/which_map_to_trust.py --game ALE/Pong-v5 --checkpoint pong.tar --json pong.json

`docs/faithfulness.md` explains the numbers.
"""

import argparse
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import ale_py
import gymnasium as gym
import numpy as np
import torch
from scipy.stats import spearmanr

from saliency_wrappers import (
    SARFA,
    AgentAdapter,
    Background,
    Decision,
    FramePreprocessor,
    GaussianBlur,
    KLDivergence,
    LeaveOneOut,
    ObjectShapley,
    PerturbationSaliency,
    ProbabilityDrop,
    as_adapter,
    evaluate,
    load_checkpoint,
    load_pretrained,
    map_confidence,
)
from saliency_wrappers.faithfulness import CurveMaker, area, pixel_order, spaced

gym.register_envs(ale_py)


def play(
    agent: torch.nn.Module, preprocessor: FramePreprocessor, game: str, seed: int, steps: int, random_start: int = 0
) -> list[Decision]:
    """One greedy episode after so many random actions: every decision with its incoming state."""
    decisions = []
    adapter: Any = as_adapter(agent)
    environment = gym.make(game, frameskip=4, repeat_action_probability=0.0)
    observation, _ = environment.reset(seed=seed)
    random, actions = np.random.default_rng(seed), cast(gym.spaces.Discrete, environment.action_space)
    for _ in range(random_start):
        observation, *_ = environment.step(int(random.integers(int(actions.n))))
    state = adapter.initial_state(1)
    for _ in range(steps):
        inputs = torch.as_tensor(preprocessor(observation))[None]
        with torch.inference_mode():
            logits, value = adapter.evaluate(inputs, state, None)
            _, following = adapter.act(inputs, state)
        action = logits.argmax(dim=1)
        decisions.append(Decision.of(Decision(inputs, state, logits, value), action))
        state = following
        observation, _, terminated, truncated, _ = environment.step(int(action))
        if terminated or truncated:
            break
    environment.close()
    return decisions


def methods(background: Background) -> dict[str, Any]:
    """The methods to compare, fixed before anything is measured."""
    blur, kl = GaussianBlur(3), KLDivergence()
    return {
        "default (xaitk)": PerturbationSaliency(),
        "greydanus2018": "greydanus2018",
        "change, blur, KL": "change_weighted",
        "change, background, KL": PerturbationSaliency(saliency_gen=kl, fill=background, weighting="change"),
        "change, two fills, KL": PerturbationSaliency(saliency_gen=kl, fill=(blur, background), weighting="change"),
        "coverage, blur, KL": PerturbationSaliency(saliency_gen=kl),
        "SARFA": PerturbationSaliency(saliency_gen=SARFA()),
        "probability drop": PerturbationSaliency(saliency_gen=ProbabilityDrop()),
        "object Shapley": ObjectShapley(background),
        "leave one out": LeaveOneOut(background),
    }


def confidence_rank(adapter: AgentAdapter, decisions: list[Decision], background: Background) -> float:
    """Spearman of the confidence with the measured fidelity of change-weighted maps, where there is something to explain."""
    method = PerturbationSaliency(saliency_gen=KLDivergence(), weighting="change")
    random = np.random.default_rng(0)
    fills: dict[str, Any] = {"blur": GaussianBlur(3), "background": background}
    pairs = []
    for decision, maps in zip(decisions, method(adapter, decisions), strict=True):
        confidence = map_confidence(adapter, decision, maps.actor, background)
        curves = CurveMaker(adapter, decision, fills).curves(pixel_order(maps.actor, random))
        missing = np.mean([area(one.policy, "log") for (_, direction), one in curves.items() if direction == "insertion"])
        if confidence.explains:
            pairs.append((confidence.value, -missing))
    confidences, fidelities = zip(*pairs, strict=True)
    rank: Any = spearmanr(confidences, fidelities)
    return float(rank.statistic)


def main() -> None:
    """Play, measure, print."""
    parser = argparse.ArgumentParser(description="Print how faithful each method's maps are.")
    parser.add_argument("--game", default="ALE/Breakout-v5")
    parser.add_argument("--checkpoint", type=Path, help="a file, or a folder with checkpoints (default: the bundled agent)")
    parser.add_argument("--preprocessor", default="greydanus2018", help="of a checkpoint")
    parser.add_argument("--decisions", type=int, default=100)
    parser.add_argument("--steps", type=int, default=2000, help="leave the episode after so many")
    parser.add_argument("--seed", type=int, default=1, help="of the environment")
    parser.add_argument(
        "--random-start", type=int, default=0, help="so many random actions first: without, a greedy episode has no chance in it"
    )
    parser.add_argument("--json", type=Path, help="also write every metric there")
    parser.add_argument("--resamples", type=int, default=2000)
    settings = parser.parse_args()
    agent: Any
    if settings.checkpoint is None:
        agent, preprocessor = load_pretrained(settings.game)
    else:
        agent, preprocessor = load_checkpoint(settings.checkpoint), FramePreprocessor.named(settings.preprocessor)
    adapter = as_adapter(agent)
    episode = play(agent, preprocessor, settings.game, settings.seed, settings.steps, settings.random_start)
    chosen, background = spaced(episode, settings.decisions), Background(episode)
    started = perf_counter()
    card = evaluate(adapter, chosen, methods(background), background=background, resamples=settings.resamples)
    print(f"{settings.game}, seed {settings.seed}: {len(chosen)} of {len(episode)} decisions, {perf_counter() - started:.0f} s")
    print(card.table())
    print(f"Spearman of confidence and fidelity: {confidence_rank(adapter, chosen, background):.2f}")
    if settings.json is not None:
        settings.json.write_text(card.to_json())


if __name__ == "__main__":
    main()
