"""What a store promises when files are damaged, writers are killed or interrupted, and users' states and headers are unusual."""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import torch
import zarr
from numcodecs import Zstd

from saliency_wrappers import EpisodeStore, SaliencyMaps, StoreError
from saliency_wrappers.decisions import Decision
from saliency_wrappers.states import StateTree, state_leaves, structure
from saliency_wrappers.store import header, state_forms
from saliency_wrappers.store.background import Background
from saliency_wrappers.store.files import Location
from saliency_wrappers.store.places import parse_place
from saliency_wrappers.store.zarr_array import ArrayField


def decision(t: int, state: StateTree = None) -> Decision:
    return Decision(torch.full((1, 1, 4, 4), float(t)), state, torch.full((1, 3), float(t)), torch.tensor([float(t)]))


def write(folder: Path, count: int = 10, **known: Any) -> Path:
    with EpisodeStore(folder, block=8) as store:
        episode = store.new_episode(**known)
        for t in range(count):
            episode.append(decision(t, torch.full((1, 2), float(t))), t, 0.0)
        episode.close(complete=True)
        return folder / episode.name


def sealed(content: bytes) -> bytes:
    return content + int(google_crc32c.value(content)).to_bytes(4, "little")


@pytest.mark.parametrize("size", [0, 1, 31, 33, 64])
def test_a_chunk_of_another_size_is_refused(size: int) -> None:
    field = ArrayField("value", (), "uint8", 32)
    with pytest.raises(StoreError, match="expected 32 bytes"):
        field.decode(sealed(bytes(Zstd(3).encode(bytes(size)))), "here", 0)


def test_a_chunk_of_an_earlier_version_is_read() -> None:
    field = ArrayField("value", (), "uint8", 32)
    assert field.decode(sealed(bytes(Zstd(3).encode(bytes(range(32))))), "here", 0).tolist() == [*range(32)]


def test_a_chunk_is_bound_to_its_field_and_block(tmp_path: Path) -> None:
    episode = write(tmp_path)
    one, two = episode / "logits/c.0.0", episode / "logits/c.1.0"
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    with pytest.raises(StoreError, match="another one's"):
        _ = [stored.decision for stored in EpisodeStore.open(tmp_path).episodes[0].decisions()]
    one.write_bytes(first)
    two.write_bytes(second)
    np.testing.assert_array_equal(zarr.open_group(episode, mode="r")["logits"][:, 0], np.arange(10))


def test_large_chunks_are_bounded_by_their_files() -> None:
    field = ArrayField("inputs", (2**20,), "uint8", 96)
    own = field.encode(field.empty(), 0)
    assert field.decode(own, "here", 0).nbytes == field.nbytes
    with pytest.raises(StoreError, match="times its file"):
        field.decode(sealed(bytes(Zstd(3).encode(field.empty()))), "here", 0)


def test_an_edited_header_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path) / "zarr.json"
    group = json.loads(file.read_text())
    group["attributes"]["saliency_wrappers"]["seed"] = 5
    file.write_text(json.dumps(group))
    with pytest.raises(StoreError, match="digest"):
        _ = EpisodeStore.open(tmp_path).episodes[0].header
    del group["attributes"]["saliency_wrappers"]["digest"]  # as earlier versions wrote it
    file.write_text(json.dumps(group))
    assert EpisodeStore.open(tmp_path).episodes[0].header.seed == 5


@pytest.mark.parametrize("file", ["zarr.json", "length/c/0", "reward/c/0"])
def test_a_fifo_is_refused(tmp_path: Path, file: str) -> None:
    episode = write(tmp_path)
    (episode / file).unlink()
    os.mkfifo(episode / file)
    with pytest.raises(StoreError, match="regular file"):
        _ = [stored.reward for stored in EpisodeStore.open(tmp_path).episode(episode.name).decisions()]


def test_a_finished_episode_without_its_length_is_an_error(tmp_path: Path) -> None:
    (write(tmp_path) / "length/c/0").unlink()
    with pytest.raises(StoreError, match="10 decisions in the finished episode"):
        len(EpisodeStore.open(tmp_path).episodes[0])


def test_foreign_groups_are_left_out_with_one_warning(tmp_path: Path) -> None:
    write(tmp_path)
    zarr.open_group(tmp_path, mode="a").create_group("analysis")
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy/zarr.json").touch()
    with pytest.warns(UserWarning, match="analysis.*copy") as said:
        assert len(EpisodeStore.open(tmp_path).episodes) == 1
    assert len(said) == 1


