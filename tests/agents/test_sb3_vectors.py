"""Algorithms of Stable-Baselines3 and sb3-contrib on vectors, and actor-critics with Q-functions on vectors and pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gauges import Gauges, NamedGauges
from sb3_agents import Cockpit, Pictures, SmallCNN, SmallCombined
from sb3_contrib import TQC, CrossQ, RecurrentPPO
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor

from saliency_wrappers import (
    EpisodeStore,
    FeatureShapley,
    Marginal,
    RecordSaliencyVideo,
    RecurrentAgentHook,
    SaliencyRecorder,
    as_adapter,
    compute_saliency,
)
from saliency_wrappers.agents.base import policy_form
from saliency_wrappers.sb3 import SaliencyVecEnv
from saliency_wrappers.testing import check_adapter

ROWS = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
SMALL: dict[str, Any] = {"seed": 0, "device": "cpu"}
REPLAY: dict[str, Any] = {"buffer_size": 200, "learning_starts": 5, "batch_size": 8, **SMALL}
CONTINUOUS = [SAC, TD3, DDPG, TQC, CrossQ]


def on_vectors(algorithm: Any, env: Any = None, **options: Any) -> Any:
    continuous = algorithm in CONTINUOUS
    given = {**(REPLAY if continuous or algorithm is DQN else {"n_steps": 8, **SMALL})}
    given |= {"batch_size": 8} if algorithm in (PPO, RecurrentPPO) else {}
    recurrent = {"lstm_hidden_size": 8} if algorithm is RecurrentPPO else {}
    policy = "MlpLstmPolicy" if recurrent else "MlpPolicy"
    return algorithm(
        policy, env or Gauges(actions=None if continuous else 3), policy_kwargs={"net_arch": [8], **recurrent}, **(given | options)
    )


def on_pixels(algorithm: Any, env: Any = None) -> Any:
    kwargs = {"net_arch": [8], "features_extractor_class": SmallCNN}
    policy = "MlpPolicy" if algorithm is CrossQ else "CnnPolicy"  # CrossQ has no name for the other
    return algorithm(policy, env or Pictures(actions=None), policy_kwargs=kwargs, **REPLAY)


def q_of(model: Any, observation: Any, action: Any) -> float:
    """Q by the algorithm's own critic: as its losses take it."""
    model.policy.set_training_mode(False)
    with torch.no_grad():
        x, _ = model.policy.obs_to_tensor(observation)
        judged = model.critic(x, torch.as_tensor(model.policy.scale_action(np.asarray(action)))[None].float())
    return float(judged.mean()) if isinstance(judged, Tensor) else min(float(q) for q in judged)


def actor_of(model: Any, observation: Any) -> Any:
    with torch.no_grad():
        x, _ = model.policy.obs_to_tensor(observation)
        if not hasattr(model.actor, "get_action_dist_params"):
            return model.actor(x)[0].numpy()
        mean, log_std, _ = model.actor.get_action_dist_params(x)
    return torch.cat([mean, log_std], dim=1)[0].numpy()


@pytest.mark.parametrize("algorithm", [PPO, A2C, DQN, RecurrentPPO, *CONTINUOUS])
def test_adapters_of_policies_on_vectors_keep_the_contract(algorithm: Any) -> None:
    agent = on_vectors(algorithm)
    state: Any = None

    def play(x: Tensor) -> None:
        nonlocal state
        _, state = agent.predict(x.numpy(), state=state)

    check_adapter(as_adapter(agent), torch.as_tensor(ROWS[:3]), play)


