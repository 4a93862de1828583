"""The store: what goes in comes out, whatever its shape; what is not there, or not ours, is an error, never zeros."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import zarr
from counting import Blackout, CountingAgent, CountingEnv, always_acting, check_maps, play, recorded
from tiny_agents import images

from saliency_wrappers import Decision, EpisodeStore, FramePreprocessor, StoreError, VectorSaliencyRecorder
from saliency_wrappers.compute.compute import compute_saliency
from saliency_wrappers.decisions import AgentPass
from saliency_wrappers.states import StateTree, state_leaves
from saliency_wrappers.step_saliency import StepSaliency
from saliency_wrappers.store.files import Location
from saliency_wrappers.store.header import SCHEMA
from saliency_wrappers.store.zarr_array import ArrayField

Memory = namedtuple("Memory", "hx cx")


def decision(t: int, state: StateTree = None, value: bool = True, dtype: torch.dtype = torch.float32) -> Decision:
    """A decision whose every number tells its step."""
    return Decision(
        inputs=images(seed=t).to(dtype),
        state=torch.full((1, 3), float(t)) if state is None else state,
        logits=torch.tensor([[t, -t, 0.5]], dtype=dtype),
        value=torch.tensor([[100.0 + t]]) if value else None,
    )


def frame(t: int) -> np.ndarray:
    return np.full((4, 6, 3), t % 256, np.uint8)


def write(store: EpisodeStore, count: int, *, complete: bool = True, **known: Any) -> str:
    with store.new_episode(**known) as episode:
        for t in range(count):
            episode.append(decision(t), action=t % 4, reward=t / 2, frame=frame(t))
        episode.close(complete=complete)
    return episode.name


def check(stored: Any, t: int) -> None:
    found, right = stored.decision, decision(t)
    assert (stored.step, stored.action, stored.reward) == (t, t % 4, t / 2)
    for name in ("inputs", "state", "logits", "value"):
        assert torch.equal(getattr(found, name), getattr(right, name))
        assert getattr(found, name).dtype == getattr(right, name).dtype
    assert found.action is not None
    assert found.action.tolist() == [t % 4]
    np.testing.assert_array_equal(stored.frame, frame(t))


# What goes in comes out


@pytest.mark.parametrize("count", [1, 7, 8, 9, 16, 21])
def test_what_is_appended_is_read(tmp_path: Path, count: int) -> None:
    write(EpisodeStore(tmp_path, frames=True, block=16), count)
    (episode,) = EpisodeStore.open(tmp_path).episodes
    assert len(episode) == count
    assert episode.header.complete
    for t, stored in enumerate(episode.decisions()):
        check(stored, t)
    assert t == count - 1


@pytest.mark.parametrize(("start", "end"), [(0, 1), (5, 9), (7, 8), (8, 16), (15, 17), (20, 99), (21, None), (3, 3)])
def test_a_range_is_read_by_its_steps(tmp_path: Path, start: int, end: int | None) -> None:
    write(EpisodeStore(tmp_path, frames=True, block=16), 21)
    found = list(EpisodeStore.open(tmp_path).episodes[0].decisions(start, end))
    assert [stored.step for stored in found] == list(range(start, 21))[: None if end is None else max(end - start, 0)]
    for stored in found:
        check(stored, stored.step)


def test_steps_without_a_decision_are_left_out(tmp_path: Path) -> None:
    with EpisodeStore(tmp_path, block=8).new_episode() as episode:
        for t in range(0, 40, 3):
            episode.decide(StepSaliency.capture(decision(t), 0, episode=0, step=t))
            episode.reward(1.0)
    (episode,) = EpisodeStore.open(tmp_path).episodes
    assert [stored.step for stored in episode.decisions(7, 31)] == [9, 12, 15, 18, 21, 24, 27, 30]
    assert [stored.decision.logits[0, 0].item() for stored in episode.decisions(7, 31)] == [9, 12, 15, 18, 21, 24, 27, 30]


@pytest.mark.parametrize(
    "state",
    [
        torch.arange(6.0).reshape(1, 6),
        (torch.ones(2, 1, 3), torch.zeros(2, 1, 3)),
        Memory(torch.ones(1, 2), torch.zeros(1, 2)),
        {"actor": (torch.ones(1, 2),), "critic": {"h": torch.zeros(1, 2, dtype=torch.float64)}, "none": None},
        (torch.ones(1, 2, dtype=torch.bfloat16), torch.tensor([True])),
        (),
    ],
)
def test_states_of_any_form_come_back(tmp_path: Path, state: StateTree) -> None:
    with EpisodeStore(tmp_path, block=4).new_episode() as episode:
        for t in range(5):
            episode.append(decision(t, state), 0, 0.0)
    for stored in EpisodeStore.open(tmp_path).episodes[0].decisions():
        found = stored.decision.state
        assert [leaf.dtype for leaf in state_leaves(found)] == [leaf.dtype for leaf in state_leaves(state)]
        assert all(torch.equal(a, b) for a, b in zip(state_leaves(found), state_leaves(state), strict=True))
        if isinstance(state, dict):
            assert list(found) == list(state)
        elif isinstance(state, tuple):
            assert type(found) is tuple


def test_what_is_stored_does_not_change_with_buffers_that_are_filled_anew(tmp_path: Path) -> None:
    one = decision(0)
    assert isinstance(one.state, torch.Tensor)
    assert one.value is not None
    buffers = {"inputs": one.inputs.clone(), "state": one.state.clone(), "logits": one.logits.clone(), "value": one.value.clone()}
    with EpisodeStore(tmp_path, frames=True, block=8).new_episode() as episode:
        for t in range(10):
            for name, buffer in buffers.items():
                buffer.copy_(getattr(decision(t), name))
            episode.append(AgentPass(**buffers), t % 4, t / 2, frame(t))
    for t, stored in enumerate(EpisodeStore.open(tmp_path).episodes[0].decisions()):
        check(stored, t)


def test_of_a_pass_of_copies_only_the_inputs_are_copied(tmp_path: Path) -> None:
    inputs = images()
    with EpisodeStore(tmp_path, frames=True, block=8).new_episode() as episode:
        for t in range(10):
            one = decision(t)
            inputs.copy_(one.inputs)
            episode.append(AgentPass(inputs, one.state, one.logits, one.value, copied=True), t % 4, t / 2, frame(t))
    for t, stored in enumerate(EpisodeStore.open(tmp_path).episodes[0].decisions()):
        check(stored, t)


@pytest.mark.parametrize("action", [(1,), (1, 2, 3)])
def test_an_action_of_other_parts_than_the_first_ends_the_episode(tmp_path: Path, action: tuple[int, ...]) -> None:
    episode = EpisodeStore(tmp_path).new_episode()
    episode.append(decision(0), (1, 2), 0.0)
    episode.append(decision(1), action, 0.0)
    with pytest.raises(RuntimeError, match=r"ended early.*Expected an action as with the episode's first decision"):
        episode.close()
    assert len(EpisodeStore.open(tmp_path).episodes[0]) == 1


def test_an_agent_may_begin_with_none(tmp_path: Path) -> None:
    with EpisodeStore(tmp_path, block=8).new_episode() as episode:
        for t in range(10):
            one = decision(t, None if t == 5 else torch.full((1, 3), float(t)))
            episode.append(Decision(one.inputs, None if t in (0, 5) else one.state, one.logits, one.value), 0, 0.0)
    found = [stored.decision.state for stored in EpisodeStore.open(tmp_path).episodes[0].decisions()]
    assert [None if state is None else state[0, 0].item() for state in found] == [None, 1, 2, 3, 4, None, 6, 7, 8, 9]


def test_a_state_may_take_another_form_late(tmp_path: Path) -> None:
    with EpisodeStore(tmp_path, block=8).new_episode() as episode:
        for t in range(22):
            one = decision(t)
            episode.append(Decision(one.inputs, None if t in (14, 21) else one.state, one.logits, one.value), 0, 0.0)
    found = [stored.decision.state for stored in EpisodeStore.open(tmp_path).episodes[0].decisions()]
    assert [None if state is None else state[0, 0].item() for state in found] == [*range(14), None, *range(15, 21), None]


@pytest.mark.parametrize(
    ("action", "right"),
    [
        (3, 3),
        (np.int64(3), 3),
        (torch.tensor([[7]]), 7),
        (np.array([0.5, -1.5], np.float32), [0.5, -1.5]),
        ((1, np.array([2.0])), (1, [2.0])),
        ({"a": 1, "b": np.zeros(2)}, {"a": 1, "b": [0, 0]}),
    ],
)
def test_actions_of_any_kind_come_back(tmp_path: Path, action: Any, right: Any) -> None:
    with EpisodeStore(tmp_path).new_episode() as episode:
        episode.append(decision(0), action, 0.0)
    found = next(EpisodeStore.open(tmp_path).episodes[0].decisions()).action
    assert in_lists(found) == right
    assert isinstance(found, int) == isinstance(right, int)


def in_lists(action: Any) -> Any:
    if isinstance(action, dict):
        return {key: in_lists(part) for key, part in action.items()}
    if isinstance(action, tuple):
        return tuple(in_lists(part) for part in action)
    return action.tolist() if isinstance(action, np.ndarray) else action


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_inputs_of_any_float_come_back(tmp_path: Path, dtype: torch.dtype) -> None:
    with EpisodeStore(tmp_path).new_episode() as episode:
        episode.append(decision(1, dtype=dtype, value=False), 0, 0.0)
    found = next(EpisodeStore.open(tmp_path).episodes[0].decisions()).decision
    assert found.inputs.dtype == found.logits.dtype == dtype
    assert torch.equal(found.inputs, decision(1, dtype=dtype).inputs)
    assert found.value is None


def test_appending_copies(tmp_path: Path) -> None:
    with EpisodeStore(tmp_path, frames=True).new_episode() as episode:
        one, shown = decision(3), frame(3)
        episode.decide(StepSaliency.capture(one, 3, episode=0, step=3, by_reference=True), shown)
        episode.reward(1.5)
        for thing in (one.inputs, one.state, one.logits, one.value):
            thing.zero_()
        shown[:] = 0
        episode.append(decision(4), 0, 0.0, frame(4))
    check(next(EpisodeStore.open(tmp_path).episodes[0].decisions()), 3)


@pytest.mark.parametrize("other", [{"inputs": images(size=6)}, {"inputs": images().double()}, {"inputs": images(channels=3)}])
def test_inputs_that_are_not_like_the_first_are_refused(tmp_path: Path, other: dict[str, Any]) -> None:
    write_one_other(tmp_path, other, None, "Expected inputs as in the episode's first decision")


@pytest.mark.parametrize("other", [None, np.zeros((4, 6, 3)), np.zeros((4, 6), np.uint8), np.zeros((4, 7, 3), np.uint8), [[[0]]]])
def test_frames_that_are_not_like_the_first_are_refused(tmp_path: Path, other: Any) -> None:
    write_one_other(tmp_path, {}, (other,), "Expected (frames as in|a frame of shape|the frame of each)")


def write_one_other(folder: Path, other: dict[str, Any], shown: tuple[Any] | None, error: str) -> None:
    """Decisions, of which one is refused; the others are stored."""
    with EpisodeStore(folder, frames=True, block=16).new_episode() as episode:
        for t in range(8):
            if t == 5:
                with pytest.raises((TypeError, ValueError), match=error):
                    episode.append(replace(decision(5), **other), 1, 2.5, frame(5) if shown is None else shown[0])
            episode.append(decision(t), t % 4, t / 2, frame(t))
    found = list(EpisodeStore.open(folder).episodes[0].decisions())
    assert len(found) == 8
    for t, stored in enumerate(found):
        check(stored, t)


def test_a_frame_may_be_read_only(tmp_path: Path) -> None:
    shown = frame(0)[::-1]
    shown.flags.writeable = False
    with EpisodeStore(tmp_path, frames=True).new_episode() as episode:
        episode.append(decision(0), 0, 0.0, shown)
    check(next(EpisodeStore.open(tmp_path).episodes[0].decisions()), 0)


OTHERS = {
    "logits": {"logits": torch.zeros(1, 4)},
    "dtype of logits": {"logits": torch.zeros(1, 3, dtype=torch.float64)},
    "one logit": {"logits": torch.zeros(1, 1)},
    "no value": {"value": None},
    "start": {"episode_start": torch.tensor([True])},
}
"""What one decision is changed in."""


@pytest.mark.parametrize("change", OTHERS)
def test_a_decision_that_is_not_like_the_first_ends_the_episode(tmp_path: Path, change: str) -> None:
    episode = EpisodeStore(tmp_path, frames=True, block=16).new_episode()
    for t in range(8):
        one = decision(t)
        episode.append(replace(one, **OTHERS[change]) if t == 5 else one, t % 4, t / 2, frame(t))
    with pytest.raises(RuntimeError, match=r"ended early, writing it failed: Expected .*as in the episode's first decision"):
        episode.flush()
    found = list(EpisodeStore.open(tmp_path).episodes[0].decisions())
    assert len(found) == 5  # those before it
    for t, stored in enumerate(found):
        check(stored, t)


def test_what_cannot_be_stored_is_refused_at_the_first_decision(tmp_path: Path) -> None:
    with EpisodeStore(tmp_path, frames=True).new_episode() as episode:
        with pytest.raises(ValueError, match="Expected inputs of one row"):
            episode.append(Decision(images().repeat(2, 1, 1, 1), None, torch.zeros(2, 3), None), 0, 0.0, frame(0))
        with pytest.raises(TypeError, match="Expected the frame of each decision"):
            episode.append(decision(0), 0, 0.0)
        with pytest.raises(ValueError, match="a pass with policy output"):
            episode.append(AgentPass(images(), None, None, None), 0, 0.0, frame(0))
        episode.append(decision(0), 0, 0.0, frame(0))
    check(next(EpisodeStore.open(tmp_path).episodes[0].decisions()), 0)


def test_another_zarr_reads_the_arrays(tmp_path: Path) -> None:
    name = write(EpisodeStore(tmp_path, frames=True, block=16), 21, seed=7)
    group = zarr.open_group(tmp_path / name, mode="r")
    np.testing.assert_array_equal(group["inputs"][:], torch.cat([decision(t).inputs for t in range(21)]).numpy())
    np.testing.assert_array_equal(group["frames"][:], np.stack([frame(t) for t in range(21)]))
    np.testing.assert_array_equal(group["reward"][:], np.arange(21) / 2)
    assert group["inputs"].chunks == (8, 1, 12, 12)
    assert group.attrs["saliency_wrappers"]["seed"] == 7


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_where_episodes_start_comes_back(tmp_path: Path, dtype: torch.dtype) -> None:
    with EpisodeStore(tmp_path, block=4).new_episode() as episode:
        for t in range(5):
            episode.append(replace(decision(t), episode_start=torch.tensor([t == 0], dtype=dtype)), 0, 0.0)
    starts = [stored.decision.episode_start for stored in EpisodeStore.open(tmp_path).episodes[0].decisions()]
    assert [(start.tolist(), start.dtype) for start in starts if start is not None] == [([t == 0], dtype) for t in range(5)]


def test_what_another_zarr_writes_in_our_layout_is_read(tmp_path: Path) -> None:
    name = write(EpisodeStore(tmp_path, frames=True, block=16), 8)
    array = zarr.open_array(tmp_path / name / "reward", mode="r+")
    array[:] = np.arange(8.0)[::-1]
    assert [stored.reward for stored in EpisodeStore.open(tmp_path).episodes[0].decisions()] == list(range(8))[::-1]


def test_a_store_can_be_in_memory(tmp_path: Path) -> None:
    place = f"memory://{tmp_path.name}"
    write(EpisodeStore(place, frames=True, block=8), 10)
    (episode,) = EpisodeStore.open(place).episodes
    for t, stored in enumerate(episode.decisions()):
        check(stored, t)
    assert len(episode) == 10


def test_blocks_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    name = write(EpisodeStore(tmp_path, frames=True, block=16), 24)
    (tmp_path / name / "inputs/c.2.0.0.0").unlink()
    shutil.rmtree(tmp_path / name / "frames")
    decisions = EpisodeStore.open(tmp_path).episodes[0].decisions()
    assert [next(decisions).decision.logits[0, 0].item() for _ in range(16)] == list(range(16))
    last = next(decisions)
    assert last.reward == 8
    with pytest.raises(StoreError, match="chunk is missing"):
        _ = last.decision


# Time: reading while writing, several writers, flushing


def test_what_is_written_is_read_while_more_is_written(tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path, frames=True, block=16)
    episode = store.new_episode()
    assert EpisodeStore.open(tmp_path).episodes == []
    for t in range(100):
        episode.append(decision(t), t % 4, t / 2, frame(t))
        if t % 10 == 9:
            episode.flush()
            (stored,) = EpisodeStore.open(tmp_path).episodes
            assert len(stored) == t + 1
            assert not stored.header.complete
            check(list(stored.decisions())[-1], t)
    episode.close(complete=True)
    assert len(EpisodeStore.open(tmp_path).episodes[0]) == 100


def test_less_than_a_block_waits(tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path, frames=True, block=16)
    episode = store.new_episode()
    for t in range(50):
        episode.append(decision(t), 0, 0.0, frame(t))
        store._background.wait()
        there = EpisodeStore.open(tmp_path).episodes
        assert t + 1 - (len(there[0]) if there else 0) <= 8  # half a block waits; another half may be under way
    episode.close()


def test_arrays_that_were_enlarged_are_read_up_to_the_committed_length(tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path, frames=True, block=16)
    episode = store.new_episode()
    for t in range(8):
        episode.append(decision(t), 0, 0.0, frame(t))
    episode.flush()
    assert zarr.open_array(tmp_path / episode.name / "reward", mode="r").shape == (128,)
    assert len(list(EpisodeStore.open(tmp_path).episodes[0].decisions())) == 8
    episode.close()
    assert zarr.open_array(tmp_path / episode.name / "reward", mode="r").shape == (8,)


def test_several_processes_write_into_one_store(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2]); from test_store import EpisodeStore, write\n"
        "store = EpisodeStore(Path(sys.argv[1]), frames=True, block=16)\n"
        "for _ in range(3): write(store, 12)"
    )
    command = [sys.executable, "-c", program, str(tmp_path), str(Path(__file__).parent)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    writers = [subprocess.Popen(command, env=environment) for _ in range(2)]
    assert [writer.wait() for writer in writers] == [0, 0]
    episodes = EpisodeStore.open(tmp_path).episodes
    assert len({episode.name for episode in episodes}) == 6
    for episode in episodes:
        assert [stored.reward for stored in episode.decisions()] == [t / 2 for t in range(12)]


def test_a_store_that_another_process_makes_meanwhile_is_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = Location.names

    def late_names(location: Location, key: str = "") -> list[str]:
        monkeypatch.setattr(Location, "names", names)
        write(EpisodeStore(tmp_path, block=16), 12)
        return names(location, key)

    monkeypatch.setattr(Location, "names", late_names)
    write(EpisodeStore(tmp_path, block=16), 12)
    assert len(EpisodeStore.open(tmp_path).episodes) == 2


def test_a_store_whose_making_was_killed_or_is_under_way_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []

    def fail(partial: str, target: str) -> None:
        kept.append(shutil.copy(partial, f"{partial}.killed"))
        raise OSError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="killed"):
            EpisodeStore(tmp_path)
    assert [str(file) for file in tmp_path.iterdir()] == kept  # and what is no use to anybody is gone
    Path(kept[0]).rename(kept[0].removesuffix(".killed"))
    write(EpisodeStore(tmp_path), 3)
    assert len(EpisodeStore.open(tmp_path).episodes[0]) == 3


def test_a_writer_that_is_forgotten_writes_what_it_has(tmp_path: Path) -> None:
    episode = EpisodeStore(tmp_path, frames=True).new_episode()
    episode.append(decision(0), 0, 0.0, frame(0))
    del episode
    assert len(EpisodeStore.open(tmp_path).episodes[0]) == 1


@pytest.mark.parametrize("end", ["sys.exit(3)", "raise KeyboardInterrupt", "pass"])
def test_a_program_that_ends_without_closing_writes_what_it_has(tmp_path: Path, end: str) -> None:
    program = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2]); from test_store import *\n"
        "kept = EpisodeStore(Path(sys.argv[1]), frames=True).new_episode()\n"
        f"for t in range(37): kept.append(decision(t), t % 4, t / 2, frame(t))\n{end}"
    )
    command = [sys.executable, "-c", program, str(tmp_path), str(Path(__file__).parent)]
    subprocess.run(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, capture_output=True, check=False)
    (episode,) = EpisodeStore.open(tmp_path).episodes
    assert len(episode) == 37
    assert not episode.header.complete
    for t, stored in enumerate(episode.decisions()):
        check(stored, t)


def test_a_forked_child_leaves_the_episode_to_its_parent(tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path, frames=True, block=16)
    episode = store.new_episode()
    for t in range(9):
        episode.append(decision(t), t % 4, t / 2, frame(t))
    program = os.fork()
    if not program:
        del episode
        os._exit(0)
    os.waitpid(program, 0)
    episode.append(decision(9), 1, 4.5, frame(9))
    episode.close()
    assert [stored.step for stored in EpisodeStore.open(tmp_path).episodes[0].decisions()] == list(range(10))


# Recorders


def test_the_recorder_stores_every_decision_with_its_reward(tmp_path: Path) -> None:
    env, agent = CountingEnv((5, 3)), CountingAgent()
    env.get_action_meanings = lambda: ["stay", "left", "right"]  # type: ignore[attr-defined]
    with recorded(
        env, agent, mode="capture", store=EpisodeStore(tmp_path, frames=True, block=4), step_trigger=lambda s: s == 1
    ) as recorder:
        infos = play(recorder, agent, episodes=2)
    assert [["saliency" in info for info in episode] for episode in infos] == [[False, False, True, *[False] * 3], [False] * 4]
    assert infos[0][2]["saliency"]["pending"]
    episodes = EpisodeStore.open(tmp_path).episodes
    assert [len(episode) for episode in episodes] == [5, 3]
    assert [episode.header.action_names for episode in episodes] == [["stay", "left", "right"]] * 2
    for number, episode in enumerate(episodes):
        header = episode.header
        assert (header.episode, header.seed, header.complete, header.learned) == (number, number, True, False)
        assert episode.preprocessor == FramePreprocessor(size=(8, 8))
        for t, stored in enumerate(episode.decisions()):
            right = always_acting(env, number, t)
            np.testing.assert_allclose(stored.decision.logits[0], right.logits, rtol=1e-4)
            np.testing.assert_allclose(stored.decision.state[0], right.logits[1:3], rtol=1e-4)
            np.testing.assert_array_equal(stored.frame, env.frame(number, t))
            assert stored.reward == t + 1
            assert stored.action == (t + 2 * number) % 4


@pytest.mark.parametrize("mode", ["inline", "deferred"])
def test_maps_that_are_made_while_recording_are_stored_too(tmp_path: Path, mode: str) -> None:
    env, agent = CountingEnv((11,)), CountingAgent()
    store = EpisodeStore(tmp_path, block=8)
    with recorded(env, agent, mode=mode, store=store, block=3, step_trigger=lambda step: step not in (2, 5)) as recorder:
        play(recorder, agent)
        method = recorder.recording.method
    (episode,) = EpisodeStore.open(tmp_path).episodes
    found = {stored.step: maps for stored, maps in episode.maps()}
    assert sorted(found) == [0, 1, 3, 4, 6, 7, 8, 9, 10]
    for step, maps in found.items():
        check_maps(maps, always_acting(env, 0, step))
    done = compute_saliency(tmp_path, agent, method=method)
    assert (done.explained, done.reused) == (2, 9)
    assert sorted(stored.step for stored, _ in episode.maps()) == list(range(11))


def test_steps_that_the_agent_did_not_decide_are_not_stored(tmp_path: Path) -> None:
    env, agent = CountingEnv((6,)), CountingAgent()
    with recorded(env, agent, mode="capture", store=tmp_path) as recorder:
        play(recorder, agent, acts=lambda episode, t: t % 2 == 0)
    stored = list(EpisodeStore.open(tmp_path).episodes[0].decisions())
    assert [(one.step, one.reward) for one in stored] == [(0, 1), (2, 3), (4, 5)]


def test_an_episode_that_is_left_is_incomplete(tmp_path: Path) -> None:
    env, agent = CountingEnv((9,)), CountingAgent()
    recorder = recorded(env, agent, mode="capture", store=tmp_path)
    observation, _ = recorder.reset()
    for _ in range(3):
        agent((torch.full((1, 1, 8, 8), float(observation.max()) / 255), agent.initial_state(1)))
        observation, *_ = recorder.step(0)
    recorder.close()
    (episode,) = EpisodeStore.open(tmp_path).episodes
    assert (len(episode), episode.header.complete) == (3, False)


def test_an_agent_that_learns_meanwhile_is_noted(tmp_path: Path) -> None:
    env, agent = CountingEnv((4,)), CountingAgent()
    with recorded(env, agent, mode="capture", store=tmp_path) as recorder, torch.no_grad():
        play(recorder, agent, between=lambda: agent.gain.mul_(1.01))
    assert EpisodeStore.open(tmp_path).episodes[0].header.learned
    with pytest.raises(ValueError, match="weights changed during the episode"):
        compute_saliency(tmp_path, agent)


def test_vectors_store_an_episode_for_each_of_each_environment(tmp_path: Path) -> None:
    from counting import network_input

    from saliency_wrappers import RecurrentAgentHook

    envs = gym.vector.SyncVectorEnv([lambda: CountingEnv((4,), per_episode=100), lambda: CountingEnv((6,))])
    agent = CountingAgent()
    recorder = VectorSaliencyRecorder(envs, RecurrentAgentHook(agent), mode="capture", store=EpisodeStore(tmp_path, frames=False, block=8))
    with torch.no_grad():
        observations, _ = recorder.reset(seed=3)
        state = agent.initial_state(2)
        for _ in range(6):
            x = torch.cat([network_input(one) for one in observations])
            _, logits, state = agent((x, state))
            observations, *_ = recorder.step(logits.argmax(dim=1).numpy() * 0)
    recorder.close()
    episodes = EpisodeStore.open(tmp_path).episodes
    found = sorted((len(episode), episode.header.complete, episode.header.seed) for episode in episodes)
    assert found == [(1, False, None), (4, True, 3), (6, True, 4)]
    for episode in episodes:
        for stored in episode.decisions():
            assert stored.decision.inputs.shape == (1, 1, 8, 8)
            assert stored.decision.logits.shape == (1, 4)
            assert stored.reward == stored.step + 1


@pytest.mark.parametrize("mode", ["capture"])
def test_capturing_needs_a_store(mode: str) -> None:
    with pytest.raises(ValueError, match="expected a store to keep them in"):
        recorded(CountingEnv(), CountingAgent(), mode=mode)


def test_frames_need_an_environment_that_shows_them(tmp_path: Path) -> None:
    agent = CountingAgent()
    recorder = recorded(CountingEnv(render_mode=None), agent, mode="capture", store=EpisodeStore(tmp_path, frames=True))
    with pytest.raises(ValueError, match="the environment shows none"):
        play(recorder, agent)


# Earlier versions


def as_written_before(folder: Path) -> None:
    """Chunks in folders of their own, as they once were: the same arrays with slashes between the numbers of chunks."""
    for file in folder.rglob("zarr.json"):
        meta = json.loads(file.read_text())
        if meta["node_type"] == "array":
            meta["chunk_key_encoding"]["configuration"]["separator"] = "/"
            file.write_text(json.dumps(meta))
    for chunk in folder.rglob("c.*"):
        place = chunk.parent / chunk.name.replace(".", "/")
        place.parent.mkdir(parents=True, exist_ok=True)
        chunk.rename(place)


def test_a_store_of_an_earlier_version_is_read_and_computed_on(tmp_path: Path) -> None:
    env, agent = CountingEnv((21,)), CountingAgent()
    with recorded(env, agent, mode="capture", store=EpisodeStore(tmp_path, block=16)) as recorder:
        play(recorder, agent)
    compute_saliency(tmp_path, agent, perturber=Blackout(), fill=0.0, decisions=slice(0, 10))
    as_written_before(tmp_path)
    assert not list(tmp_path.rglob("c.*"))
    done = compute_saliency(tmp_path, agent, perturber=Blackout(), fill=0.0)
    assert (done.explained, done.reused) == (11, 10)
    assert not list(tmp_path.rglob("c.*"))
    (episode,) = EpisodeStore.open(tmp_path).episodes
    found = list(episode.maps())
    assert [stored.step for stored, _ in found] == list(range(21))
    for stored, maps in found:
        check_maps(maps, always_acting(env, 0, stored.step))


# Strangers


def tampered(folder: Path, change: Any) -> None:
    """Rewrite a JSON file."""
    content = json.loads(folder.read_text())
    change(content)
    folder.write_text(json.dumps(content))


def read_all(folder: Path) -> list[Any]:
    return [
        (stored.decision, stored.reward, stored.frame) for episode in EpisodeStore.open(folder).episodes for stored in episode.decisions()
    ]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """The folder of an episode of 21 decisions in blocks of 8."""
    return tmp_path / write(EpisodeStore(tmp_path, frames=True, block=16), 21)


def chunks(meta: dict[str, Any]) -> list[int]:
    return meta["chunk_grid"]["configuration"]["chunk_shape"]


def absurd(meta: dict[str, Any]) -> None:
    meta["shape"][1:] = chunks(meta)[1:] = [2**20, 2**20]


HOSTILE_ARRAYS: dict[str, tuple[Any, str]] = {
    "object dtype": (lambda meta: meta.update(data_type="object"), "data type among"),
    "a structured dtype": (lambda meta: meta.update(data_type={"name": "structured", "configuration": {}}), "data type among"),
    "pickles": (lambda meta: meta["codecs"].__setitem__(1, {"name": "numcodecs.pickle"}), "Expected codecs"),
    "json objects": (lambda meta: meta.update(codecs=[{"name": "numcodecs.json2"}]), "Expected codecs"),
    "sharding": (lambda meta: meta.update(codecs=[{"name": "sharding_indexed"}]), "Expected codecs"),
    "no checksum": (lambda meta: meta["codecs"].pop(), "Expected codecs"),
    "absurd rows": (lambda meta: meta["shape"].__setitem__(0, 2**60), "at most"),
    "absurd images": (absurd, "block of .* at most"),
    "negative rows": (lambda meta: meta["shape"].__setitem__(0, -1), "one chunk for each block"),
    "fractions": (lambda meta: meta["shape"].__setitem__(0, 21.5), "one chunk for each block"),
    "other chunks": (lambda meta: chunks(meta).__setitem__(0, 4), "Expected .* rows in blocks"),
    "too few rows": (lambda meta: meta["shape"].__setitem__(0, 4), "Expected .* rows in blocks"),
    "another version": (lambda meta: meta.update(zarr_format=2), "Expected zarr_format"),
    "storage transformers": (lambda meta: meta.update(storage_transformers=[{"name": "x"}]), "Expected storage_transformers"),
    "other keys": (lambda meta: meta["chunk_key_encoding"].update(name="v2"), "chunk_key_encoding"),
    "keys that climb": (lambda meta: meta["chunk_key_encoding"]["configuration"].update(separator="/../"), "a slash or a dot"),
    "no separator": (lambda meta: meta["chunk_key_encoding"].pop("configuration"), "a slash or a dot"),
}


@pytest.mark.parametrize("what", HOSTILE_ARRAYS)
@pytest.mark.parametrize("array", ["inputs", "frames"])
def test_hostile_arrays_are_refused(written: Path, what: str, array: str) -> None:
    change, message = HOSTILE_ARRAYS[what]
    tampered(written / array / "zarr.json", change)
    with pytest.raises(StoreError, match=message):
        read_all(written.parent)


HOSTILE_HEADERS: dict[str, Any] = {
    "a climbing state": lambda ours: ours.update(states=["../../../etc/passwd"]),
    "a deep state": lambda ours: ours.update(states=[json.loads('{"tuple": [' * 40 + "null" + "]}" * 40)]),
    "an object state": lambda ours: ours.update(states=["object"]),
    "no state": lambda ours: ours.update(states=[]),
    "a huge block": lambda ours: ours.update(block=-8),
    "a text block": lambda ours: ours.update(block="8"),
    "a hostile preprocessor": lambda ours: ours["preprocessor"].update(size=[2**40, 2**40]),
    "a preprocessor of code": lambda ours: ours.update(preprocessor={"__reduce__": "os.system"}),
    "a fingerprint that climbs": lambda ours: ours.update(agent="../../x"),
    "nothing": lambda ours: ours.pop("inputs"),
}


@pytest.mark.parametrize("what", HOSTILE_HEADERS)
def test_hostile_headers_are_refused(tmp_path: Path, what: str) -> None:
    name = write(EpisodeStore(tmp_path, frames=True, block=16), 9, preprocessor=dict(vars(FramePreprocessor(size=(8, 8)))))
    tampered(tmp_path / name / "zarr.json", lambda group: HOSTILE_HEADERS[what](group["attributes"]["saliency_wrappers"]))
    tampered(tmp_path / name / "zarr.json", lambda group: group["attributes"]["saliency_wrappers"].pop("digest"))
    with pytest.raises(StoreError):
        _ = EpisodeStore(tmp_path).episode(name).header


ARRAYS = ["inputs", "state.0.0", "logits", "reward", "frames", "step", "length"]
DAMAGES = [(array, damage) for array in ARRAYS for damage in ("truncated", "emptied", "flipped", "removed", "grown")]
DAMAGES.remove(("length", "removed"))  # an episode whose length was not committed has no decisions


@pytest.mark.parametrize(("array", "damage"), DAMAGES)
def test_a_damaged_chunk_is_an_error_and_never_zeros(written: Path, array: str, damage: str) -> None:
    block = 0 if array == "length" else 1
    (chunk,) = [*(written / array).glob(f"c.{block}.*"), *(written / array / "c").glob(f"{block}")]
    content = chunk.read_bytes()
    flipped = content[:5] + bytes([content[5] ^ 1]) + content[6:]
    changed = {"truncated": content[:-1], "emptied": b"", "flipped": flipped, "grown": content + bytes(2**22)}
    chunk.unlink() if damage == "removed" else chunk.write_bytes(changed[damage])
    with pytest.raises(StoreError, match=r"damaged|missing|at most"):
        read_all(written.parent)


def test_a_chunk_that_grows_without_bound_is_refused(written: Path) -> None:
    from numcodecs import Zstd

    from saliency_wrappers.store.zarr_array import _checksum

    packed = bytes(Zstd(3).encode(bytes(2**24)))
    (written / "reward/c/1").write_bytes(packed + _checksum(packed))
    with pytest.raises(StoreError, match="chunk is damaged"):
        read_all(written.parent)


def test_links_that_lead_out_are_not_followed(written: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shutil.move(written / "reward", elsewhere / "reward")
    (written / "reward").symlink_to(elsewhere / "reward")
    with pytest.raises(StoreError, match="a link leads out of it"):
        read_all(written.parent)
    (written / "maps").symlink_to(elsewhere)
    with pytest.raises(StoreError, match="a link leads out of it"):
        EpisodeStore.open(written.parent).episodes[0].layer("0" * 16).done(0)


@pytest.mark.parametrize("key", ["../outside", "/etc/passwd", "a/../../b", "", ".hidden", "a//b", "a\\..\\b"])
def test_names_that_climb_out_are_refused(tmp_path: Path, key: str) -> None:
    store = EpisodeStore(tmp_path)
    for call in (lambda: store.location.get(key, 10), lambda: store.location.put(key, b"")):
        with pytest.raises(StoreError, match="plain name"):
            call()


def test_a_newer_schema_is_refused_with_the_remedy(tmp_path: Path) -> None:
    write(EpisodeStore(tmp_path, frames=True), 3)
    tampered(tmp_path / "zarr.json", lambda group: group["attributes"]["saliency_wrappers"].update(schema=SCHEMA + 1))
    with pytest.raises(StoreError, match=rf"newer version of saliency_wrappers \(schema {SCHEMA + 1}.*pip install -U"):
        EpisodeStore.open(tmp_path)


def test_what_is_no_store_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="found none"):
        EpisodeStore.open(tmp_path)
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(StoreError, match=r"an empty folder, got .* with holiday.jpg in it"):
        EpisodeStore(tmp_path)
    zarr.open_group(tmp_path / "other", mode="w")
    for make in (EpisodeStore, EpisodeStore.open):
        with pytest.raises(StoreError, match="another Zarr group"):
            make(tmp_path / "other")
    with pytest.raises(TypeError, match="path or URL of a store, got int"):
        EpisodeStore(3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="an integer of 2 or more"):
        EpisodeStore(tmp_path / "new", block=1)


def test_a_store_that_is_read_is_not_written(tmp_path: Path) -> None:
    write(EpisodeStore(tmp_path, frames=True), 3)
    with pytest.raises(ValueError, match="opened to be read"):
        EpisodeStore.open(tmp_path).new_episode()


def test_a_block_that_is_too_large_says_so() -> None:
    with pytest.raises(StoreError, match="Choose a smaller block"):
        ArrayField("frames", (4000, 4000, 3), "uint8", 64)


def test_without_zarr_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zarr.storage", None)
    with pytest.raises(gym.error.DependencyNotInstalled, match=r"saliency_wrappers\[store\]"):
        EpisodeStore(tmp_path / "new")


def test_a_url_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    with pytest.raises((ValueError, gym.error.DependencyNotInstalled), match="fsspec"):
        EpisodeStore("nosuch://place")
