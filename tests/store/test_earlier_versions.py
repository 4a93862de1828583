"""A store that an earlier version wrote is read, computed on, rendered and added to.

`tests/data/store_of_a541663.zip` was written by commit a541663 (version 0.1.0, schema 1, before chunks were bound to their places):
`CountingEnv((10, 6))` with `CountingAgent()`, two episodes with frames, `block=8`; maps of `PerturbationSaliency(Blackout(), fill=0.0)` for
steps 0 to 5 of the first.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from counting import Blackout, CountingAgent, CountingEnv, always_acting, check_maps, play, recorded
from videos import frames_of

from saliency_wrappers import EpisodeStore, PerturbationSaliency, compute_saliency
from saliency_wrappers.cli.store import inspect, render

METHOD = PerturbationSaliency(Blackout(), fill=0.0)
LENGTHS = 10, 6
OLD = "fed2e82a0604352a"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    with zipfile.ZipFile(Path(__file__).parents[1] / "data/store_of_a541663.zip") as archive:
        archive.extractall(tmp_path / "store")
    return tmp_path / "store"


def test_it_is_read(store: Path) -> None:
    env = CountingEnv(LENGTHS)
    for number, episode in enumerate(EpisodeStore.open(store).episodes):
        assert (len(episode), episode.header.complete, episode.header.seed) == (LENGTHS[number], True, number)
        for t, stored in enumerate(episode.decisions()):
            right = always_acting(env, number, t)
            assert stored.decision.logits[0].tolist() == pytest.approx(right.logits)
            assert stored.decision.state[0].tolist() == pytest.approx(right.logits[1:3])
            assert (stored.step, stored.reward, stored.action) == (t, t + 1, (t + 2 * number) % 4)
            np.testing.assert_array_equal(stored.frame, env.frame(number, t))


def test_its_maps_stay_and_new_ones_are_computed(store: Path) -> None:
    """The class of the scores has moved since, and its path is part of the fingerprint: the maps of both versions are there."""
    done = compute_saliency(store, CountingAgent(), method=METHOD)
    assert compute_saliency(store, CountingAgent(), method=METHOD).reused == sum(LENGTHS)
    for number, episode in enumerate(EpisodeStore.open(store).episodes):
        found = {method: list(episode.maps(method=method)) for method in episode.methods}
        assert {method: len(maps) for method, maps in found.items()} == {done.fingerprint: LENGTHS[number]} | ({} if number else {OLD: 6})
        for stored, maps in (pair for pairs in found.values() for pair in pairs):
            check_maps(maps, always_acting(CountingEnv(LENGTHS), number, stored.step))


def test_it_is_shown(store: Path, tmp_path: Path) -> None:
    shown = CliRunner().invoke(inspect, [str(store)])
    assert shown.exit_code == 0
    assert "episodes: 2\ndecisions: 16" in shown.output
    video = tmp_path / "video.mp4"
    assert CliRunner().invoke(render, [str(store), "--output", str(video), "--no-progress"]).exit_code == 0
    assert len(frames_of(video)) == 6


def test_an_episode_is_added_to_it(store: Path) -> None:
    agent = CountingAgent()
    with recorded(CountingEnv((4,)), agent, mode="capture", store=EpisodeStore(store, frames=True, block=8)) as env, torch.no_grad():
        play(env, agent)
    assert [len(episode) for episode in EpisodeStore.open(store).episodes] == [10, 6, 4]
