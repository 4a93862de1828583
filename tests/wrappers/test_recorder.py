"""`SaliencyRecorder`: what is in `info["saliency"]`, where the recorder may stand among wrappers, and that it changes nothing else."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ale_py
import gymnasium as gym
import numpy as np
import pytest
import torch
from counting import (
    NUM_ACTIONS,
    Blackout,
    CountingAgent,
    CountingEnv,
    always_acting,
    check_maps,
    check_saliency,
    network_input,
    play,
    recorded,
)
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import (
    AtariPreprocessing,
    Autoreset,
    FrameStackObservation,
    OrderEnforcing,
    PassiveEnvChecker,
    RecordEpisodeStatistics,
    TimeLimit,
    TransformAction,
    TransformObservation,
    TransformReward,
)
from loops import loop
from tiny_agents import TinyLSTM
from xaitk_saliency import PerturbImage
from xaitk_saliency.impls.gen_classifier_conf_sal.squared_difference_scoring import SquaredDifferenceScoring

from saliency_wrappers import (
    FramePreprocessor,
    GaussianBlur,
    MissingDecisionError,
    PerturbationSaliency,
    RecordSaliencyVideo,
    RecurrentAgentHook,
    SaliencyMaps,
    SaliencyRecorder,
    SlidingDisc,
)

gym.register_envs(ale_py)

INLINE = ["episode", "step", "action", "actor", "critic", "logits", "value"]
DEFERRED = ["episode", "step", "action", "pending", "logits", "value"]


class NoisyEnv(CountingEnv):
    """Frames that are different in every place, the same at every run."""

    def frame(self, episode: int, t: int) -> Any:
        return np.random.default_rng([episode, t]).integers(0, 256, (*self.size, 3), np.uint8)


# What is in info.


def test_inline_info_has_exactly_the_documented_content() -> None:
    agent = CountingAgent()
    with recorded(CountingEnv(size=(8, 10)), agent) as recorder:
        saliency = next(loop(recorder, agent, agent.initial_state(1), 1))["saliency"]
    assert sorted(saliency) == sorted(INLINE)
    assert [type(saliency[key]) for key in ("episode", "step", "action", "value")] == [int, int, int, float]
    for key, shape in (("actor", (8, 10)), ("critic", (8, 10)), ("logits", (NUM_ACTIONS,))):
        assert type(saliency[key]) is np.ndarray
        assert saliency[key].dtype == np.float32
        assert saliency[key].shape == shape


def test_deferred_info_is_pending_and_has_no_maps() -> None:
    agent = CountingAgent()
    with recorded(CountingEnv(), agent, mode="deferred", block=2) as recorder:
        for info in loop(recorder, agent, agent.initial_state(1), 4):
            assert sorted(info["saliency"]) == sorted(DEFERRED)
            assert info["saliency"]["pending"] is True
            assert info["saliency"]["logits"].dtype == np.float32
            assert type(info["saliency"]["value"]) is float


@pytest.mark.parametrize("mode", ["inline", "deferred"])
def test_without_a_value_output_value_and_critic_are_none(mode: Any) -> None:
    agent = CountingAgent(critic=False)
    with recorded(CountingEnv(), agent, mode=mode, keep=True) as recorder:
        for info in loop(recorder, agent, agent.initial_state(1), 5):
            saliency = info["saliency"]
            assert sorted(saliency) == sorted(INLINE if mode == "inline" else DEFERRED)
            assert saliency["value"] is None
            assert saliency.get("critic") is None
        assert [maps.critic for maps in recorder.maps(0)] == [None] * 5


def test_the_info_of_reset_has_no_saliency() -> None:
    agent = CountingAgent()
    with recorded(CountingEnv(), agent) as recorder:
        played = play(recorder, agent, episodes=2)
        agent((torch.rand(1, 1, 8, 8), agent.initial_state(1)))
        assert recorder.reset()[1] == {"t": 0}
    assert [infos[0] for infos in played] == [{"t": 0}, {"t": 0}]


def test_the_environments_own_info_is_not_touched_and_no_saliency_is_left_over_in_it() -> None:
    class OneInfo(CountingEnv):
        info: dict[str, Any] = {}  # noqa: RUF012

        def step(self, action: Any) -> Any:
            return *super().step(action)[:-1], self.info

    agent, env = CountingAgent(), OneInfo()
    with recorded(env, agent) as recorder:
        infos = play(recorder, agent, acts=lambda episode, t: t in (0, 3))[0][1:]
    assert ["saliency" in info for info in infos] == [True, False, False, True, False]
    assert env.info == {}


def test_maps_are_raw_and_comparable_between_steps() -> None:
    agent, env = CountingAgent(), CountingEnv()
    with recorded(env, agent) as recorder:
        peaks = [info["saliency"]["actor"].max() for info in loop(recorder, agent, agent.initial_state(1), 5)]
    np.testing.assert_allclose(peaks, [always_acting(env, 0, t).actor for t in range(5)], rtol=1e-4)
    assert peaks[-1] > 100 * peaks[0] / 4


def test_deferred_maps_equal_inline_maps(tiny_lstm: TinyLSTM) -> None:
    kept: dict[str, list[SaliencyMaps]] = {}
    infos: dict[str, list[dict[str, Any]]] = {}
    for mode in ("inline", "deferred"):
        hook = RecurrentAgentHook(tiny_lstm, FramePreprocessor(size=(12, 12)))
        env = FramePreprocessorObservation(NoisyEnv((7,), size=(12, 12)), FramePreprocessor(size=(12, 12)))
        with SaliencyRecorder(env, hook, mode=mode, keep=True, block=3, perturber=SlidingDisc(stride=3, sigma=1)) as recorder:
            infos[mode] = [info["saliency"] for info in module_loop(recorder, tiny_lstm, 7)]
            kept[mode] = recorder.maps(0)
    assert len(kept["inline"]) == len(kept["deferred"]) == 7
    for inline, deferred, info in zip(kept["inline"], kept["deferred"], infos["inline"], strict=True):
        assert inline.actor.max() > 0
        for head in ("actor", "critic"):
            np.testing.assert_allclose(getattr(inline, head), getattr(deferred, head), rtol=0, atol=2e-5 * getattr(inline, head).max())
            np.testing.assert_array_equal(getattr(inline, head), info[head])
    for inline, deferred in zip(infos["inline"], infos["deferred"], strict=True):
        np.testing.assert_array_equal(inline["logits"], deferred["logits"])
        assert {key: inline[key] for key in ("episode", "step", "action", "value")} == {
            key: deferred[key] for key in ("episode", "step", "action", "value")
        }


class FramePreprocessorObservation(gym.ObservationWrapper[Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Gives the network input itself."""

    def __init__(self, env: gym.Env[Any, Any], preprocessor: FramePreprocessor) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, preprocessor=preprocessor)
        super().__init__(env)
        self.preprocessor = preprocessor
        self.observation_space = gym.spaces.Box(0, 1, preprocessor.input_shape, np.float32)

    def observation(self, observation: Any) -> Any:
        return self.preprocessor(observation)


