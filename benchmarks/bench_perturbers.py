"""Plain against exact: other perturbers, and growth with masks, frames and image size: `python benchmarks/bench_perturbers.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import cv2
import torch
from cases import breakout_player, recorded, responsive
from comparing import Result, Way, compare, deferred, inline, of_the_peak
from machine import facts, load
from measuring import torch_threads
from reporting import FOLDER, markdown, milliseconds, say, thread_counts, times, write
from torch import Tensor, nn
from xaitk_saliency.interfaces.perturb_image import PerturbImage

from saliency_wrappers import Decision, PerturbationSaliency, as_adapter
from saliency_wrappers.cli.perturbers import named_perturber
from saliency_wrappers.saliency.method import SaliencyMethod

SIZES = (42, 84, 168)
"""Heights and widths of the images that growth is measured on."""

STRIDES = (10, 5, 3, 2)
"""Of `SlidingRadial`: 81 to 1681 masks on 80x80."""


@dataclass(frozen=True)
class Setting:
    """What plain and exact are compared in."""

    name: str
    perturber: PerturbImage
    agent: nn.Module
    decisions: Sequence[Decision]
    together: bool = False
    """Whether all decisions of a block are explained in one call."""


@dataclass(frozen=True)
class Measured:
    """A setting's results."""

    group: str
    setting: str
    masks: int
    share: float
    """How many of the pixels the masks of the first decision change."""
    path: str
    """The one that the default took."""
    results: list[Result]


class FullyConvolutional(nn.Module):
    """Convolutions and a GRU for images of any one size, `(n, 1, size, size)`."""

    def __init__(self, size: int) -> None:
        super().__init__()
        layers = [(nn.Conv2d(1 if i == 0 else 32, 32, 3, stride=2, padding=1), nn.ELU()) for i in range(4)]
        self.convolutions = nn.Sequential(*(part for layer in layers for part in layer))
        self.gru = nn.GRUCell(32 * (-(-size // 16)) ** 2, 64)
        self.critic = nn.Linear(64, 1)
        self.actor = nn.Linear(64, 4)

    def forward(self, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Value, logits and state."""
        x, state = inputs
        state = self.gru(self.convolutions(x).flatten(1), state)
        return self.critic(state), self.actor(state), state


@click.command()
@click.option("--decisions", default=8, show_default=True, type=click.IntRange(1), help="How many, spread over an episode.")
@click.option("--rounds", default=2, show_default=True, type=click.IntRange(1), help="In how many blocks they are explained.")
@click.option("--threads", default="2,1", show_default=True, help="Numbers of threads, comma-separated.")
@click.option("--output", default=FOLDER / "perturbers.json", show_default=True, type=click.Path(path_type=Path), help="JSON file.")
def main(decisions: int, rounds: int, threads: str, output: Path) -> None:
    """Time the dense path against the default."""
    counts = thread_counts(threads)
    player = breakout_player()
    setting: dict[str, Any] = {"agent": player.description, "decisions": decisions, **facts(), "load before": load()}
    say(setting)
    with torch_threads(1):
        own = recorded(player, decisions)
    measured: list[Measured] = []
    for group, settings in groups(player.agent, own).items():
        for count in counts:
            here = [measure(group, one, rounds, count) for one in settings]
            click.echo(f"\n### {group}, {count} thread{'s' * (count > 1)}\n\n{table(here)}")
            measured += here
    setting["load after"] = load()
    say({"\nload after": setting["load after"]})
    write({"setting": setting, "measured": [asdict(one) for one in measured]}, output)


def groups(agent: nn.Module, decisions: Sequence[Decision]) -> dict[str, list[Setting]]:
    """The settings by what differs between them."""
    size = (80, 80)
    perturbers = {
        "SlidingRadial (5, 5)": named_perturber("sliding-radial", size),
        "SlidingRadial, stride (2, 2)": named_perturber("sliding-radial", size, stride=(2, 2)),
        "SlidingWindow (10, 10)/(5, 5)": named_perturber("sliding-window", size),
        "RISE, 1000 masks": named_perturber("rise", size, n=1000),
    }
    radial = perturbers["SlidingRadial (5, 5)"]
    strides = {stride: named_perturber("sliding-radial", size, stride=(stride, stride)) for stride in STRIDES}
    frames = sorted({min(count, len(decisions)) for count in (1, 2, 4, 8, 16)})
    return {
        "perturbers": [Setting(name, perturber, agent, decisions) for name, perturber in perturbers.items()],
        "growth with masks": [Setting(f"stride {stride}", perturber, agent, decisions) for stride, perturber in strides.items()],
        "growth with frames in one call": [Setting(f"{n} at once", radial, agent, decisions[:n], together=True) for n in frames],
        "growth with image size": [of_size(size, decisions) for size in SIZES],
    }


def of_size(size: int, decisions: Sequence[Decision]) -> Setting:
    """The same number of masks of the same extent, on images that are enlarged to `size`, and a network for them."""
    agent = responsive(FullyConvolutional(size))
    stride = size // 14
    perturber = named_perturber("sliding-radial", (size, size), stride=(stride, stride))
    return Setting(f"{size}x{size}", perturber, agent, [enlarged(agent, decision, size) for decision in decisions])


def enlarged(agent: nn.Module, decision: Decision, size: int) -> Decision:
    """What an agent decides at its first step, on a decision's image that is stretched to `size`."""
    image = cv2.resize(decision.inputs[0, 0].numpy(), (size, size), interpolation=cv2.INTER_AREA)
    inputs, state = torch.from_numpy(image)[None, None], torch.zeros(1, 64)
    with torch.no_grad():
        value, logits, _ = agent((inputs, state))
    return Decision(inputs, state, logits, value)


def measure(group: str, setting: Setting, rounds: int, threads: int) -> Measured:
    """Time one setting on both paths. What is explained in one call is explained anew in each round."""
    adapter = as_adapter(setting.agent)
    plain, exact = (PerturbationSaliency(setting.perturber, path=path) for path in ("plain", "auto"))
    ways = [
        Way("plain", _calls(setting, plain), "exact", of_the_peak, warm_up=1),
        Way("exact", _calls(setting, exact), "plain", of_the_peak),
    ]
    if setting.together:
        results = compare(
            ways, list(setting.decisions) * rounds, rounds, threads=threads, baselines=["plain"], multiple=len(setting.decisions)
        )
    else:
        results = compare(ways, setting.decisions, rounds, threads, baselines=["plain"])
    plan = exact.plan(adapter, setting.decisions[0])
    return Measured(group, setting.name, plan.masks, plan.share, plan.path, results)


def _calls(setting: Setting, method: SaliencyMethod) -> Any:
    return (deferred if setting.together else inline)(method, as_adapter(setting.agent))


def table(measured: Sequence[Measured]) -> str:
    """The results as a Markdown table."""
    titles = ["", "masks", "pixels changed", "path", "plain, ms per decision", "least..most", "exact, ms per decision", "least..most"]
    rows = []
    for one in measured:
        plain, exact = one.results
        about = [one.setting, str(one.masks), f"{one.share:.0%}", one.path]
        spent = [*milliseconds(plain.seconds), *milliseconds(exact.seconds)]
        rows.append([*about, *spent, times(exact.times_faster["plain"]), f"{exact.difference:.1e}"])
    return markdown([*titles, "times faster", "difference: most"], rows)


if __name__ == "__main__":
    main()
