"""Which pass decides when an agent runs for others, too: evaluations amid training, several environments with a recorder each."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from counting import Blackout, CountingAgent, CountingEnv, always_acting, check_saliency, network_input
from torch import Tensor, nn

from saliency_wrappers import QNetworkAdapter, RecurrentAgentHook, SaliencyRecorder
from saliency_wrappers.hooks.observation_match import ObservationMatch


def inverted(frame: Any) -> Tensor:
    """An input from which nobody can tell the observation that it was made of."""
    return 1 - network_input(frame)


def lockstep(hooks: int, make: Callable[[Any], Tensor], order: Callable[[int], tuple[int, ...]] = lambda t: (0, 1)) -> list[list[Any]]:
    """Two environments, one agent: both act, then both step."""
    agent = CountingAgent()
    worlds = [CountingEnv((30,)), CountingEnv((30,), first=100)]
    own = [RecurrentAgentHook(agent) for _ in range(hooks)]
    recorders = [SaliencyRecorder(worlds[i], own[i % hooks], perturber=Blackout(), fill=0.0) for i in range(2)]
    states = [agent.initial_state(1) for _ in range(2)]
    observations = [recorder.reset()[0] for recorder in recorders]
    told: list[list[Any]] = [[], []]
    with torch.no_grad():
        for t in range(10):
            for i in order(t):
                _, _, states[i] = agent((make(observations[i]), states[i]))
            for i in (0, 1):
                observations[i], _, _, _, info = recorders[i].step(t % 4)
                told[i].append(info.get("saliency"))
    for i in (0, 1):
        for t, saliency in enumerate(told[i]):
            if saliency is not None and make is network_input:
                check_saliency(saliency, 0, t, always_acting(worlds[i], 0, t), action=t % 4)
    return told


@pytest.mark.parametrize("hooks", [1, 2])
@pytest.mark.parametrize("order", [lambda t: (0, 1), lambda t: (1, 0), lambda t: (t % 2, 1 - t % 2)], ids=["AB", "BA", "turns"])
def test_in_lockstep_each_environment_gets_its_own_decisions_where_inputs_tell(hooks: int, order: Any) -> None:
    told = lockstep(hooks, network_input, order)
    assert [sum(one is not None for one in part) for part in told] == [10, 10]


@pytest.mark.parametrize("hooks", [1, 2])
def test_in_lockstep_where_nothing_tells_no_decision_is_recorded_and_a_warning_says_so(hooks: int) -> None:
    with pytest.warns(UserWarning, match="2 passes of the agent came before this step.*VectorSaliencyRecorder"):
        told = lockstep(hooks, inverted)
    assert told == [[None] * 10] * 2


@pytest.mark.parametrize("make", [network_input, inverted])
def test_in_turns_each_environment_gets_its_own_decisions(make: Any) -> None:
    agent = CountingAgent()
    recorders = [SaliencyRecorder(CountingEnv((30,), first=100 * i), RecurrentAgentHook(agent)) for i in range(2)]
    states = [agent.initial_state(1) for _ in range(2)]
    observations = [recorder.reset()[0] for recorder in recorders]
    for t in range(6):
        for i, recorder in enumerate(recorders):
            x = make(observations[i])
            _, _, states[i] = agent((x, states[i]))
            observations[i], _, _, _, info = recorder.step(t % 4)
            assert abs(float(info["saliency"]["logits"][0]) - 255 * float(x.mean())) < 0.01


def test_in_threads_each_environment_gets_its_own_decisions() -> None:
    agent, wrong = CountingAgent(), []
    meet = threading.Barrier(2, timeout=60)

    def run(first: int) -> None:
        recorder = SaliencyRecorder(CountingEnv((30,), first=first), hooks[first])
        observation, _ = recorder.reset()
        state = agent.initial_state(1)
        for t in range(8):
            meet.wait()
            x = inverted(observation)
            with torch.no_grad():
                _, _, state = agent((x, state))
            meet.wait()
            observation, _, _, _, info = recorder.step(t % 4)
            wrong.append(abs(float(info["saliency"]["logits"][0]) - 255 * float(x.mean())) > 0.01)

    hooks = {first: RecurrentAgentHook(agent) for first in (0, 100)}
    threads = [threading.Thread(target=run, args=(first,)) for first in hooks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [False] * 16


def test_a_random_action_beside_another_environments_pass_has_no_decision() -> None:
    agent = CountingAgent()
    first, second = (SaliencyRecorder(CountingEnv((30,), first=100 * i), RecurrentAgentHook(agent)) for i in range(2))
    observations = [first.reset()[0], second.reset()[0]]
    told = []
    for t in range(6):
        if t == 0:
            agent((network_input(observations[0]), agent.initial_state(1)))
            observations[0], *_ = first.step(0)
            continue
        agent((network_input(observations[1]), agent.initial_state(1)))
        observations[0], *_, info = first.step(0)
        told.append("saliency" in info)
        observations[1], *_, info = second.step(0)
        assert "saliency" in info
    assert not any(told)


def test_an_idle_recorder_beside_it_changes_nothing_for_an_agent_that_is_asked_twice() -> None:
    agent = CountingAgent()
    recorder = SaliencyRecorder(CountingEnv((30,)), RecurrentAgentHook(agent))
    idle = SaliencyRecorder(CountingEnv((30,)), RecurrentAgentHook(agent))
    observation, _ = recorder.reset()
    for _ in range(5):
        for _ in range(2):
            agent((inverted(observation), agent.initial_state(1)))
        observation, *_, info = recorder.step(0)
        assert "saliency" in info
    idle.close()


class Game(gym.Env[Any, Any]):
    """Noise, another at each step, the same in every game."""

    observation_space, action_space = gym.spaces.Box(0, 255, (3, 12, 12), np.uint8), gym.spaces.Discrete(4)

    def __init__(self, first: int = 0) -> None:
        self.first = self.t = first

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.t = self.first
        return self.observation(), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        return self.observation(), 0.0, False, False, {}

    def observation(self) -> Any:
        return np.random.default_rng(self.t).integers(0, 256, (3, 12, 12), dtype=np.uint8)


def q_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 4))


def ask(network: nn.Module, observation: Any) -> None:
    with torch.no_grad():
        network(torch.as_tensor(observation[None]).float())


def evaluate(network: nn.Module, first: int, steps: int) -> None:
    game = Game(first)
    observation, _ = game.reset()
    for _ in range(steps):
        ask(network, observation)
        observation, *_ = game.step(0)


@pytest.mark.parametrize("greedy", [{0, 7}, {0, 3, 7}, {5}, set()])
@pytest.mark.parametrize("evaluation", [(0, 4), (100, 6), (100, 40)])
def test_only_greedy_actions_have_decisions_whatever_was_evaluated_meanwhile(greedy: set[int], evaluation: tuple[int, int]) -> None:
    network = q_network()
    env = SaliencyRecorder(Game(), RecurrentAgentHook(QNetworkAdapter(network)))
    observation, _ = env.reset()
    found = set()
    for t in range(9):
        if t in (2, 3, 5):
            evaluate(network, *evaluation)
        if t in greedy:
            ask(network, observation)
        observation, *_, info = env.step(0)
        found |= {t} if "saliency" in info else set()
    assert found == greedy


def test_an_evaluation_of_one_pass_is_told_from_a_decision_by_its_input() -> None:
    network = q_network()
    env = SaliencyRecorder(Game(), RecurrentAgentHook(QNetworkAdapter(network)))
    observation, _ = env.reset()
    told = []
    for t in range(5):
        ask(network, observation) if t in (0, 4) else None
        evaluate(network, 100, 1) if t > 1 else None
        observation, *_, info = env.step(0)
        told.append("saliency" in info)
    assert told == [True, False, False, False, True]


def test_where_inputs_are_no_observations_the_latest_pass_decides_as_ever() -> None:
    network = q_network()
    env = SaliencyRecorder(Game(), RecurrentAgentHook(QNetworkAdapter(network)), verify="never")
    observation, _ = env.reset()
    for _ in range(4):
        ask(network, observation // 2)
        ask(network, observation // 3)
        observation, *_, info = env.step(0)
    assert "saliency" in info
    np.testing.assert_allclose(info["saliency"]["value"] is None, True)


@pytest.mark.parametrize(
    ("observation", "inputs"),
    [
        (np.arange(48).reshape(3, 4, 4), lambda o: torch.as_tensor(o[None])),
        (np.arange(48, dtype=np.uint8).reshape(3, 4, 4), lambda o: torch.as_tensor(o[None]).float()),
        (np.arange(48).reshape(4, 4, 3), lambda o: torch.as_tensor(o).permute(2, 0, 1)[None] / 255),
        (np.arange(48).reshape(4, 4, 3), lambda o: torch.as_tensor(o.mean(axis=2))[None, None].float() / 255),
        (np.arange(16).reshape(4, 4), lambda o: torch.as_tensor(o)[None, None].float()),
        (np.arange(96).reshape(2, 4, 4, 3), lambda o: torch.as_tensor(o).permute(0, 3, 1, 2).float()),
    ],
)
def test_observations_are_known_in_the_usual_layouts_and_scales(observation: Any, inputs: Callable[[Any], Tensor]) -> None:
    match = ObservationMatch()
    assert match.learn(observation, inputs(observation))
    assert match.fits(observation, inputs(observation))
    other = observation.copy()
    other.flat[-3:] += 3
    assert not match.fits(other, inputs(observation))
    assert not match.fits({"another": "kind"}, inputs(observation))


def test_an_image_in_a_dictionary_is_found_and_zeros_tell_nothing() -> None:
    match = ObservationMatch()
    image = np.arange(48).reshape(3, 4, 4)
    for _ in range(9):
        assert not match.learn({"speed": np.zeros(2), "camera": 0 * image}, torch.zeros(1, 3, 4, 4))
    assert match.unfinished
    assert match.learn({"speed": np.zeros(2), "camera": image}, torch.as_tensor(image)[None])
    assert not match.fits({"speed": np.zeros(2), "camera": image + 1}, torch.as_tensor(image)[None])


def test_observations_that_cannot_be_compared_are_given_up_in_silence() -> None:
    match = ObservationMatch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(9):
            assert not match.learn(object(), torch.zeros(1, 3, 4, 4))
            assert not match.learn(None, torch.zeros(1, 3, 4, 4))
