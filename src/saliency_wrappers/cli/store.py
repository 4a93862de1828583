"""The commands on what `record --store` kept: `compute` makes maps, `render` a video, `inspect` says what is there."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import click

from saliency_wrappers.cli.options import (
    INTERRUPTED,
    Failed,
    FiniteRange,
    Misused,
    advancing,
    agent_for,
    check_size,
    drawing_options,
    failures,
    parameter_option,
    perturber_for,
    printable,
    progress_bar,
    stored_agent_option,
    warnings_in_one_line,
)
from saliency_wrappers.cli.perturbers import PERTURBERS
from saliency_wrappers.compute.backends import Backend
from saliency_wrappers.compute.compute import ComputedSaliency, DamagedEpisodesError, compute_saliency
from saliency_wrappers.saliency.presets import METHODS
from saliency_wrappers.store.files import StoreError
from saliency_wrappers.store.reader import StoredEpisode
from saliency_wrappers.store.store import EpisodeStore
from saliency_wrappers.video.episode_video import render_episode

_STEPS = [
    click.option("--start", type=click.IntRange(0), default=0, help="First decision, counted from 0."),
    click.option("--end", type=click.IntRange(1), help="First decision no longer. The published frames are --start 639 --end 1240."),
]


def _range(command: Any) -> Any:
    for option in reversed(_STEPS):
        command = option(command)
    return command


@click.command()
@click.argument("store")
@stored_agent_option
@_range
@click.option("--episode", "episodes", type=int, multiple=True, help="Which, from 0. Repeatable.  [default: all]")
@click.option("--method", type=click.Choice(sorted(METHODS)), help="How maps are made.  [default: xaitk, or features for vectors]")
@click.option("--perturber", type=click.Choice(list(PERTURBERS)), help="Masks.  [default: the method's own]")
@click.option(
    "--perturber-option", metavar="KEY=VALUE", multiple=True, callback=parameter_option, help="Parameter of the perturber. Repeatable."
)
@click.option("--backend", type=click.Choice(get_args(Backend)), help="Who computes.  [default: this process]")
@click.option("--jobs", type=click.IntRange(-1, 1024), default=-1, help="How many blocks at a time. -1: one for each processor.")
@click.option("--address", help="Of a Dask scheduler.  [default: a cluster of this machine]")
@click.option("--state-lag", type=click.IntRange(0), default=0, help="1: the state of the decision before, as in the published figures.")
@click.option("--verify/--no-verify", default=True, help="Insist on the agent that acted.")
@click.option("--progress/--no-progress", default=True, help="Progress on stderr.")
def compute(store: str, **options: Any) -> None:
    """Make the maps of what STORE holds, and keep them there. What has its maps is not done again."""
    damaged: DamagedEpisodesError | None = None
    try:
        with warnings_in_one_line(), failures(Failed):
            try:
                done = _compute(EpisodeStore.open(store), **options)
            except DamagedEpisodesError as error:
                damaged, done = error, error.computed
    except KeyboardInterrupt:
        click.echo("Interrupted; what was finished is in the store.", err=True)
        sys.exit(INTERRUPTED)
    click.echo(f"explained: {done.explained}\nhad maps already: {done.reused}\nmethod: {done.fingerprint}")
    if damaged is not None:
        raise Failed(damaged)


@click.command()
@click.argument("store")
@click.option("--episode", "episodes", type=int, multiple=True, default=(0,), help="Which, from 0; -1: the last. Repeatable.  [default: 0]")
@click.option("--all", "every", is_flag=True, help="Every episode.")
@_range
@click.option("--method", help="Fingerprint of the maps, or its beginning.  [default: the only ones there are]")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("saliency.mp4"),
    help="Video file. Of several episodes: NAME-episode-0.mp4 and so on.",
)
@click.option("--fps", type=FiniteRange(0, 1000, min_open=True), default=30.0, help="Frames per second.")
@drawing_options
@click.option("--progress/--no-progress", default=True, help="Progress on stderr.")
def render(store: str, episodes: Sequence[int], every: bool, output: Path, **options: Any) -> None:
    """Draw the maps of episodes in STORE on their frames, as videos: one frame for each decision that has maps.

    Of several episodes, those that cannot be drawn are skipped and named at the end.
    """
    failed: dict[str, str] = {}
    with warnings_in_one_line(), failures(Failed):
        opened = EpisodeStore.open(store)
        picked = dict(enumerate(opened.episodes)) if every else {index: opened.episode(index) for index in episodes}
        if not picked:
            raise Misused(f"The store {store} has no episodes yet.")
        for index, episode in picked.items():
            several = every or len(picked) > 1
            file = output.with_name(f"{output.stem}-episode-{index}{output.suffix}") if several else output
            try:
                frames = _render(episode, file, **options)
            except (StoreError, ValueError, Failed, Misused) as error:
                if not several:
                    raise
                failed[episode.name] = str(error)
            else:
                click.echo(f"frames: {frames}\nwrote: {file}")
    if failed:
        reasons = " ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise Failed(f"Expected {len(failed)} more episodes that can be drawn; the others are. Failed: {reasons}")


def _render(episode: StoredEpisode, output: Path, *, progress: bool, zoom: int, panels: bool, **options: Any) -> int:
    """Write the video of one episode; the number of its frames. `Failed` without maps, `Misused` without frames."""
    if not episode.header.frames:
        raise Misused("The store has no frames to draw on: record with frames.")
    with progress_bar(0, progress, "frames", " frames") as bar:
        frames = render_episode(
            episode,
            output,
            zoom=zoom,
            panels=panels,
            progress=advancing(bar),
            check=lambda frame: check_size(frame.shape, zoom, panels),
            **options,
        )
    if not frames:
        start, end = options["start"], options["end"]
        raise Failed(f"No decision from {start} to {'the end' if end is None else end} has maps: run compute first.")
    return frames


@click.command()
@click.argument("store")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def inspect(store: str, as_json: bool) -> None:
    """Say what STORE holds: its episodes, their steps, which methods' maps are there, and whether they are complete."""
    with warnings_in_one_line(), failures(Failed):
        opened = EpisodeStore.open(store)
        episodes, failed = _all_facts(opened)
        size = opened.location.size()
    if as_json:
        click.echo(json.dumps({"store": store, "bytes": size, "episodes": episodes, "failed": failed}, indent=2))
    else:
        _print_facts(store, size, episodes)
    if failed:
        reasons = " ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise Failed(f"Expected {len(failed)} more episodes that can be read. Failed: {reasons}")