def test_half_written_files_of_killed_writers_are_removed(tmp_path: Path) -> None:
    episode = write(tmp_path)
    code = "import sys; from saliency_wrappers.store.partial_files import partial_path as p; open(p(sys.argv[1], 'c.9'), 'w').close()"
    subprocess.run([sys.executable, "-c", code, episode / "logits"], check=True)
    dead = [*tmp_path.rglob(".*.partial")]
    own = episode / "logits" / Path(__import__("saliency_wrappers.store.partial_files", fromlist=["x"]).partial_path("", "c.8")).name
    own.touch()
    EpisodeStore(tmp_path)
    assert len(dead) == 1
    assert [*tmp_path.rglob(".*.partial")] == [own]


def test_every_moment_of_writing_is_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second and third form of the state in later blocks, read after each file."""
    put, lengths = Location.put, [0]

    def watched(self: Location, key: str, content: bytes) -> None:
        put(self, key, content)
        for episode in EpisodeStore.open(tmp_path).episodes:
            lengths.append(len([stored.decision for stored in episode.decisions()]))

    with EpisodeStore(tmp_path, block=8) as store:
        monkeypatch.setattr(Location, "put", watched)
        with store.new_episode() as episode:
            for t in range(20):
                state = None if t < 6 else torch.full((1, 2), float(t)) if t < 14 else (torch.full((1, 2), float(t)),)
                episode.append(decision(t, state), 0, 0.0)
    assert lengths == sorted(lengths)
    assert lengths[-1] == 20


def test_an_interrupted_wait_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from saliency_wrappers.store import background

    wait, interrupts = background._Worker.wait, iter([2, 3, 5])  # pyright: ignore[reportPrivateUsage]
    calls, following = [0], [next(interrupts)]

    def interrupted(self: Any) -> None:
        calls[0] += 1
        if calls[0] == following[0]:
            following[0] = next(interrupts, -1)
            raise KeyboardInterrupt
        wait(self)

    monkeypatch.setattr(background._Worker, "wait", interrupted)  # pyright: ignore[reportPrivateUsage]
    raised = 0
    with EpisodeStore(tmp_path, block=8) as store:
        episode = store.new_episode()
        for t in range(40):
            while len(episode) == t:  # an interrupt comes before the decision is taken
                try:
                    episode.append(decision(t), t, 0.0)
                except KeyboardInterrupt:
                    raised += 1
        episode.close()
    found = EpisodeStore.open(tmp_path).episodes[0]
    assert raised == 3
    assert [int(stored.decision.inputs[0, 0, 0, 0]) for stored in found.decisions()] == [*range(40)]


@pytest.mark.parametrize("place", ["folder", "memory"])
def test_what_was_appended_is_written_at_exit(tmp_path: Path, place: str) -> None:
    url = str(tmp_path / "s") if place == "folder" else "memory://exit-test"
    code = f"""
import atexit, fsspec, torch
from saliency_wrappers import EpisodeStore, SaliencyMaps
from saliency_wrappers.decisions import Decision
import numpy as np
def written():
    files = [*fsspec.filesystem("memory").store]
    print([sum(file.endswith(end) for file in files) for end in ("/length/c/0", "/done/c/0")])
atexit.register(written)
episode = EpisodeStore({url!r}).new_episode()
for t in range(5):
    episode.append(Decision(torch.zeros(1, 1, 4, 4), None, torch.zeros(1, 3), None), 0, 0.0)
    episode.explain(t, SaliencyMaps(np.zeros((4, 4), np.float32), None), "0" * 16, {{"name": "x"}})
raise KeyError("the user's own mistake")
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if place == "memory":
        assert ended.stdout.strip() == "[1, 1]", ended.stderr
    else:
        (episode,) = EpisodeStore.open(tmp_path / "s").episodes
        assert (len(episode), len([*episode.maps()])) == (5, 5), ended.stderr


