"""How equal are our maps to those of the sources? `python benchmarks/compare_with_sources.py [--decisions 12]`.

Compares, on decisions of the bundled Breakout agent: captum's Occlusion and FeatureAblation where windows coincide, the published xaitk
application, and the scores of the 2018 code; and measures how far the 2018 code's grid of 17x17 displaces a score. Prints a Markdown table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import ale_py
import click
import cv2
import gymnasium as gym
import numpy as np
import torch
from baselines import code_of_2018, published_application
from numpy.typing import NDArray
from torch import Tensor, nn
from xaitk_saliency.interfaces.perturb_image import PerturbImage

from saliency_wrappers import (
    AgentAdapter,
    Background,
    Decision,
    GaussianBlur,
    LeaveOneOut,
    LogitDrop,
    PerturbationSaliency,
    RecurrentAgentHook,
    SaliencyMaps,
    as_adapter,
    load_pretrained,
)
from saliency_wrappers.saliency.policy_scores import centred_logits
from saliency_wrappers.saliency.presets import PRESETS
from saliency_wrappers.states import map_state

ENV_ID = "ALE/Breakout-v5"
EVERY = 25
"""Decisions between two that are compared."""
Array = NDArray[np.float32]

gym.register_envs(ale_py)


@dataclass(frozen=True)
class Row:
    """One comparison."""

    source: str
    ours: str
    difference: float
    """The largest difference of two maps, relative to the largest value of the source's."""
    maps: int

    def __str__(self) -> str:
        return f"| {self.source} | {self.ours} | {self.maps} | {self.difference:.1e} |"


