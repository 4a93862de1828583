"""Which pass is the decision of which step: in a counting world, where every index that is off by one is a wrong number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from counting import (
    CountingAgent,
    CountingEnv,
    always_acting,
    check_maps,
    check_saliency,
    expected,
    network_input,
    play,
    recorded,
    scheduled_action,
)
from gymnasium.wrappers import Autoreset
from torch import Tensor

from saliency_wrappers import RecurrentModuleAdapter, ReplayMismatchError

LENGTHS = (3, 5, 2)


def explained(played: list[list[dict[str, Any]]]) -> list[tuple[int, int]]:
    """The (episode, step) whose info has saliency."""
    return [(e, i - 1) for e, infos in enumerate(played) for i, info in enumerate(infos) if "saliency" in info]


class Pair(NamedTuple):
    passes: Tensor
    last: Tensor


def split(state: Tensor) -> Pair:
    return Pair(state[:, 0], state[:, 1])


def join(state: Any) -> Tensor:
    return torch.stack(list(state.values() if isinstance(state, dict) else state), dim=1)


AGENTS: dict[str, Callable[[], CountingAgent]] = {
    "tensor": CountingAgent,
    "tuple": lambda: CountingAgent(pack=lambda state: tuple(split(state)), unpack=join),
    "namedtuple": lambda: CountingAgent(pack=split, unpack=join),
    "dict": lambda: CountingAgent(pack=lambda state: split(state)._asdict(), unpack=join),
    "in place": lambda: CountingAgent(in_place=True),
}


@pytest.mark.parametrize("t", range(4))
@pytest.mark.parametrize("shifted", ["input", "passes", "last", "state", "all"])
@pytest.mark.parametrize("by", [-1, 1])
def test_in_the_counting_world_anything_shifted_by_one_step_is_a_wrong_number(t: int, shifted: str, by: int) -> None:
    env = CountingEnv()
    levels = [0, *(env.level(1, t) for t in range(-1, 7))]

    def decision(i: int, n: int, last: int) -> np.ndarray:
        right = expected(levels[i + 2], n, levels[last + 1])
        return np.array([right.value, right.critic, right.actor, np.dot(right.logits, [1, 3, 7, 11])])

    moves = {"input": (by, 0, 0), "passes": (0, by, 0), "last": (0, 0, by), "state": (0, by, by), "all": (by, by, by)}[shifted]
    right, wrong = decision(t, t, t), decision(*(t + move for move in moves))
    differs = np.abs(wrong - right) > 10 * 1e-4 * np.abs(right)
    assert differs[[0, 1]].all()
    assert differs[2] or shifted == "last"  # the perturbed logits all forget the last grey
    assert differs[3]


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("state", AGENTS)
def test_every_number_inline_belongs_to_its_step_over_several_episodes(state: str, grad: bool) -> None:
    agent = AGENTS[state]()
    env = CountingEnv(LENGTHS)
    with recorded(env, agent, verify="always") as recorder, torch.set_grad_enabled(grad):
        played = play(recorder, agent, episodes=3)
    assert explained(played) == [(e, t) for e in range(3) for t in range(LENGTHS[e])]
    for episode, infos in enumerate(played):
        for t, info in enumerate(infos[1:]):
            check_saliency(info["saliency"], episode, t, always_acting(env, episode, t))
            assert info["t"] == t + 1


@pytest.mark.parametrize("block", [1, 2, 3, 64])
@pytest.mark.parametrize("state", AGENTS)
def test_every_number_deferred_belongs_to_its_step_over_several_episodes(state: str, block: int) -> None:
    agent = AGENTS[state]()
    env = CountingEnv(LENGTHS)
    with recorded(env, agent, mode="deferred", block=block, keep=True, verify="always") as recorder:
        played = play(recorder, agent, episodes=3)
        for episode, infos in enumerate(played):
            assert len(recorder.maps(episode)) == len(infos) - 1 == LENGTHS[episode]
            for t, (info, maps) in enumerate(zip(infos[1:], recorder.maps(episode), strict=True)):
                assert info["saliency"]["pending"] is True
                check_saliency(info["saliency"], episode, t, always_acting(env, episode, t))
                check_maps(maps, always_acting(env, episode, t))


@pytest.mark.parametrize("mode", ["inline", "deferred"])
def test_a_step_trigger_counts_steps_since_construction(mode: str) -> None:
    agent, env = CountingAgent(), CountingEnv(LENGTHS)
    with recorded(env, agent, mode=mode, keep=True, step_trigger=lambda step: step in (1, 3, 6, 9)) as recorder:
        played = play(recorder, agent, episodes=3)
        assert explained(played) == [(0, 1), (1, 0), (1, 3), (2, 1)]
        for episode, t in explained(played):
            check_saliency(played[episode][t + 1]["saliency"], episode, t, always_acting(env, episode, t))
        kept = [maps for episode in range(3) for maps in recorder.maps(episode)]
        for (episode, t), maps in zip(explained(played), kept, strict=True):
            check_maps(maps, always_acting(env, episode, t))


def test_an_episode_trigger_is_asked_for_the_episode_that_begins() -> None:
    agent, env = CountingAgent(), CountingEnv(LENGTHS)
    asked: list[int] = []
    with recorded(env, agent, episode_trigger=lambda episode: asked.append(episode) or episode == 1) as recorder:
        played = play(recorder, agent, episodes=3)
    assert asked == [0, 1, 2]
    assert explained(played) == [(1, t) for t in range(5)]
    for t in range(5):
        check_saliency(played[1][t + 1]["saliency"], 1, t, always_acting(env, 1, t))


def test_with_both_triggers_a_step_is_explained_when_either_wants_it() -> None:
    agent, env = CountingAgent(), CountingEnv(LENGTHS)
    triggers = {"episode_trigger": lambda episode: episode == 2, "step_trigger": lambda step: step % 4 == 0}
    with recorded(env, agent, **triggers) as recorder:
        played = play(recorder, agent, episodes=3)
    assert explained(played) == [(0, 0), (1, 1), (2, 0), (2, 1)]
    for episode, t in explained(played):
        check_saliency(played[episode][t + 1]["saliency"], episode, t, always_acting(env, episode, t))


@pytest.mark.parametrize("mode", ["inline", "deferred"])
def test_scripted_actions_in_between_shift_nothing(mode: str) -> None:
    agent, env = CountingAgent(), CountingEnv((7, 6))
    asked = {0: [1, 2, 5], 1: [0, 3, 4]}
    with recorded(env, agent, mode=mode, keep=True) as recorder:
        played = play(recorder, agent, episodes=2, acts=lambda episode, t: t in asked[episode])
        assert explained(played) == [(episode, t) for episode in asked for t in asked[episode]]
        for episode, steps in asked.items():
            for passes, (t, maps) in enumerate(zip(steps, recorder.maps(episode), strict=True)):
                last = env.level(episode, steps[passes - 1]) if passes else 0
                right = expected(env.level(episode, t), passes, last)
                check_saliency(played[episode][t + 1]["saliency"], episode, t, right)
                check_maps(maps, right)


@pytest.mark.parametrize("rows", [1, 64])
def test_a_training_step_between_the_steps_is_no_decision_and_the_next_is_explained_with_the_new_weights(rows: int) -> None:
    agent, env = CountingAgent().train(), CountingEnv(LENGTHS)
    optimizer = torch.optim.SGD(agent.parameters(), lr=1e-3)
    gains: list[float] = []

    def train() -> None:
        value, logits, _ = agent((torch.rand(rows, 1, 8, 8), agent.initial_state(rows)))
        optimizer.zero_grad()
        (logits.square().mean().sqrt() + value.mean() / 100).backward()
        optimizer.step()
        gains.append(agent.gain.item())

    gains.append(agent.gain.item())
    with recorded(env, agent) as recorder:
        played = play(recorder, agent, episodes=3, between=train)
    assert len(set(gains)) == len(gains)
    steps = [(e, t) for e in range(3) for t in range(LENGTHS[e])]
    assert explained(played) == steps
    for (episode, t), gain in zip(steps, gains, strict=False):
        check_saliency(played[episode][t + 1]["saliency"], episode, t, always_acting(env, episode, t), gain=gain)
    assert agent.training
    assert agent.gain.requires_grad


@pytest.mark.parametrize("mode", ["inline", "deferred"])
def test_a_training_batch_after_the_decision_does_not_replace_it(mode: str) -> None:
    agent, env = CountingAgent(), CountingEnv()
    with recorded(env, agent, mode=mode, keep=True) as recorder:
        observation, _ = recorder.reset()
        state = agent.initial_state(1)
        for t in range(5):
            _, _, state = agent((network_input(observation), state))
            agent((torch.rand(64, 1, 8, 8), agent.initial_state(64)))
            observation, *_, info = recorder.step(scheduled_action(0, t))
            check_saliency(info["saliency"], 0, t, always_acting(env, 0, t))
        for t, maps in enumerate(recorder.maps(0)):
            check_maps(maps, always_acting(env, 0, t))


def test_the_latest_of_several_acting_passes_is_the_decision() -> None:
    agent, env = CountingAgent(), CountingEnv()
    with recorded(env, agent) as recorder:
        observation, _ = recorder.reset()
        for t in range(3):
            for passes in (9, 4, 2):
                agent((network_input(observation), torch.tensor([[float(passes), 30.0]])))
            observation, *_, info = recorder.step(scheduled_action(0, t))
            check_saliency(info["saliency"], 0, t, expected(env.level(0, t), passes=2, last=30))


def test_passes_before_the_reset_and_inside_the_environment_decide_nothing() -> None:
    agent = CountingAgent()

    class Opponent(CountingEnv):
        def reset(self, **kwargs: Any) -> Any:
            agent((network_input(self.frame(0, 0)), agent.initial_state(1)))
            return super().reset(**kwargs)

        def step(self, action: Any) -> Any:
            agent((network_input(self.frame(self.episode, self.t)), agent.initial_state(1)))
            return super().step(action)

    env = Opponent()
    with recorded(env, agent) as recorder:
        agent((network_input(env.frame(0, 0)), agent.initial_state(1)))
        played = play(recorder, agent, acts=lambda episode, t: t == 2)
    assert explained(played) == [(0, 2)]
    check_saliency(played[0][3]["saliency"], 0, 2, expected(env.level(0, 2), passes=0, last=0))


def test_a_decision_is_used_once() -> None:
    agent, env = CountingAgent(), CountingEnv()
    with recorded(env, agent) as recorder:
        observation, _ = recorder.reset()
        agent((network_input(observation), agent.initial_state(1)))
        found = ["saliency" in recorder.step(action)[-1] for action in (0, 1, 2)]
    assert found == [True, False, False]


def test_a_reset_amid_an_episode_begins_the_next_one_and_forgets_what_was_decided() -> None:
    agent, env = CountingAgent(), CountingEnv()
    with recorded(env, agent) as recorder:
        observation, _ = recorder.reset()
        agent((network_input(observation), agent.initial_state(1)))
        recorder.step(0)
        agent((network_input(observation), agent.initial_state(1)))
        observation, info = recorder.reset()
        assert "saliency" not in info
        assert "saliency" not in recorder.step(0)[-1]
        agent((network_input(env.render()), agent.initial_state(1)))
        saliency = recorder.step(3)[-1]["saliency"]
    check_saliency(saliency, 1, 1, expected(env.level(1, 1), passes=0, last=0), action=3)


@pytest.mark.parametrize("mode", ["inline", "deferred"])
def test_above_an_autoreset_the_ignored_action_has_no_decision_and_begins_the_next_episode(mode: str) -> None:
    agent, world, asked = CountingAgent(), CountingEnv(LENGTHS), list[int]()
    options = {"verify": "always", "keep": True, "require_decision": True, "episode_trigger": lambda e: asked.append(e) or True}
    with recorded(Autoreset(world), agent, mode=mode, **options) as recorder:
        observation, _ = recorder.reset()
        for episode, length in enumerate(LENGTHS):
            for t in range(length):
                recorder.hook.act(observation)  # its own memory begins anew, too
                observation, _, terminated, _, info = recorder.step(scheduled_action(episode, t))
                check_saliency(info["saliency"], episode, t, always_acting(world, episode, t))
                assert terminated == (t == length - 1)
            if episode < len(LENGTHS) - 1:
                recorder.hook.act(observation)
                observation, *_, info = recorder.step(0)
                assert "saliency" not in info
        assert asked == [0, 1, 2]
        assert recorder.recording.total_steps == sum(LENGTHS) + 2
        for episode, length in enumerate(LENGTHS):
            for t, maps in enumerate(recorder.maps(episode)):
                check_maps(maps, always_acting(world, episode, t))
            assert len(recorder.maps(episode)) == length


def test_stepping_on_in_an_ended_episode_begins_none() -> None:
    agent, env = CountingAgent(), CountingEnv((2, 3))
    with recorded(env, agent) as recorder:
        play(recorder, agent)
        agent((network_input(env.render()), agent.initial_state(1)))
        assert "saliency" not in recorder.step(0)[-1]
        assert recorder.recording.clocks[0].episode == 0
        recorder.reset()
        agent((network_input(env.render()), agent.initial_state(1)))
        check_saliency(recorder.step(1)[-1]["saliency"], 1, 0, always_acting(env, 1, 0), action=1)


def test_two_recorders_of_one_hook_do_not_share_a_decision() -> None:
    agent, training, evaluation = CountingAgent(), CountingEnv((4,)), CountingEnv((4,), per_step=3)
    first = recorded(training, agent)
    second = type(first)(evaluation, first.hook, method=first.recording.method)
    states = [agent.initial_state(1) for _ in range(2)]
    observations = [recorder.reset()[0] for recorder in (first, second)]
    for t in range(4):
        for i, recorder in enumerate((first, second)):
            _, _, states[i] = agent((network_input(observations[i]), states[i]))
            observations[i], *_, info = recorder.step(scheduled_action(0, t))
            check_saliency(info["saliency"], 0, t, always_acting((training, evaluation)[i], 0, t))
    first.close()
    second.close()


def test_a_pass_that_decided_in_one_environment_does_not_decide_in_another() -> None:
    agent = CountingAgent()
    first = recorded(CountingEnv(), agent)
    second = type(first)(CountingEnv(), first.hook, method=first.recording.method)
    observation, _ = first.reset()
    second.reset()
    agent((network_input(observation), agent.initial_state(1)))
    assert "saliency" in first.step(0)[-1]
    assert "saliency" not in second.step(0)[-1]
    first.close()
    with pytest.warns(UserWarning, match="no decision"):
        second.close()


def test_changing_input_state_and_logits_in_place_after_the_fact_changes_nothing_recorded() -> None:
    agent, env = CountingAgent(), CountingEnv()
    buffer, state = torch.zeros(1, 1, 8, 8), agent.initial_state(1)
    with recorded(env, agent, mode="deferred", keep=True) as recorder, torch.no_grad():
        observation, _ = recorder.reset()
        for t in range(5):
            buffer.copy_(network_input(observation))
            value, logits, out = agent((buffer, state))
            logits[:, 1:] = -torch.inf  # as action masking does
            value.zero_()
            state.copy_(out)
            observation, *_, info = recorder.step(scheduled_action(0, t))
            check_saliency(info["saliency"], 0, t, always_acting(env, 0, t))
            info["saliency"]["logits"][:] = 0
            buffer.fill_(0.5)
        for t, maps in enumerate(recorder.maps(0)):
            check_maps(maps, always_acting(env, 0, t))


def test_a_lagging_clock_is_not_hidden_by_an_episode_that_ends_by_truncation() -> None:
    agent, env = CountingAgent(), CountingEnv(LENGTHS, truncates=True)
    with recorded(env, agent, mode="deferred", keep=True) as recorder:
        played = play(recorder, agent, episodes=3)
        for episode in range(3):
            assert [info["saliency"]["step"] for info in played[episode][1:]] == list(range(LENGTHS[episode]))
            for t, maps in enumerate(recorder.maps(episode)):
                check_maps(maps, always_acting(env, episode, t))


class Forgetful(RecurrentModuleAdapter):
    """Drops the state that it is given."""

    def evaluate(self, inputs: Tensor, state: Any, episode_start: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return super().evaluate(inputs, self.initial_state(len(inputs)), episode_start)


@pytest.mark.parametrize("mode", ["inline", "deferred"])
def test_an_adapter_that_drops_the_state_passes_at_the_first_step_and_is_caught_at_the_second(mode: str) -> None:
    agent, env = CountingAgent(), CountingEnv()
    with recorded(env, Forgetful(agent), mode=mode) as recorder:
        observation, _ = recorder.reset()
        _, _, state = agent((network_input(observation), agent.initial_state(1)))
        observation, *_, info = recorder.step(0)
        check_saliency(info["saliency"], 0, 0, always_acting(env, 0, 0))
        agent((network_input(observation), state))
        with pytest.raises(
            ReplayMismatchError,
            match=r"other logits(.|\n)*recorded: \[\[2\. *1\. *1\. *4\. *\]\]\n *replayed: \[\[2\. *0\. *0\. *2\. *\]\]",
        ):
            recorder.step(1)
        assert env.actions == [0]


def test_an_adapter_that_drops_the_state_is_caught_though_no_step_is_explained() -> None:
    agent, env = CountingAgent(), CountingEnv()
    with recorded(env, Forgetful(agent), step_trigger=lambda step: False) as recorder, pytest.raises(ReplayMismatchError):
        play(recorder, agent)
    assert len(env.actions) == 1


def test_an_agent_that_begins_without_a_state_is_caught_dropping_it_later() -> None:
    class Beginner(CountingAgent):
        def forward(self, inputs: tuple[Tensor, Any]) -> Any:
            x, state = inputs
            return super().forward((x, self.initial_state(len(x)) if state is None else state))

    class DropsLater(RecurrentModuleAdapter):
        def evaluate(self, inputs: Tensor, state: Any, episode_start: Tensor | None) -> tuple[Tensor, Tensor | None]:
            return super().evaluate(inputs, None, episode_start)

    agent, env = Beginner(), CountingEnv()
    with recorded(env, DropsLater(agent)) as recorder:
        observation, _ = recorder.reset()
        _, _, state = agent((network_input(observation), None))
        observation, *_, info = recorder.step(0)
        check_saliency(info["saliency"], 0, 0, always_acting(env, 0, 0))
        agent((network_input(observation), state))
        with pytest.raises(ReplayMismatchError):
            recorder.step(1)
