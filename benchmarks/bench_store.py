"""What recording into a store costs, what it takes on disk, and how computing scales: `python benchmarks/bench_store.py`.

Whole episodes of a real agent, from making the environment until everything is written and closed, in one process: with nothing, with a
recorder that keeps nothing, with a store, with a store that keeps frames. The ways take turns of a few steps of the same episode and the
same agent: what else the machine does changes within seconds, and so it hits all of them. Ratios compare the whole episodes of one round.
"""

from __future__ import annotations

import itertools
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import ale_py
import click
import gymnasium as gym
import torch
from torch import nn

from saliency_wrappers import (
    EpisodeStore,
    FramePreprocessor,
    PerturbationSaliency,
    RecurrentAgentHook,
    SaliencyRecorder,
    compute_saliency,
    load_checkpoint,
    load_pretrained,
)

ROOT = Path(__file__).resolve().parents[1]
CHECKPOINT = ROOT.parent / "shared" / "agents" / "breakout-v4.model.80.tar"
"""The reference agent. Without it the one that ships with the package is measured."""

OUTPUT = ROOT / "runs" / "bench" / "store.json"
ENV_ID = "ALE/Breakout-v5"
WAYS = ("nothing", "recorder", "store", "store with frames")

TURN, OFFSET = 16, 8
"""Steps in a turn, and by how many the first is shorter: blocks become full amid a turn, and are written before the next way's begins."""

gym.register_envs(ale_py)


@dataclass(frozen=True)
class Lap:
    """One episode, recorded one way."""

    way: str
    round: int
    steps: int
    milliseconds: float
    """Per step, of wall time."""
    bytes: float
    """Per step, on disk."""


@dataclass(frozen=True)
class Scaling:
    """The same blocks, computed by so many workers of one thread each."""

    backend: str
    workers: int
    decisions: int
    seconds: float
    """Without starting the workers, which had computed before."""


