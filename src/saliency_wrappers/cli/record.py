"""The command line: `saliency-wrappers record` plays an agent and films what it looks at, `saliency-wrappers info` says what is installed.

A shell around `playing`: it reads options, turns failures into one line and an exit code, and prints what came of it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import gymnasium as gym
import numpy as np
import torch

from saliency_wrappers.cli.evaluate import evaluate
from saliency_wrappers.cli.film_training import film_training
from saliency_wrappers.cli.filming import Cameras
from saliency_wrappers.cli.installation import installation, package_version
from saliency_wrappers.cli.options import (
    INTERRUPTED,
    Failed,
    FiniteRange,
    Misused,
    agent_for,
    check_size,
    drawing_options,
    failures,
    parameter_option,
    perturber_for,
    progress_bar,
    warnings_in_one_line,
)
from saliency_wrappers.cli.perturbers import PERTURBERS
from saliency_wrappers.cli.player import Player, check_agent, make_game
from saliency_wrappers.cli.store import compute, inspect, render
from saliency_wrappers.cli.view import view
from saliency_wrappers.hooks.hook import RecurrentAgentHook
from saliency_wrappers.preprocessing import PREPROCESSORS
from saliency_wrappers.recording.options import Mode
from saliency_wrappers.saliency.presets import METHODS
from saliency_wrappers.store.store import EpisodeStore
from saliency_wrappers.video.bars import BAR_WIDTH
from saliency_wrappers.video.overlay import Scale
from saliency_wrappers.video.painter import DrawingOptions
from saliency_wrappers.viewer.server import view as start_viewer
from saliency_wrappers.wrappers.features import feature_names, is_vector, method_for


@dataclass(frozen=True)
class RecordOptions:
    """What `record` was asked for: each field is the option of its name."""

    env_id: str
    checkpoint: Path | None
    preprocessor: str | None
    seed: int
    steps: int
    episodes: int
    greedy: bool
    sticky: float | None
    frameskip: int | None
    start: int
    end: int | None
    method: str | None
    perturber: str | None
    perturber_option: dict[str, Any]
    mode: Mode
    threads: int | None
    store: str | None
    output: Path
    raw: bool
    png: tuple[int, ...]
    style: str
    scale: Scale
    panels: bool
    strip: bool
    zoom: int
    live: bool
    browser: bool
    progress: bool

    @property
    def cameras(self) -> Cameras:
        """What is filmed."""
        drawing = DrawingOptions(self.style, self.scale, panels=self.panels, strip=self.strip, zoom=self.zoom)
        return Cameras(self.output, self.start, self.end, self.raw, frozenset(self.png), drawing)


@click.group(context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.version_option(package_version(), prog_name="saliency-wrappers")
def main() -> None:
    """See what reinforcement-learning agents look at."""


@main.command()
@click.argument("env_id")
@click.option(
    "--checkpoint",
    type=click.Path(exists=True, path_type=Path),
    help="Agent: a file, or a folder, from which the highest step is taken.  [default: the agent that ships with this package]",
)
@click.option(
    "--preprocessor", type=click.Choice(PREPROCESSORS), help="From frame to network input.  [default: what the agent was trained with]"
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**31 - 1),
    default=0,
    help="Of the environment (episode i gets SEED + i), sampling and random masks.",
)
@click.option("--steps", type=click.IntRange(1), default=3000, help="Leave an episode after so many decisions.")
@click.option("--episodes", type=click.IntRange(1), default=1, help="How many to play.")
@click.option("--greedy/--sample", default=True, help="Take the most probable action, or sample.")
@click.option(
    "--sticky", type=FiniteRange(0, 1), help="Atari: probability that the last action is repeated.  [default: the environment's own]"
)
@click.option("--frameskip", type=click.IntRange(1, 10_000), help="Atari: frames for each action.  [default: the environment's own]")
@click.option("--start", type=click.IntRange(0), default=0, help="First decision to explain and film, counted from 0.")
@click.option(
    "--end",
    type=click.IntRange(1),
    help="First decision no longer explained and filmed: exclusive. The published frames 638 to 1238 are --start 639 --end 1240.",
)
@click.option("--method", type=click.Choice(sorted(METHODS)), help="How maps are made.  [default: xaitk, or features for vectors]")
@click.option("--perturber", type=click.Choice(list(PERTURBERS)), help="Masks.  [default: the method's own]")
@click.option(
    "--perturber-option",
    metavar="KEY=VALUE",
    multiple=True,
    callback=parameter_option,
    help="Parameter of the perturber's class in xaitk, as in stride=5,5. Repeatable.",
)
@click.option("--mode", type=click.Choice(["inline", "deferred"]), default="inline", help="Make maps at each step, or in blocks.")
@click.option("--threads", type=click.IntRange(1, 1024), help="Of the processor, for PyTorch.  [default: PyTorch's own]")
@click.option("--store", metavar="PATH|URL", help="Instead of filming, keep decisions and frames here, for compute and render.")
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), default=Path("videos"), help="Folder for what is written.")
@click.option("--raw/--no-raw", default=True, help="Also film the whole episode as it was.")
@click.option(
    "--png", metavar="STEP", type=click.IntRange(0), multiple=True, help="Also picture this decision: frame, actor, critic. Repeatable."
)
@drawing_options
@click.option("--live", is_flag=True, help="Also serve a page to this machine that follows the recording; closing it stops nothing.")
@click.option("--browser/--no-browser", default=True, help="Open the page of --live in the browser.")
@click.option("--progress/--no-progress", default=True, help="Progress on stderr.")
def record(**options: Any) -> None:
    """Play ENV_ID and film what the agent looks at.

    The actor's map is blue, the critic's red. Exit codes: 0 all done, 1 failed, 2 wrong usage, 130 Ctrl-C (videos are finished).
    """
    try:
        with warnings_in_one_line():
            _record(RecordOptions(**options))
    except KeyboardInterrupt:
        click.echo("Interrupted; what was recorded is finished.", err=True)
        sys.exit(INTERRUPTED)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def info(as_json: bool) -> None:
    """Say what is installed: versions, devices, extras, agents."""
    facts = installation()
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    for name, fact in facts.items():
        click.echo(f"{name}: {', '.join(map(str, fact)) or 'none' if isinstance(fact, list) else fact or 'not found'}")


def _record(options: RecordOptions) -> None:
    _check(options)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    with failures(Misused):
        env = make_game(options.env_id, options.frameskip, options.sticky)
        hook = _hook(options)
        check_agent(hook, env)
        check_size(_frame_shape(env), options.zoom, options.panels or bool(options.png))
        size = None if hook.preprocessor is None else hook.preprocessor.size
        perturber = perturber_for(options.perturber, options.perturber_option, size, options.seed)
        method = method_for(env.observation_space, feature_names(env, env.observation_space), options.method, perturber)
        store = None if options.store is None else EpisodeStore(options.store, frames=True)
    began = time.perf_counter()
    with failures(Failed):
        filmed = store is None
        player = Player(env, hook, options.cameras if filmed else None, method, options.mode if filmed else "capture", store)
        try:
            with player, _page(options, player):
                for episode in range(options.episodes):
                    with _progress(options, episode) as watch:
                        player.play(options.seed + episode, options.steps, options.greedy, watch)
        finally:
            _report(player, time.perf_counter() - began)
    missing = [file.name for file in player.files if not file.exists()]
    if missing:
        raise Failed(f"Not every episode was long enough for all that was asked for. Missing: {', '.join(missing)}.")


@contextmanager
def _page(options: RecordOptions, player: Player) -> Generator[None]:
    """Serve the page of --live meanwhile."""
    if not options.live:
        yield
        return
    with start_viewer(player.recorder, browser=options.browser) as viewer:
        click.echo(f"page: {viewer.url}")
        yield


def _frame_shape(env: gym.Env[Any, Any]) -> tuple[int, ...]:
    """The shape of what is filmed: of the observations, or of what is rendered beside bars."""
    space = env.observation_space
    if not is_vector(space):
        return space.shape or (1, 1)
    env.reset(seed=0)
    frame: Any = env.render()
    height, width, *_ = np.shape(frame)
    return height, width + BAR_WIDTH


def _check(options: RecordOptions) -> None:
    if options.end is not None and options.start >= options.end:
        raise Misused(f"Expected --start below --end, got {options.start} and {options.end}.")
    for name, step in [("start", options.start), *(("png", step) for step in options.png)]:
        if step >= options.steps:
            raise Misused(f"Expected --{name} below --steps, got {step} and {options.steps}.")


def _hook(options: RecordOptions) -> RecurrentAgentHook:
    agent, preprocessor = agent_for(options.env_id, options.checkpoint, options.preprocessor)
    return RecurrentAgentHook(agent, preprocessor, seed=options.seed)


@contextmanager
def _progress(options: RecordOptions, episode: int) -> Generator[Callable[[float], None]]:
    with progress_bar(options.steps, options.progress, f"episode {episode}", " steps") as bar:

        def watch(total: float) -> None:
            bar.set_postfix({"return": f"{total:g}"}, refresh=False)
            bar.update()

        yield watch
        bar.refresh()


def _report(player: Player, seconds: float) -> None:
    returns = player.returns
    mean = f" (mean {sum(returns) / len(returns):g})" if len(returns) > 1 else ""
    click.echo(f"return: {', '.join(f'{total:g}' for total in returns)}{mean}")
    click.echo(f"decisions: {player.decisions}")
    click.echo(f"decisions per second: {player.decisions / seconds:.1f}")
    click.echo(f"explained maps: {player.explained}")
    for file in filter(Path.exists, player.files):
        click.echo(f"wrote: {file}")


main.add_command(compute)
main.add_command(render)
main.add_command(inspect)
main.add_command(evaluate)
main.add_command(view)
main.add_command(film_training)
