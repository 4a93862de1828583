"""Stable-Baselines3: its own algorithms, as they act in `predict` and in `learn`, are captured exactly and left as they were."""

from __future__ import annotations

import copy
import gc
import pickle
import subprocess
import sys
import weakref
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from counting import Blackout, CountingEnv
from sb3_agents import Cockpit, Grey, Pictures, SmallCNN, SmallCombined, learn, model, pictures, recorder_of
from sb3_contrib import ARS, QRDQN, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize
from torch import Tensor

from saliency_wrappers import PerturbationSaliency, RecurrentAgentHook, SaliencyRecorder, as_adapter
from saliency_wrappers.agents.dict_observation import ObservedState
from saliency_wrappers.agents.sb3 import ActorCriticPolicyAdapter, QPolicyAdapter
from saliency_wrappers.decisions import AgentPass, Decision
from saliency_wrappers.hooks.replay_check import ReplayMismatchError, replay
from saliency_wrappers.sb3.callbacks import FlushSaliency
from saliency_wrappers.testing import check_adapter


class OneForbidden(Pictures):
    def action_masks(self) -> Any:
        return np.array([True, False, True])


ON_POLICY: dict[str, Any] = {"n_steps": 16, "batch_size": 8, "n_epochs": 1}
OFF_POLICY: dict[str, Any] = {"buffer_size": 200, "learning_starts": 8, "batch_size": 4, "target_update_interval": 20}
MODELS: dict[str, Callable[[], Any]] = {
    "PPO": lambda: model(PPO, Pictures(), **ON_POLICY),
    "PPO with hidden layers": lambda: model(PPO, Pictures(), policy_kwargs={"net_arch": {"pi": [6], "vf": [5]}}, **ON_POLICY),
    "PPO with two extractors": lambda: model(PPO, Pictures(), policy_kwargs={"share_features_extractor": False}, **ON_POLICY),
    "PPO, continuous": lambda: model(PPO, Pictures(None), **ON_POLICY),
    "PPO, gSDE": lambda: model(PPO, Pictures(None), use_sde=True, **ON_POLICY),
    "MaskablePPO": lambda: model(MaskablePPO, OneForbidden(), **ON_POLICY),
    "A2C": lambda: model(A2C, Pictures()),
    "DQN": lambda: model(DQN, Pictures(), **OFF_POLICY),
    "QRDQN": lambda: model(QRDQN, Pictures(), **OFF_POLICY),
}


def watched(agent: Any) -> tuple[list[Any], Callable[[], None]]:
    seen: list[Any] = []
    return seen, as_adapter(agent).attach(seen.append)


def acting(seen: list[Any]) -> list[AgentPass]:
    return [one for one in seen if isinstance(one, AgentPass) and one.logits is not None and not one.scored_action]


@pytest.mark.parametrize("name", MODELS)
def test_every_algorithm_keeps_the_contract(name: str) -> None:
    agent = MODELS[name]()
    check_adapter(as_adapter(agent), pictures(), lambda image: agent.predict(image.numpy()))


@pytest.mark.parametrize("name", MODELS)
def test_every_acting_pass_of_learn_is_seen_once_and_replays(name: str) -> None:
    agent = MODELS[name]()
    adapter = as_adapter(agent)
    acted: list[AgentPass] = []

    def check(one: Any) -> None:
        if acting([one]):
            acted.append(one)
            replay(adapter, Decision.of(one))  # with the weights it was made with

    detach = adapter.attach(check)
    agent.learn(40)
    detach()
    assert {len(one.inputs) for one in acted} == {1}
    if isinstance(adapter, QPolicyAdapter):
        assert 5 < len(acted) < 40  # the others were random
    else:
        assert len(acted) == agent.num_timesteps