@pytest.mark.parametrize("algorithm", CONTINUOUS)
def test_adapters_of_critics_of_actions_keep_the_contract_on_pixels(algorithm: Any) -> None:
    agent = on_pixels(algorithm)
    images = torch.randint(0, 256, (3, 3, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    check_adapter(as_adapter(agent), images, lambda x: agent.predict(x.numpy()))


@pytest.mark.parametrize("algorithm", [PPO, DQN, RecurrentPPO, SAC])
def test_learning_on_vectors_tells_maps_with_names(algorithm: Any) -> None:
    hook = RecurrentAgentHook()
    worlds = DummyVecEnv([lambda: NamedGauges(actions=None if algorithm is SAC else 3)])
    venv = SaliencyVecEnv(worlds, hook, step_trigger=lambda step: step >= 5)
    agent = on_vectors(algorithm, venv)
    hook.attach(agent)
    told: list[Any] = []
    agent.learn(16, callback=lambda local, _: told.append(local["infos"][0].get("saliency")) or True)
    told = [one for one in told if one is not None]
    assert len(told) >= 8
    assert all(one["actor"].shape == (4,) and one["features"] == NamedGauges.feature_names for one in told)
    assert all(one["actor"].any() for one in told[1:])
    assert (told[0]["critic"] is None) == (algorithm is DQN)


@pytest.mark.parametrize("algorithm", CONTINUOUS)
@pytest.mark.parametrize("kind", ["vectors", "pixels"])
def test_values_are_the_algorithms_own(algorithm: Any, kind: str) -> None:
    world = Gauges(actions=None) if kind == "vectors" else Pictures(actions=None)
    world.action_space = gym.spaces.Box(-2, 3, (2,))  # bounds that actions are scaled to
    model = (on_vectors if kind == "vectors" else on_pixels)(algorithm, world)
    method = FeatureShapley(Marginal(ROWS)) if kind == "vectors" else None
    env = SaliencyRecorder(world, RecurrentAgentHook(model), method)
    observation, _ = env.reset(seed=0)
    for step in range(3):
        action, _ = model.predict(observation, deterministic=step == 0)
        before, noisy = observation, np.clip(action + (step == 2) * np.float32(0.25), -2, 3)
        observation, _, _, _, info = env.step(noisy)
        saliency = info["saliency"]
        assert np.array_equal(saliency["logits"], actor_of(model, before))
        assert saliency["value"] == pytest.approx(q_of(model, before, noisy), abs=1e-6)
        assert saliency["actor"].shape == saliency["critic"].shape == ((4,) if kind == "vectors" else (12, 12))
        assert saliency["actor"].any()
    env.close()


@pytest.mark.parametrize(
    ("algorithm", "kind"), [(SAC, "pixels"), (TD3, "vectors"), (TQC, "vectors"), (CrossQ, "vectors"), (DDPG, "vectors")]
)
def test_training_is_the_same_to_the_bit(algorithm: Any, kind: str) -> None:
    def train(recorded: bool) -> tuple[dict[str, Tensor], list[Any]]:
        world = Gauges(actions=None) if kind == "vectors" else Pictures(actions=None)
        hook = RecurrentAgentHook()
        venv: Any = DummyVecEnv([lambda: world])
        if recorded:
            venv = SaliencyVecEnv(venv, hook)
        model = (on_vectors if kind == "vectors" else on_pixels)(algorithm, venv)
        model.action_noise = NormalActionNoise(np.zeros(2), np.full(2, 0.1)) if algorithm in (TD3, DDPG) else None
        if recorded:
            hook.attach(model)
        told: list[Any] = []
        model.learn(20, callback=lambda local, _: told.append(local["infos"][0].get("saliency")) or True)
        return model.policy.state_dict(), told

    plain, _ = train(recorded=False)
    recorded, told = train(recorded=True)
    assert all(torch.equal(plain[name], recorded[name]) for name in plain)
    assert [one is not None for one in told] == [False] * 5 + [True] * (len(told) - 5)  # random actions of the warm-up are no decisions


def test_noise_of_the_exploration_is_part_of_the_action_that_the_value_is_of() -> None:
    hook = RecurrentAgentHook()
    venv = SaliencyVecEnv(DummyVecEnv([lambda: Gauges(actions=None)]), hook)
    model = on_vectors(TD3, venv, action_noise=NormalActionNoise(np.zeros(2), np.full(2, 0.2)), learning_starts=0, train_freq=(100, "step"))
    hook.attach(model)
    seen: list[Any] = []

    def see(local: dict[str, Any], _: Any) -> bool:
        observation, action = model._last_obs[0], local["actions"][0]
        seen.append((local["infos"][0]["saliency"], q_of(model, observation, action)))
        return True

    model.learn(4, callback=see)
    for saliency, expected in seen:
        assert saliency["value"] == pytest.approx(expected, abs=1e-6)


def test_parts_of_each_action_dimension() -> None:
    model = on_vectors(SAC)
    adapter = as_adapter(model)
    assert policy_form(adapter) == "gaussian"
    decision: list[Any] = []
    detach = adapter.attach(decision.append)
    model.predict(ROWS[0])
    detach()
    from saliency_wrappers import Decision

    one = decision[0]
    one.complete(one)
    explained = FeatureShapley(Marginal(ROWS)).explain(adapter, Decision.of(one))
    assert len(explained.outputs) == 4  # two means, two logarithms of standard deviations
    rows = np.stack([actor_of(model, row) for row in ROWS])
    for i, output in enumerate(explained.outputs):
        assert output.phi.sum() == pytest.approx(rows[0][i] - rows[:, i].mean(), abs=1e-5)


def test_a_dictionary_goes_with_the_action() -> None:
    kwargs = {"net_arch": [8], "features_extractor_class": SmallCombined}
    model = SAC("MultiInputPolicy", Cockpit(Pictures(actions=None)), policy_kwargs=kwargs, **REPLAY)
    env = SaliencyRecorder(Cockpit(Pictures(actions=None)), RecurrentAgentHook(model))
    observation, _ = env.reset(seed=0)
    for _ in range(2):
        action, _ = model.predict(observation)
        observation, _, _, _, info = env.step(action)
        assert info["saliency"]["actor"].shape == (12, 12)
    env.close()


def test_a_store_of_continuous_actions_is_computed_later(tmp_path: Path) -> None:
    model = on_vectors(TD3)
    env = SaliencyRecorder(NamedGauges(actions=None), RecurrentAgentHook(model), mode="capture", store=EpisodeStore(tmp_path / "s"))
    observation, _ = env.reset(seed=0)
    for _ in range(7):
        observation, *_ = env.step(model.predict(observation)[0])
    env.close()
    assert compute_saliency(tmp_path / "s", model).explained == 7
    made = [maps for _, maps in EpisodeStore.open(tmp_path / "s").episode(0).maps()]
    assert all(maps.actor.shape == (4,) and maps.critic is not None and maps.critic.any() for maps in made)


def test_a_film_of_a_vec_env_shows_bars(tmp_path: Path) -> None:
    hook = RecurrentAgentHook()
    venv = RecordSaliencyVideo(SaliencyVecEnv(DummyVecEnv([NamedGauges] * 2), hook), tmp_path)
    model = on_vectors(PPO, venv)
    hook.attach(model)
    model.learn(8)
    venv.close()
    assert (tmp_path / "saliency-env-0-episode-0.mp4").stat().st_size > 1000


@pytest.mark.parametrize("algorithm", [PPO, DQN, SAC])
def test_policies_on_dictionaries_tell_the_share_of_each_input(algorithm: Any, tmp_path: Path) -> None:
    kwargs = {"net_arch": [8], "features_extractor_class": SmallCombined}
    world = Cockpit(Pictures(actions=None if algorithm is SAC else 3), second=True)
    given = {"n_steps": 8, "batch_size": 8, **SMALL} if algorithm is PPO else REPLAY
    model = algorithm("MultiInputPolicy", world, policy_kwargs=kwargs, **given)
    hook = RecurrentAgentHook(model, image="camera")
    env = RecordSaliencyVideo(SaliencyRecorder(world, hook, "inputs"), tmp_path)
    observation, _ = env.reset(seed=0)
    for _ in range(3):
        observation, _, _, _, info = env.step(model.predict(observation, deterministic=True)[0])
    env.close()
    inputs = info["saliency"]["inputs"]
    assert set(inputs) == {"camera", "mirror", "gauge", "gear"}
    assert inputs["mirror"]["actor"].shape == (12, 12)
    assert inputs["gauge"]["actor"].shape == (2,)
    assert sum(one["share"] for one in inputs.values()) == pytest.approx(1)
    assert min(inputs["camera"]["share"], inputs["mirror"]["share"]) > 0
