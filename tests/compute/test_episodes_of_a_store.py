"""`compute_saliency` over several episodes: damaged ones, replays with memory, progress."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from counting import Blackout, CountingAgent, CountingEnv, always_acting, check_maps, play, recorded

from saliency_wrappers import EpisodeStore, ReplayMismatchError, StoreError, compute_saliency
from saliency_wrappers.compute.compute import DamagedEpisodesError

EPISODES, STEPS = 3, 6


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    env, agent = CountingEnv((STEPS,)), CountingAgent()
    with recorded(env, agent, mode="capture", store=EpisodeStore(tmp_path, block=8)) as recorder:
        play(recorder, agent, episodes=EPISODES)
    return tmp_path


def damage(folder: Path, episode: int, array: str, block: int) -> str:
    """Overwrite the bytes of one chunk; the episode's name."""
    name = EpisodeStore.open(folder).episodes[episode].name
    (chunk,) = (file for file in (folder / name / array).rglob("*") if file.is_file() and file.name.startswith((f"c.{block}", str(block))))
    chunk.write_bytes(b"damaged")
    return name


@pytest.mark.parametrize(
    ("array", "block", "verify"), [("inputs", 0, True), ("inputs", 0, False), ("inputs", 1, True), ("logits", 1, False), ("step", 1, False)]
)
def test_a_damaged_episode_does_not_keep_the_others_from_being_computed(folder: Path, array: str, block: int, verify: bool) -> None:
    name = damage(folder, 1, array, block)
    with pytest.raises(DamagedEpisodesError, match=rf"others are computed\. Failed: {name}: .*damaged") as caught:
        compute_saliency(folder, CountingAgent(), perturber=Blackout(), fill=0.0, verify=verify)
    assert isinstance(caught.value, StoreError)
    assert [*caught.value.failed] == [name]
    assert caught.value.computed.explained >= 2 * STEPS
    for episode in (0, 2):
        found = list(EpisodeStore.open(folder).episodes[episode].maps())
        assert [stored.step for stored, _ in found] == list(range(STEPS))
        for stored, maps in found:
            check_maps(maps, always_acting(CountingEnv((STEPS,)), episode, stored.step))


def test_what_a_damaged_episode_says_travels_between_processes(folder: Path) -> None:
    damage(folder, 1, "inputs", 1)
    with pytest.raises(DamagedEpisodesError) as caught:
        compute_saliency(folder, CountingAgent(), perturber=Blackout(), fill=0.0)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.failed, copy.computed, str(copy)) == (caught.value.failed, caught.value.computed, str(caught.value))


def test_a_decision_with_memory_is_replayed_too(folder: Path) -> None:
    agent = CountingAgent(unpack=lambda state: 0 * state)  # the first decision of an episode replays nevertheless
    with pytest.raises(ReplayMismatchError, match="other logits than the acting pass"):
        compute_saliency(folder, agent, perturber=Blackout(), fill=0.0)


def test_every_episode_is_replayed_with_memory(folder: Path) -> None:
    replayed: list[float] = []

    def unpack(state: object) -> object:
        replayed.append(float(state[0, 0]))  # type: ignore[index]  # pyright: ignore
        return state

    agent = CountingAgent(unpack=unpack)  # pyright: ignore[reportArgumentType]
    compute_saliency(folder, agent, perturber=Blackout(), fill=0.0, decisions=slice(99, None))
    assert replayed == [0.0, 1.0] * EPISODES


def test_progress_is_shown_by_a_bar(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compute_saliency(folder, CountingAgent(), perturber=Blackout(), fill=0.0, progress=True)
    assert f"{EPISODES * STEPS}/{EPISODES * STEPS}" in capsys.readouterr().err
    compute_saliency(folder, CountingAgent(), perturber=Blackout(), fill=0.5)
    assert not capsys.readouterr().err
