"""RecurrentPPO: states, values and maps of actor and critic are those of an agent whose both memories saw the whole episode."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import ale_py
import gymnasium as gym
import numpy as np
import pytest
import torch
from counting import Blackout, CountingEnv
from sb3_agents import Cue, Pictures, learn, model, pictures, recorder_of
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor

from saliency_wrappers import PerturbationSaliency, RecurrentAgentHook, SaliencyRecorder, as_adapter
from saliency_wrappers.agents import UnreadPass
from saliency_wrappers.agents.sb3_contrib import RecurrentPolicyAdapter, RNNStates
from saliency_wrappers.decisions import AgentPass, Decision
from saliency_wrappers.hooks.replay_check import ReplayMismatchError, replay
from saliency_wrappers.testing import check_adapter

CRITICS: dict[str, dict[str, Any]] = {
    "own LSTM": {},
    "shared LSTM": {"shared_lstm": True, "enable_critic_lstm": False},
    "no LSTM": {"enable_critic_lstm": False},
    "own LSTM, two layers, own features": {"n_lstm_layers": 2, "share_features_extractor": False},
}
ROLLOUT: dict[str, Any] = {"n_steps": 32, "batch_size": 16, "n_epochs": 1}


def recurrent(critic: str = "own LSTM", env: Any = None, **options: Any) -> Any:
    """An agent whose memory matters: its LSTMs' weights are large enough to remember."""
    kwargs = {"lstm_hidden_size": 6, **CRITICS[critic], **options.pop("policy_kwargs", {})}
    agent = model(RecurrentPPO, env or Pictures(), policy="CnnLstmPolicy", policy_kwargs=kwargs, **{**ROLLOUT, **options})
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for name, weight in agent.policy.named_parameters():
            if "lstm" in name or name.startswith(("action_net", "value_net", "critic")):
                weight.uniform_(-1, 1)
    return agent


def rolled_out_values(agent: Any) -> list[list[float]]:
    """The values of each step of the rollouts to come, as the buffer has them before it is shuffled for training."""
    values: list[list[float]] = []
    compute = agent.rollout_buffer.compute_returns_and_advantage

    def keep(*args: Any, **kwargs: Any) -> None:
        values.extend(agent.rollout_buffer.values.tolist())
        compute(*args, **kwargs)

    agent.rollout_buffer.compute_returns_and_advantage = keep
    return values


def watched(agent: Any) -> list[Any]:
    seen: list[Any] = []
    as_adapter(agent).attach(seen.append)
    return seen