def module_loop(env: gym.Env[Any, Any], agent: TinyLSTM, steps: int) -> Iterator[dict[str, Any]]:
    observation, _ = env.reset(seed=0)
    state = (torch.zeros(1, 8), torch.zeros(1, 8))
    for _ in range(steps):
        _, logits, state = agent((torch.as_tensor(observation)[None], state))
        observation, *_, info = env.step(int(logits.argmax()))
        yield info


# It changes nothing else.


@pytest.mark.parametrize("mode", ["inline", "deferred"])
def test_recording_changes_neither_the_episode_nor_the_random_numbers_nor_the_gradients(mode: Any, tiny_lstm: TinyLSTM) -> None:
    def run(record: bool) -> list[Any]:
        torch.manual_seed(0)
        tiny_lstm.zero_grad()
        tiny_lstm.train()
        env: Any = FramePreprocessorObservation(NoisyEnv((6,), size=(12, 12)), FramePreprocessor(size=(12, 12)))
        hook = RecurrentAgentHook(tiny_lstm)
        env = SaliencyRecorder(env, hook, mode=mode, perturber=SlidingDisc(stride=4, sigma=1)) if record else env
        observation, state, loss, told = env.reset(seed=0)[0], (torch.zeros(1, 8), torch.zeros(1, 8)), torch.zeros(()), []
        for _ in range(6):
            value, logits, state = tiny_lstm((torch.as_tensor(observation)[None], state))
            action = int(torch.multinomial(logits.softmax(1), 1))
            observation, reward, terminated, truncated, info = env.step(action)
            loss = loss + value.sum() + logits.square().sum()
            told.append((action, observation.tolist(), reward, terminated, truncated, info.pop("saliency", None) is not None))
        loss.backward()
        env.close()
        gradients = [None if weight.grad is None else weight.grad.tolist() for weight in tiny_lstm.parameters()]
        assert tiny_lstm.training
        hook.close()
        return [[entry[:-1] for entry in told], gradients, torch.rand(3).tolist()]

    assert run(record=True) == run(record=False)


