"""The command line on an environment of vectors, with agents as their libraries save them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from gauges import NamedGauges
from stable_baselines3 import PPO
from torch import nn
from videos import frames_of

from saliency_wrappers import CheckpointError, EpisodeStore, RecurrentAgentHook, SaliencyRecorder, as_adapter, load_checkpoint
from saliency_wrappers.cli import main
from saliency_wrappers.saliency.fingerprints import agent_fingerprint


@pytest.fixture(autouse=True)
def _gauges() -> Iterator[None]:
    gym.register("Gauges-v0", lambda **options: NamedGauges(**options))
    yield
    gym.registry.pop("Gauges-v0")


@pytest.fixture
def saved(tmp_path: Path) -> tuple[PPO, Path]:
    kwargs = {"net_arch": [8], "activation_fn": nn.ReLU}
    agent = PPO("MlpPolicy", NamedGauges(), policy_kwargs=kwargs, seed=0, device="cpu", n_steps=8, batch_size=8)
    agent.save(tmp_path / "ppo.zip")
    return agent, tmp_path / "ppo.zip"


def run(*arguments: Any) -> Any:
    done = CliRunner().invoke(main, [*map(str, arguments), "--no-progress"])
    assert done.exit_code == 0, done.output
    return done.output


def test_a_saved_policy_computes_what_it_computed(saved: tuple[PPO, Path]) -> None:
    agent, file = saved
    x = torch.as_tensor(np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32))
    loaded, original = as_adapter(load_checkpoint(file)), as_adapter(agent)
    for made, expected in zip(loaded.evaluate(x, None, None), original.evaluate(x, None, None), strict=True):
        assert made is not None
        assert expected is not None
        assert torch.allclose(made, expected, atol=1e-6)
    assert agent_fingerprint(loaded) == agent_fingerprint(original)


def test_agents_of_cleanrl_are_told_by_their_weights(tmp_path: Path) -> None:
    agent = nn.Module()
    for name, outputs in (("critic", 1), ("actor", 3)):
        agent.add_module(name, nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, outputs)))
    torch.save(agent.state_dict(), tmp_path / "agent.cleanrl_model")
    x = torch.ones(2, 4)
    logits, value = as_adapter(load_checkpoint(tmp_path / "agent.cleanrl_model")).evaluate(x, None, None)
    assert torch.equal(logits, agent.actor(x))  # type: ignore[operator]
    assert value is not None
    assert torch.equal(value, agent.critic(x))  # type: ignore[operator]


def test_recording_films_bars_and_pictures(saved: tuple[PPO, Path], tmp_path: Path) -> None:
    said = run("record", "Gauges-v0", "--checkpoint", saved[1], "--output", tmp_path / "videos", "--png", 2, "--zoom", 2)
    assert "explained maps: 7" in said
    assert frames_of(tmp_path / "videos/saliency-episode-0.mp4")[0].shape == (240, 320 + 260, 3)
    assert (tmp_path / "videos/decision-2-episode-0.png").exists()


def test_a_store_is_filled_computed_and_rendered(saved: tuple[PPO, Path], tmp_path: Path) -> None:
    store, film = tmp_path / "store", tmp_path / "film.mp4"
    run("record", "Gauges-v0", "--checkpoint", saved[1], "--store", store)
    assert "explained: 7" in run("compute", store, "--checkpoint", saved[1])
    assert "frames: 7" in run("render", store, "--output", film)
    assert frames_of(film)[0].shape == (120, 160 + 260, 3)
    assert "FeatureShapley" in CliRunner().invoke(main, ["inspect", str(store)]).output


def test_what_the_library_itself_recorded_is_computed_with_its_file(saved: tuple[PPO, Path], tmp_path: Path) -> None:
    agent, file = saved
    store = EpisodeStore(tmp_path / "store", frames=True)
    env = SaliencyRecorder(gym.make("Gauges-v0", render_mode="rgb_array"), RecurrentAgentHook(agent), mode="capture", store=store)
    observation, _ = env.reset(seed=0)
    for _ in range(7):
        observation, *_ = env.step(int(agent.predict(observation)[0]))
    env.close()
    assert "explained: 7" in run("compute", tmp_path / "store", "--checkpoint", file)


def test_policies_of_other_arguments_are_refused(tmp_path: Path) -> None:
    kwargs = {"net_arch": [8], "squash_output": False, "use_expln": False}
    PPO("MlpPolicy", NamedGauges(), policy_kwargs=kwargs, device="cpu", n_steps=8, batch_size=8).save(tmp_path / "ppo.zip")
    with pytest.raises(CheckpointError, match=r"got \['squash_output', 'use_expln'\]: hook the model itself instead"):
        load_checkpoint(tmp_path / "ppo.zip")


def test_masks_are_for_images(saved: tuple[PPO, Path], tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["record", "Gauges-v0", "--checkpoint", str(saved[1]), "--perturber", "rise"])
    assert done.exit_code == 2
    assert "--perturber is for images" in done.output