STATES: dict[str, Any] = {
    "a growing memory": [torch.arange(2.0 * t + 2).reshape(1, t + 1, 2) for t in range(20)],
    "an empty tensor": [(torch.full((1, 2), float(t)), torch.zeros(1, 0)) for t in range(20)],
    "keys in another order": [
        dict(sorted({"h": torch.tensor([[t]]), "c": torch.tensor([[-t]])}.items(), reverse=t % 2 == 0)) for t in range(20)
    ],
    "other keys": [{"h" if t < 9 else "k": torch.tensor([[t]])} for t in range(20)],
    "a number": [torch.tensor(t) for t in range(20)],
    "more and more tensors": [(torch.tensor([[t]]),) * (t + 1) for t in range(20)],
    "a grown and shrunk memory": [torch.full((1, abs(10 - t), 1), float(t)) for t in range(20)],
}


@pytest.mark.parametrize("kind", STATES)
def test_what_was_accepted_can_be_read(tmp_path: Path, kind: str) -> None:
    with EpisodeStore(tmp_path, block=8) as store, store.new_episode() as episode:
        for t, state in enumerate(STATES[kind]):
            episode.append(decision(t, state), 0, 0.0)
    found = [stored.decision.state for stored in EpisodeStore.open(tmp_path).episodes[0].decisions()]
    for state, expected in zip(found, STATES[kind], strict=True):
        assert structure(state) == structure(expected)
        assert all(torch.equal(*pair) for pair in zip(state_leaves(state), state_leaves(expected), strict=True))


def test_a_state_of_too_many_forms_is_refused_while_it_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (state_forms, header):
        monkeypatch.setattr(module, "MOST_FORMS", 12)
    episode = EpisodeStore(tmp_path, block=8).new_episode()
    with pytest.raises(RuntimeError, match="at most 12 forms"):  # noqa: PT012 - at the step after its block
        for t in range(30):
            episode.append(decision(t, (torch.zeros(1, 1),) * (t + 1)), 0, 0.0)
    assert len([stored.decision for stored in EpisodeStore.open(tmp_path).episodes[0].decisions()]) == 12