class Windows(PerturbImage):
    """Square windows of 0 in masks of 1, at the places where captum's Occlusion has them."""

    def __init__(self, size: int, stride: int) -> None:
        """Choose the windows, in pixels."""
        self.size, self.stride = size, stride

    def perturb(self, ref_image: Array) -> Array:
        """Masks `(n, h, w)` for an image `(h, w)` or `(h, w, C)`; the last windows may reach over the edge, as captum's do."""
        height, width = ref_image.shape[:2]
        starts = [range(0, -(-(size - self.size) // self.stride) * self.stride + 1, self.stride) for size in (height, width)]
        masks = np.ones((len(starts[0]) * len(starts[1]), height, width), np.float32)
        for mask, (y, x) in zip(masks, ((y, x) for y in starts[0] for x in starts[1]), strict=True):
            mask[y : y + self.size, x : x + self.size] = 0
        return masks

    def get_config(self) -> dict[str, int]:
        """The constructor's arguments."""
        return {"size": self.size, "stride": self.stride}


def play(agent: nn.Module, decisions: int) -> list[Decision]:
    """Every `EVERY`-th decision of a greedy episode."""
    hook = RecurrentAgentHook(agent, load_pretrained(ENV_ID)[1])
    env, adapter, kept = gym.make(ENV_ID), as_adapter(agent), []
    frame, _ = env.reset(seed=0)
    state = adapter.initial_state(1)
    while len(kept) < decisions * EVERY:
        x = torch.as_tensor(hook.preprocessor(frame))[None]
        with torch.no_grad():
            value, logits, following = agent((x, state))
        kept.append(Decision(x, state, logits, value))
        state = following
        frame, _, terminated, truncated, _ = env.step(int(logits.argmax()))
        if terminated or truncated:
            break
    env.close()
    hook.close()
    return kept[EVERY // 2 :: EVERY]


def of_chosen(adapter: AgentAdapter, decision: Decision) -> tuple[int, Callable[[Tensor], Tensor]]:
    """The greedy action, and its centred logit `(n,)` as a function of inputs `(n, C, h, w)`: what captum attributes."""
    action = int(decision.logits.argmax())

    def forward(inputs: Tensor) -> Tensor:
        logits, _ = adapter.evaluate(inputs, adapter.repeat_state(decision.state, len(inputs)), None)
        return torch.as_tensor(centred_logits(logits.detach().numpy())[:, action])

    return action, forward


def occlusion(adapter: AgentAdapter, decisions: Sequence[Decision], size: int, stride: int) -> Row:
    """Occlusion (captum) against sliding windows of ours."""
    from captum.attr import Occlusion

    pairs = []
    for decision in decisions:
        action, forward = of_chosen(adapter, decision)
        fill = torch.as_tensor(GaussianBlur(3)(decision.inputs[0].numpy()))[None]
        theirs = Occlusion(forward).attribute(decision.inputs, (1, size, size), strides=(1, stride, stride), baselines=fill)
        ours = PerturbationSaliency(Windows(size, stride), LogitDrop(action), GaussianBlur(3))(adapter, [decision])[0].actor
        pairs.append((theirs[0, 0].numpy(), ours))
    dtype = str(decisions[0].inputs.dtype).removeprefix("torch.")
    return row(f"captum `Occlusion`, windows of {size}, stride {stride}, {dtype}", "`LogitDrop`, the same windows", pairs)


def in_double(agent: nn.Module, decisions: Sequence[Decision]) -> tuple[nn.Module, list[Decision]]:
    """The same in float64, where rounding does not hide other differences."""
    exact = deepcopy(agent).double()

    def double(tree: Any) -> Any:
        return map_state(lambda leaf: leaf.double(), tree)

    return exact, [Decision(double(one.inputs), double(one.state), double(one.logits), double(one.value)) for one in decisions]


def ablation(adapter: AgentAdapter, decisions: Sequence[Decision], background: Background) -> Row:
    """FeatureAblation (captum) of objects against `LeaveOneOut`."""
    from captum.attr import FeatureAblation

    method, pairs = LeaveOneOut(background, game="logit"), []
    for decision in decisions:
        found = method.explain(adapter, decision)[0]
        _, forward = of_chosen(adapter, decision)
        fill = torch.as_tensor(background(decision.inputs[0].numpy()))[None]
        inside = torch.as_tensor(found.segments > 0)
        shown = torch.where(inside, decision.inputs, fill)  # objects on the background: the game's grand coalition
        mask = torch.as_tensor(found.segments)[None, None]
        theirs = FeatureAblation(forward).attribute(shown, baselines=fill, feature_mask=mask)[0, 0].numpy()
        ours = np.append(0.0, found.phi)[found.segments]
        pairs.append((np.where(found.segments > 0, theirs, 0), ours))
    return row("captum `FeatureAblation` of objects, float32", '`LeaveOneOut(game="logit")`', pairs)


def unit(saliency: Array) -> Array:
    """From its own min..max to 0..1, as xaitk rescales."""
    return (saliency - saliency.min()) / (saliency.max() - saliency.min())


def row(source: str, ours: str, pairs: Sequence[tuple[Array, Array]]) -> Row:
    """The comparison of the source's maps with ours."""
    largest = max(float(np.abs(theirs - own).max() / np.abs(theirs).max()) for theirs, own in pairs)
    return Row(source, ours, largest, len(pairs))


def heads(theirs: Sequence[SaliencyMaps], ours: Sequence[SaliencyMaps]) -> list[tuple[Array, Array]]:
    """Maps of actor and critic in pairs."""
    return [(getattr(a, head), getattr(b, head)) for a, b in zip(theirs, ours, strict=True) for head in ("actor", "critic")]


def published(agent: nn.Module, decisions: Sequence[Decision]) -> Row:
    """The xaitk application's maps, which are stretched to [0, 1]."""
    ours = PRESETS["xaitk"]()(as_adapter(agent), decisions)
    pairs = heads(published_application(agent, decisions, 1), ours)
    return row("the published xaitk application", 'preset `"xaitk"`, rescaled', [(a, unit(b)) for a, b in pairs])


def paper(agent: nn.Module, decisions: Sequence[Decision]) -> Row:
    """The 2018 code's scores, both enlarged from the grid of 16x16."""
    ours = PRESETS["greydanus2018"]()(as_adapter(agent), decisions)
    return row("the scores of the 2018 code", 'preset `"greydanus2018"`', heads(code_of_2018(agent, decisions), ours))


def displacement(cells: int = 16, size: int = 80) -> tuple[float, float]:
    """How far, in pixels, the 17x17 grid moves the first and the last of 16 scores: centres of mass of a single score's picture."""
    moved = []
    for cell in (0, cells - 1):
        centres = []
        for grid in (cells, cells + 1):
            scores = np.zeros((grid, grid), np.float32)
            scores[cell, cells // 2] = 1
            rows = cv2.resize(scores, (size, size), interpolation=cv2.INTER_LINEAR).sum(axis=1)
            centres.append(float(rows.argmax()) if cell == 0 else float((rows * np.arange(size)).sum() / rows.sum()))
        moved.append(centres[0] - centres[1])
    return moved[0], moved[1]


def compare(decisions: int) -> list[Row]:
    """All comparisons."""
    agent, _ = load_pretrained(ENV_ID)
    adapter, sample = as_adapter(agent), play(agent, decisions)
    exact, exact_sample = in_double(agent, sample)
    return [
        occlusion(adapter, sample, 10, 10),
        occlusion(as_adapter(exact), exact_sample, 10, 10),
        occlusion(adapter, sample, 10, 5),
        occlusion(as_adapter(exact), exact_sample, 10, 5),
        ablation(adapter, sample, Background(sample)),
        published(agent, sample),
        paper(agent, sample),
    ]


@click.command()
@click.option("--decisions", default=12, show_default=True, help="How many to compare.")
def main(decisions: int) -> None:
    """Print the table."""
    click.echo("| source | ours | maps | largest difference, relative to the map's largest value |\n| --- | --- | ---: | ---: |")
    for one in compare(decisions):
        click.echo(str(one))
    first, last = displacement()
    click.echo(f"\nThe grid of 17x17 moves the first score by {first:.1f} pixels and the last by {last:.1f}.")


if __name__ == "__main__":
    main()
