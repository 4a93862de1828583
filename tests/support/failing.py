"""Programs in which the n-th operation on files fails, for every n, as SQLite's tests do it; and what must hold afterwards.

`Faults` counts operations and raises at one of them. `Recording`, `Computing` and `Filming` each do their work under it and check what is
left: everything committed is readable and right, at most one block is lost, the agent has no hooks left, and the same again succeeds.
"""

from __future__ import annotations

import errno
import itertools
import os
import random
import shutil
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from counting import Blackout, CountingAgent, CountingEnv, always_acting, check_maps, play, recorded
from videos import levels_of

from saliency_wrappers import EpisodeStore, PerturbationSaliency, RecordSaliencyVideo, compute_saliency
from saliency_wrappers.states import state_leaves
from saliency_wrappers.store import files
from saliency_wrappers.video import writer

BLOCK = 8
"""Decisions of which a failure may lose as many: two chunks."""
STEPS = 18
LATE = 9
"""Passes after which the agent's state has another form."""
ERRORS: tuple[Callable[[], BaseException], ...] = (
    lambda: OSError(errno.ENOSPC, "No space left on device"),
    KeyboardInterrupt,
    MemoryError,
)
MOMENTS = "before", "after"


class Faults:
    """Counts the operations in `points`, and raises an error at one of them, before or after it is done."""

    def __init__(self, points: Iterable[tuple[Any, str]], at: int | None, error: Callable[[], BaseException], moment: str) -> None:
        """Prepare. `at` counts from 0; None: nothing fails."""
        self.count = 0
        self.happened = False
        self.points, self._at, self._error, self._moment = (*points,), at, error, moment
        self._numbers = itertools.count()

    @contextmanager
    def installed(self) -> Generator[Faults]:
        originals = [(owner, name, owner.__dict__[name]) for owner, name in self.points]
        for owner, name, original in originals:
            setattr(owner, name, self._failing(name, original))
        try:
            yield self
        finally:
            for owner, name, original in originals:
                setattr(owner, name, original)

    def _failing(self, name: str, original: Any) -> Any:
        def operation(*args: Any, **options: Any) -> Any:
            number = next(self._numbers)
            self.count = max(self.count, number + 1)
            if number == self._at and self._moment == "before":
                if name == "_write":  # half of it is there
                    with suppress(OSError):
                        original(args[0], args[1][: len(args[1]) // 2], *args[2:])
                self._fail()
            result = original(*args, **options)
            if number == self._at:
                self._fail()
            return result

        return operation

    def _fail(self) -> None:
        self.happened = True
        raise self._error()


STORE: tuple[tuple[Any, str], ...] = (
    *((files.Location, name) for name in ("get", "put", "names")),
    *((files, name) for name in ("_write", "_read")),
    (os, "replace"),
)


def hooks_of(agent: torch.nn.Module) -> int:
    """How many hooks the modules of an agent have."""
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_forward_hooks_with_kwargs")
    return sum(len(getattr(module, name, ())) for module in agent.modules() for name in names)


def forms_agent() -> CountingAgent:
    """Its state is a tensor for `LATE` passes, then a tuple."""
    return CountingAgent(
        pack=lambda tensor: tensor if tensor[0, 0] < LATE else (tensor,), unpack=lambda state: next(iter(state_leaves(state)))
    )


def check_decisions(episode: Any, number: int) -> int:
    """All that can be read is as it was decided; how many decisions there are."""
    env, count = CountingEnv((STEPS,)), 0
    for stored in episode.decisions():
        right = always_acting(env, number, count)
        decision = stored.decision
        (state,) = state_leaves(decision.state)
        np.testing.assert_allclose(decision.logits[0], right.logits, rtol=1e-4)
        np.testing.assert_allclose(state[0], right.logits[1:3], rtol=1e-4)
        assert isinstance(decision.state, tuple) == (count >= LATE)
        np.testing.assert_array_equal(stored.frame, env.frame(number, count))
        assert (stored.step, stored.reward, stored.action) == (count, count + 1, (count + 2 * number) % 4)
        count += 1
    assert count == len(episode)
    return count


class Job:
    """Work in a folder, under faults."""

    name: str
    points: tuple[tuple[Any, str], ...]

    def __init__(self, base: Path) -> None:
        self.base = base

    def operations(self, folder: Path) -> int:
        """How many operations the work takes when nothing fails."""
        faults = Faults(self.points, None, ERRORS[0], "before")
        self.attempt(folder, faults)
        return faults.count

    def attempt(self, folder: Path, faults: Faults) -> None:
        """Do the work once, and check what holds."""
        raise NotImplementedError


class Recording(Job):
    """An episode with two forms of state into a store, then the same again into the same store."""

    name = "recording"
    points = STORE

    def attempt(self, folder: Path, faults: Faults) -> None:
        agent, taken = forms_agent(), []
        with faults.installed(), suppress(OSError, KeyboardInterrupt, MemoryError, RuntimeError):
            record(folder, agent, lambda: taken.append(1))
        assert hooks_of(agent) == 0
        kept = committed(folder)
        assert len(taken) - kept <= BLOCK, f"{len(taken)} steps, {kept} kept"
        assert kept <= len(taken) + 1
        record(folder, forms_agent(), lambda: None)
        lengths = [check_decisions(episode, 0) for episode in EpisodeStore.open(folder).episodes]
        assert sorted(lengths) == sorted([STEPS] + [kept] * (kept > 0)), lengths
        assert not [*folder.rglob("*.partial")]


def record(folder: Path, agent: CountingAgent, between: Callable[[], None]) -> None:
    store = EpisodeStore(folder, frames=True, block=BLOCK)
    recorder = recorded(CountingEnv((STEPS,)), agent, mode="capture", store=store)
    with torch.no_grad():
        try:
            play(recorder, agent, between=between)
        except BaseException:
            with suppress(Exception):  # the first says why
                recorder.close()
            raise
        recorder.close()


def committed(folder: Path) -> int:
    if not (folder / "zarr.json").exists():
        return 0
    return sum(check_decisions(episode, 0) for episode in EpisodeStore.open(folder).episodes)


class Computing(Job):
    """The maps of a stored episode, then the same again."""

    name = "computing"
    points = STORE

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        record(base, CountingAgent(), lambda: None)

    def attempt(self, folder: Path, faults: Faults) -> None:
        shutil.copytree(self.base, folder)
        agent, explained = CountingAgent(), [0]
        method = PerturbationSaliency(Blackout(), fill=0.0, batch_size=4, path="plain")

        def counted(adapter: Any, decisions: Any) -> Any:
            explained[0] += len(decisions)
            return method(adapter, decisions)

        counted.get_config = dict  # pyright: ignore[reportFunctionMemberAccess]
        with faults.installed(), suppress(OSError, KeyboardInterrupt, MemoryError):
            compute_saliency(folder, agent, method=counted)
        assert hooks_of(agent) == 0
        self._check(folder, whole=False)
        done = compute_saliency(folder, agent, method=counted)
        assert done.explained + done.reused == STEPS
        assert explained[0] - STEPS <= BLOCK // 2, f"{explained[0]} explained of {STEPS}"
        self._check(folder, whole=True)

    def _check(self, folder: Path, whole: bool) -> None:
        (episode,) = EpisodeStore.open(folder).episodes
        found = {stored.step: maps for stored, maps in episode.maps()} if episode.methods else {}
        for step, maps in found.items():
            check_maps(maps, always_acting(CountingEnv((STEPS,)), 0, step))
        assert not whole or sorted(found) == list(range(STEPS))


class Filming(Job):
    """A video of an episode, then the same again."""

    name = "filming"
    points = (
        (writer, "claim_free"),
        (writer, "_ended"),
        (writer._Encoder, "_opened"),  # pyright: ignore[reportPrivateUsage]
        (writer.FileClaim, "release"),
    )

    def attempt(self, folder: Path, faults: Faults) -> None:
        from moviepy.video.io.ffmpeg_writer import FFMPEG_VideoWriter

        written: list[Any] = []
        write_frame = FFMPEG_VideoWriter.write_frame

        def counted(ffmpeg: Any, frame: Any) -> None:
            write_frame(ffmpeg, frame)
            written.append(ffmpeg.proc)

        agent, taken = CountingAgent(), []
        FFMPEG_VideoWriter.write_frame = counted
        try:
            faults.points = *self.points, (FFMPEG_VideoWriter, "write_frame")
            with faults.installed(), suppress(OSError, KeyboardInterrupt, MemoryError):
                film(folder, agent, lambda: taken.append(1))
        finally:
            FFMPEG_VideoWriter.write_frame = write_frame
        assert hooks_of(agent) == 0
        for process in written:
            process.wait(30)
        shown = shown_levels(folder)
        assert len(shown) >= len(written), f"{len(written)} written, {len(shown)} in the file"
        assert len(written) >= len(taken) - 1, f"{len(taken)} steps, {len(written)} written"
        film(folder, CountingAgent(), lambda: None)
        # under another name where an error still holds the claim of the first file
        assert max(len(levels_of(file)) for file in folder.glob("*.mp4") if file.stat().st_size) == STEPS + 1


def film(folder: Path, agent: CountingAgent, between: Callable[[], None]) -> None:
    env = RecordSaliencyVideo(recorded(CountingEnv((STEPS,), per_step=8), agent), folder, fps=30)
    with torch.no_grad():
        try:
            play(env, agent, between=between)
        except BaseException:
            with suppress(Exception):
                env.close()
            raise
        env.close()


def shown_levels(folder: Path) -> list[float]:
    """How bright each frame is; without maps (those of Blackout are uniform) as bright as in the environment."""
    file = folder / "saliency-episode-0.mp4"
    return levels_of(file) if file.exists() and file.stat().st_size else []


JOBS: dict[str, type[Job]] = {job.name: job for job in (Recording, Computing, Filming)}


def torture(what: str, folder: Path, most: int | None = None, seed: int = 0) -> tuple[int, int]:
    """Let every operation fail in every way, or so many of them, chosen at random; how many failed, and of how many."""
    folder.mkdir(parents=True, exist_ok=True)
    job = JOBS[what](folder / "base")
    total = job.operations(folder / "whole")
    cases = [(at, error, moment) for at in range(total) for error in ERRORS for moment in MOMENTS]
    chosen = cases if most is None or most >= len(cases) else random.Random(seed).sample(cases, most)
    failed = 0
    for at, error, moment in chosen:
        place = folder / "case"
        faults = Faults(job.points, at, error, moment)
        try:
            job.attempt(place, faults)
        except Exception as wrong:
            raise AssertionError(f"{what}: operation {at} of {total}, {error()!r} {moment} it: {wrong}") from wrong
        shutil.rmtree(place, ignore_errors=True)
        failed += faults.happened
    return failed, len(cases)