class Reference:
    """Both recurrences of a policy, advanced by the policy's own parts from the episode's start, one environment at a time."""

    def __init__(self, policy: Any) -> None:
        self.policy = copy.deepcopy(policy)  # which is not watched
        self.begin()

    def begin(self) -> None:
        layers, _, hidden = self.policy.lstm_hidden_state_shape
        self.pi = self.vf = (torch.zeros(layers, 1, hidden), torch.zeros(layers, 1, hidden))

    def __call__(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Raw logits and value for an image `(1, C, h, w)`; both memories move on."""
        policy, start = self.policy, torch.zeros(1)
        with torch.no_grad():
            critic_in = self.pi if policy.lstm_critic is None else self.vf
            value = policy.predict_values(image, critic_in, start)
            features = policy.extract_features(image)
            pi_features, vf_features = (features, features) if policy.share_features_extractor else features
            latent, self.pi = policy._process_sequence(pi_features, self.pi, start, policy.lstm_actor)
            if policy.lstm_critic is not None:
                _, self.vf = policy._process_sequence(vf_features, self.vf, start, policy.lstm_critic)
            return policy.action_net(policy.mlp_extractor.forward_actor(latent)), value


def check(seen: AgentPass, reference: tuple[Tensor, Tensor], row: int = 0) -> None:
    assert isinstance(seen, AgentPass), seen
    assert seen.logits is not None
    assert seen.value is not None
    np.testing.assert_allclose(seen.logits[row], reference[0][0], atol=1e-5)
    np.testing.assert_allclose(seen.value[row], reference[1][0], atol=1e-5)


@pytest.mark.parametrize("critic", CRITICS)
def test_recurrent_ppo_keeps_the_contract(critic: str) -> None:
    agent = recurrent(critic)
    state: Any = None

    def play(image: Tensor) -> None:
        nonlocal state
        _, state = agent.predict(image.numpy(), state)

    adapter = as_adapter(agent)
    assert isinstance(adapter, RecurrentPolicyAdapter)
    assert type(as_adapter(agent.policy)) is RecurrentPolicyAdapter
    check_adapter(adapter, pictures(4), play)


# predict


@pytest.mark.parametrize("critic", CRITICS)
def test_through_predict_values_are_right_at_every_step_of_an_episode_of_200(critic: str) -> None:
    agent = recurrent(critic)
    reference = Reference(agent.policy)
    seen = watched(agent)
    images = pictures(200)
    state, right = None, []
    for t, image in enumerate(images):
        _, state = agent.predict(image[None].numpy(), state, np.array([t == 0]))
        right.append(reference(image[None]))
    assert len(seen) == 200
    for one, outputs in zip(seen, right, strict=True):
        check(one, outputs)
        replay(as_adapter(agent), Decision.of(one))
    values = torch.cat([value for _, value in right]).flatten()
    assert (values.diff().abs() > 1e-4).float().mean() > 0.98  # one step off would show


def test_without_the_critics_memory_the_values_would_be_wrong() -> None:
    agent = recurrent()
    seen = watched(agent)
    state = None
    for image in pictures(3):
        _, state = agent.predict(image[None].numpy(), state)
    last = seen[-1]
    assert last.state.vf[0].any()
    forgetful = AgentPass(last.inputs, RNNStates(last.state.pi, as_adapter(agent).initial_state(1).vf), last.logits, last.value)
    with pytest.raises(ReplayMismatchError, match="other value"):
        replay(as_adapter(agent), Decision.of(forgetful))
    forgetful = AgentPass(last.inputs, RNNStates(as_adapter(agent).initial_state(1).pi, last.state.vf), last.logits, last.value)
    with pytest.raises(ReplayMismatchError, match="other logits"):
        replay(as_adapter(agent), Decision.of(forgetful))


def test_several_environments_begin_anew_in_any_subset_of_rows() -> None:
    agent = recurrent()
    references = [Reference(agent.policy) for _ in range(3)]
    seen = watched(agent)
    begins = np.random.default_rng(0).random((30, 3)) < 0.25
    images = pictures(90).unflatten(0, (30, 3))
    state = None
    for t in range(30):
        _, state = agent.predict(images[t].numpy(), state, begins[t])
        for row, reference in enumerate(references):
            if begins[t, row]:
                reference.begin()
            check(seen[-1], reference(images[t, row : row + 1]), row)
        assert torch.equal(seen[-1].episode_start, torch.as_tensor(begins[t]))


def test_a_state_of_none_begins_an_episode() -> None:
    agent = recurrent()
    reference = Reference(agent.policy)
    seen = watched(agent)
    for _ in range(2):
        state = None
        reference.begin()
        for image in pictures(4):
            _, state = agent.predict(image[None].numpy(), state)
            check(seen[-1], reference(image[None]))


def test_one_observation_without_a_batch_axis_is_one_row() -> None:
    agent = recurrent()
    seen = watched(agent)
    agent.predict(pictures(1)[0].numpy())
    assert seen[0].inputs.shape == (1, 3, 12, 12)


def test_asking_twice_does_not_move_the_critic_twice() -> None:
    agent = recurrent()
    reference = Reference(agent.policy)
    seen = watched(agent)
    state = None
    for image in pictures(5):
        for _ in range(2):
            _, after = agent.predict(image[None].numpy(), state)
        state = after
        outputs = reference(image[None])
        check(seen[-2], outputs)
        check(seen[-1], outputs)


def test_two_episodes_played_in_turns_do_not_mix() -> None:
    agent = recurrent()
    references = Reference(agent.policy), Reference(agent.policy)
    seen = watched(agent)
    states: list[Any] = [None, None]
    for t, image in enumerate(pictures(20)):
        which = t % 2
        _, states[which] = agent.predict(image[None].numpy(), states[which])
        check(seen[-1], references[which](image[None]))


def test_a_call_whose_critics_memory_is_not_known_is_no_decision_and_says_why() -> None:
    agent = recurrent()
    _, state = agent.predict(pictures(1).numpy())
    seen = watched(agent)  # in the middle of an episode
    agent.predict(pictures(1).numpy(), state)
    (unread,) = seen
    assert isinstance(unread, UnreadPass)
    assert "the critic's memory is not known" in unread.reason
    assert "state=None or episode_start=True" in unread.reason
    agent.predict(pictures(1).numpy(), state, np.array([True]))
    assert isinstance(seen[1], AgentPass)
    shared = recurrent("shared LSTM")
    _, state = shared.predict(pictures(1).numpy())
    seen = watched(shared)
    shared.predict(pictures(1).numpy(), state)
    assert isinstance(seen[0], AgentPass)  # where there is only the actor's memory, nothing is missing


def test_what_the_critics_memory_holds_is_bounded() -> None:
    agent = recurrent()
    adapter = RecurrentPolicyAdapter(agent.policy)
    adapter._memory._rows = 10
    seen: list[Any] = []
    adapter.attach(seen.append)
    reference = Reference(agent.policy)
    state = None
    for image in pictures(40):
        _, state = agent.predict(image[None].numpy(), state)
        check(seen[-1], reference(image[None]))
    assert len(adapter._memory._critic) == 10


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda policy: pickle.loads(pickle.dumps(policy))], ids=["deepcopy", "pickle"])
def test_a_copy_of_a_hooked_recurrent_policy_is_not_watched(copied: Callable[[Any], Any]) -> None:
    agent = recurrent()
    seen = watched(agent)
    copied(agent.policy).predict(pictures(1).numpy())
    assert not seen


@pytest.mark.parametrize("critic", CRITICS)
def test_maps_are_the_same_on_the_plain_path_and_the_incremental_one_several_at_once(critic: str) -> None:
    agent = recurrent(critic)
    seen = watched(agent)
    state = None
    for image in pictures(4):
        _, state = agent.predict(image[None].numpy(), state)
    adapter, decisions = as_adapter(agent), [Decision.of(one) for one in seen]
    plain, incremental = (PerturbationSaliency(path=path)(adapter, decisions) for path in ("plain", "incremental"))  # type: ignore[arg-type]
    for a, b in zip(plain, incremental, strict=True):
        for one, other in ((a.actor, b.actor), (a.critic, b.critic)):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4 * one.max())  # type: ignore[union-attr]


def test_a_state_that_came_back_from_a_disk_as_plain_tuples_is_the_same_state() -> None:
    agent = recurrent()
    seen = watched(agent)
    _, state = agent.predict(pictures(1).numpy())
    agent.predict(pictures(1).numpy(), state)
    one, adapter = seen[-1], as_adapter(agent)
    plain = tuple(tuple(branch) for branch in one.state)
    for a, b in zip(adapter.evaluate(one.inputs, plain, None), (one.logits, one.value), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)  # type: ignore[arg-type]


# learn


@pytest.mark.parametrize("critic", CRITICS)
def test_in_learn_values_are_those_of_the_rollout(critic: str) -> None:
    hook = RecurrentAgentHook()
    recorder = SaliencyRecorder(Pictures(), hook, perturber=Blackout(), verify="always")
    agent = recurrent(critic, recorder)
    hook.attach(agent)
    rolled_out = rolled_out_values(agent)
    infos = learn(agent, 96)
    values = [info["saliency"]["value"] for info in infos]
    assert len(values) == 96
    np.testing.assert_allclose(values, np.ravel(rolled_out), rtol=1e-6)
    assert [(info["saliency"]["episode"], info["saliency"]["step"]) for info in infos] == [divmod(t, 7) for t in range(96)]


def test_of_several_environments_in_learn_every_pass_is_that_of_the_rollout() -> None:
    agent = recurrent(env=DummyVecEnv([lambda: Pictures(length=5), lambda: Pictures(length=7)]))
    adapter = as_adapter(agent)
    values: list[list[float]] = []

    def see(one: Any) -> None:
        if one.logits is not None and not one.scored_action:
            replay(adapter, Decision.of(one))
            values.append(one.value.flatten().tolist())

    adapter.attach(see)
    rolled_out = rolled_out_values(agent)
    agent.learn(128)
    assert np.shape(values) == (64, 2)
    np.testing.assert_allclose(values, rolled_out, rtol=1e-6)


def test_learning_and_predicting_in_turns_do_not_contaminate_each_other() -> None:
    agent = recurrent()
    images = pictures(4)
    seen: list[Any] = []
    adapter = as_adapter(agent)

    def see(one: Any) -> None:
        if isinstance(one, UnreadPass) or (one.logits is not None and not one.scored_action):
            seen.append(one)

    adapter.attach(see)
    learning: list[AgentPass] = []
    carried: Any = None
    played = Reference(agent.policy)

    def amid(local: dict[str, Any], _: Any) -> bool:
        """An evaluation at its own pace beside the training: one step of it after each of the training's."""
        nonlocal carried
        learning.append(seen.pop())
        image = images[len(learning) % 4][None]
        _, carried = agent.predict(image.numpy(), carried)
        check(seen.pop(), played(image))
        return True

    agent.learn(32, callback=amid)
    np.testing.assert_allclose([float(one.value) for one in learning], agent.rollout_buffer.values.flatten(), rtol=1e-6)


# In time


@pytest.mark.parametrize("through", ["predict", "learn"])
def test_decisions_belong_to_the_frames_before_their_steps(through: str) -> None:
    env = CountingEnv(lengths=(5, 3, 6), per_step=11)
    hook = RecurrentAgentHook()
    recorder = SaliencyRecorder(env, hook, perturber=Blackout(), fill=0.0)
    agent = recurrent(env=recorder, learning_rate=0.0)
    hook.attach(agent)
    reference, distinct = Reference(agent.policy), set()
    infos = learn(agent, 32) if through == "learn" else predicted(agent, recorder, episodes=3)
    black = torch.zeros(1, 3, *env.size, dtype=torch.uint8)
    for info in infos:
        saliency = info["saliency"]
        episode, step = saliency["episode"], saliency["step"]
        if step == 0:
            reference.begin()
        dark_logits, dark_value = copy.copy(reference)(black)
        logits, value = reference(torch.full_like(black, env.level(episode, step)))
        np.testing.assert_allclose(saliency["logits"], logits[0], atol=1e-5)
        np.testing.assert_allclose(saliency["value"], float(value), atol=1e-5)
        np.testing.assert_allclose(saliency["actor"], np.full(env.size, 0.5 * float(((logits - dark_logits) ** 2).sum())), atol=1e-5)
        np.testing.assert_allclose(saliency["critic"], np.full(env.size, 0.5 * float((value - dark_value) ** 2)), atol=1e-5)
        distinct.add(round(float(value), 4))
    assert len(distinct) > 0.8 * len(infos)


def predicted(agent: Any, env: Any, episodes: int) -> list[dict[str, Any]]:
    """Play with `predict` as its documentation does."""
    infos = []
    for _ in range(episodes):
        observation, _ = env.reset()
        state, start, ended = None, np.array([True]), False
        while not ended:
            action, state = agent.predict(observation, state=state, episode_start=start, deterministic=True)
            observation, _, terminated, truncated, info = env.step(action)
            ended = terminated or truncated
            start = np.array([ended])
            infos.append(info)
    return infos


# Really trained


def test_an_agent_that_learned_to_remember_shows_what_it_remembered() -> None:
    kwargs = {"lstm_hidden_size": 8}
    rollout = {"n_steps": 96, "batch_size": 96, "n_epochs": 8}
    agent = model(RecurrentPPO, Cue(), policy="CnnLstmPolicy", policy_kwargs=kwargs, learning_rate=0.01, gamma=1.0, **rollout)
    for _ in range(12):
        agent.learn(288, reset_num_timesteps=False)
        if won(agent) == 20:
            break
    hook = RecurrentAgentHook(agent)
    env = SaliencyRecorder(Cue(), hook, verify="always")
    infos = predicted(agent, env, episodes=12)
    assert won(agent) == 20  # of 20; by chance 10, and nobody can without memory
    strength = np.array([info["saliency"]["actor"].mean() for info in infos]).reshape(12, 3)
    assert (strength[:, 0] > 0).all()  # the cue
    assert not strength[:, 1:].any()  # a frame of one grey, which no blur changes


def won(agent: Any, episodes: int = 20) -> float:
    env, total = Cue(), 0.0
    for episode in range(episodes):
        observation, _ = env.reset(seed=episode)
        state, ended = None, False
        while not ended:
            action, state = agent.predict(observation, state=state, deterministic=True)
            observation, reward, ended, _, _ = env.step(action)
            total += reward
    return total


def atari(seed: int) -> gym.Env[Any, Any]:
    gym.register_envs(ale_py)
    env = gym.make("ALE/Breakout-v5", frameskip=1, render_mode="rgb_array")
    env.reset(seed=seed)
    return gym.wrappers.AtariPreprocessing(env, grayscale_newaxis=True, screen_size=84)


def test_an_agent_of_atari_pixels_is_captured_in_training_and_after() -> None:
    hook = RecurrentAgentHook()
    every = {"step_trigger": lambda step: step % 64 == 0}
    agent = RecurrentPPO(
        "CnnLstmPolicy",
        SaliencyRecorder(atari(0), hook, perturber=Blackout(), **every),
        policy_kwargs={"lstm_hidden_size": 32, "features_extractor_kwargs": {"features_dim": 32}},
        n_steps=64,
        batch_size=64,
        n_epochs=1,
        seed=0,
        device="cpu",
    )
    hook.attach(agent)
    infos = learn(agent, 256)
    explained = [info["saliency"] for info in infos if "saliency" in info]
    assert len(explained) == 4
    assert all(one["actor"].shape == (84, 84) and one["actor"].any() and one["critic"].any() for one in explained)
    recorder_of(agent).close()

    playing = RecurrentAgentHook(agent)
    env = SaliencyRecorder(gym.wrappers.TimeLimit(atari(1), 30), playing, perturber=Blackout(), verify="always")
    infos = predicted(agent, env, episodes=1)
    assert [info["saliency"]["step"] for info in infos] == list(range(30))


def test_every_critic_is_tried() -> None:
    kinds: Sequence[Any] = [recurrent(critic).policy for critic in CRITICS]
    assert [(policy.lstm_critic is not None, policy.shared_lstm, policy.critic is not None) for policy in kinds] == [
        (True, False, False),
        (False, True, False),
        (False, False, True),
        (True, False, False),
    ]
