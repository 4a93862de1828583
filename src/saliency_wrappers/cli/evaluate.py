"""The command `evaluate`: how far the maps of several methods can be believed, measured on the decisions of a store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from saliency_wrappers.agents import AgentAdapter, as_adapter
from saliency_wrappers.cli.options import (
    Failed,
    Misused,
    advancing,
    agent_for,
    failures,
    progress_bar,
    stored_agent_option,
    warnings_in_one_line,
)
from saliency_wrappers.decisions import Decision
from saliency_wrappers.faithfulness import Scorecard, spaced
from saliency_wrappers.faithfulness.evaluation import evaluate as measure
from saliency_wrappers.saliency.fills import Background
from saliency_wrappers.saliency.fingerprints import agent_fingerprint
from saliency_wrappers.saliency.method import SaliencyMethod
from saliency_wrappers.saliency.presets import PRESETS
from saliency_wrappers.store.reader import StoredEpisode
from saliency_wrappers.store.store import EpisodeStore
from saliency_wrappers.store.tree_schema import dressed

_DEFAULT = ("xaitk", "change_weighted", "change_weighted_two_fills")


@click.command()
@click.argument("store")
@stored_agent_option
@click.option("--episode", type=int, default=0, help="Which, from 0; -1: the last.")
@click.option("--method", "methods", type=click.Choice(sorted(PRESETS)), multiple=True, default=_DEFAULT, help="Repeatable.")
@click.option("--decisions", type=click.IntRange(2), default=100, help="How many at most, evenly spaced.")
@click.option("--apart", type=click.IntRange(1), default=7, help="Least number of steps between two of them.")
@click.option("--resamples", type=click.IntRange(1), default=2000, help="Of the bootstrap.")
@click.option("--block", type=click.IntRange(1), default=1, help="Neighbouring decisions that are resampled together.")
@click.option("--seed", type=int, default=0, help="Of ties, random maps and the bootstrap.")
@click.option("--verify/--no-verify", default=True, help="Insist on the agent that acted.")
@click.option("--json", "output", type=click.Path(dir_okay=False, path_type=Path), help="Also write all metrics there.")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Also draw the curves there, as a PNG.")
@click.option(
    "--resume",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Keep what is measured of each method there, and go on from it when the command is run again.",
)
@click.option("--progress/--no-progress", default=True, help="Progress on stderr.")
def evaluate(store: str, output: Path | None, plot: Path | None, **options: Any) -> None:
    """Print a table of methods and controls: how well their maps of STORE's decisions predict what the agent depends on."""
    with warnings_in_one_line(), failures(Failed):
        card = _evaluate(EpisodeStore.open(store), **options)
        if output is not None:
            output.write_text(card.to_json() + "\n")
        if plot is not None:
            card.plot(plot)
    click.echo(card.table())


def _evaluate(store: EpisodeStore, checkpoint: Path | None, episode: int, methods: Sequence[str], **options: Any) -> Scorecard:
    if not store.episodes:
        raise Misused(f"The store {store} has no episodes yet.")
    chosen = store.episode(episode)
    agent, _ = agent_for(str((chosen.header.env_spec or {}).get("id")), checkpoint)
    adapter = as_adapter(agent)
    if options["verify"]:
        _check_agent(chosen, agent_fingerprint(adapter))
    decisions = _decisions(chosen, adapter, options["decisions"], options["apart"])
    named: dict[str, str | SaliencyMethod] = {name: name for name in dict.fromkeys(methods)}
    with progress_bar(0, options["progress"], "maps", " maps") as bar:
        parameters = {name: options[name] for name in ("resamples", "block", "seed", "resume")}
        return measure(adapter, decisions, named, background=Background(chosen), progress=advancing(bar), **parameters)


def _check_agent(episode: StoredEpisode, agent: str | None) -> None:
    acted = episode.header.agent
    if episode.header.learned or (acted is not None and acted != agent):
        raise Misused("Expected the agent that acted, with the weights it had; --no-verify measures this one nevertheless.")


def _decisions(episode: StoredEpisode, adapter: AgentAdapter, count: int, apart: int) -> list[Decision]:
    """Return the decisions to measure."""
    stored = list(episode.decisions())
    if not stored:
        raise Misused(f"The episode {episode.name} has no decisions yet.")
    chosen = [one.decision for one in spaced(stored, count, apart)]
    like = adapter.initial_state(1)
    return [replace(one, state=dressed(one.state, like)) for one in chosen]
