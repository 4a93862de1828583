"""`EpisodeStore`: recorded episodes on disk, or at any URL that fsspec knows."""

from __future__ import annotations

import os
import secrets
import time
import warnings
from html import escape
from typing import Any

from saliency_wrappers.store.background import Background
from saliency_wrappers.store.files import Location, StoreError
from saliency_wrappers.store.header import GROUP, LARGEST_BLOCK, attributes, write_group
from saliency_wrappers.store.reader import StoredEpisode
from saliency_wrappers.store.writer import EpisodeWriter

_SWEPT = 64
"""How many of the latest episodes are searched for half-written files when a store is opened to be written."""


class EpisodeStore:
    """Recorded episodes: what the agent saw, remembered and decided at every step, and later the maps of it.

        store = EpisodeStore("runs/breakout", frames=True)
        env = SaliencyRecorder(env, hook, mode="capture", store=store)
        ...
        for decision in EpisodeStore.open("runs/breakout").episodes[0].decisions(639, 1240): ...

    It is a Zarr v3 hierarchy, one group for each episode, readable while it is written. Nothing in it is ever executed.
    """

    def __init__(self, place: str | os.PathLike[str], *, frames: bool = False, block: int = 128, durable: bool = False) -> None:
        """Create a store, or add to one. Several processes may write to it at a time.

        Args:
            place: a folder, or a URL that fsspec knows, such as `memory://name` or `s3://bucket/name`.
            frames: also keep the frames that a person sees.
            block: a kill loses so many decisions at most: half as many are a chunk, one is written while the next is filled.
            durable: what is committed survives a crash of the machine too: every file, and its folder, is on the disk (`fsync`) before the
                next is written. Each file takes a flush of the disk longer; local folders only. False: a killed program loses no commit,
                a machine that loses power may lose the last seconds.

        Raises:
            DependencyNotInstalled: Zarr, or what the URL needs, is not installed.
            ValueError: `durable` with a URL, or a wrong `block`.
            StoreError: something else lies there, or a store of a newer version.
        """
        if isinstance(block, bool) or not isinstance(block, int) or not 2 <= block <= LARGEST_BLOCK:
            raise ValueError(f"Expected block to be an integer of 2 or more, at most {LARGEST_BLOCK}, got {block!r}.")
        self._prepare(Location(place, read_only=False, durable=durable), frames, block)
        if attributes(self.location) is None:
            found = self.location.names()
            if found and attributes(self.location) is None:  # asked again: another process may have made it meanwhile
                raise StoreError(f"Expected a store or an empty folder, got {self.location} with {found[0]} in it.")
            write_group(self.location, "", {})
        self._sweep()

    @staticmethod
    def open(place: str | os.PathLike[str]) -> EpisodeStore:
        """Open an existing store for reading.

        Raises:
            FileNotFoundError: nothing is there.
            StoreError: something else is there, or a store of a newer version.
        """
        location = Location(place, read_only=True)
        if attributes(location) is None:
            raise FileNotFoundError(f"Expected a store of saliency_wrappers, found none: {location}.")
        store = EpisodeStore.__new__(EpisodeStore)
        store._prepare(location, frames=False, block=128)
        return store

    @staticmethod
    def of(store: EpisodeStore | str | os.PathLike[str] | None) -> EpisodeStore | None:
        """Return a store as it is, a store without frames for a path or URL, or None for None."""
        return EpisodeStore(store) if isinstance(store, str | os.PathLike) else store

    def _prepare(self, location: Location, frames: bool, block: int) -> None:
        location.require_zarr()
        self.location = location
        self.frames = frames
        self.block = block
        self._run = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{secrets.token_hex(4)}"
        self._begun = 0
        self._background = Background()

    def __str__(self) -> str:
        return str(self.location)

    def _repr_html_(self) -> str:
        """Return a table of its episodes, for notebooks."""
        rows = ""
        for index, episode in enumerate(self.episodes):
            header = episode.header
            cells = (index, (header.env_spec or {}).get("id", "unknown"), header.seed, len(episode), "yes" if header.complete else "no")
            rows += f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in cells)}</tr>"
        head = "".join(f"<th>{name}</th>" for name in ("episode", "environment", "seed", "decisions", "complete"))
        return f"<table><caption>{escape(str(self))}</caption><tr>{head}</tr>{rows}</table>"

    @property
    def episodes(self) -> list[StoredEpisode]:
        """The episodes with decisions, in order of recording; one warning names foreign or damaged groups."""
        found: list[StoredEpisode] = []
        foreign: list[str] = []
        for name in self.location.names():
            if name == GROUP:
                continue
            episode = StoredEpisode(self.location, name)
            try:
                if episode.exists:
                    found.append(episode)
            except StoreError as error:
                foreign.append(f"{name} ({error})")
        if foreign:
            more = f", and {len(foreign) - 3} more" if len(foreign) > 3 else ""
            warnings.warn(f"Not read, being no episodes or damaged: {', '.join(foreign[:3])}{more}.", stacklevel=2)
        return found

    def episode(self, which: int | str) -> StoredEpisode:
        """Return one of them, by its index or its name; `ValueError` when there is none, `StoreError` when its group is damaged."""
        if isinstance(which, str) and which in self.location.names():
            episode = StoredEpisode(self.location, which)
            if which != GROUP and episode.exists:
                return episode
        episodes = self.episodes
        if isinstance(which, str):
            names = [episode.name for episode in episodes]
            raise ValueError(  # noqa: TRY004 - a string is of the right type
                f"Expected the name of an episode in the store {self}, one of {names}, got {which!r}."
            )
        if not -len(episodes) <= which < len(episodes):
            raise ValueError(f"Expected the index of an episode in the store {self}, which has {len(episodes)}, got {which}.")
        return episodes[which]

    def new_episode(self, **known: Any) -> EpisodeWriter:
        """Begin an episode; it becomes visible with its first decisions.

        Args:
            known: what is known of it, as fields of `EpisodeHeader`: `seed`, `env_spec`, `agent`, `preprocessor`, `episode`.
        """
        if self.location.read_only:
            raise ValueError(f"The store {self} was opened to be read. Use EpisodeStore({self.location.name!r}) to add to it.")
        number = self._begun
        self._begun += 1
        name = f"{self._run}-{number:06d}"
        return EpisodeWriter(self.location, name, self._background, self.block // 2, self.frames, **{"episode": number, **known})

    def close(self) -> None:
        """Wait for what is being written. Its episodes are closed by whoever began them; more can be begun."""
        self._background.close()

    def _sweep(self) -> None:
        """Remove what killed writers left half written in the latest episodes; older ones are looked at when they are written to."""
        self.location.sweep()
        for name in [name for name in self.location.names() if name != GROUP][-_SWEPT:]:
            for part in ("", *self.location.names(name)):
                self.location.sweep(f"{name}/{part}" if part else name)

    def __enter__(self) -> EpisodeStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