@pytest.mark.parametrize("acting", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_the_whole_loop_may_run_in_any_grad_mode(acting: Any) -> None:
    agent = CountingAgent()
    for mode in ("inline", "deferred"):
        env = CountingEnv()
        with acting(), recorded(env, agent, mode=mode) as recorder:
            for t, info in enumerate(loop(recorder, agent, agent.initial_state(1), 5)):
                check_saliency(info["saliency"], 0, t, always_acting(env, 0, t), action=t % 3)


# Failures.


class Raising(PerturbImage):
    """Fails, or gives masks that are none."""

    def __init__(self, masks: float | None = None) -> None:
        self.masks = masks

    def perturb(self, ref_image: Any) -> Any:
        if self.masks is None:
            raise RuntimeError("no masks today")
        return np.full((1, *ref_image.shape[:2]), self.masks)

    def get_config(self) -> dict[str, Any]:
        return {"masks": self.masks}


@pytest.mark.parametrize(("masks", "message"), [(None, "no masks today"), (np.nan, r"masks in \[0, 1\]"), (2.0, r"masks in \[0, 1\]")])
def test_a_failing_computation_raises_before_the_environment_steps(masks: Any, message: str) -> None:
    agent, env = CountingAgent(), CountingEnv()
    with recorded(env, agent, perturber=Raising(masks)) as recorder:
        with pytest.raises((RuntimeError, ValueError), match=message):
            next(loop(recorder, agent, agent.initial_state(1), 1))
        assert env.actions == []
        assert recorder.step(1)[-1] == {"t": 1}


@pytest.mark.parametrize("masks", [None, np.nan])
@pytest.mark.parametrize("mode", ["inline", "deferred"])
def test_with_on_error_warn_the_episode_goes_on_without_saliency(mode: Any, masks: Any) -> None:
    agent, env = CountingAgent(), CountingEnv()
    with recorded(env, agent, perturber=Raising(masks), on_error="warn", mode=mode, keep=True) as recorder:
        with pytest.warns(UserWarning, match="No saliency for .* of episode 0"):
            infos = play(recorder, agent)[0][1:]
        assert recorder.maps(0) == []
    assert [info["t"] for info in infos] == [1, 2, 3, 4, 5]
    assert ["saliency" in info for info in infos] == [mode == "deferred"] * 5


def test_a_wrong_preprocessor_and_a_missing_decision_raise_before_the_environment_steps() -> None:
    agent, env = CountingAgent(), CountingEnv()
    recorder = recorded(env, agent)
    recorder.hook.preprocessor = FramePreprocessor(size=(8, 8), scaling="stretch")
    with pytest.raises(ValueError, match="differs from the hook's preprocessor"):
        next(loop(recorder, agent, agent.initial_state(1), 1))
    recorder.close()
    recorder = recorded(env, agent, require_decision=True)
    recorder.reset()
    with pytest.raises(MissingDecisionError):
        recorder.step(0)
    recorder.close()
    assert env.actions == []


@pytest.mark.parametrize("mode", ["inline", "deferred"])
def test_an_exception_in_the_environment_leaves_the_recorder_usable(mode: Any) -> None:
    class Fragile(CountingEnv):
        def step(self, action: Any) -> Any:
            if self.episode == 0 and self.t == 2:
                raise OSError("lost connection")
            return super().step(action)

    agent, env = CountingAgent(), Fragile()
    with recorded(env, agent, mode=mode, keep=True) as recorder:
        with pytest.raises(OSError, match="lost connection"):
            play(recorder, agent)
        observation, _ = recorder.reset()
        state = agent.initial_state(1)
        for t in range(5):
            _, _, state = agent((network_input(observation), state))
            observation, *_, info = recorder.step(1)
            check_saliency(info["saliency"], 1, t, always_acting(env, 1, t), action=1)
        assert [len(recorder.maps(episode)) for episode in (0, 1)] == [3, 5]


def test_close_explains_what_is_held_and_closes_the_environment_even_when_that_fails() -> None:
    class Closable(CountingEnv):
        closed = 0

        def close(self) -> None:
            self.closed += 1

    agent, env = CountingAgent(), Closable()
    recorder = recorded(env, agent, mode="deferred", keep=True)
    list(loop(recorder, agent, agent.initial_state(1), 3))
    recorder.close()
    assert len(recorder.maps(0)) == 3
    assert env.closed == 1
    recorder = recorded(env, agent, mode="deferred", perturber=Raising())
    list(loop(recorder, agent, agent.initial_state(1), 3))
    with pytest.raises(RuntimeError, match="no masks today"):
        recorder.close()
    assert env.closed == 2
    assert not recorder.hook.attached
    recorder.close()


def test_a_disabled_recorder_costs_nothing_and_can_be_enabled_again() -> None:
    agent, env = CountingAgent(), CountingEnv((3,))
    with recorded(env, agent) as recorder:
        assert recorder.enabled
        recorder.enabled = False
        assert not recorder.enabled
        assert not agent._forward_hooks
        assert not agent._forward_pre_hooks
        assert not any("saliency" in info for info in play(recorder, agent)[0])
        assert recorder.hook.act(env.frame(0, 0)) == 0
        recorder.enabled = True
        for t, info in enumerate(play(recorder, agent)[0][1:]):
            check_saliency(info["saliency"], 1, t, always_acting(env, 1, t), action=t)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"mode": "later"}, ValueError, "Expected mode to be one of"),
        ({"on_error": "skip"}, ValueError, "Expected on_error to be one of"),
        ({"verify": "sometimes"}, ValueError, "Expected verify to be one of"),
        ({"block": -1}, ValueError, "Expected a positive block, got -1"),
        ({"method": "gradcam"}, ValueError, "Expected a saliency method or the name of one"),
        ({"method": 3}, TypeError, "method"),
        ({"perturber": np.zeros((1, 8, 8))}, TypeError, "Expected perturber to be an xaitk PerturbImage, got ndarray"),
        ({"saliency_gen": Blackout()}, TypeError, "Expected saliency_gen to be an xaitk"),
        ({"step_trigger": 10}, TypeError, "Expected a trigger to be a function of a number, or None, got int"),
    ],
)
def test_a_wrong_parameter_is_refused_at_once_and_leaves_the_hook_free(options: Any, error: Any, message: str) -> None:
    hook = RecurrentAgentHook(CountingAgent())
    with pytest.raises(error, match=message):
        SaliencyRecorder(CountingEnv(), hook, **options)
    assert hook.explain() == "No recorder listens to this hook yet."


