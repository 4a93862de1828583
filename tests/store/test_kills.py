"""What a store holds after a kill at any moment, a full disk, a worker that died: everything that was committed, and nothing else."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from counting import CountingAgent, CountingEnv, always_acting, check_maps, play, recorded
from fsspec.implementations.memory import MemoryFileSystem
from killing import BLOCK, STEPS, Counted, compute, record

from saliency_wrappers import EpisodeStore


def run(what: str, folder: Path, moments: int) -> list[Path]:
    """Have the programs killed; their folders."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).parents[1] / "support" / "killing.py"), what, str(folder), str(moments)]
    subprocess.run(command, env=environment, check=True)
    return [folder / str(number) for number in range(moments)]


def size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def check_episode(place: str | Path) -> int:
    """All that can be read is as it was decided; how many decisions there are."""
    episodes = EpisodeStore.open(place).episodes
    assert len(episodes) <= 1
    env = CountingEnv((STEPS,))
    count = 0
    for stored in episodes[0].decisions() if episodes else ():
        assert stored.step == count
        right = always_acting(env, 0, count)
        np.testing.assert_allclose(stored.decision.logits[0], right.logits, rtol=1e-4)
        np.testing.assert_allclose(stored.decision.state[0], right.logits[1:3], rtol=1e-4)
        np.testing.assert_array_equal(stored.frame, env.frame(0, count))
        assert (stored.reward, stored.action) == (count + 1, count % 4)
        count += 1
    return count


def check_recordings(folder: Path, moments: int) -> str:
    """Have recordings killed; what was left of them, in words."""
    taken, kept = [], []
    for place in run("recording", folder / "killed", moments):
        taken.append(size(place / "steps"))
        kept.append(check_episode(place / "store") if (place / "store/zarr.json").exists() else 0)
        assert taken[-1] - kept[-1] <= BLOCK
        assert kept[-1] <= taken[-1] + 1
    amid = sum(0 < steps < STEPS for steps in taken)
    assert amid >= moments / 2  # most of them died on their way
    lost = [max(0, steps - there) for steps, there in zip(taken, kept, strict=True)]
    return f"{moments} kills, {amid} amid the episode; {max(lost)} decisions lost at most, of a block of {BLOCK}"


def check_computations(folder: Path, moments: int) -> str:
    """Have computations killed and go on; what was done twice, in words."""
    (folder / "recorded").mkdir(parents=True)
    record(folder / "recorded")
    repeated = []
    for place in run("computing", folder / "killed", moments):
        before = size(place / "explained")
        result = compute(place)
        assert result.explained + result.reused == STEPS
        repeated.append(before + result.explained - STEPS)
        assert 0 <= repeated[-1] <= BLOCK
        found = {stored.step: maps for stored, maps in EpisodeStore.open(place / "store").episodes[0].maps()}
        assert sorted(found) == list(range(STEPS))
        for step, maps in found.items():
            check_maps(maps, always_acting(CountingEnv((STEPS,)), 0, step))
    assert any(repeated)
    return f"{moments} kills; {max(repeated)} decisions explained twice at most, of a block of {BLOCK}; all maps right after a rerun"


def test_a_killed_recorder_leaves_all_but_a_block(tmp_path: Path) -> None:
    check_recordings(tmp_path, 20)


def test_a_killed_computation_goes_on_where_it_was(tmp_path: Path) -> None:
    check_computations(tmp_path, 10)


# A full disk


class FullFileSystem(MemoryFileSystem):
    """A disk on which every write fails, from the n-th on."""

    protocol = "full"
    store: dict[str, Any] = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012
    left = 10**9

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        if FullFileSystem.left <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        FullFileSystem.left -= 1
        super().pipe_file(path, value, mode=mode, **kwargs)


@pytest.fixture
def full_after() -> Iterator[Any]:
    fsspec.register_implementation("full", FullFileSystem, clobber=True)

    def set_left(writes: int) -> str:
        FullFileSystem.store.clear()
        FullFileSystem.left = writes
        return "full://disk"

    yield set_left
    FullFileSystem.store.clear()


@pytest.mark.parametrize("writes", [1, 5, 40, 41, 47, 90, 150])
def test_a_full_disk_is_a_clear_error_that_leaves_the_environment_unharmed(full_after: Any, writes: int) -> None:
    env, agent = CountingEnv((STEPS,)), CountingAgent()
    recorder = recorded(env, agent, mode="capture", store=EpisodeStore(full_after(writes), frames=True, block=BLOCK))
    steps: list[int] = []
    with pytest.raises(OSError, match=r"The episode .* of the store full://disk ended early.*No space left on device"):
        play(recorder, agent, between=lambda: steps.append(env.t))
    assert steps == list(range(1, len(steps) + 1))
    assert env.t == len(steps)  # nothing was stepped that the loop did not see
    recorder.close()
    kept = check_episode("full://disk")
    assert len(steps) - kept <= 2 * BLOCK
    assert kept <= len(steps)


def test_a_full_disk_is_a_warning_while_training_goes_on(full_after: Any) -> None:
    env, agent = CountingEnv((30, 20)), CountingAgent()
    store = EpisodeStore(full_after(60), frames=True, block=BLOCK)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with recorded(env, agent, mode="capture", store=store, on_error="warn") as recorder:
            infos = play(recorder, agent, episodes=2)
    assert [len(episode) for episode in infos] == [31, 21]
    assert all("saliency" in info for episode in infos for info in episode[1:])
    texts = [str(one.message) for one in said]
    assert len(texts) == 2  # one an episode
    assert all("Not stored from step" in text and "No space left on device" in text for text in texts)
    kept = [stored.step for stored in EpisodeStore.open("full://disk").episodes[0].decisions()]
    assert kept == list(range(len(kept)))
    assert kept


def test_a_disk_that_has_room_again_takes_the_next_episode(full_after: Any) -> None:
    env, agent = CountingEnv((12,)), CountingAgent()
    store = EpisodeStore(full_after(30), frames=True, block=BLOCK)
    recorder = recorded(env, agent, mode="capture", store=store)
    with pytest.raises(OSError, match="No space left"):
        play(recorder, agent, episodes=3)
    FullFileSystem.left = 10**9
    play(recorder, agent)
    recorder.close()
    assert len(EpisodeStore.open("full://disk").episodes[-1]) == 12


def test_a_full_disk_ends_a_computation_that_can_go_on(tmp_path: Path, full_after: Any) -> None:
    place = full_after(10**9)
    env, agent = CountingEnv((STEPS,)), CountingAgent()
    with recorded(env, agent, mode="capture", store=EpisodeStore(place, frames=True, block=BLOCK)) as recorder:
        play(recorder, agent)
    from saliency_wrappers import compute_saliency

    FullFileSystem.left = 33
    with pytest.raises(OSError, match="No space left"):
        compute_saliency(place, agent, method=Counted(tmp_path / "explained"))
    FullFileSystem.left = 10**9
    done = compute_saliency(place, agent, method=Counted(tmp_path / "explained"))
    assert done.reused > 0
    assert size(tmp_path / "explained") - STEPS == BLOCK // 2
