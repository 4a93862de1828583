"""Several writers of one block's maps: what is marked as done is right, and what was overwritten is made again."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from counting import Blackout, CountingAgent, CountingEnv, always_acting, check_maps, play, recorded
from hypothesis import given, settings
from hypothesis import strategies as st

from saliency_wrappers import EpisodeStore, PerturbationSaliency, SaliencyMaps, compute_saliency
from saliency_wrappers.store import exclusive as turns
from saliency_wrappers.store.files import Location
from saliency_wrappers.store.maps import ABSENT, MapLayer

STEPS = 16
METHOD = PerturbationSaliency(Blackout(), fill=0.0)
LAYER = "0123456789abcdef"


@pytest.fixture(params=["folder", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "store") if request.param == "folder" else f"memory://{tmp_path.name}-maps"


def record_into(place: str) -> None:
    env, agent = CountingEnv((STEPS,)), CountingAgent()
    with recorded(env, agent, mode="capture", store=EpisodeStore(place, block=2 * STEPS)) as recorder:
        play(recorder, agent)


def right_steps(place: str) -> list[int]:
    """The steps whose maps are there; each must be right."""
    env, steps = CountingEnv((STEPS,)), []
    for stored, maps in EpisodeStore.open(place).episodes[0].maps():
        check_maps(maps, always_acting(env, 0, stored.step))
        steps.append(stored.step)
    return steps


def in_threads(place: str, parts: Sequence[slice]) -> None:
    errors: list[BaseException] = []

    def compute(part: slice) -> None:
        try:
            compute_saliency(place, CountingAgent(), method=METHOD, decisions=part)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=compute, args=(part,), name=f"part {part.start}") for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_two_computations_on_one_block_lose_nothing(place: str) -> None:
    record_into(place)
    in_threads(place, [slice(start, None, 4) for start in range(4)])
    assert right_steps(place) == list(range(STEPS))


def test_a_writer_waits_while_another_has_its_turn(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without turns, B's chunks would lie between A's chunks and A's marks."""
    record_into(place)
    put, events = Location.put, (threading.Event(), threading.Event())

    def ordered(self: Location, key: str, content: bytes) -> None:
        if threading.current_thread().name == "part 0" and "/done/c" in key:
            events[0].set()
            events[1].wait(0.5)
        if threading.current_thread().name == "part 1" and "/actor/c" in key:
            events[0].wait(1)
        put(self, key, content)
        if threading.current_thread().name == "part 1" and "/done/c" in key:
            events[1].set()

    monkeypatch.setattr(Location, "put", ordered)
    in_threads(place, [slice(0, None, 2), slice(1, None, 2)])
    assert right_steps(place) == list(range(STEPS))


def _compute_part(place: str, start: int) -> None:
    compute_saliency(place, CountingAgent(), method=METHOD, decisions=slice(start, None, 2))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the test's processes are forked")
def test_processes_take_turns_in_a_folder(tmp_path: Path) -> None:
    place = str(tmp_path / "store")
    record_into(place)
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_compute_part, args=(place, start)) for start in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert right_steps(place) == list(range(STEPS))


# Without turns: at a URL, or where folders cannot be locked


