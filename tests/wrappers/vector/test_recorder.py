"""`VectorSaliencyRecorder`: every row's decision has the episode and the step that it was made in, however environments reset."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from counting import SIZE, Blackout, CountingAgent, CountingEnv
from counting_vector import DISABLED, NEXT_STEP, SAME_STEP, World, recorded_vector, row_of, vector_input
from gymnasium.vector import SyncVectorEnv
from gymnasium.wrappers.vector import DictInfoToList, RecordEpisodeStatistics
from hypothesis import given, settings
from hypothesis import strategies as st

from saliency_wrappers import (
    EpisodeStore,
    FramePreprocessor,
    MissingDecisionError,
    PerturbationSaliency,
    RecurrentAgentHook,
    ReplayMismatchError,
    SaliencyRecorder,
    VectorSaliencyRecorder,
)

LENGTHS = [(3, 5), (4, 1, 2), (6,)]
MODES = [NEXT_STEP, SAME_STEP, DISABLED]
STEPS = 16


class Method(PerturbationSaliency):
    """Under `Blackout`; remembers how many decisions came at each call, each of one row."""

    def __init__(self) -> None:
        super().__init__(Blackout(), fill=0.0)
        self.calls: list[int] = []

    def __call__(self, adapter: Any, decisions: Any) -> Any:
        assert all(len(decision) == 1 for decision in decisions)
        self.calls.append(len(decisions))
        return super().__call__(adapter, decisions)


@pytest.fixture
def agent() -> CountingAgent:
    return CountingAgent()


# Time.


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("when", ["inline", "deferred"])
def test_every_row_is_the_decision_of_its_own_episode_and_step(kind: str, mode: Any, when: Any, agent: CountingAgent) -> None:
    world = World(LENGTHS, mode)
    envs = recorded_vector(world.make(kind), agent, mode=when, keep=True, block=5, verify="always")
    played = world.play(envs, agent, STEPS)
    for step, infos in enumerate(played):
        world.check(infos, step)
        if "saliency" in infos:
            assert ("pending" in infos["saliency"]) == (when == "deferred")
    envs.close()
    world.check_kept(envs, STEPS)


def test_the_arrays_are_as_documented(agent: CountingAgent) -> None:
    world = World(LENGTHS, NEXT_STEP)
    with_ignored = world.play(recorded_vector(world.make(), agent), agent, 4)[3]
    saliency = with_ignored["saliency"]
    assert with_ignored["_saliency"].tolist() == [False, True, True]
    kinds = {name: (value.dtype.kind, value.shape) for name, value in saliency.items()}
    maps = ("f", (3, *SIZE))
    assert kinds == {
        "episode": ("i", (3,)),
        "step": ("i", (3,)),
        "action": ("i", (3,)),
        "actor": maps,
        "critic": maps,
        "logits": ("f", (3, 4)),
        "value": ("f", (3,)),
    }
    assert {saliency[name].dtype for name in ("actor", "critic", "logits")} == {np.dtype(np.float32)}


def test_pending_decisions_are_told_by_row(agent: CountingAgent) -> None:
    world = World(LENGTHS, NEXT_STEP)
    infos = world.play(recorded_vector(world.make(), agent, mode="deferred"), agent, 4)[3]
    assert infos["saliency"]["pending"].tolist() == infos["_saliency"].tolist() == [False, True, True]
    assert not {"actor", "critic"} & infos["saliency"].keys()


@pytest.mark.parametrize("mode", MODES)
def test_nothing_else_in_infos_changes(mode: Any, agent: CountingAgent) -> None:
    world = World(LENGTHS, mode)
    plain = world.play(world.make(), agent, STEPS)
    for ours, theirs in zip(world.play(recorded_vector(world.make(), agent), agent, STEPS), plain, strict=True):
        mine = {name: value for name, value in ours.items() if name not in ("saliency", "_saliency")}
        for observations in (mine, theirs):  # an array of arrays and None, which NumPy does not compare
            observations["final_obs"] = list(observations.get("final_obs", []))
        np.testing.assert_equal(mine, theirs)
    assert ("final_info" in plain[2]) == (mode == SAME_STEP)


def test_the_infos_of_reset_say_nothing(agent: CountingAgent) -> None:
    envs = recorded_vector(World(LENGTHS, NEXT_STEP).make(), agent)
    assert not {"saliency", "_saliency"} & envs.reset(seed=0)[1].keys()


def test_under_same_step_the_terminal_decision_has_the_numbers_of_the_ended_episode(agent: CountingAgent) -> None:
    world = World(LENGTHS, SAME_STEP)
    infos = world.play(recorded_vector(world.make(), agent), agent, 3)[2]
    assert infos["_final_obs"].tolist() == [True, False, False]
    assert (infos["saliency"]["episode"].tolist(), infos["saliency"]["step"].tolist()) == ([0, 0, 0], [2, 2, 2])
    assert "saliency" not in infos["final_info"]


def test_episodes_that_end_and_begin_by_reset_are_told_apart(agent: CountingAgent) -> None:
    world = World([(5,), (5,)], NEXT_STEP)
    envs = recorded_vector(world.make(), agent)
    world.play(envs, agent, 2)
    infos = world.play(envs, agent, 2)[1]
    assert (infos["saliency"]["episode"].tolist(), infos["saliency"]["step"].tolist()) == ([1, 1], [1, 1])


def test_a_reset_by_mask_in_the_middle_of_an_episode_leaves_the_other_rows_as_they_are(agent: CountingAgent) -> None:
    envs = recorded_vector(World([(9,), (9,), (9,)], DISABLED).make(), agent)
    observations, _ = envs.reset(seed=0)

    def step() -> Any:
        agent((vector_input(observations), agent.initial_state(3)))
        return envs.step(np.zeros(3, int))[4]["saliency"]

    for _ in range(2):
        step()
    mask = np.array([False, True, False])
    assert "saliency" not in envs.reset(options={"reset_mask": mask})[1]
    saliency = step()
    assert (saliency["episode"].tolist(), saliency["step"].tolist()) == ([0, 1, 0], [2, 0, 2])
    assert mask.tolist() == [False, True, False]


def test_a_pass_made_before_a_reset_by_mask_decides_nothing(agent: CountingAgent) -> None:
    envs = recorded_vector(World([(9,), (9,)], DISABLED).make(), agent)
    observations, _ = envs.reset(seed=0)
    agent((vector_input(observations), agent.initial_state(2)))
    envs.reset(options={"reset_mask": np.array([False, True])})
    assert "saliency" not in envs.step(np.zeros(2, int))[4]


def test_a_step_without_a_decision_says_nothing(agent: CountingAgent) -> None:
    envs = recorded_vector(World([(9,), (9,)], NEXT_STEP).make(), agent)
    observations, _ = envs.reset(seed=0)
    observations, *_, infos = envs.step(np.zeros(2, int))
    assert "saliency" not in infos
    agent((vector_input(observations), agent.initial_state(2)))
    assert envs.step(np.zeros(2, int))[4]["saliency"]["step"].tolist() == [1, 1]


def test_a_step_in_which_every_action_is_ignored_says_nothing(agent: CountingAgent) -> None:
    world = World([(2,), (2,)], NEXT_STEP)
    infos = world.play(recorded_vector(world.make(), agent, require_decision=True), agent, 4)
    assert ["saliency" in one for one in infos] == [True, True, False, True]


# What is chosen.


@pytest.mark.parametrize("when", ["inline", "deferred"])
@pytest.mark.parametrize("rows", [(0,), (2,), (2, 0)])
def test_only_chosen_environments_are_explained(rows: tuple[int, ...], when: Any, agent: CountingAgent) -> None:
    world, method = World(LENGTHS, NEXT_STEP), Method()
    envs = recorded_vector(world.make(), agent, method=method, perturber=None, fill=None, environments=rows, mode=when, keep=True)
    for step, infos in enumerate(world.play(envs, agent, STEPS)):
        world.check(infos, step, rows)
    envs.close()
    world.check_kept(envs, STEPS, rows)
    with pytest.raises(ValueError, match=r"Expected one of the environments that are recorded, \[.*\], got 1"):
        envs.maps(0, 1)
    assert sum(method.calls) == sum(moment.episode is not None for i in rows for moment in world.timeline(i, STEPS))


def test_the_wanted_rows_of_a_step_are_explained_in_one_call(agent: CountingAgent) -> None:
    world, method = World(LENGTHS, NEXT_STEP), Method()
    world.play(recorded_vector(world.make(), agent, method=method, perturber=None, fill=None), agent, 5)
    assert method.calls == [3, 3, 3, 2, 2]


def test_a_step_trigger_counts_the_steps_of_the_vector_and_is_asked_once_a_step(agent: CountingAgent) -> None:
    asked: list[int] = []
    world = World(LENGTHS, SAME_STEP)
    envs = recorded_vector(world.make(), agent, step_trigger=lambda step: asked.append(step) or step % 4 == 1)
    played = world.play(envs, agent, 8) + world.play(envs, agent, 4)
    assert [step for step, infos in enumerate(played) if "saliency" in infos] == [1, 5, 9]
    assert asked == list(range(13))  # once more for the step that did not come
    world.check(played[5], 5)


def test_an_episode_trigger_is_asked_at_each_episode_of_each_environment(agent: CountingAgent) -> None:
    asked: list[int] = []
    world = World(LENGTHS, SAME_STEP)
    envs = recorded_vector(world.make(), agent, episode_trigger=lambda episode: asked.append(episode) or episode == 1)
    real = [infos["_saliency"].tolist() if "saliency" in infos else [False] * 3 for infos in world.play(envs, agent, 9)]
    timelines = [world.timeline(i, 9) for i in range(3)]
    assert real == [[timeline[step].episode == 1 for timeline in timelines] for step in range(9)]
    assert sorted(asked) == [0, 0, 0, 1, 1, 1, 2, 2, 3, 4]  # at the end of the ninth step the second one begins its fifth


def test_while_disabled_nothing_is_watched_and_the_clocks_go_on(agent: CountingAgent) -> None:
    world = World(LENGTHS, NEXT_STEP)
    envs = recorded_vector(world.make(), agent)
    steps = iter(range(STEPS))

    def switch() -> None:
        step = next(steps)
        if step in (2, 9):
            envs.enabled = step == 9
            assert bool(agent._forward_hooks) == envs.enabled

    for step, infos in enumerate(world.play(envs, agent, STEPS, between=switch)):
        if 3 <= step < 10:
            assert "saliency" not in infos
        else:
            world.check(infos, step)


# Blocks.


@pytest.mark.parametrize("block", [1, 2, 4, 7])
def test_no_more_decisions_are_held_than_a_block_of_all_environments_together(block: int, agent: CountingAgent) -> None:
    world, method = World([(9,), (9,), (9,)], NEXT_STEP), Method()
    envs = recorded_vector(world.make(), agent, method=method, perturber=None, fill=None, mode="deferred", block=block, keep=True)
    world.play(envs, agent, 8)
    assert method.calls == [block] * (24 // block)
    envs.flush()
    assert sum(method.calls) == 24
    world.check_kept(envs, 8)


def test_the_end_of_an_episode_explains_what_is_held(agent: CountingAgent) -> None:
    world, method = World([(3,), (9,)], NEXT_STEP), Method()
    envs = recorded_vector(world.make(), agent, method=method, perturber=None, fill=None, mode="deferred", keep=True)
    world.play(envs, agent, 3)
    assert method.calls == [6]
    assert len(envs.maps(0, 0)) == len(envs.maps(0, 1)) == 3


def test_what_is_held_is_independent_of_the_agents_buffers(agent: CountingAgent) -> None:
    world = World(LENGTHS, NEXT_STEP)
    envs = recorded_vector(world.make(copy=False), CountingAgent(in_place=True), mode="deferred", keep=True)
    acting = envs.hook.adapter.module  # type: ignore[attr-defined]
    buffer = torch.zeros(3, 1, *SIZE)

    def act(agent: Any, inputs: Any, state: Any) -> Any:
        buffer.copy_(inputs)
        return agent((buffer, state))[2]

    world.play(envs, acting, STEPS, act=act)
    envs.close()
    world.check_kept(envs, STEPS)


def test_weights_that_change_before_a_block_is_explained_are_noticed(agent: CountingAgent) -> None:
    world = World([(9,), (9,)], NEXT_STEP)
    envs = recorded_vector(world.make(), agent, mode="deferred", block=6)

    def learn() -> None:
        with torch.no_grad():
            agent.gain.mul_(1.1)

    with pytest.raises(ReplayMismatchError, match="or its weights changed since it acted"):
        world.play(envs, agent, 8, between=learn)


# The self-check.


@pytest.mark.parametrize("wrong", [0, 2])
def test_the_frame_of_every_row_is_compared_with_its_input(wrong: int, agent: CountingAgent) -> None:
    world = World(LENGTHS, NEXT_STEP)
    envs = recorded_vector(world.make(), agent)

    def act(agent: Any, inputs: Any, state: Any) -> Any:
        inputs[wrong] += 0.1
        return agent((inputs, state))[2]

    with pytest.raises(ValueError, match=r"differs from the hook's preprocessor applied to the rendered frame by up to 0\.1"):
        world.play(envs, agent, 1, act=act)


def test_what_the_agent_is_fed_for_a_row_whose_action_is_ignored_does_not_matter(agent: CountingAgent) -> None:
    world = World([(3,), (5,)], NEXT_STEP)
    envs = recorded_vector(world.make(), agent, verify="always")
    steps = iter(range(6))

    def act(agent: Any, inputs: Any, state: Any) -> Any:
        if next(steps) == 3:
            inputs[0] = 0
        return agent((inputs, state))[2]

    for step, infos in enumerate(world.play(envs, agent, 6, act=act)):
        world.check(infos, step)


def test_without_frames_only_the_replay_is_checked(agent: CountingAgent) -> None:
    world = World(LENGTHS, NEXT_STEP, render_mode=None)
    envs = recorded_vector(world.make(), agent, verify="always")
    for step, infos in enumerate(world.play(envs, agent, STEPS)):
        world.check(infos, step)


def test_a_state_that_is_dropped_in_one_row_is_noticed() -> None:
    class Forgets(CountingAgent):
        def forward(self, inputs: Any) -> Any:
            value, logits, state = super().forward(inputs)
            self.second = torch.zeros(()) if self.training else torch.ones(())
            return value, torch.cat([logits[:1], logits[1:] + self.second]), state

    agent = Forgets().train()
    world = World(LENGTHS, NEXT_STEP)
    with pytest.raises(ReplayMismatchError):
        world.play(recorded_vector(world.make(), agent), agent, 1)


# Silence and wrong wiring.


def test_an_environment_whose_episode_had_no_decision_is_named(agent: CountingAgent) -> None:
    world = World([(4,), (3,)], NEXT_STEP)
    envs = recorded_vector(world.make(), agent)
    with pytest.warns(
        UserWarning, match=r"Episode 0 of environment 1 had no decision in 3 steps\. No pass of the agent was seen"
    ) as caught:
        world.play(envs, agent, 9, act=lambda agent, inputs, state: state)
    assert len(caught) == 1


def test_an_agent_that_acts_row_by_row_is_told_to_act_for_all(agent: CountingAgent) -> None:
    world = World([(3,), (3,)], NEXT_STEP)
    envs = recorded_vector(world.make(), agent)

    def act(agent: Any, inputs: Any, state: Any) -> Any:
        return torch.cat([agent((inputs[i : i + 1], state[i : i + 1]))[2] for i in range(2)])

    with pytest.warns(UserWarning, match=r"had 1 rows: the agent should act for all 2 environments in one pass"):
        world.play(envs, agent, 3, act=act)


def test_the_single_recorder_names_this_one_when_passes_are_of_many_rows(agent: CountingAgent) -> None:
    env = SaliencyRecorder(CountingEnv((3,)), RecurrentAgentHook(agent))
    env.reset()
    agent((torch.rand(4, 1, *SIZE), agent.initial_state(4)))
    env.step(0)
    with pytest.warns(UserWarning, match=r"for a vector of 4 environments use VectorSaliencyRecorder\."):
        env.close()


def test_a_step_without_a_decision_is_an_error_when_required(agent: CountingAgent) -> None:
    envs = recorded_vector(World([(3,), (3,)], NEXT_STEP).make(), agent, require_decision=True)
    envs.reset(seed=0)
    with pytest.raises(MissingDecisionError, match="Step 0 of the vector came without a decision"):
        envs.step(np.zeros(2, int))


@pytest.mark.parametrize("when", ["inline", "deferred"])
def test_with_on_error_warn_a_failing_method_costs_nothing_but_its_maps(when: Any, agent: CountingAgent) -> None:
    class Fails(Method):
        def __call__(self, adapter: Any, decisions: Any) -> Any:
            if len(self.calls) == 1:
                self.calls.append(0)
                raise ArithmeticError("no map today")
            return super().__call__(adapter, decisions)

    world = World([(9,), (9,)], NEXT_STEP)
    parts = {"method": Fails(), "perturber": None, "fill": None}
    envs = recorded_vector(world.make(), agent, mode=when, on_error="warn", keep=True, block=2, **parts)
    with pytest.warns(UserWarning, match="No saliency for .*ArithmeticError: no map today"):
        played = world.play(envs, agent, 4)
    assert ["saliency" in infos for infos in played] == [True, when == "deferred", True, True]
    assert len(envs.maps(0, 0)) == len(envs.maps(0, 1)) == 3


def test_a_failure_at_an_episodes_end_loses_no_transition(agent: CountingAgent) -> None:
    def fails(adapter: Any, decisions: Any) -> Any:
        raise ArithmeticError("no map today")

    world = World([(2,), (9,)], SAME_STEP)
    envs = recorded_vector(world.make(), agent, method=fails, perturber=None, fill=None, mode="deferred")
    world.play(envs, agent, 2)
    with pytest.raises(ArithmeticError, match="no map today"):
        envs.step(np.zeros(2, int))
    assert envs.recording.clock(0).episode == 1


@pytest.mark.parametrize("seed", [5, [5, 6, 7]])
def test_environments_are_seeded_in_any_way_and_the_store_knows_each_seed(seed: Any, agent: CountingAgent, tmp_path: Path) -> None:
    envs = recorded_vector(World(LENGTHS, NEXT_STEP).make(), agent, mode="capture", store=EpisodeStore(tmp_path, frames=False))
    observations, _ = envs.reset(seed=seed)
    agent((vector_input(observations), agent.initial_state(3)))
    envs.step(np.zeros(3, int))
    envs.close()
    assert sorted(episode.header.seed for episode in EpisodeStore.open(tmp_path).episodes) == [5, 6, 7]


def test_a_trigger_that_fails_at_an_autoreset_costs_no_transition_and_no_count(agent: CountingAgent) -> None:
    def fails(episode: int) -> bool:
        if episode == 1:
            raise ZeroDivisionError("no trigger today")
        return True

    world = World([(2,), (2,)], SAME_STEP)
    envs = recorded_vector(world.make(), agent, episode_trigger=fails)
    world.play(envs, agent, 2)
    with pytest.raises(ZeroDivisionError, match="no trigger today"):
        envs.step(np.zeros(2, int))
    assert [clock.episode for clock in envs.recording.clocks.values()] == [1, 1]


# What is refused.


@pytest.mark.parametrize("environments", [(), (3,), (-1,), (0, 0)])
def test_environments_that_do_not_exist_are_refused(environments: Any, agent: CountingAgent) -> None:
    with pytest.raises(ValueError, match="Expected environments as different numbers from 0 to 2, at least one, got"):
        recorded_vector(World(LENGTHS, NEXT_STEP).make(), agent, environments=environments)


@pytest.mark.parametrize("environments", [1, "01", [0.5], [None]])
def test_environments_that_are_no_numbers_are_refused(environments: Any, agent: CountingAgent) -> None:
    with pytest.raises(TypeError, match="Expected environments as a sequence of numbers, got"):
        recorded_vector(World(LENGTHS, NEXT_STEP).make(), agent, environments=environments)


def test_a_single_environment_and_a_wrong_hook_are_refused(agent: CountingAgent) -> None:
    with pytest.raises(TypeError, match=r"Expected a gymnasium.vector.VectorEnv, got CountingEnv. .* needs SaliencyRecorder"):
        VectorSaliencyRecorder(CountingEnv(), RecurrentAgentHook(agent))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Expected a RecurrentAgentHook, got CountingAgent"):
        VectorSaliencyRecorder(World(LENGTHS, NEXT_STEP).make(), agent)  # type: ignore[arg-type]


def test_environments_that_do_not_tell_how_they_reset_are_taken_to_reset_at_the_next_step(agent: CountingAgent) -> None:
    world = World(LENGTHS, NEXT_STEP)
    inner = world.make()
    del inner.autoreset_mode, inner.metadata["autoreset_mode"]
    with pytest.warns(UserWarning, match="declares no autoreset mode"):
        envs = recorded_vector(inner, agent)
    inner.autoreset_mode = NEXT_STEP
    for step, infos in enumerate(world.play(envs, agent, STEPS)):
        world.check(infos, step)


# Other agents, other actions, other wrappers.


def test_without_a_critic_value_and_critic_are_arrays_of_none() -> None:
    agent = CountingAgent(critic=False)
    world = World(LENGTHS, NEXT_STEP)
    saliency = world.play(recorded_vector(world.make(), agent), agent, 1)[0]["saliency"]
    assert saliency["critic"].tolist() == saliency["value"].tolist() == [None] * 3
    assert saliency["actor"].shape == (3, *SIZE)


@pytest.mark.parametrize(
    "space",
    [
        gym.spaces.Box(-1, 1, (2,), np.float32),
        gym.spaces.Dict(a=gym.spaces.Discrete(5), b=gym.spaces.Box(-1, 1, (2,))),
        gym.spaces.Tuple([gym.spaces.Discrete(5), gym.spaces.MultiBinary(3)]),
    ],
)
def test_actions_of_any_space_are_told_by_row(space: Any, agent: CountingAgent) -> None:
    def make() -> CountingEnv:
        env = CountingEnv((9,))
        env.action_space = space
        return env

    envs = recorded_vector(SyncVectorEnv([make] * 3), agent, environments=(0, 2))
    observations, _ = envs.reset(seed=0)
    envs.action_space.seed(0)
    actions = envs.action_space.sample()
    agent((vector_input(observations), agent.initial_state(3)))
    told = envs.step(actions)[4]["saliency"]["action"]
    given: list[Any] = list(gym.vector.utils.iterate(envs.action_space, actions))
    for i in (0, 2):
        np.testing.assert_equal(next(rows(told, i)), given[i])
    assert not np.any(next(rows(told["a"] if isinstance(told, dict) else told[0] if isinstance(told, tuple) else told, 1)))


def rows(told: Any, i: int) -> Iterator[Any]:
    if isinstance(told, dict):
        yield {name: next(rows(part, i)) for name, part in told.items()}
    elif isinstance(told, tuple):
        yield tuple(next(rows(part, i)) for part in told)
    else:
        yield told[i]


@pytest.mark.parametrize("wrap", [RecordEpisodeStatistics, DictInfoToList])
def test_gymnasiums_vector_wrappers_go_around_it(wrap: Any, agent: CountingAgent) -> None:
    world = World(LENGTHS, NEXT_STEP)
    envs = wrap(recorded_vector(world.make(), agent))
    observations, _ = envs.reset(seed=0)
    agent((vector_input(np.asarray(observations)), agent.initial_state(3)))
    actions = np.array([1, 2, 3])
    infos: Any = envs.step(actions)[4]
    if wrap is DictInfoToList:
        assert [info["saliency"]["action"] for info in infos] == [1, 2, 3]
    else:
        assert row_of(infos["saliency"], 1, 3)["action"] == 2


def test_a_recorder_of_one_environment_and_one_of_many_share_a_hook(agent: CountingAgent) -> None:
    world = World(LENGTHS, NEXT_STEP)
    envs = recorded_vector(world.make(), agent)
    evaluation = SaliencyRecorder(CountingEnv((2,)), envs.hook, perturber=Blackout(), fill=0.0)

    def evaluate() -> None:
        frame, _ = evaluation.reset()
        for step in range(2):
            frame, _, _, _, info = evaluation.step(envs.hook.act(frame))
            assert info["saliency"]["step"] == step
        assert info["saliency"]["logits"].shape == (4,)

    for step, infos in enumerate(world.play(envs, agent, STEPS, between=evaluate)):
        world.check(infos, step)


def test_closing_detaches_the_hook_and_closes_the_environments(agent: CountingAgent) -> None:
    inner = World(LENGTHS, NEXT_STEP).make()
    envs = recorded_vector(inner, agent)
    envs.close()
    assert not envs.hook.attached
    assert inner.closed
    envs.close()


def test_a_preprocessor_of_another_size_is_noticed(agent: CountingAgent) -> None:
    world = World(LENGTHS, NEXT_STEP)
    envs = VectorSaliencyRecorder(world.make(), RecurrentAgentHook(agent, FramePreprocessor(size=(4, 4))))
    with pytest.raises(ValueError, match=r"Expected a network input of shape \(1, 4, 4\)"):
        world.play(envs, agent, 1)


@settings(max_examples=25, deadline=None, database=None)
@given(
    lengths=st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3), min_size=1, max_size=4),
    mode=st.sampled_from(MODES),
    when=st.sampled_from(["inline", "deferred"]),
    block=st.integers(1, 9),
)
def test_episodes_of_any_lengths_keep_their_numbers(lengths: Any, mode: Any, when: Any, block: int) -> None:
    world, agent = World(lengths, mode), CountingAgent()
    envs = recorded_vector(world.make(), agent, mode=when, block=block, keep=True)
    for step, infos in enumerate(world.play(envs, agent, 10)):
        world.check(infos, step)
    envs.close()
    world.check_kept(envs, 10)