def test_the_agent_in_place_of_the_hook_and_a_vector_in_place_of_the_environment_are_refused() -> None:
    agent: Any = CountingAgent()
    with pytest.raises(TypeError, match=r"got CountingAgent\. Use SaliencyRecorder\(env, RecurrentAgentHook\(agent\)\)"):
        SaliencyRecorder(CountingEnv(), agent)
    envs: Any = gym.vector.SyncVectorEnv([CountingEnv])
    with pytest.raises(TypeError, match=r"Expected a gymnasium\.Env, got SyncVectorEnv\. Vector environments need VectorSaliencyRecorder"):
        SaliencyRecorder(envs, RecurrentAgentHook(agent))
    envs.close()


def test_the_parts_of_a_method_may_be_given_and_a_method_taken_as_it_is() -> None:
    agent = CountingAgent()
    seen: list[int] = []

    def method(adapter: Any, decisions: Any) -> list[SaliencyMaps]:
        seen.append(len(decisions))
        return [SaliencyMaps(np.zeros((8, 8), np.float32), None) for _ in decisions]

    with recorded(CountingEnv(), agent, method=method, perturber=None, fill=None) as recorder:
        assert next(loop(recorder, agent, agent.initial_state(1), 1))["saliency"]["critic"] is None
    assert seen == [1]
    parts = {"perturber": Blackout(), "saliency_gen": SquaredDifferenceScoring(), "fill": GaussianBlur(sigma=1)}
    with recorded(CountingEnv(), agent, **parts) as recorder:
        made = recorder.recording.method
        assert isinstance(made, PerturbationSaliency)
        assert {name: getattr(made, name) for name in parts} == parts


def test_maps_that_fail_when_the_episode_ends_lose_no_transition_and_raise_at_the_next_reset() -> None:
    agent, env = CountingAgent(), CountingEnv((3,))
    recorder = recorded(env, agent, mode="deferred", perturber=Raising())
    infos = play(recorder, agent)[0]
    assert [info["t"] for info in infos] == [0, 1, 2, 3]
    with pytest.raises(RuntimeError, match="no masks today"):
        recorder.reset()
    assert env.episode == 0
    recorder.reset()
    assert env.episode == recorder.recording.clocks[0].episode == 1
    recorder.close()