@pytest.mark.parametrize(("make", "kind"), [("PPO", ActorCriticPolicyAdapter), ("A2C", ActorCriticPolicyAdapter), ("DQN", QPolicyAdapter)])
def test_an_algorithm_and_its_policy_find_the_same_adapter(make: str, kind: type) -> None:
    agent = MODELS[make]()
    for one in (agent, agent.policy):
        adapter = as_adapter(one)
        assert type(adapter) is kind
        assert adapter.module is agent.policy
        assert adapter.input_range == (0, 255)


def test_logits_are_those_of_the_network_and_of_a_gaussian_its_mean_and_log_std() -> None:
    discrete, continuous = MODELS["PPO"](), MODELS["PPO, continuous"]()
    for agent in (discrete, continuous):
        torch.nn.init.constant_(agent.policy.action_net.bias, 0.7)
    logits, _ = as_adapter(discrete).evaluate(pictures(), None, None)
    distribution = discrete.policy.get_distribution(pictures()).distribution
    np.testing.assert_allclose(logits.log_softmax(dim=1), distribution.logits.detach(), rtol=1e-5)
    assert not torch.allclose(logits, distribution.logits)
    torch.nn.init.constant_(continuous.policy.log_std, -1.5)
    outputs, _ = as_adapter(continuous).evaluate(pictures(), None, None)
    mean = continuous.policy.get_distribution(pictures()).distribution.mean.detach()
    np.testing.assert_allclose(outputs, torch.cat([mean, torch.full_like(mean, -1.5)], dim=1), rtol=1e-5)


def test_a_prediction_has_the_value_that_the_policy_gives_it() -> None:
    for name in ("PPO", "PPO with two extractors", "A2C", "MaskablePPO"):
        agent = MODELS[name]()
        seen, _ = watched(agent)
        agent.predict(pictures(1).numpy())
        (one,) = seen
        with torch.no_grad():
            np.testing.assert_allclose(one.value, agent.policy.predict_values(pictures(1)), rtol=1e-5)
    seen, _ = watched(agent := MODELS["DQN"]())
    agent.predict(pictures(1).numpy(), deterministic=True)
    assert seen[0].value is None
    assert torch.equal(seen[0].logits, agent.q_net(pictures(1)).detach())


def test_training_passes_never_decide() -> None:
    agent = MODELS["PPO"]()
    seen, _ = watched(agent)
    agent.policy.evaluate_actions(pictures(1), torch.zeros(1))
    agent.policy.predict_values(pictures(1))
    assert [(one.scored_action, one.logits is None) for one in seen] == [(True, False), (False, True)]
    dqn = MODELS["DQN"]()
    seen, _ = watched(dqn)
    learn(dqn, 30)
    assert {len(one.inputs) for one in seen} == {1}  # batches of four are trained on, past the policy


def test_a_distribution_in_the_users_hands_is_left_alone() -> None:
    agent = MODELS["PPO"]()
    distribution = agent.policy.get_distribution(pictures(1))
    before = distribution.distribution
    as_adapter(agent).evaluate(pictures(3), None, None)
    assert distribution.distribution is before


def test_perturbed_images_are_not_cut_down_to_integers() -> None:
    agent = MODELS["PPO"]()
    x = pictures(1).float()
    whole, between = (as_adapter(agent).evaluate(image, None, None)[0] for image in (x, x * 0.99 + 0.6))
    assert torch.equal(whole, as_adapter(agent).evaluate(pictures(1), None, None)[0])
    assert not torch.equal(between, as_adapter(agent).evaluate((x * 0.99 + 0.6).trunc(), None, None)[0])


# Dictionaries


DICTIONARIES: dict[str, Callable[[], Any]] = {
    "PPO": lambda: model(PPO, Cockpit(), SmallCombined, "MultiInputPolicy", **ON_POLICY),
    "DQN": lambda: model(DQN, Cockpit(), SmallCombined, "MultiInputPolicy", **OFF_POLICY),
    "RecurrentPPO": lambda: model(
        RecurrentPPO, Cockpit(), SmallCombined, "MultiInputLstmPolicy", policy_kwargs={"lstm_hidden_size": 6}, **ON_POLICY
    ),
}


