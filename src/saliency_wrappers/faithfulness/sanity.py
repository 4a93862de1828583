"""`sanity_check`: whether a method's scores change with the agent's weights (Adebayo et al. 2018), beside a floor."""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from saliency_wrappers.agents.base import AgentAdapter
from saliency_wrappers.decisions import Decision
from saliency_wrappers.saliency.perturbation import PerturbationSaliency
from saliency_wrappers.saliency.scoring import PerturbationScores, chosen_scores

_LEAST_CHANGE = 1e-6


@dataclass(frozen=True)
class SanityCheck:
    """Rank correlations of the scores of masks with those of the same agent with random weights; means over decisions."""

    stages: tuple[str, ...]
    """Which modules are random, from the outputs down: the last of them and all before it."""
    correlations: tuple[float, ...]
    """Of each stage, Spearman's in [-1, 1]. A method that depends on the agent falls towards `floor`."""
    floor: float
    """The correlation between two agents whose weights are all random: what masks and inputs have in common whatever the agent."""


def sanity_check(
    adapter: AgentAdapter, module: nn.Module, decisions: Sequence[Decision], method: PerturbationSaliency, seed: int = 0
) -> SanityCheck:
    """Randomise an agent from its outputs down, and compare the scores of masks that change something.

    Maps as a whole say little: where most of the input is empty they stay alike under any weights, because masks do.

    Args:
        adapter: the agent.
        module: its network, whose parameters are randomised in turn, the last first, and restored.
        decisions: of one row each; the incoming states are held.
        method: its masks, scores and first fill are used. The scores need to be `PerturbationScores`.
        seed: of the random weights.

    Raises:
        TypeError: a generator that gives no scores.
        ValueError: no decisions, or a module without parameters.
    """
    if not isinstance(method.saliency_gen, PerturbationScores):
        raise TypeError(f"Expected a method with PerturbationScores, got {type(method.saliency_gen).__name__}.")
    parts = [(name, part) for name, part in module.named_modules() if list(part.parameters(recurse=False))][::-1]
    if not decisions or not parts:
        raise ValueError(f"Expected decisions and a module with parameters, got {len(decisions)} decisions and {len(parts)} modules.")
    with _restored(module):
        own = _scores(adapter, decisions, method)
        found: list[float] = []
        for index, (_, part) in enumerate(parts):
            _randomise(part, seed + index)
            found.append(_correlation(own, _scores(adapter, decisions, method)))
        floor = _floor(lambda: _scores(adapter, decisions, method), parts, seed)
    return SanityCheck(tuple(name for name, _ in parts), tuple(found), floor)


def _floor(scores: Callable[[], list[NDArray[Any]]], parts: Sequence[tuple[str, nn.Module]], seed: int) -> float:
    """Between the network as it is, wholly random, and with other random weights."""
    first = scores()
    for index, (_, part) in enumerate(parts):
        _randomise(part, seed + len(parts) + index)
    return _correlation(first, scores())


def _scores(adapter: AgentAdapter, decisions: Sequence[Decision], method: PerturbationSaliency) -> list[NDArray[Any]]:
    """Of each decision the scores of all masks; NaN of those that change nothing."""
    made = []
    for decision in decisions:
        outputs = method.outputs(adapter, decision)
        generator: Any = method.saliency_gen
        rows = outputs.policy_logits if generator.reads_policy else outputs.logits
        action = int(decision.logits[0].argmax()) if decision.action is None else int(decision.action.flatten()[0])
        scores = chosen_scores(generator, rows[0], rows[1:], action)
        made.append(np.where(outputs.mask_changes > _LEAST_CHANGE, scores, np.nan))
    return made


def _correlation(one: Sequence[NDArray[Any]], other: Sequence[NDArray[Any]]) -> float:
    """The mean of Spearman's over decisions; 0 of scores that are all the same."""
    from scipy.stats import spearmanr  # takes half a second, which whoever imports the package would wait for

    found = []
    for a, b in zip(one, other, strict=True):
        there = np.isfinite(a) & np.isfinite(b)
        constant = there.sum() < 2 or np.ptp(a[there]) == 0 or np.ptp(b[there]) == 0
        result: Any = None if constant else spearmanr(a[there], b[there])
        found.append(0.0 if result is None else float(result.statistic))
    return float(np.mean(found))


def _randomise(part: nn.Module, seed: int) -> None:
    """Normal weights with the mean and deviation that the parameters have now, so that activations keep their size."""
    with torch.no_grad():
        for index, parameter in enumerate(part.parameters(recurse=False)):
            spread = float(parameter.std()) if parameter.numel() > 1 else 0.0
            random = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1000 * seed + index))
            parameter.copy_((float(parameter.mean()) + spread * random).to(parameter))


@contextmanager
def _restored(module: nn.Module) -> Generator[None]:
    """Give a module its parameters back at the end."""
    kept: dict[str, Tensor] = {name: copy.deepcopy(tensor.detach()) for name, tensor in module.named_parameters()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                parameter.copy_(kept[name])