@click.command()
@click.option("--rounds", default=8, show_default=True, type=click.IntRange(1), help="How often each way plays the episode.")
@click.option("--steps", default=100_000, show_default=True, type=click.IntRange(1), help="Of an episode, at most.")
@click.option("--decisions", default=1024, show_default=True, type=click.IntRange(0), help="Computed for the scaling. 0: none.")
@click.option("--backends", default="loky,dask,ray", show_default=True, help="For the scaling, comma-separated.")
@click.option("--output", default=OUTPUT, show_default=True, type=click.Path(path_type=Path), help="JSON file.")
def main(rounds: int, steps: int, decisions: int, backends: str, output: Path) -> None:
    """Time recording into a store against playing without one; bytes per step; scaling with one and two workers."""
    torch.set_num_threads(1)
    agent, preprocessor = reference_agent()
    setting = {"machine": platform.platform(), "processors": os.cpu_count(), "torch": torch.__version__, "load before": os.getloadavg()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        laps = [lap for number in range(-1, rounds) for lap in play_round(agent, preprocessor, steps, number, folder) if number >= 0]
        click.echo(overhead_table(laps))
        store = folder / WAYS[-1].replace(" ", "-")
        scalings = [one for backend in backends.split(",") if decisions for one in scale(store, agent, backend, decisions)]
    click.echo(scaling_table(scalings))
    setting["load after"] = os.getloadavg()
    click.echo(f"load: {setting['load before']} to {setting['load after']}")
    report = {"setting": setting, "laps": [asdict(lap) for lap in laps], "scaling": [asdict(one) for one in scalings]}
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    click.echo(f"Written to {output}")


def reference_agent() -> tuple[nn.Module, FramePreprocessor]:
    """The agent and what it is fed with."""
    if CHECKPOINT.exists():
        return load_checkpoint(CHECKPOINT), FramePreprocessor.named("greydanus2018")
    return load_pretrained(ENV_ID)


class Playing:
    """An episode that is played one way, as the published loop does it. Its recorder sees the agent in its own turns only."""

    def __init__(self, way: str, agent: nn.Module, preprocessor: FramePreprocessor, folder: Path) -> None:
        """Make the environment, and begin."""
        self.way, self.steps, self.seconds, self.ended = way, 0, 0.0, False
        self._agent: Any = agent
        self._preprocessor = preprocessor
        self._place = folder / way.replace(" ", "-")
        shutil.rmtree(self._place, ignore_errors=True)
        with self._timed():
            self._env: gym.Env[Any, Any] = gym.make(ENV_ID, frameskip=4, repeat_action_probability=0.0, render_mode="rgb_array")
            if way != WAYS[0]:
                self._env = recorder(self._env, RecurrentAgentHook(agent, preprocessor), way, self._place)
            self._frame, _ = self._env.reset(seed=1)
            self._state = self._agent.initial_state(1)
        self._watch(False)

    def advance(self, steps: int) -> None:
        """Take so many steps, unless the episode ends."""
        self._watch(True)
        with self._timed():
            for _ in range(steps):
                with torch.no_grad():
                    _, logits, self._state = self._agent((torch.from_numpy(self._preprocessor(self._frame))[None], self._state))
                self._frame, _, terminated, truncated, _ = self._env.step(int(logits.argmax()))
                self.steps += 1
                self.ended = terminated or truncated
                if self.ended:
                    break
        self._watch(False)

    def close(self, number: int) -> Lap:
        """Write what there is, and tell what all of it took."""
        with self._timed():
            self._env.close()
        size = sum(file.stat().st_size for file in self._place.rglob("*") if file.is_file())
        return Lap(self.way, number, self.steps, 1000 * self.seconds / self.steps, size / self.steps)

    def _watch(self, enabled: bool) -> None:
        if isinstance(self._env, SaliencyRecorder):
            self._env.enabled = enabled

    @contextmanager
    def _timed(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - start


def play_round(agent: nn.Module, preprocessor: FramePreprocessor, steps: int, number: int, folder: Path) -> Iterator[Lap]:
    """An episode in each way, in turns, each turn beginning with another way. Round -1 warms up, with few steps."""
    steps = steps if number >= 0 else 100
    playing = [Playing(way, agent, preprocessor, folder) for way in WAYS]
    for turn in itertools.count(number):
        for one in rotated(playing, turn):
            one.advance(min(TURN if one.steps else TURN - OFFSET, steps - one.steps))
        if all(one.ended or one.steps == steps for one in playing):
            break
    for one in rotated(playing, number):
        yield one.close(number)


def rotated(playing: list[Playing], turn: int) -> list[Playing]:
    """The same, beginning with another one at each turn, and every other turn the other way round."""
    first = turn % len(playing)
    return (playing[first:] + playing[:first])[:: 1 if turn % 2 else -1]


def recorder(env: gym.Env[Any, Any], hook: RecurrentAgentHook, way: str, place: Path) -> SaliencyRecorder[Any, Any]:
    """The environment, recorded one way."""
    if way == "recorder":
        return SaliencyRecorder(env, hook, step_trigger=lambda step: False)
    return SaliencyRecorder(env, hook, mode="capture", store=EpisodeStore(place, frames=way == "store with frames"))


def overheads(laps: list[Lap], way: str, base: str) -> list[float]:
    """In per cent of the base, of each round."""
    times = {(lap.way, lap.round): lap.milliseconds for lap in laps}
    return [100 * (times[way, number] / times[base, number] - 1) for name, number in times if name == way]


def overhead_table(laps: list[Lap]) -> str:
    """In Markdown: medians of the rounds, with the least and the most."""
    rows = [
        "| way | ms per step | least..most | over nothing | least..most | over recorder | least..most | bytes per step |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for way in WAYS:
        times = [lap.milliseconds for lap in laps if lap.way == way]
        cells = [way, f"{median(times):.3f}", f"{min(times):.3f}..{max(times):.3f}"]
        for base in WAYS[:2]:
            added = overheads(laps, way, base)
            cells += [f"{median(added):+.1f} %", f"{min(added):+.1f}..{max(added):+.1f}"]
        rows.append(f"| {' | '.join(cells)} | {median(lap.bytes for lap in laps if lap.way == way):.0f} |")
    return "\n".join(rows)


def scale(store: Path, agent: nn.Module, backend: str, decisions: int) -> Iterator[Scaling]:
    """One worker, then two; each starts and computes a block before the time is taken."""
    for workers in (1, 2):
        with cluster(backend, workers) as where:
            compute = computing(store, agent, where, workers)
            compute(slice(0, 64 * workers))
            start = time.perf_counter()
            compute(slice(0, decisions))
            yield Scaling(backend, workers, decisions, time.perf_counter() - start)


def computing(store: Path, agent: nn.Module, where: dict[str, Any], workers: int) -> Callable[[slice], Any]:
    """Computes decisions by a tolerance that makes a fingerprint of its own: nothing is there already."""

    def compute(decisions: slice) -> Any:
        method = PerturbationSaliency(tolerance=next(_TOLERANCES), batch_size=64)
        done = compute_saliency(store, agent, method=method, decisions=decisions, n_jobs=workers, **where)
        if done.reused:
            raise ValueError(f"Expected to compute all of {decisions}, but {done.reused} were there.")

    return compute


_TOLERANCES = (number * 1e-12 for number in itertools.count(1))


@contextmanager
def cluster(backend: str, workers: int) -> Iterator[dict[str, Any]]:
    """Workers of this machine; one worker of loky is this process."""
    if backend == "loky":
        yield {"backend": "loky"} if workers > 1 else {"backend": None}
    elif backend == "dask":
        from distributed import Client, LocalCluster

        made = LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None)
        with made, Client(made) as client:
            yield {"backend": "dask", "address": client}
    else:
        import ray

        ray.init(num_cpus=workers, include_dashboard=False, object_store_memory=100_000_000, log_to_driver=False)
        yield {"backend": "ray"}
        ray.shutdown()


def scaling_table(scalings: list[Scaling]) -> str:
    """In Markdown."""
    rows = ["| backend | workers | ms per decision | speed-up |", "| --- | ---: | ---: | ---: |"]
    alone = {one.backend: one.seconds for one in scalings if one.workers == 1}
    for one in scalings:
        rows.append(
            f"| {one.backend} | {one.workers} | {1000 * one.seconds / one.decisions:.1f} | {alone[one.backend] / one.seconds:.2f} |"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    main()
