"""Seconds per decision, actor and critic map, against the ways there were before: `make bench`.

All ways run in one process, in turns, on the same decisions of a real Breakout agent. Every map is compared with those of the way it must
agree with before a time is printed.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import ale_py
import click
import gymnasium as gym
import numpy as np
import torch
from baselines import code_of_2018, published_application, torch_threads
from numpy.typing import NDArray
from torch import nn

from saliency_wrappers import Decision, RecurrentAgentHook, SaliencyMaps, as_adapter, load_checkpoint
from saliency_wrappers.models import GreydanusLSTM
from saliency_wrappers.saliency import PRESETS

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
"""Where the reference agent and its episode lie. Without it a freshly initialised agent is measured."""

OUTPUT = ROOT / "runs" / "bench_saliency.json"

TOLERANCE = 1e-4
"""How far maps that are scaled to [0, 1] may differ."""

PUBLISHED = "published application"
CODE_OF_2018 = "code of 2018"

gym.register_envs(ale_py)


@dataclass(frozen=True)
class Way:
    """One way to compute maps."""

    name: str
    explain: Callable[[Sequence[Decision]], list[SaliencyMaps]]
    agrees_with: str
    """The name of the way whose maps these must equal."""
    slow: bool = False
    """Takes part in each round's first block only."""


@dataclass(frozen=True)
class Block:
    """Decisions that one way after another explains: times within a block are comparable."""

    decisions: Sequence[Decision]
    for_slow_ways: bool


@dataclass(frozen=True)
class Lap:
    """One way's time on one block."""

    way: str
    block: int
    decisions: int
    seconds: float
    """Per decision."""
    difference: float
    """The largest between its scaled maps and those it agrees with; 0 where those were not computed."""


@dataclass(frozen=True)
class Result:
    """What the laps of one way say, for one number of threads."""

    way: str
    threads: int
    decisions: int
    """How many were explained."""
    seconds: float
    """Per decision: the median of the blocks."""
    fastest: float
    slowest: float
    times_faster: dict[str, float]
    """By the name of a baseline: its seconds divided by these, the median of the blocks that both explained."""
    difference: float
    """The largest between its scaled maps and those it agrees with."""