def test_flush_explains_what_is_held_before_the_weights_change(tmp_path: Path) -> None:
    agent, world = CountingAgent(), CountingEnv()
    recorder = recorded(world, agent, mode="deferred", keep=True)
    env = RecordSaliencyVideo(RecordEpisodeStatistics(recorder), tmp_path)
    list(loop(env, agent, agent.initial_state(1), 3))
    assert recorder.maps(0) == []
    env.get_wrapper_attr("flush")()
    for t, maps in enumerate(recorder.maps(0)):
        check_maps(maps, always_acting(world, 0, t))
    assert len(recorder.maps(0)) == 3
    with torch.no_grad():
        agent.gain.fill_(2)
    env.close()


# Among other wrappers.


BENEATH: dict[str, Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]]] = {
    "RecordEpisodeStatistics": RecordEpisodeStatistics,
    "TimeLimit": lambda env: TimeLimit(env, 4),
    "TransformReward": lambda env: TransformReward(env, lambda reward: -reward),
    "TransformObservation": lambda env: TransformObservation(env, lambda frame: frame.copy(), env.observation_space),
    "TransformAction": lambda env: TransformAction(env, lambda action: action, env.action_space),
    "PassiveEnvChecker": PassiveEnvChecker,
    "OrderEnforcing": OrderEnforcing,
}


@pytest.mark.parametrize("place", ["beneath", "above"])
@pytest.mark.parametrize("name", BENEATH)
def test_it_works_outside_and_inside_wrappers_that_step_once_per_decision(name: str, place: str) -> None:
    agent, world = CountingAgent(), CountingEnv((3, 6))
    recorder = recorded(BENEATH[name](world) if place == "beneath" else world, agent)
    env = recorder if place == "beneath" else BENEATH[name](recorder)
    played = play(env, agent, episodes=2)
    assert [len(infos) - 1 for infos in played] == ([3, 4] if name == "TimeLimit" else [3, 6])
    for episode, infos in enumerate(played):
        for t, info in enumerate(infos[1:]):
            check_saliency(info["saliency"], episode, t, always_acting(world, episode, t))
            assert ("episode" in info) == (name == "RecordEpisodeStatistics" and t == len(infos) - 2)
    env.close()
    assert not recorder.hook.attached


def test_it_works_beneath_an_autoreset() -> None:
    agent, world = CountingAgent(), CountingEnv((3, 6))
    env = Autoreset(recorded(world, agent))
    observation, _ = env.reset()
    state, found = agent.initial_state(1), []
    for _ in range(8):
        _, _, state = agent((network_input(observation), state))
        observation, _, terminated, _, info = env.step(1)
        found.append((info["saliency"]["episode"], info["saliency"]["step"]) if "saliency" in info else None)
        state = agent.initial_state(1) if terminated else state
    assert found == [(0, 0), (0, 1), (0, 2), None, (1, 0), (1, 1), (1, 2), (1, 3)]
    env.close()


def test_it_works_with_an_environment_of_tensors() -> None:
    class TensorEnv(CountingEnv):
        def render(self) -> Any:
            return torch.as_tensor(super().render())

    agent, world = CountingAgent(), TensorEnv((3,))
    with recorded(world, agent) as recorder:
        observation, _ = recorder.reset()
        state = agent.initial_state(1)
        for t in range(3):
            _, logits, state = agent((observation[None, None, :, :, 0] / 255, state))
            observation, *_, info = recorder.step(logits.argmax())
            check_saliency(info["saliency"], 0, t, always_acting(world, 0, t), action=int(logits.argmax()))


def test_inside_a_vector_of_two_it_names_the_vector_recorder() -> None:
    agent = CountingAgent()
    hook = RecurrentAgentHook(agent)
    envs = gym.vector.SyncVectorEnv([lambda: SaliencyRecorder(CountingEnv(), hook)] * 2)
    observations, _ = envs.reset()
    for _ in range(3):
        agent((torch.as_tensor(observations[:, None, :, :, 0] / 255).float(), agent.initial_state(2)))
        observations, *_, infos = envs.step(np.array([0, 1]))
        assert "saliency" not in infos
    with pytest.warns(UserWarning, match="Every policy pass had 2 rows: for a vector of 2 environments use VectorSaliencyRecorder"):
        envs.close()


