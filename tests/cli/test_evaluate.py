"""The command `evaluate`, and maps of stores whose method has a running background."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from saliency_wrappers import Decision, EpisodeStore, as_adapter, compute_saliency
from saliency_wrappers.cli import main
from saliency_wrappers.models.networks import GreydanusLSTM
from saliency_wrappers.saliency.fingerprints import agent_fingerprint
from saliency_wrappers.saliency.masks import SlidingDisc


def agent(seed: int = 0) -> GreydanusLSTM:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GreydanusLSTM(4).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, one of another agent, and a store with an episode of 24 decisions."""
    folder = tmp_path_factory.mktemp("evaluate")
    torch.save(agent().state_dict(), folder / "agent.tar")
    torch.save(agent(1).state_dict(), folder / "other.tar")
    adapter = as_adapter(agent())
    random = torch.Generator().manual_seed(0)
    state: Any = adapter.initial_state(1)
    with EpisodeStore(folder / "store", block=5).new_episode(agent=agent_fingerprint(adapter)) as episode:
        for _ in range(24):
            inputs = torch.rand(1, 1, 80, 80, generator=random)
            logits, value = adapter.evaluate(inputs, state, None)
            episode.append(Decision(inputs, state, logits, value), action=1, reward=0.0)
            _, state = adapter.act(inputs, state)
    return folder


def evaluated(folder: Path, *arguments: Any) -> Any:
    few = ["--decisions", 3, "--resamples", 20, "--method", "xaitk", "--no-progress"]
    checkpoint = ["--checkpoint", folder / "agent.tar"] if "--checkpoint" not in arguments else []
    return CliRunner().invoke(main, [str(one) for one in ["evaluate", folder / "store", *checkpoint, *few, *arguments]])


def test_a_store_is_evaluated(folder: Path, tmp_path: Path) -> None:
    result = evaluated(folder, "--json", tmp_path / "table.json")
    assert result.exit_code == 0, result.output
    assert "n=3" in result.stdout
    assert "|x - background|" in result.stdout
    written = json.loads((tmp_path / "table.json").read_text())
    assert written["decisions"] == 3
    assert "critic deletion background log" in written["scores"]["xaitk"]


def test_another_agent_is_refused(folder: Path) -> None:
    result = evaluated(folder, "--checkpoint", folder / "other.tar")
    assert result.exit_code == 2
    assert "Expected the agent that acted" in result.stderr
    assert evaluated(folder, "--checkpoint", folder / "other.tar", "--no-verify").exit_code == 0


def test_maps_of_a_running_background_do_not_depend_on_the_order_of_blocks(folder: Path) -> None:
    options: Any = {"method": "change_weighted_two_fills", "perturber": SlidingDisc(1, 20, 5)}
    first = compute_saliency(folder / "store", agent(), decisions=slice(12, 24), **options)
    second = compute_saliency(folder / "store", agent(), **options)
    assert first.fingerprint == second.fingerprint
    assert (first.explained, second.explained, second.reused) == (12, 12, 12)
    episode = EpisodeStore.open(folder / "store").episodes[0]
    totals = [maps.actor.sum() for _, maps in episode.maps(method=first.fingerprint)]
    assert np.allclose(totals, 2, atol=1e-4)