def _all_facts(store: EpisodeStore) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """What there is to say of each episode, and why some could not be read, by name."""
    facts: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    for episode in store.episodes:
        try:
            facts.append(_facts(episode))
        except StoreError as error:
            failed[episode.name] = str(error)
    return facts, failed


def _print_facts(store: str, size: int, episodes: list[dict[str, Any]]) -> None:
    steps = sum(one["decisions"] for one in episodes)
    click.echo(f"store: {printable(store)}\nepisodes: {len(episodes)}\ndecisions: {steps}\nsize: {size / 1e6:.1f} MB")
    for index, one in enumerate(episodes):
        state = "complete" if one["complete"] else "incomplete"
        frames = "with frames" if one["frames"] else "without frames"
        name = printable(one["environment"])
        click.echo(f"episode {index}: {name}, {one['decisions']} decisions, return {one['return']:g}, {frames}, {state}")
        for fingerprint, method in one["methods"].items():
            click.echo(f"  maps {printable(fingerprint)}: {printable(method.get('name', 'unnamed'))}, {method['explained']} decisions")


def _compute(store: EpisodeStore, checkpoint: Path | None, start: int, end: int | None, **options: Any) -> ComputedSaliency:
    episodes = store.episodes
    if not episodes:
        raise Misused(f"The store {store} has no episodes yet.")
    header = episodes[0].header
    agent, preprocessor = agent_for(str((header.env_spec or {}).get("id")), checkpoint)
    chosen = episodes[0].preprocessor or preprocessor
    size = None if chosen is None else chosen.size
    with progress_bar(0, options["progress"], "decisions", " decisions") as bar:
        return compute_saliency(
            store,
            agent,
            method=options["method"],
            perturber=perturber_for(options["perturber"], options["perturber_option"], size),
            episodes=options["episodes"] or None,
            decisions=slice(start, end),
            backend=options["backend"],
            n_jobs=options["jobs"],
            address=options["address"],
            state_lag=options["state_lag"],
            verify=options["verify"],
            progress=advancing(bar),
        )


def _facts(episode: StoredEpisode) -> dict[str, Any]:
    header = episode.header
    methods = {name: {**description, "explained": _explained(episode, name)} for name, description in episode.methods.items()}
    return {
        "name": episode.name,
        "environment": (header.env_spec or {}).get("id", "unknown environment"),
        "seed": header.seed,
        "decisions": len(episode),
        "return": float(sum(block.field("reward").sum() for block in episode.blocks())),
        "frames": header.frames,
        "complete": header.complete,
        "agent": header.agent,
        "methods": methods,
    }


def _explained(episode: StoredEpisode, method: str) -> int:
    """How many decisions are marked as having maps of a method."""
    layer = episode.layer(method)
    return sum(int(layer.marked(block.index)[: block.rows].sum()) for block in episode.blocks())