@pytest.mark.parametrize("name", DICTIONARIES)
def test_of_a_dictionary_the_image_is_explained_and_the_rest_goes_with_the_decision(name: str) -> None:
    agent = DICTIONARIES[name]()
    adapter = as_adapter(agent)
    state, gauge = None, 0

    def play(image: Tensor) -> None:
        nonlocal state, gauge
        gauge += 1
        observation = {"camera": image.numpy(), "gauge": np.array([[gauge, 2.0]], np.float32), "gear": np.array([gauge % 3])}
        _, state = agent.predict(observation, state, deterministic=True)

    check_adapter(adapter, pictures(4), play)
    seen: list[Any] = []
    detach = adapter.attach(lambda one: (seen.append(one), replay(adapter, Decision.of(one))) if acting([one]) else None)
    agent.learn(16)
    detach()
    decided = acting(seen)
    assert isinstance(decided[-1].state, ObservedState)
    assert (decided[-1].state.memory is None) == (name != "RecurrentPPO")
    gauges = [int(one.state.observation["gauge"][0, 0]) for one in decided]  # type: ignore[union-attr]
    assert gauges == ([t % 7 for t in range(16)] if name != "DQN" else gauges)
    assert len(set(gauges)) > 1


def test_of_several_images_the_one_to_explain_is_named() -> None:
    agent = model(PPO, Cockpit(second=True), SmallCombined, "MultiInputPolicy", **ON_POLICY)
    with pytest.raises(
        ValueError, match=r"the key of one of \['camera', 'mirror'\], got None: hook it with RecurrentAgentHook\(agent, image=key\)"
    ):
        as_adapter(agent)
    adapter = ActorCriticPolicyAdapter(agent.policy, image="mirror")
    camera, gauges = pictures(1, (3, 12, 12)), {"gauge": np.zeros((1, 2), np.float32), "gear": np.zeros(1, np.int64)}
    check_adapter(adapter, pictures(3), lambda x: agent.predict({"mirror": x.numpy(), "camera": camera.numpy(), **gauges}))


# Copies, and leaving as found


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda policy: pickle.loads(pickle.dumps(policy)),
    "a copy of a copy": lambda policy: copy.deepcopy(pickle.loads(pickle.dumps(copy.deepcopy(policy)))),
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("name", ["PPO", "DQN"])
def test_a_copy_of_a_hooked_policy_works_and_is_not_watched(how: str, name: str) -> None:
    agent = MODELS[name]()
    seen, detach = watched(agent)
    twin = COPIES[how](agent.policy)
    before = [weight.clone() for weight in agent.policy.parameters()]
    for weight in twin.parameters():
        torch.nn.init.zeros_(weight)  # were it the original's method it would use the original's weights
    twin.predict(pictures(1).numpy())
    assert not seen
    assert all(torch.equal(a, b) for a, b in zip(before, agent.policy.parameters(), strict=True))
    if name == "PPO":
        assert not twin.get_distribution(pictures(1)).distribution.logits.diff().any()
    detach()
    seen, detach = watched(twin)
    twin.predict(pictures(1).numpy(), deterministic=True)
    assert len(seen) == 1
    detach()


def test_a_hooked_model_is_saved_without_a_trace(tmp_path: Any) -> None:
    agent = MODELS["PPO"]()
    _, detach = watched(agent)
    agent.save(tmp_path / "hooked.zip")
    loaded = PPO.load(tmp_path / "hooked.zip", device="cpu")
    assert not {"forward", "get_distribution"} & vars(loaded.policy).keys()
    np.testing.assert_array_equal(*(one.predict(pictures().numpy(), deterministic=True)[0] for one in (agent, loaded)))
    detach()


