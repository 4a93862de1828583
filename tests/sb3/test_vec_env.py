"""`SaliencyVecEnv`: the decisions of every environment of an SB3 `VecEnv`, each with its own episode and step."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from counting import SIZE, Blackout, CountingAgent, CountingEnv
from counting_vector import SAME_STEP, World, vector_input
from xaitk_saliency.impls.perturb_image.sliding_window import SlidingWindow

import saliency_wrappers
from saliency_wrappers import EpisodeStore, FramePreprocessor, MissingDecisionError, RecurrentAgentHook

pytest.importorskip("stable_baselines3", reason="needs the extra sb3")
from sb3_agents import Pictures, model
from sb3_contrib import RecurrentPPO
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecMonitor, VecTransposeImage

from saliency_wrappers import FlushSaliency, SaliencyVecEnv

LENGTHS = [(3, 5), (4, 1, 2), (6,)]
STEPS = 14


@pytest.fixture
def agent() -> CountingAgent:
    return CountingAgent()


def make(world: World, kind: Any = DummyVecEnv) -> Any:
    return kind([lambda i=i: world._make(i) for i in range(world.n)])


def recorded(venv: Any, agent: Any, **options: Any) -> SaliencyVecEnv:
    hook = RecurrentAgentHook(agent, FramePreprocessor(size=SIZE))
    return SaliencyVecEnv(venv, hook, **{"perturber": Blackout(), "fill": 0.0, **options})


def play(world: World, venv: Any, agent: Any, steps: int = STEPS) -> list[list[dict[str, Any]]]:
    """Step as SB3 does: the infos of each step."""
    observations, state, played = venv.reset(), agent.initial_state(world.n), []
    timelines = [world.timeline(i, steps) for i in range(world.n)]
    for step in range(steps):
        now = [timeline[step] for timeline in timelines]
        begins = torch.tensor([moment.t == 0 for moment in now])
        _, _, state = agent((vector_input(observations), torch.where(begins[:, None], 0.0, state)))
        observations, _, _, infos = venv.step(np.array([world.action(i, moment) for i, moment in enumerate(now)]))
        played.append(infos)
    return played


def check(world: World, infos: list[dict[str, Any]], step: int) -> None:
    """Compare with what `World` knows, by way of arrays with a leading axis."""
    assert all("saliency" in info for info in infos)
    said = [info["saliency"] for info in infos]
    stacked = {name: np.array([one[name] for one in said]) for name in said[0]}
    world.check({"saliency": stacked, "_saliency": np.ones(world.n, bool)}, step)


@pytest.mark.parametrize("kind", [DummyVecEnv, lambda functions: SubprocVecEnv(functions, start_method="fork")], ids=["Dummy", "Subproc"])
@pytest.mark.parametrize("when", ["inline", "deferred"])
def test_every_info_is_the_decision_of_its_own_episode_and_step(kind: Any, when: Any, agent: CountingAgent) -> None:
    world = World(LENGTHS, SAME_STEP)
    venv = recorded(make(world, kind), agent, mode=when, keep=True, block=5, verify="always")
    for step, infos in enumerate(play(world, venv, agent)):
        check(world, infos, step)
        assert all(("pending" in info["saliency"]) == (when == "deferred") for info in infos)
    venv.close()
    world.check_kept(venv, STEPS)


def test_nothing_else_changes(agent: CountingAgent) -> None:
    world = World(LENGTHS, SAME_STEP)
    plain = play(world, make(world), agent)
    for ours, theirs in zip(play(world, recorded(make(world), agent), agent), plain, strict=True):
        np.testing.assert_equal([{name: info[name] for name in info if name != "saliency"} for info in ours], theirs)
    assert [("terminal_observation" in info) for info in plain[2]] == [True, False, False]


def test_only_what_is_chosen_is_explained(agent: CountingAgent) -> None:
    world = World(LENGTHS, SAME_STEP)
    venv = recorded(make(world), agent, environments=[1], step_trigger=lambda step: step % 3 == 0)
    said = [["saliency" in info for info in infos] for infos in play(world, venv, agent, 7)]
    assert said == [[False, step % 3 == 0, False] for step in range(7)]


def test_a_reset_begins_the_next_episode_everywhere(agent: CountingAgent) -> None:
    world = World([(9,), (9,)], SAME_STEP)
    venv = recorded(make(world), agent)
    play(world, venv, agent, 2)
    infos = play(world, venv, agent, 2)[1]
    assert [(info["saliency"]["episode"], info["saliency"]["step"]) for info in infos] == [(1, 1), (1, 1)]


@pytest.mark.parametrize("wrap", [VecMonitor, VecTransposeImage, lambda venv: VecFrameStack(venv, 2)])
def test_the_wrappers_of_sb3_go_around_it(wrap: Any, agent: CountingAgent) -> None:
    world = World([(2,), (3,)], SAME_STEP)
    inner = recorded(make(world), agent)
    venv = wrap(inner)
    venv.reset()
    agent((vector_input(np.stack([env.render() for env in inner.venv.envs])), agent.initial_state(2)))
    infos = venv.step(np.array([1, 2]))[3]
    assert [info["saliency"]["action"] for info in infos] == [1, 2]


def test_a_frame_that_differs_from_the_input_is_noticed(agent: CountingAgent) -> None:
    world = World([(2,), (3,)], SAME_STEP)
    venv = recorded(make(world), agent)
    inputs = vector_input(venv.reset())
    inputs[1] += 0.1
    agent((inputs, agent.initial_state(2)))
    with pytest.raises(ValueError, match="differs from the hook's preprocessor applied to the rendered frame"):
        venv.step(np.array([0, 0]))


def test_it_can_be_switched_off_and_closed(agent: CountingAgent) -> None:
    world = World(LENGTHS, SAME_STEP)
    venv = recorded(make(world), agent, mode="deferred", keep=True)
    venv.enabled = False
    assert not agent._forward_hooks
    assert not any("saliency" in info for infos in play(world, venv, agent, 2) for info in infos)
    venv.enabled = True
    play(world, venv, agent, 2)
    venv.flush()
    assert len(venv.maps(1, 2)) == 2
    venv.close()
    assert not venv.hook.attached


def test_every_decision_is_stored_with_its_reward(agent: CountingAgent, tmp_path: Path) -> None:
    world = World([(3,), (4,)], SAME_STEP)
    venv = recorded(make(world), agent, mode="capture", store=EpisodeStore(tmp_path, frames=False))
    play(world, venv, agent, 5)
    venv.close()
    stored = [[(one.step, one.reward) for one in episode.decisions()] for episode in EpisodeStore.open(tmp_path).episodes]
    assert sorted(stored, key=len) == [[(t, t + 1.0) for t in range(length)] for length in (1, 2, 3, 4)]


def test_what_is_no_vec_env_no_hook_or_no_decision_is_refused(agent: CountingAgent) -> None:
    world = World([(2,), (3,)], SAME_STEP)
    with pytest.raises(TypeError, match=r"Expected a VecEnv of Stable-Baselines3, got SyncVectorEnv. .* VectorSaliencyRecorder"):
        SaliencyVecEnv(world.make(), RecurrentAgentHook(agent))
    with pytest.raises(TypeError, match="Expected a RecurrentAgentHook, got CountingAgent"):
        SaliencyVecEnv(make(world), agent)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="A VecEnv of SB3 needs SaliencyVecEnv"):
        saliency_wrappers.VectorSaliencyRecorder(make(world), RecurrentAgentHook(agent))
    with pytest.raises(ValueError, match="Expected environments as different numbers from 0 to 1"):
        recorded(make(world), agent, environments=[2])
    venv = recorded(make(world), agent, require_decision=True)
    venv.reset()
    with pytest.raises(MissingDecisionError, match="Step 0 of the vector came without a decision"):
        venv.step(np.array([0, 0]))


# Training.


class Watch(BaseCallback):
    """Remembers the infos of all environments, and the values of each rollout."""

    def __init__(self) -> None:
        super().__init__()
        self.infos: list[list[dict[str, Any]]] = []
        self.values: list[Any] = []

    def _on_step(self) -> bool:
        self.infos.append(self.locals["infos"])
        return True

    def _on_rollout_end(self) -> None:
        if not isinstance(self.model, DQN):
            self.values += list(self.model.rollout_buffer.values)  # type: ignore[attr-defined]


ALGORITHMS: dict[str, tuple[Any, dict[str, Any]]] = {
    "PPO": (PPO, {"n_steps": 50, "batch_size": 50, "n_epochs": 2}),
    "RecurrentPPO": (RecurrentPPO, {"n_steps": 50, "batch_size": 50, "n_epochs": 1, "policy": "CnnLstmPolicy"}),
    "DQN": (DQN, {"buffer_size": 500, "learning_starts": 50, "train_freq": 8, "batch_size": 16}),
}
TINY_LSTM = {"lstm_hidden_size": 8, "enable_critic_lstm": True}
GRID = SlidingWindow((6, 6), (6, 6))


def learned(name: str, steps: int = 2000, **recorder: Any) -> tuple[list[torch.Tensor], Watch]:
    """The weights after learning in two environments, and what was seen; recorded if there are options for a recorder."""
    algorithm, options = ALGORITHMS[name]
    venv: Any = DummyVecEnv([lambda: Pictures(length=5), lambda: Pictures(length=7)])
    hook = RecurrentAgentHook()
    if recorder:
        venv = SaliencyVecEnv(venv, hook, perturber=GRID, **recorder)
    agent = model(algorithm, venv, policy_kwargs=TINY_LSTM if name == "RecurrentPPO" else None, **options)
    if recorder:
        hook.attach(agent)
    watch = Watch()
    agent.learn(steps, callback=[watch, FlushSaliency()] if recorder else watch)
    return [weight.detach().clone() for weight in agent.policy.parameters()], watch


@pytest.mark.filterwarnings("ignore:Episode 0 of environment . had no decision")  # true: DQN explores
@pytest.mark.parametrize("name", ALGORITHMS)
def test_learning_2000_steps_gives_the_same_weights_with_and_without_it(name: str) -> None:
    without, _ = learned(name)
    ways: list[dict[str, Any]] = [
        {"mode": "deferred", "step_trigger": lambda step: step % 5 == 0},
        {"mode": "inline", "step_trigger": lambda step: step % 50 == 0},
    ]
    for way in ways:
        weights, watch = learned(name, **way)
        assert all(torch.equal(a, b) for a, b in zip(without, weights, strict=True))
        assert any("saliency" in info for infos in watch.infos for info in infos)


@pytest.mark.parametrize("name", ["PPO", "RecurrentPPO"])
def test_in_learn_every_environments_value_is_that_of_the_rollout_at_its_episode_and_step(name: str) -> None:
    _, watch = learned(name, steps=200, verify="always", mode="deferred")
    said = [[info["saliency"] for info in infos] for infos in watch.infos]
    assert len(said) == 100
    np.testing.assert_allclose([[one["value"] for one in row] for row in said], watch.values, rtol=1e-6)
    assert [[(one["episode"], one["step"]) for one in row] for row in said] == [[divmod(t, 5), divmod(t, 7)] for t in range(100)]


def test_it_is_in_the_package_but_stable_baselines_is_imported_only_for_it() -> None:
    program = """if True:
        import sys
        import saliency_wrappers
        assert not any(name.startswith(("stable_baselines3", "saliency_wrappers.sb3.vec_env")) for name in sys.modules)
        saliency_wrappers.SaliencyVecEnv
        assert "stable_baselines3" in sys.modules
    """
    subprocess.run([sys.executable, "-c", program], check=True)
    with pytest.raises(AttributeError, match="module 'saliency_wrappers' has no attribute 'NoSuchThing'"):
        saliency_wrappers.NoSuchThing  # noqa: B018


def test_without_stable_baselines_the_extra_is_named() -> None:
    program = """if True:
        import sys
        sys.modules["stable_baselines3"] = sys.modules["stable_baselines3.common.vec_env"] = None
        from gymnasium.error import DependencyNotInstalled
        try:
            from saliency_wrappers import SaliencyVecEnv
        except DependencyNotInstalled as error:
            print(error)
    """
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert said.strip() == 'SaliencyVecEnv needs Stable-Baselines3: pip install "saliency_wrappers[sb3]".'


def test_counting_environments_are_environments_of_sb3() -> None:
    assert DummyVecEnv([CountingEnv]).reset().shape == (1, *SIZE, 3)