@click.command()
@click.option("--decisions", default=50, show_default=True, type=click.IntRange(1), help="How many decisions, spread over an episode.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="In how many rounds they are explained.")
@click.option("--threads", default="2,1", show_default=True, help="Numbers of threads, comma-separated.")
@click.option("--output", default=OUTPUT, show_default=True, type=click.Path(path_type=Path), help="JSON file.")
def main(decisions: int, rounds: int, threads: str, output: Path) -> None:
    """Time saliency maps against the published application's way and the 2018 way."""
    counts = numbers(threads)
    agent, actions, description = reference_agent()
    with torch_threads(1):
        recorded = record_decisions(agent, actions, decisions)
    rates = {f"matrix products, threads={count}": f"{matrix_product_rate(count):.0f} GFLOP/s" for count in counts}
    setting = {"agent": description, "decisions": len(recorded), "rounds": rounds, **machine(), **rates, "load before": load()}
    click.echo("\n".join(f"{name}: {content}" for name, content in setting.items()))
    results = [result for count in counts for result in compare(ways(agent, count), recorded, rounds, count)]
    setting["load after"] = load()
    click.echo(f"load after: {setting['load after']}\n\n{table(results)}")
    report = {"setting": setting, "results": [asdict(result) for result in results]}
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    click.echo(f"\nWritten to {output}")


def ways(agent: nn.Module, threads: int) -> list[Way]:
    """What is measured, in the order of their turns."""
    adapter = as_adapter(agent)
    xaitk, greydanus2018 = PRESETS["xaitk"](), PRESETS["greydanus2018"]()
    return [
        Way(CODE_OF_2018, lambda decisions: code_of_2018(agent, decisions), CODE_OF_2018, slow=True),
        Way(PUBLISHED, lambda decisions: published_application(agent, decisions, workers=threads), PUBLISHED),
        Way('preset "greydanus2018"', lambda decisions: greydanus2018(adapter, decisions), CODE_OF_2018),
        Way('preset "xaitk" (default)', lambda decisions: xaitk(adapter, decisions), PUBLISHED),
    ]


def compare(ways: Sequence[Way], decisions: Sequence[Decision], rounds: int, threads: int) -> list[Result]:
    """Let all ways explain the same decisions in turns.

    Args:
        ways: what to compare.
        decisions: what to explain, once by each way that is not slow.
        rounds: how many shares they are explained in.
        threads: how many torch uses.

    Returns:
        One result a way, in their order.

    Raises:
        ValueError: maps that must agree do not.
    """
    laps: list[Lap] = []
    for way in ways:
        if not way.slow:  # what happens once is not timed: batch sizes are measured, masks are kept
            with torch_threads(threads):
                way.explain(decisions[:1])
    for number, block in enumerate(blocks(decisions, rounds, multiple=threads)):
        maps: dict[str, list[SaliencyMaps]] = {}
        seconds: dict[str, float] = {}
        turns = [way for way in ways if block.for_slow_ways or not way.slow]
        for way in turns:
            with torch_threads(threads):
                start = time.perf_counter()
                maps[way.name] = way.explain(block.decisions)
                seconds[way.name] = (time.perf_counter() - start) / len(block.decisions)
        laps += [Lap(way.name, number, len(block.decisions), seconds[way.name], checked_difference(way, maps)) for way in turns]
    return [summary(way.name, laps, [way.agrees_with for way in ways], threads) for way in ways]


def blocks(decisions: Sequence[Decision], rounds: int, multiple: int) -> Iterator[Block]:
    """Each round's share of the decisions: a first quarter that slow ways explain, too, and the rest.

    All but one have a `multiple` of decisions, so that a way with a thread for each decision has no idle thread at the end.
    """
    groups = [decisions[start : start + multiple] for start in range(0, len(decisions), multiple)]
    for number in range(min(rounds, len(groups))):
        share = groups[number::rounds]
        quarter = -(-len(share) // 4)
        for part, for_slow_ways in ((share[:quarter], True), (share[quarter:], False)):
            if part:
                yield Block([decision for group in part for decision in group], for_slow_ways)


def checked_difference(way: Way, maps: dict[str, list[SaliencyMaps]]) -> float:
    """How far a way's scaled maps are from those they must equal; `ValueError` where that is more than `TOLERANCE`."""
    if way.agrees_with not in maps:
        return 0.0
    pairs = zip(maps[way.name], maps[way.agrees_with], strict=True)
    difference = max(float(np.abs(scaled(a) - scaled(b)).max()) for pair in pairs for a, b in zip(*map(heads, pair), strict=True))
    if not difference <= TOLERANCE:
        raise ValueError(f"Expected the maps of {way.name} within {TOLERANCE:g} of those of {way.agrees_with}, got {difference:.3g}.")
    return difference


def heads(maps: SaliencyMaps) -> list[NDArray[np.float32]]:
    """The actor's map, and the critic's if there is one."""
    return [saliency for saliency in (maps.actor, maps.critic) if saliency is not None]


def scaled(saliency: NDArray[np.float32]) -> NDArray[np.float32]:
    """The map from its own least value at 0 to its largest at 1; zeros where it is constant."""
    return (saliency - saliency.min()) / (np.ptp(saliency) or 1.0)


def summary(way: str, laps: Sequence[Lap], baselines: Sequence[str], threads: int) -> Result:
    """One way's medians, and how much faster than each baseline it is, block by block."""
    own = {lap.block: lap for lap in laps if lap.way == way}
    seconds = [lap.seconds for lap in own.values()]
    return Result(
        way=way,
        threads=threads,
        decisions=sum(lap.decisions for lap in own.values()),
        seconds=median(seconds),
        fastest=min(seconds),
        slowest=max(seconds),
        times_faster={
            baseline: median(lap.seconds / own[lap.block].seconds for lap in laps if lap.way == baseline and lap.block in own)
            for baseline in dict.fromkeys(baselines)
        },
        difference=max(lap.difference for lap in own.values()),
    )


def table(results: Sequence[Result]) -> str:
    """The results as a Markdown table."""
    baselines = list(results[0].times_faster)
    ratios = [f"times faster than the {name}" for name in baselines]
    titles = ["threads", "way", "ms per decision", "min..max", *ratios, "decisions", "difference"]
    lines = [titles, ["---:", "---", *(["---:"] * (len(titles) - 2))]]
    for result in results:
        spread = f"{1000 * result.fastest:.1f}..{1000 * result.slowest:.1f}"
        ratios = [f"{result.times_faster[name]:.1f}" for name in baselines]
        cells = [f"{1000 * result.seconds:.1f}", spread, *ratios, str(result.decisions), f"{result.difference:.1e}"]
        lines.append([str(result.threads), result.way, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def reference_agent() -> tuple[nn.Module, NDArray[Any], str]:
    """The agent that is measured, the actions of its episode, and what it is."""
    checkpoint = SHARED / "agents" / "breakout-v4.model.80.tar"
    episode = SHARED / "reference" / "breakout.npz"
    if checkpoint.is_file() and episode.is_file():
        with np.load(episode) as arrays:
            return load_checkpoint(checkpoint), arrays["actions"], checkpoint.name
    actions = np.random.default_rng(1).integers(4, size=1500)
    return fresh_agent(), actions, f"a freshly initialised GreydanusLSTM: there is no reference agent in {SHARED}"


def fresh_agent() -> nn.Module:
    """An agent that learned nothing, but whose outputs depend on its input well above the rounding errors."""
    agent = GreydanusLSTM(num_actions=4).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in agent.parameters():
        if parameter.ndim > 1:
            nn.init.orthogonal_(parameter, gain=2.0, generator=generator)
        else:
            nn.init.zeros_(parameter)
    return agent


def record_decisions(agent: nn.Module, actions: NDArray[Any], count: int) -> list[Decision]:
    """Play Breakout with these actions and take `count` of the agent's decisions (or as many as there are), evenly spread."""
    env = gym.make("ALE/Breakout-v5", frameskip=4, repeat_action_probability=0.0)
    every = max(1, len(actions) // count)
    decisions: list[Decision] = []
    with RecurrentAgentHook(agent, preprocessor="greydanus2018") as hook:
        window = hook.open_window(num_envs=1)
        frame, _ = env.reset(seed=1)
        for step, action in enumerate(actions[: every * count]):
            hook.act(frame)
            decided = hook.take(window)
            if step % every == 0 and decided is not None:
                decisions.append(Decision.of(decided))
            frame, _, terminated, truncated, _ = env.step(int(action))
            if terminated or truncated:
                frame, _ = env.reset()
                hook.new_episode()
    env.close()
    return decisions


def numbers(text: str) -> list[int]:
    """The numbers of threads in a comma-separated list."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise click.BadParameter(f"Expected numbers of threads such as 2,1, got {text!r}.")
    return [int(part) for part in parts]


def machine() -> dict[str, str]:
    """What the times are measured on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": f"{models[0] if models else platform.processor()}, {os.cpu_count()} cores",
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}",
    }


def load() -> str:
    """How busy the machine is: times that are measured beside other work mislead."""
    return ", ".join(f"{average:.2f}" for average in os.getloadavg()) if hasattr(os, "getloadavg") else "unknown"


def matrix_product_rate(threads: int, size: int = 768) -> float:
    """The fastest of ten matrix products, in GFLOP/s: what the arithmetic of this machine can do at this moment."""
    matrix = torch.ones(size, size)
    seconds: list[float] = []
    with torch_threads(threads):
        for _ in range(10):
            start = time.perf_counter()
            torch.mm(matrix, matrix)
            seconds.append(time.perf_counter() - start)
    return 2e-9 * size**3 / min(seconds)


if __name__ == "__main__":
    main()
