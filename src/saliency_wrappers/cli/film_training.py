"""The command `film-training`: one video over the checkpoints of a training, with how much of the maps lies on the moving objects."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from saliency_wrappers.cli.options import INTERRUPTED, Failed, Misused, failures, progress_bar, scale_option, warnings_in_one_line
from saliency_wrappers.cli.player import check_agent, load_agent, make_game
from saliency_wrappers.cli.takes import Take, record_take, sequence, side_by_side
from saliency_wrappers.hooks.hook import RecurrentAgentHook
from saliency_wrappers.preprocessing import PREPROCESSORS
from saliency_wrappers.saliency.presets import PRESETS
from saliency_wrappers.video.overlay import STYLES, Drawing, Frame, Scale
from saliency_wrappers.video.painter import Painter
from saliency_wrappers.video.writer import StreamingWriter

_SUFFIXES = (".pt", ".pth", ".tar", ".safetensors")


@dataclass(frozen=True)
class FilmOptions:
    """Options of `film-training`: each field is the option of its name."""

    checkpoints: tuple[Path, ...]
    env_id: str
    preprocessor: str | None
    seed: int
    start: int
    decisions: int
    greedy: bool
    layout: str
    method: str
    output: Path
    fps: float
    style: str
    scale: Scale
    zoom: int
    progress: bool


@click.command("film-training")
@click.argument("checkpoints", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--env", "env_id", metavar="ENV_ID", default="ALE/Breakout-v5", help="The game.")
@click.option(
    "--preprocessor", type=click.Choice(PREPROCESSORS), help="From frame to network input.  [default: what the agents were trained with]"
)
@click.option("--seed", type=click.IntRange(0), default=0, help="Of the environment, the same for every checkpoint.")
@click.option("--start", type=click.IntRange(0), default=0, help="First decision that is filmed, counted from 0.")
@click.option("--decisions", type=click.IntRange(1), default=150, help="How many are filmed of each checkpoint.")
@click.option("--greedy/--sample", default=True, help="Take the most probable action, or sample.")
@click.option("--layout", type=click.Choice(["sequence", "side-by-side"]), default="sequence", help="One after another, or all at once.")
@click.option("--method", type=click.Choice(sorted(PRESETS)), default="xaitk", help="How maps are made.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), default=Path("training.mp4"), help="Video file.")
@click.option("--fps", type=click.FloatRange(0, min_open=True), default=15.0, help="Frames per second.")
@click.option("--style", type=click.Choice(STYLES), default="xaitk", help="How maps are drawn.")
@click.option("--scale", metavar="frame|LOW,HIGH", default="frame", callback=scale_option, help="What a map's brightest place is.")
@click.option("--zoom", type=click.IntRange(1), default=2, help="Enlarge every pixel.")
@click.option("--progress/--no-progress", default=True, help="Progress on stderr.")
def film_training(**options: Any) -> None:
    """Film what the CHECKPOINTS of one training look at, in the order given, on the same seed.

    A folder stands for the numbered checkpoints in it, as agent.50000.pt, by their numbers. Curves below the pictures show how much of the
    maps lies on ball and paddle (Breakout and Pong), or on whatever moves (other games): the actor in blue, the critic in red. Exit codes
    are those of record.
    """
    try:
        with warnings_in_one_line():
            _film(FilmOptions(**options))
    except KeyboardInterrupt:
        click.echo("Interrupted; what was written plays.", err=True)
        sys.exit(INTERRUPTED)


def numbered_checkpoints(paths: Sequence[Path]) -> list[Path]:
    """Return files as given, and folders as their numbered checkpoints, by number.

    Raises:
        ValueError: a folder without numbered checkpoints.
    """
    files: list[Path] = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        found = [(int(match[1]), file) for file in path.iterdir() if (match := re.search(r"\.(\d+)\.[^.]+$", file.name))]
        numbered = sorted((number, file) for number, file in found if file.suffix in _SUFFIXES and file.is_file())
        if not numbered:
            raise ValueError(f"Expected checkpoints named like agent.50000.pt in {path}, found none.")
        files.extend(file for _, file in numbered)
    return files


def _film(options: FilmOptions) -> None:
    with failures(Misused):
        if options.scale == "episode":
            raise ValueError("Expected --scale frame or LOW,HIGH: an episode's scale could not be compared between checkpoints.")
        files = numbered_checkpoints(options.checkpoints)
    with failures(Failed):
        takes = list(_takes(options, files))
        painter = Painter(Drawing(options.style, options.scale), zoom=options.zoom)
        pictures = sequence(takes, painter) if options.layout == "sequence" else side_by_side(takes, painter)
        frames = _write(pictures, options)
    for take in takes:
        actor, critic = take.mean_mass
        where = f"mass on {take.target}: actor {actor:.3f}, critic {critic:.3f} (area {take.area:.3f})"
        click.echo(f"{take.name}: return {take.total:g}, {where}")
    click.echo(f"frames: {frames}\nwrote: {options.output}")


def _takes(options: FilmOptions, files: Sequence[Path]) -> Iterator[Take]:
    with progress_bar(len(files) * (options.start + options.decisions), options.progress, "checkpoints", " decisions") as bar:
        for file in files:
            agent, preprocessor = load_agent(options.env_id, file, options.preprocessor)
            env = make_game(options.env_id)
            hook = RecurrentAgentHook(agent, preprocessor, seed=options.seed)
            check_agent(hook, env)
            yield record_take(
                env,
                hook,
                file.stem,
                options.method,
                seed=options.seed,
                start=options.start,
                decisions=options.decisions,
                greedy=options.greedy,
                watch=bar.update,
            )


def _write(pictures: Iterator[Frame], options: FilmOptions) -> int:
    options.output.parent.mkdir(parents=True, exist_ok=True)
    frames = 0
    with closing(StreamingWriter(options.output, options.fps)) as writer:
        for picture in pictures:
            writer.write(picture)
            frames += 1
    return frames