def test_detaching_leaves_the_policy_as_it_was_found() -> None:
    agent = MODELS["PPO"]()
    own = agent.policy.evaluate_actions = lambda *args: "the user's own"
    agent.policy.set_training_mode(False)  # as predict does
    before = dict(vars(agent.policy))
    first, second = watched(agent), watched(agent)
    agent.predict(pictures(1).numpy())
    first[1]()
    agent.predict(pictures(1).numpy())
    assert agent.policy.evaluate_actions() == "the user's own"
    second[1]()
    agent.predict(pictures(1).numpy())
    assert [len(acting(one[0])) for one in (first, second)] == [1, 2]
    assert vars(agent.policy) == before
    assert agent.policy.evaluate_actions is own


def test_a_hook_that_is_forgotten_leaves_the_policy_as_it_was_found() -> None:
    agent = MODELS["PPO"]()
    hook = RecurrentAgentHook(agent)
    assert "forward" in vars(agent.policy)
    del hook
    gc.collect()
    assert not {"forward", "get_distribution"} & vars(agent.policy).keys()


def test_an_agent_is_not_kept_alive_by_having_been_watched() -> None:
    agent = MODELS["PPO"]()
    alive = weakref.ref(agent.policy)
    _, detach = watched(agent)
    agent.predict(pictures(1).numpy())
    detach()
    del agent, detach
    gc.collect()
    assert alive() is None


def test_a_call_that_fails_raises_as_ever_and_is_not_seen() -> None:
    agent = MODELS["PPO"]()
    seen, _ = watched(agent)
    with pytest.raises(TypeError):
        agent.policy.get_distribution()
    with pytest.raises(RuntimeError):
        agent.policy(torch.zeros(1, 5, 12, 12))
    assert seen == []
    agent.predict(pictures(1).numpy())
    assert len(seen) == 1


# What is done with the passes


@pytest.mark.parametrize("name", MODELS)
def test_maps_are_the_same_on_the_plain_path_and_the_incremental_one(name: str) -> None:
    agent = MODELS[name]()
    seen, _ = watched(agent)
    agent.predict(pictures(1).numpy(), deterministic=True)
    adapter, decision = as_adapter(agent), Decision.of(seen[0])
    plain, incremental = (PerturbationSaliency(path=path)(adapter, [decision])[0] for path in ("plain", "incremental"))  # type: ignore[arg-type]
    assert plain.actor.any()
    np.testing.assert_allclose(incremental.actor, plain.actor, rtol=1e-3, atol=1e-5 * plain.actor.max())
    assert (plain.critic is None) == (decision.value is None)
    if plain.critic is not None:
        np.testing.assert_allclose(incremental.critic, plain.critic, rtol=1e-3, atol=1e-5 * plain.critic.max())


@pytest.mark.parametrize("first", ["hooked", "compiled"])
def test_a_compiled_policy_is_seen(first: str) -> None:
    agent = MODELS["PPO"]()
    policy, seen = agent.policy, []
    if first == "hooked":
        as_adapter(agent).attach(seen.append)
    agent.policy = torch.compile(policy, backend="eager")
    if first == "compiled":
        agent.learn(16)
        adapter = as_adapter(agent)
        assert adapter.module is policy
        adapter.attach(seen.append)
    agent.learn(16)
    assert len(acting(seen)) == 16


# What has no adapter