def steps_of_a_write(location: Location, rows: Sequence[int], number: float, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A `MapLayer.write` that stops before each of its files: as if the process were held there."""
    puts: list[tuple[str, bytes]] = []
    with monkeypatch.context() as patch:
        patch.setattr(Location, "put", lambda _, *file: puts.append(file))  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
        maps = [SaliencyMaps(np.full((3, 3), number + row, np.float32), np.full((3, 3), -row - 1, np.float32)) for row in rows]
        MapLayer(location, "episode", LAYER, 8).write(0, rows, maps, 8, {"name": "test"})
    for key, content in puts:
        location.put(key, content)
        yield


@pytest.fixture
def location(tmp_path: Path) -> Location:
    return Location(tmp_path, read_only=False)


@pytest.mark.parametrize("order", sorted({*permutations("AAABBB")}))
def test_marks_count_only_with_their_own_maps(location: Location, order: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    layer = MapLayer(location, "episode", LAYER, 8)
    layer.write(0, [7], [SaliencyMaps(np.full((3, 3), 7, np.float32), np.full((3, 3), -8, np.float32))], 8, {"name": "test"})
    writes = {"A": steps_of_a_write(location, [0, 2], 0, monkeypatch), "B": steps_of_a_write(location, [1, 3], 0, monkeypatch)}
    for who in (*order, *"AAAABBBB"):
        next(writes[who], None)
    for row, maps in enumerate(layer.read(0)):
        if maps is not None:
            assert maps.critic is not None
            assert (maps.actor == row).all()
            assert (maps.critic == -row - 1).all()
    found = [row for row, maps in enumerate(layer.read(0)) if maps is not None]
    assert set(found) <= {0, 1, 2, 3, 7}
    assert 7 in found  # what was there before either of them
    assert found == np.flatnonzero(layer.done(0)).tolist()


def test_what_was_overwritten_is_computed_again(place: str) -> None:
    record_into(place)
    compute_saliency(place, CountingAgent(), method=METHOD, decisions=slice(0, 8))
    location = Location(place, read_only=False)
    episode = EpisodeStore.open(place).episodes[0]
    (name,) = episode.methods
    key = f"{episode.name}/maps/{name}/actor/c.0.0.0"
    before = location.get(key, 10**6)
    assert before is not None
    compute_saliency(place, CountingAgent(), method=METHOD, decisions=slice(8, None))
    location.put(key, before)  # another writer's chunk, made from what it had read earlier
    assert right_steps(place) == list(range(8))
    assert compute_saliency(place, CountingAgent(), method=METHOD).explained == 8
    assert right_steps(place) == list(range(STEPS))


@given(st.lists(st.floats(width=32, allow_nan=True), min_size=4, max_size=4))
@settings(max_examples=30, deadline=None)
def test_maps_of_any_numbers_come_back_and_count_as_done(tmp_path_factory: pytest.TempPathFactory, numbers: list[float]) -> None:
    layer = MapLayer(Location(tmp_path_factory.mktemp("layer"), read_only=False), "episode", LAYER, 2)
    actor = np.array(numbers, np.float32).reshape(2, 2)
    layer.write(0, [1], [SaliencyMaps(actor, None)], 2, {"name": "test"})
    (nothing, maps) = layer.read(0)
    assert nothing is None
    assert maps is not None
    np.testing.assert_array_equal(maps.actor, actor)


def test_rows_without_maps_hold_no_numbers(location: Location) -> None:
    layer = MapLayer(location, "episode", LAYER, 4)
    layer.write(0, [2], [SaliencyMaps(np.ones((3, 3), np.float32), None)], 4, {"name": "test"})
    chunk: Any = layer._chunk("actor", 0)  # pyright: ignore[reportPrivateUsage]
    assert np.isnan(ABSENT)
    assert np.isnan(chunk[[0, 1, 3]]).all()


def test_an_array_is_not_shortened_by_a_writer_that_knows_of_fewer_decisions(location: Location) -> None:
    one = SaliencyMaps(np.ones((3, 3), np.float32), None)
    late, early = (MapLayer(location, "episode", LAYER, 4) for _ in range(2))
    late.write(5, [0], [one], 24, {"name": "test"})
    early.write(0, [0], [one], 4, {"name": "test"})
    metadata = location.get(f"episode/maps/{LAYER}/actor/zarr.json", 10**6)
    assert metadata is not None
    assert json.loads(metadata)["shape"] == [24, 3, 3]


def test_nobody_waits_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "PATIENCE", 0.05)
    location, entered = Location(tmp_path, read_only=False), []
    (tmp_path / "episode").mkdir()
    with turns.exclusive(location, "episode"):
        thread = threading.Thread(target=lambda: [entered.append(1) for _ in [0] if _enter(location)])
        thread.start()
        thread.join()
    assert entered == [1]
    assert _enter(location)


def _enter(location: Location) -> bool:
    with turns.exclusive(location, "episode"):
        return True