def test_optional_fields_are_normalised_or_left_out(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for seed, spec in ((np.int64(7), {"id": "a"}), (-1, {"id": "b", "kwargs": [0] * 2**22}), ("x", {"id": "c", "kwargs": {1, 2}})):
            write(tmp_path, seed=seed, env_spec=spec)
    headers = [episode.header for episode in EpisodeStore.open(tmp_path).episodes]
    headers.sort(key=lambda one: str(one.env_spec))  # names of one second have no order
    assert [(one.seed, one.env_spec) for one in headers] == [(7, {"id": "a"}), (None, {"id": "b"}), (None, {"id": "c"})]
    assert len(said) == 4


def test_an_action_with_other_keys_is_refused_and_order_is_none(tmp_path: Path) -> None:
    with EpisodeStore(tmp_path).new_episode() as episode:
        episode.append(decision(0), {"gas": np.ones(1), "brake": np.zeros(1)}, 0.0)
        episode.append(decision(1), {"brake": np.zeros(1), "gas": np.ones(1)}, 0.0)
    assert [{key: float(part[0]) for key, part in one.action.items()} for one in EpisodeStore.open(tmp_path).episodes[0].decisions()] == [
        {"brake": 0, "gas": 1}
    ] * 2
    episode = EpisodeStore(tmp_path).new_episode()
    episode.append(decision(0), {"gas": np.ones(1)}, 0.0)
    episode.append(decision(0), {"brake": np.ones(1)}, 0.0)
    with pytest.raises(RuntimeError, match=r"gas.*brake"):
        episode.close()


def test_a_stale_consolidation_is_dropped(tmp_path: Path) -> None:
    write(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(tmp_path)
    write(tmp_path)
    assert len([*zarr.open_group(tmp_path, mode="r").group_keys()]) == 2


def test_places_are_read_strictly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse_place("~/s") == tmp_path / "s"
    assert parse_place("file:/x/a%20b") == parse_place("file:///x/a%20b") == parse_place("FILE://localhost/x/a%20b") == Path("/x/a b")
    assert parse_place("/x/a%20b") == Path("/x/a%20b")
    assert parse_place("memory://x") == "memory://x"
    for wrong in (Path("memory://x"), "memory:/x", "file://host/x", ""):
        with pytest.raises(ValueError, match="Expected"):
            parse_place(wrong)
    with pytest.raises(TypeError, match="path or URL"):
        parse_place(b"x")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("field", ["logits/c.0.0", "length/c/0", "state_form/zarr.json"])
def test_a_file_of_another_episode_is_refused(tmp_path: Path, field: str) -> None:
    one, other = write(tmp_path), write(tmp_path)
    (one / field).write_bytes((other / field).read_bytes())
    if field.endswith("json"):  # descriptions of arrays are the same
        assert len([stored.decision for stored in EpisodeStore.open(tmp_path).episode(one.name).decisions()]) == 10
        return
    with pytest.raises(StoreError, match="another one's"):
        _ = [stored.decision for stored in EpisodeStore.open(tmp_path).episode(one.name).decisions()]


@pytest.mark.parametrize("file", ["actor/c.0.0.0", "done/c/0"])
def test_a_chunk_of_another_map_layer_or_episode_is_refused(tmp_path: Path, file: str) -> None:
    episodes = [write(tmp_path), write(tmp_path)]
    first, second = "0" * 16, "1" * 16
    for episode in EpisodeStore.open(tmp_path).episodes:
        for layer in (first, second):
            writer = EpisodeStore.open(tmp_path).episode(episode.name).layer(layer)
            writer._location = Location(tmp_path, read_only=False)
            writer.write(0, [0, 1], [SaliencyMaps(np.ones((4, 4), np.float32), None)] * 2, 10, {"name": "test"})
    own = episodes[0] / "maps" / first / file
    content = own.read_bytes()
    for other in (episodes[0] / "maps" / second, episodes[1] / "maps" / first):
        own.write_bytes((other / file).read_bytes())
        with pytest.raises(StoreError, match="another one's"):
            list(EpisodeStore.open(tmp_path).episode(episodes[0].name).maps(method=first))
    own.write_bytes(content)
    assert len(list(EpisodeStore.open(tmp_path).episode(episodes[0].name).maps(method=first))) == 2


def test_an_episode_may_be_renamed(tmp_path: Path) -> None:
    episode = write(tmp_path)
    episode.rename(tmp_path / "the-best")
    found = EpisodeStore.open(tmp_path).episode("the-best")
    assert [stored.action for stored in found.decisions()] == [*range(10)]


def test_maps_of_the_critic_that_are_gone_are_missed(tmp_path: Path) -> None:
    episode = write(tmp_path)
    layer = EpisodeStore.open(tmp_path).episodes[0].layer("0" * 16)
    layer._location = Location(tmp_path, read_only=False)
    layer.write(0, [0], [SaliencyMaps(np.ones((4, 4), np.float32), np.ones((4, 4), np.float32))], 10, {"name": "test"})
    shutil.rmtree(episode / "maps" / ("0" * 16) / "critic")
    with pytest.raises(StoreError, match="maps of the critic"):
        list(EpisodeStore.open(tmp_path).episodes[0].maps())


def test_a_worker_survives_whatever_a_job_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only errors: an interrupt that reaches the thread must not leave the agent waiting for ever."""
    put = Location.put

    def interrupted(self: Location, key: str, content: bytes) -> None:
        if key.endswith("logits/c.1.0"):
            raise KeyboardInterrupt
        put(self, key, content)

    store = EpisodeStore(tmp_path, block=8)
    monkeypatch.setattr(Location, "put", interrupted)
    episode = store.new_episode()
    with pytest.raises(RuntimeError, match="ended early"):  # noqa: PT012 - at one of the steps after its block
        for t in range(20):
            episode.append(decision(t), t, 0.0)
    monkeypatch.undo()
    assert len(list(EpisodeStore.open(tmp_path).episodes[0].decisions())) == 4
    other = store.new_episode()
    for t in range(10):
        other.append(decision(t), t, 0.0)
    other.close()
    assert len(EpisodeStore.open(tmp_path).episode(other.name)) == 10


def test_a_deep_specification_is_read(tmp_path: Path) -> None:
    file = write(tmp_path) / "zarr.json"
    group = json.loads(file.read_text())
    spec: dict[str, Any] = {}
    for _ in range(900):
        spec = {"a": spec}
    group["attributes"]["saliency_wrappers"]["env_spec"] = spec
    del group["attributes"]["saliency_wrappers"]["digest"]
    file.write_text(json.dumps(group))
    assert len(EpisodeStore.open(tmp_path).episodes[0].header.content()["env_spec"]) == 1


def test_a_store_may_be_forgotten_by_its_own_thread() -> None:
    worker, errors = Background(), queue.SimpleQueue[BaseException | None]()

    def stop() -> None:
        try:
            worker.close()
        except RuntimeError as error:
            errors.put(error)
        errors.put(None)

    worker.do(stop)
    assert errors.get(timeout=30) is None