def test_finding_an_adapter_does_not_load_what_cannot_be_in_play() -> None:
    program = """
import sys, torch
from saliency_wrappers import RecurrentAgentHook, as_adapter

class Agent(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.actor = torch.nn.Linear(2, 2)
    def get_action_and_value(self, x, action=None):
        pass

RecurrentAgentHook(Agent()).close()
as_adapter(torch.nn.LSTMCell(2, 2))
print(sorted({"stable_baselines3", "sb3_contrib", "tensorboard"} & sys.modules.keys()))
sys.modules["stable_baselines3"] = None  # as where it is not installed
as_adapter(Agent())
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


def test_policies_of_other_observations_or_forms_say_so() -> None:
    with pytest.raises(
        TypeError, match=r"a policy that looks at images.*such as CnnPolicy has, at vectors.*got observation space Discrete"
    ):
        as_adapter(PPO("MlpPolicy", "FrozenLake-v1", device="cpu"))
    with pytest.raises(TypeError, match=r"Expected a policy with logits, Q-values or an actor and a critic .*, got \w+ of ARS"):
        as_adapter(ARS("LinearPolicy", "Pendulum-v1", device="cpu"))


def test_images_without_bounds_need_a_range() -> None:
    class Unbounded(Pictures):
        def __init__(self) -> None:
            super().__init__()
            self.observation_space = gym.spaces.Box(-np.inf, np.inf, (3, 12, 12), np.float32)

    agent = model(PPO, Unbounded(), policy_kwargs={"normalize_images": False})
    with pytest.raises(ValueError, match=r"hook it with RecurrentAgentHook\(agent, input_range=\(low, high\)\)"):
        as_adapter(agent)
    assert ActorCriticPolicyAdapter(agent.policy, input_range=(-1.0, 1.0)).input_range == (-1.0, 1.0)
    hook = RecurrentAgentHook(agent, input_range=(-1.0, 255.0))
    assert hook.adapter.input_range == (-1.0, 255.0)
    info = one_step(Unbounded(), hook, agent)
    assert info["saliency"]["actor"].shape == (12, 12)


def one_step(env: Any, hook: RecurrentAgentHook, agent: Any) -> dict[str, Any]:
    """The info of a step that the agent decided."""
    recorder = SaliencyRecorder(env, hook, perturber=Blackout())
    observation, _ = recorder.reset(seed=0)
    action, _ = agent.predict(observation, deterministic=True)
    return recorder.step(int(action))[-1]


@pytest.mark.parametrize("key", ["camera", "mirror"])
def test_one_of_two_images_is_chosen_by_an_option_of_the_hook(key: str) -> None:
    env = Cockpit(Pictures(shape=(3, 12, 12)), second=True)
    agent = model(PPO, env, features=SmallCombined, policy="MultiInputPolicy", **ON_POLICY)
    with pytest.raises(ValueError, match=r"the key of one of \['camera', 'mirror'\], got 'gauge'"):
        RecurrentAgentHook(agent, image="gauge")
    hook = RecurrentAgentHook(image=key)
    hook.attach(agent)
    info = one_step(env, hook, agent)
    assert info["saliency"]["actor"].shape == (12, 12)
    assert hook.adapter.parts.image == key  # type: ignore[attr-defined]


@pytest.mark.parametrize("norm_obs", [True, False])
@pytest.mark.parametrize("dictionary", [True, False])
def test_images_that_are_normalised_have_the_range_that_they_are_clipped_to(dictionary: bool, norm_obs: bool) -> None:
    class Floats(Pictures):
        def __init__(self) -> None:
            super().__init__()
            self.observation_space = gym.spaces.Box(0, 1, (3, 12, 12), np.float32)

        def _next(self) -> Any:
            return self.np_random.random((3, 12, 12), np.float32)

    keys = {"norm_obs_keys": ["camera"]} if dictionary else {}
    vector = VecNormalize(DummyVecEnv([lambda: Cockpit(Floats()) if dictionary else Floats()]), norm_obs=norm_obs, clip_obs=5.0, **keys)
    features, policy = (SmallCombined, "MultiInputPolicy") if dictionary else (SmallCNN, "CnnPolicy")
    agent = model(PPO, vector, features=features, policy=policy, policy_kwargs={"normalize_images": False}, **ON_POLICY)
    assert as_adapter(agent).input_range == ((-5.0, 5.0) if norm_obs else (0.0, 1.0))
    assert as_adapter(agent, input_range=(-2, 2)).input_range == (-2, 2)


def test_options_are_refused_where_they_say_nothing() -> None:
    with pytest.raises(TypeError, match="input_range are options of QPolicyAdapter itself"):
        as_adapter(as_adapter(MODELS["DQN"]()), input_range=(0.0, 1.0))
    with pytest.raises(ValueError, match="with a dictionary of observations for image='camera', got Linear"):
        as_adapter(torch.nn.Linear(1, 1), image="camera")
    with pytest.raises(ValueError, match=r"Expected input_range as \(low, high\) with low < high, got \(1, 0\)"):
        as_adapter(torch.nn.Linear(1, 1), input_range=(1, 0))
    module = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten(), torch.nn.Linear(200, 3))
    hook = RecurrentAgentHook(module, input_range=(-1.0, 1.0), channels_last=False)
    SaliencyRecorder(Pictures(), hook)
    module(torch.rand(1, 1, 12, 12))
    assert hook.adapter.input_range == (-1.0, 1.0)


# In time


def counted(algorithm: Any, **options: Any) -> tuple[Any, CountingEnv]:
    """A model whose outputs are multiples of the grey it sees, in a recorded counting world; the hook comes after the environment."""
    env = CountingEnv(lengths=(5, 3, 6))
    hook = RecurrentAgentHook()
    recorder = SaliencyRecorder(env, hook, perturber=Blackout(), fill=0.0)
    agent = model(algorithm, recorder, features=Grey, learning_rate=0.0, **options)
    heads = [agent.policy.action_net] if hasattr(agent.policy, "action_net") else [agent.policy.q_net.q_net[-1]]
    heads += [agent.policy.value_net] if hasattr(agent.policy, "value_net") else []
    with torch.no_grad():
        for head in heads:
            head.weight.copy_(torch.arange(1.0, len(head.weight) + 1)[:, None] / 100)
            head.bias.zero_()
    hook.attach(agent)
    return agent, env


def check_counted(saliency: dict[str, Any], env: CountingEnv, episode: int, step: int, critic: bool = True) -> None:
    """Everything of the decision on the frame of this step of this episode: multiples of its grey, and maps of what black would change."""
    grey = env.level(episode, step) / 100
    assert (saliency["episode"], saliency["step"]) == (episode, step)
    np.testing.assert_allclose(saliency["logits"], grey * np.arange(1, 5), rtol=1e-4)
    np.testing.assert_allclose(saliency["actor"], np.full(env.size, 0.5 * 30 * grey**2), rtol=1e-4)
    if critic:
        np.testing.assert_allclose(saliency["value"], grey, rtol=1e-4)
        np.testing.assert_allclose(saliency["critic"], np.full(env.size, 0.5 * grey**2), rtol=1e-4)
    else:
        assert saliency["value"] is saliency["critic"] is None


def places(env: CountingEnv, steps: int, first_episode: int = 0) -> list[tuple[int, int]]:
    """The episode and step of each of the first steps."""
    lengths = [*env.lengths, *[env.lengths[-1]] * steps]
    return [(episode, t) for episode in range(first_episode, len(lengths)) for t in range(lengths[episode])][:steps]


@pytest.mark.parametrize("algorithm", [PPO, A2C])
def test_what_was_decided_in_learn_is_in_the_info_of_its_step(algorithm: Any) -> None:
    agent, env = counted(algorithm, n_steps=8, **({"batch_size": 4} if algorithm is PPO else {}))
    infos = learn(agent, 24)
    assert len(infos) == 24
    for info, (episode, step) in zip(infos, places(env, 24), strict=True):
        check_counted(info["saliency"], env, episode, step)


@pytest.mark.filterwarnings("ignore:Episode 0 had no decision")  # true: it explores
def test_in_learn_of_dqn_random_actions_have_no_decision_and_others_the_right_one() -> None:
    agent, env = counted(DQN, buffer_size=100, learning_starts=6, batch_size=1, train_freq=1, exploration_fraction=1.0, policy_kwargs={})
    greedy: list[int] = []
    predict = agent.policy.predict
    agent.policy.predict = lambda *args, **kwargs: (greedy.append(len(env.actions)), predict(*args, **kwargs))[1]
    infos = learn(agent, 40)
    assert 5 < len(greedy) < 30
    assert [i for i, info in enumerate(infos) if "saliency" in info] == greedy
    for i, (episode, step) in enumerate(places(env, 40)):
        if i in greedy:
            check_counted(infos[i]["saliency"], env, episode, step, critic=False)


@pytest.mark.parametrize("algorithm", [PPO, DQN])
def test_what_was_decided_by_predict_is_in_the_info_of_its_step(algorithm: Any) -> None:
    agent, env = counted(algorithm, **({"buffer_size": 10} if algorithm is DQN else {}))
    recorder = recorder_of(agent)
    for episode in range(2):
        observation, ended, step = recorder.reset()[0], False, 0
        while not ended:
            action, _ = agent.predict(observation, deterministic=True)
            observation, _, ended, _, info = recorder.step(action)
            check_counted(info["saliency"], env, episode, step, critic=algorithm is PPO)
            assert info["saliency"]["action"] == int(action)
            step += 1


def test_a_stack_of_frames_reaches_the_adapter_as_the_policy_gets_it() -> None:
    stacked = VecFrameStack(DummyVecEnv([Pictures]), n_stack=4)
    agent = model(PPO, stacked, **ON_POLICY)
    adapter = as_adapter(agent)
    seen, detach = watched(agent)
    learn(agent, 16)
    detach()
    assert seen[0].inputs.shape == (1, 12, 12, 12)
    check_adapter(adapter, pictures(3, (12, 12, 12)), lambda image: agent.predict(image.numpy()))


# Wrapping changes nothing


def weights_after(steps: int, algorithm: Any, options: dict[str, Any], recorded: dict[str, Any] | None) -> list[torch.Tensor]:
    env: Any = Pictures()
    hook = RecurrentAgentHook()
    if recorded is not None:
        env = SaliencyRecorder(env, hook, **recorded)
    agent = model(algorithm, env, **options)
    if recorded is not None:
        hook.attach(agent)
    agent.learn(steps, callback=FlushSaliency() if recorded is not None else None)
    return [weight.detach().clone() for weight in agent.policy.parameters()]


RECORDED: dict[str, dict[str, Any]] = {
    "deferred, every 20th step": {"mode": "deferred", "step_trigger": lambda step: step % 20 == 0},
    "inline, every 50th step": {"mode": "inline", "step_trigger": lambda step: step % 50 == 0},
}


@pytest.mark.filterwarnings("ignore:Episode 0 had no decision")  # true: DQN explores
@pytest.mark.parametrize("how", RECORDED)
@pytest.mark.parametrize(
    ("algorithm", "options"),
    [(PPO, {"n_steps": 100, "batch_size": 50, "n_epochs": 2}), (DQN, {**OFF_POLICY, "train_freq": 4})],
    ids=["PPO", "DQN"],
)
def test_learning_2000_steps_gives_the_same_weights_with_and_without_the_recorder(how: str, algorithm: Any, options: Any) -> None:
    without = weights_after(2000, algorithm, options, None)
    recorded = weights_after(2000, algorithm, options, RECORDED[how])
    assert all(torch.equal(a, b) for a, b in zip(without, recorded, strict=True))


def test_deferred_maps_that_are_not_flushed_before_the_weights_change_are_refused() -> None:
    hook = RecurrentAgentHook()
    agent = model(PPO, SaliencyRecorder(Pictures(length=100), hook, mode="deferred", perturber=Blackout()), **ON_POLICY)
    hook.attach(agent)
    with pytest.raises(ReplayMismatchError, match="if the agent learns meanwhile"):
        agent.learn(96)


def test_the_small_network_depends_on_its_pixels() -> None:
    features = SmallCNN(gym.spaces.Box(0, 255, (3, 12, 12), np.uint8))
    assert features(pictures(2).float() / 255).diff(dim=0).abs().min() > 0
