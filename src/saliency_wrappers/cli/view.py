"""The command `view`: a page of what `record --store` kept, served to this machine or written to a file."""

from __future__ import annotations

from pathlib import Path

import click

from saliency_wrappers.cli.options import Failed, Misused, agent_for, failures, warnings_in_one_line
from saliency_wrappers.models import pretrained_agents
from saliency_wrappers.store.store import EpisodeStore
from saliency_wrappers.viewer.export import export_page
from saliency_wrappers.viewer.server import view as start_viewer


@click.command()
@click.argument("store")
@click.option("--export", type=click.Path(dir_okay=False, path_type=Path), help="Write one self-contained file instead of serving.")
@click.option("--episode", "episodes", type=int, multiple=True, help="Which to export, from 0. Repeatable.  [default: all]")
@click.option(
    "--checkpoint",
    type=click.Path(exists=True, path_type=Path),
    help="The agent that acted, for what-if questions.  [default: the agent for the store's game that ships with this package, if any]",
)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="On 127.0.0.1. 0: any free one.")
@click.option("--browser/--no-browser", default=True, help="Open the page in the browser.")
def view(store: str, export: Path | None, episodes: tuple[int, ...], checkpoint: Path | None, port: int, browser: bool) -> None:
    """Show the episodes in STORE on a page: frames, maps, curves, what-if questions. Ctrl-C ends it."""
    with warnings_in_one_line(), failures(Failed):
        opened = EpisodeStore.open(store)
        if not opened.episodes:
            raise Misused(f"The store {store} has no episodes yet.")
        if export is not None:
            chosen = [opened.episode(which) for which in episodes] if episodes else opened.episodes
            click.echo(f"wrote: {export} ({export_page(chosen, export) / 1e6:.1f} MB)")
            return
        if episodes:
            raise Misused("--episode needs --export; the served page has all episodes.")
        env_id = str((opened.episodes[0].header.env_spec or {}).get("id"))
        agent = None if checkpoint is None and env_id not in pretrained_agents() else agent_for(env_id, checkpoint)[0]
        with start_viewer(opened, agent, port=port, browser=browser) as viewer:
            click.echo(f"page: {viewer.url}")
            try:
                viewer.wait()
            except KeyboardInterrupt:
                click.echo("Closed.", err=True)