@pytest.mark.parametrize("stack", [1, 4])
def test_it_works_outside_atari_preprocessing_and_a_frame_stack(stack: int) -> None:
    preprocessor = FramePreprocessor.named("atari84")
    env: Any = AtariPreprocessing(gym.make("ALE/Pong-v5", frameskip=1, render_mode="rgb_array"), noop_max=5)
    env = FrameStackObservation(env, stack) if stack > 1 else env
    agent = CountingAgent()
    hook = RecurrentAgentHook(agent, preprocessor.stacked(stack))
    with SaliencyRecorder(env, hook, perturber=Blackout(), fill=0.0) as recorder:
        observation, info = recorder.reset(seed=1)
        assert "saliency" not in info
        state = agent.initial_state(1)
        for t in range(6):
            image = torch.as_tensor(observation.reshape(1, stack, 84, 84)) / 255
            _, _, state = agent((image, state))
            seen = float(image.mean()) * 255
            observation, *_, info = recorder.step(2)
            assert info["saliency"]["step"] == t
            assert info["saliency"]["actor"].shape == (84, 84)
            np.testing.assert_allclose(info["saliency"]["logits"][:2], [seen, t], rtol=1e-3)


def test_inside_a_wrapper_that_skips_frames_it_says_that_it_belongs_outside() -> None:
    class SkipFrames(gym.Wrapper[Any, Any, Any, Any]):
        def step(self, action: Any) -> Any:
            for _ in range(4):
                *results, info = self.env.step(action)
                if results[2] or results[3]:
                    break
            return *results, info

    agent = CountingAgent()
    env = SkipFrames(recorded(CountingEnv((22,)), agent))
    with pytest.warns(UserWarning, match=r"Episode 0 had 6 decisions in 22 steps.*frame skip, AtariPreprocessing") as caught:
        infos = play(env, agent, episodes=2)[0]
    assert len(caught) == 1
    assert not any("saliency" in info for info in infos[:-1])
    env.close()


@pytest.fixture
def counting_id() -> Iterator[str]:
    gym.register(
        "tests/Counting-v0", entry_point=CountingEnv, max_episode_steps=7, kwargs={"per_episode": 0}
    )  # each the same, as check_env asks
    yield "tests/Counting-v0"
    del gym.registry["tests/Counting-v0"]


def test_its_attributes_are_found_through_other_wrappers(counting_id: str) -> None:
    agent = CountingAgent()
    recorder = recorded(gym.make(counting_id, render_mode="rgb_array"), agent)
    env = RecordEpisodeStatistics(TransformReward(recorder, float))
    assert env.get_wrapper_attr("hook") is recorder.hook
    assert env.get_wrapper_attr("recording") is recorder.recording
    assert env.get_wrapper_attr("maps") == recorder.maps
    env.set_wrapper_attr("enabled", False)
    assert not recorder.enabled
    assert env.render_mode == "rgb_array"
    assert env.action_space == gym.spaces.Discrete(NUM_ACTIONS)
    env.close()


def test_its_spec_makes_the_same_recorder_again(counting_id: str) -> None:
    agent = CountingAgent()
    options = {"mode": "deferred", "block": 7, "keep": True, "verify": "always", "step_trigger": lambda step: step % 2 == 0}
    recorder = recorded(gym.make(counting_id, render_mode="rgb_array"), agent, **options)
    for spec in (recorder.spec, RecordEpisodeStatistics(recorder).spec):
        assert spec is not None
        again = gym.make(spec)
        assert again.get_wrapper_attr("hook") is recorder.hook
        played = play(again, agent)
        assert ["saliency" in info for info in played[0]] == [False, True, False, True, False, True]
        assert again.get_wrapper_attr("recording").block == 7
        assert len(again.get_wrapper_attr("maps")(0)) == 3
        again.close()
    recorder.close()


def test_gymnasiums_environment_checker_is_content(counting_id: str) -> None:
    def complaints(env: gym.Env[Any, Any]) -> set[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            check_env(env)
            env.close()
        return {str(warning.message) for warning in caught if "is different from the unwrapped version" not in str(warning.message)}

    bare = complaints(gym.make(counting_id, render_mode="rgb_array"))
    recorder = recorded(gym.make(counting_id, render_mode="rgb_array"), CountingAgent())
    (ours,) = complaints(recorder) - bare  # the checker's actions are no agent's, which is said once
    assert ours.startswith("Episode ")
    assert "had no decision" in ours
