"""`RecurrentAgentHook`: which passes it takes for decisions, what it keeps of them, how long it lives, and how it acts."""

from __future__ import annotations

import copy
import gc
import io
import multiprocessing
import os
import pickle
import subprocess
import sys
import warnings
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from counting import CountingAgent, CountingEnv, play, recorded
from gymnasium.vector import AsyncVectorEnv
from tiny_agents import TinyGRU, TinyLSTM, images
from torch import Tensor, nn

import saliency_wrappers
from saliency_wrappers import FramePreprocessor, RecurrentAgentHook, RecurrentModuleAdapter, SaliencyRecorder
from saliency_wrappers.decisions import AgentPass, Decision
from saliency_wrappers.hooks.hook import DecisionWindow
from saliency_wrappers.states import state_leaves

SOURCE = Path(saliency_wrappers.__file__).parents[1]


class Switchable(nn.Module):
    """`CountingAgent` whose `value_only` call gives no policy output."""

    def __init__(self) -> None:
        super().__init__()
        self.agent = CountingAgent()
        self.value_only = False

    def initial_state(self, n: int) -> Tensor:
        return self.agent.initial_state(n)

    def forward(self, inputs: tuple[Tensor, Tensor]) -> Any:
        value, logits, state = self.agent(inputs)
        return value if self.value_only else (value, logits, state)


class Scoring(RecurrentModuleAdapter):
    """An adapter of an agent that can be given an action to score."""

    scores = False

    def outgoing(self, incoming: AgentPass, output: Any) -> AgentPass:
        return replace(super().outgoing(incoming, output), scored_action=self.scores)


def act(agent: Any, grey: int = 1, rows: int = 1) -> None:
    """One acting pass, told from others by the grey it sees."""
    agent((torch.full((rows, 1, 8, 8), grey / 255), torch.zeros(rows, 2)))


def seen(hook: RecurrentAgentHook, window: DecisionWindow) -> int | None:
    """The grey that the decision saw; None when there is no decision."""
    decided = hook.take(window)
    return None if decided is None or decided.logits is None else round(float(decided.logits[0, 0]))


@pytest.fixture
def agent() -> CountingAgent:
    return CountingAgent()


@pytest.fixture
def hook(agent: CountingAgent) -> RecurrentAgentHook:
    return RecurrentAgentHook(agent)


@pytest.fixture
def window(hook: RecurrentAgentHook) -> DecisionWindow:
    return hook.open_window(num_envs=1)


# Which pass is the decision.


def test_the_decision_is_the_latest_acting_pass(agent: CountingAgent, hook: RecurrentAgentHook, window: DecisionWindow) -> None:
    assert seen(hook, window) is None
    act(agent, 3)
    act(agent, 7)
    assert seen(hook, window) == 7


def test_the_decision_does_not_change_when_the_loop_reuses_the_outputs(hook: RecurrentAgentHook, window: DecisionWindow) -> None:
    with torch.no_grad():
        value, logits, _ = hook.adapter.module((torch.full((1, 1, 8, 8), 5 / 255), torch.zeros(1, 2)))  # type: ignore[attr-defined]
    expected = logits.clone(), value.clone()
    logits.fill_(-1)
    value.fill_(-1)
    decided = hook.take(window)
    assert decided is not None
    assert decided.numbers == (expected[0].tolist(), expected[1].tolist())
    for made in (Decision.of(decided), Decision.by_reference(decided)):
        assert made.value is not None
        assert torch.equal(made.logits, expected[0])
        assert torch.equal(made.value, expected[1])


def test_outputs_that_cannot_be_read_are_no_decision(agent: CountingAgent, window: DecisionWindow) -> None:
    logits = torch.zeros(1, 3, device="meta")
    window.see(AgentPass(torch.zeros(1, 1, 8, 8), None, logits, None))
    assert window.latest is None
    assert "could not be captured" in window.explain()


def test_a_decision_is_taken_once(agent: CountingAgent, hook: RecurrentAgentHook, window: DecisionWindow) -> None:
    act(agent)
    assert [seen(hook, window), seen(hook, window)] == [1, None]


def test_grad_mode_and_training_mode_do_not_matter(agent: CountingAgent, hook: RecurrentAgentHook, window: DecisionWindow) -> None:
    for training in (True, False):
        agent.train(training)
        for grad in (torch.enable_grad, torch.no_grad, torch.inference_mode):
            with grad():
                act(agent, 5)
                assert seen(hook, window) == 5


def test_a_value_only_call_is_no_decision_and_hides_none() -> None:
    agent = Switchable()
    hook = RecurrentAgentHook(agent)
    window = hook.open_window(num_envs=1)
    act(agent, 3)
    agent.value_only = True
    act(agent, 7)
    assert seen(hook, window) == 3
    assert window.rejected == {"without policy output": 1}


@pytest.mark.parametrize("rows", [2, 64])
def test_a_pass_with_another_batch_than_the_environments_is_no_decision(agent: CountingAgent, rows: int) -> None:
    hook = RecurrentAgentHook(agent)
    window = hook.open_window(num_envs=1)
    act(agent, 3)
    act(agent, 7, rows=rows)
    assert seen(hook, window) == 3


def test_a_pass_given_an_action_to_score_is_no_decision(agent: CountingAgent) -> None:
    adapter = Scoring(agent)
    hook = RecurrentAgentHook(adapter)
    window = hook.open_window(num_envs=1)
    act(agent, 3)
    adapter.scores = True
    act(agent, 7)
    assert seen(hook, window) == 3
    assert window.rejected == {"given an action to score": 1}


def test_passes_while_paused_are_no_decisions_even_when_the_block_fails(agent: CountingAgent, hook: Any, window: DecisionWindow) -> None:
    act(agent, 3)
    with hook.paused():
        with hook.paused():
            act(agent, 5)
        act(agent, 7)
    with pytest.raises(KeyError), hook.paused():
        raise KeyError
    assert seen(hook, window) == 3
    act(agent, 9)
    assert seen(hook, window) == 9


def test_the_saliency_computations_own_passes_are_no_decisions(agent: CountingAgent, hook: Any, window: DecisionWindow) -> None:
    hook.adapter.evaluate(torch.rand(1, 1, 8, 8), torch.zeros(1, 2), None)
    assert seen(hook, window) is None
    assert window.explain().startswith("No pass of the agent was seen")


def test_a_window_of_two_environments_takes_passes_of_two_rows(agent: CountingAgent, hook: RecurrentAgentHook) -> None:
    window = hook.open_window(num_envs=2)
    act(agent, 3)
    assert seen(hook, window) is None
    act(agent, 7, rows=2)
    assert seen(hook, window) == 7


def test_explain_counts_passes_and_rejections_by_reason() -> None:
    agent = Switchable()
    adapter = Scoring(agent)
    hook = RecurrentAgentHook(adapter)
    assert hook.explain() == "No recorder listens to this hook yet."
    window = hook.open_window(num_envs=1)
    assert "check that the hooked module is the one that acts" in hook.explain()
    for _ in range(3):
        act(agent)
    act(agent, rows=64)
    act(agent, rows=64)
    adapter.scores = True
    act(agent)
    agent.value_only = True
    act(agent)
    with hook.paused():
        act(agent)
    text = hook.explain()
    assert text.startswith("8 passes of the agent seen, 3 could be decisions. Rejected: ")
    for reason in (
        "2 with a batch other than the number of environments (64, expected 1)",
        "1 given an action to score",
        "1 without policy output",
        "1 made while the hook was paused",
    ):
        assert reason in text
    window.forget_counts()
    assert "No pass of the agent was seen" in hook.explain()
    hook.close()
    assert hook.explain().endswith("The hook is closed: call hook.attach(agent).")
    assert RecurrentAgentHook().explain().endswith("No agent is attached to this hook: call hook.attach(agent).")


def test_explain_names_the_vector_recorder_when_every_policy_pass_had_one_other_batch_size(agent: CountingAgent, hook: Any) -> None:
    window = hook.open_window(num_envs=1)
    act(agent, rows=8)
    act(agent, rows=8)
    assert "Every policy pass had 8 rows: for a vector of 8 environments use VectorSaliencyRecorder." in window.explain()
    act(agent, rows=64)
    assert "VectorSaliencyRecorder" not in window.explain()
    window.forget_counts()
    act(agent, rows=8)
    act(agent)
    assert "VectorSaliencyRecorder" not in window.explain()


def test_explain_names_passes_that_could_not_be_read_and_what_to_do(agent: CountingAgent) -> None:
    class OtherForm(nn.Module):
        def forward(self, x: Tensor, state: Any) -> Any:
            return agent((x, state))

    module = OtherForm()
    hook = RecurrentAgentHook(module)
    hook_window = hook.open_window(num_envs=1)
    module(torch.ones(1, 1, 8, 8), torch.zeros(1, 2))
    assert hook_window.latest is None
    assert "Rejected: 1 of another form than model((x, state)) -> value, logits, state." in hook.explain()


class Unbatched(nn.Module):
    """Takes `(C, h, w)`, and gives the logits it is told to."""

    logits = torch.zeros(1, 4)

    def initial_state(self, n: int) -> Tensor:
        return torch.zeros(n, 2)

    def forward(self, inputs: Any) -> Any:
        return torch.zeros(1), self.logits, inputs[1]


def test_unbatched_inputs_and_logits_are_told_by_their_shape() -> None:
    module = Unbatched()
    hook = RecurrentAgentHook(module)
    window = hook.open_window(num_envs=1)
    module((torch.zeros(1, 8, 8), None))
    module.logits = torch.zeros(4)
    module((torch.zeros(1, 1, 8, 8), None))
    module.logits = torch.zeros(())
    module((torch.zeros(1, 1, 8, 8), None))
    assert window.latest is None
    assert window.rejected == {
        "with an input (1, 8, 8) where (n, C, h, w) is expected: add a batch axis": 1,
        "with logits (4,) where (1, num_actions) is expected": 1,
        "with logits () where (1, num_actions) is expected": 1,
    }


# What is kept of a pass.


def test_the_state_that_went_in_is_kept_though_the_module_updates_it_in_place() -> None:
    agent = CountingAgent(in_place=True)
    hook = RecurrentAgentHook(agent)
    window = hook.open_window(num_envs=1)
    state = torch.tensor([[4.0, 9.0]])
    agent((torch.full((1, 1, 8, 8), 3 / 255), state))
    assert state[0, 0] == 5
    decided = hook.take(window)
    assert decided is not None
    assert isinstance(decided.state, Tensor)
    assert decided.state.tolist() == [[4.0, 9.0]]


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_a_decision_is_of_ordinary_tensors_without_history(mode: Any, tiny_lstm: TinyLSTM) -> None:
    hook = RecurrentAgentHook(tiny_lstm)
    window = hook.open_window(num_envs=1)
    with mode():
        inputs = images().clone()
        tiny_lstm((inputs, (torch.zeros(1, 8), torch.ones(1, 8))))
        decided = hook.take(window)
        assert decided is not None
        decision = Decision.of(decided)
        inputs.zero_()
    tensors = [decision.inputs, *state_leaves(decision.state), decision.logits, decision.value]
    for tensor in tensors:
        assert isinstance(tensor, Tensor)
        assert not tensor.is_inference()
        assert not tensor.requires_grad
    assert torch.equal(decision.inputs, images())


# The life of a hook.


def test_the_agent_may_come_after_the_environment(agent: CountingAgent) -> None:
    hook = RecurrentAgentHook()
    recorder = SaliencyRecorder(CountingEnv(), hook, verify="never")
    assert not hook.attached
    with pytest.raises(RuntimeError, match=r"No agent is attached to this hook: call hook\.attach\(agent\)"):
        _ = hook.adapter
    assert hook.attach(agent) is hook
    assert hook.attached
    assert all("saliency" in info for info in play(recorder, agent)[0][1:])
    recorder.close()


def test_attaching_another_agent_leaves_the_first_as_it_was(agent: CountingAgent, hook: RecurrentAgentHook, window: DecisionWindow) -> None:
    other = CountingAgent()
    act(agent, 3)
    hook.attach(other)
    assert not agent._forward_hooks
    assert not agent._forward_pre_hooks
    act(agent, 5)
    assert seen(hook, window) is None
    act(other, 7)
    assert seen(hook, window) == 7


def test_what_no_adapter_fits_is_refused_and_the_agent_before_stays(agent: CountingAgent, hook: RecurrentAgentHook) -> None:
    with pytest.raises(TypeError, match=r"Expected an nn\.Module"):
        hook.attach(lambda inputs: inputs)
    assert hook.attached
    with pytest.raises(TypeError, match=r"Expected an nn\.Module"):
        RecurrentAgentHook("agent.pt")


@pytest.mark.parametrize(("preprocessor", "error"), [("atari85", ValueError), (84, TypeError)])
def test_a_preprocessor_that_is_none_is_refused(agent: CountingAgent, preprocessor: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"preprocessor|FramePreprocessor"):
        RecurrentAgentHook(agent, preprocessor)
    assert not agent._forward_hooks


def test_close_and_with_detach_from_the_agent_and_may_be_repeated(agent: CountingAgent) -> None:
    with RecurrentAgentHook(agent) as hook:
        window = hook.open_window(num_envs=1)
        act(agent)
        assert hook.attached
    assert not hook.attached
    assert not agent._forward_hooks
    assert not agent._forward_pre_hooks
    hook.close()
    act(agent)
    assert seen(hook, window) is None


def test_the_recorders_close_detaches_but_not_while_another_listens(agent: CountingAgent, hook: RecurrentAgentHook) -> None:
    recorders = [SaliencyRecorder(CountingEnv(), hook) for _ in range(2)]
    recorders[0].close()
    recorders[0].close()
    assert hook.attached
    recorders[1].close()
    assert not hook.attached
    assert not agent._forward_hooks
    hook.attach(agent)
    recorders[1].close()
    assert hook.attached, "a recorder that is closed already has no say"


def test_a_deep_copy_and_an_unpickled_copy_are_the_same_live_hook(hook: RecurrentAgentHook) -> None:
    assert copy.deepcopy(hook) is hook
    assert copy.copy(hook) is hook
    assert copy.deepcopy({"hook": [hook]})["hook"][0] is hook
    assert pickle.loads(pickle.dumps(hook)) is hook


def _same(state: Any) -> Any:
    return state


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
def test_copies_of_a_hooked_agent_work_and_do_not_record(how: str) -> None:
    agent = CountingAgent(pack=_same, unpack=_same)  # no lambdas, to be pickled
    hook = RecurrentAgentHook(agent)
    window = hook.open_window(num_envs=1)
    if how == "torch.save":
        file = io.BytesIO()
        torch.save(agent, file)
        file.seek(0)
        duplicate = torch.load(file, weights_only=False)
    else:
        duplicate = copy.deepcopy(agent) if how == "deepcopy" else pickle.loads(pickle.dumps(agent))
    act(duplicate, 5)
    assert seen(hook, window) is None
    act(agent, 3)
    assert seen(hook, window) == 3


def test_the_weights_of_a_hooked_agent_are_saved_without_a_trace(agent: CountingAgent, hook: Any, tmp_path: Path) -> None:
    torch.save(agent.state_dict(), tmp_path / "agent.pt")
    assert list(torch.load(tmp_path / "agent.pt", weights_only=True)) == ["gain"]


def test_neither_the_agent_nor_the_hook_is_kept_alive(agent: CountingAgent) -> None:
    agent = CountingAgent()
    hook = RecurrentAgentHook(agent)
    recorder = SaliencyRecorder(CountingEnv(), hook)
    play(recorder, agent)
    hook_reference, agent_reference = weakref.ref(hook), weakref.ref(agent)
    del hook, recorder
    gc.collect()
    assert hook_reference() is None, "the agent keeps its hook alive"
    assert not agent._forward_hooks, "a hook that is gone leaves the agent as it was"
    hook = RecurrentAgentHook(agent)
    hook.close()
    del agent
    gc.collect()
    assert agent_reference() is None, "a closed hook keeps the agent alive"


def test_an_agent_and_its_hook_go_together(agent: CountingAgent) -> None:
    agent = CountingAgent()
    hook = RecurrentAgentHook(agent)
    references = [weakref.ref(agent), weakref.ref(hook)]
    del agent, hook
    gc.collect()
    assert [reference() for reference in references] == [None, None]


def test_while_every_window_is_disabled_the_agent_is_not_watched(agent: CountingAgent, hook: RecurrentAgentHook) -> None:
    windows = [hook.open_window(num_envs=1) for _ in range(2)]
    act(agent, 3)
    hook.enable_window(windows[0], False)
    assert hook.attached
    assert seen(hook, windows[0]) is None
    hook.enable_window(windows[1], False)
    assert not agent._forward_hooks
    assert not agent._forward_pre_hooks
    hook.enable_window(windows[0], True)
    act(agent, 5)
    assert seen(hook, windows[1]) is None
    assert seen(hook, windows[0]) == 5


def test_closing_or_forgetting_the_last_enabled_window_takes_the_hook_off(agent: CountingAgent, hook: RecurrentAgentHook) -> None:
    for how in ("close", "forget"):
        enabled, disabled = (hook.open_window(num_envs=1) for _ in range(2))
        hook.enable_window(disabled, False)
        assert hook.attached
        if how == "close":
            hook.close_window(enabled)
        del enabled
        gc.collect()
        assert not hook.attached
        assert not agent._forward_hooks
        hook.enable_window(disabled, True)
        assert hook.attached
        del disabled


def test_a_hook_used_after_its_recorder_closed_it_says_so(agent: CountingAgent) -> None:
    recorder = recorded(CountingEnv(), agent)
    hook = recorder.hook
    recorder.close()
    again = SaliencyRecorder(CountingEnv(), hook, require_decision=True)
    again.reset()
    act(agent)
    with pytest.raises(RuntimeError, match=r"came without a decision.* The hook is closed: call hook\.attach\(agent\)\."):
        again.step(0)
    with pytest.raises(RuntimeError, match=r"The hook is closed: call hook\.attach\(agent\)\."):
        hook.act(np.ones((8, 8, 3), np.uint8))
    hook.attach(agent)
    act(agent)
    assert "saliency" in again.step(0)[-1]


# Other processes.


def _step_in_child(recorder: SaliencyRecorder[Any, Any], answers: Any) -> None:
    recorder.reset()
    try:
        recorder.step(0)
    except RuntimeError as error:
        answers.put(str(error))
    answers.put("no error")


def test_recording_in_a_forked_process_raises(agent: CountingAgent) -> None:
    recorder = recorded(CountingEnv(), agent)
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=_step_in_child, args=(recorder, answers))
    child.start()
    answer = answers.get(timeout=60)
    child.join(timeout=60)
    assert child.exitcode == 0
    assert "belongs to another process" in answer
    assert "wrap the vector environment, not the environments inside AsyncVectorEnv" in answer
    recorder.close()


def _act_in_child(agent: CountingAgent, hook: RecurrentAgentHook, answers: Any) -> None:
    act(agent, 5)
    answers.put(hook.explain())


def test_a_hooked_agent_works_in_a_forked_process_unrecorded(agent: CountingAgent, hook: RecurrentAgentHook, window: Any) -> None:
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=_act_in_child, args=(agent, hook, answers))
    child.start()
    assert "No pass of the agent was seen" in answers.get(timeout=60)
    child.join(timeout=60)
    assert child.exitcode == 0
    act(agent, 3)
    assert seen(hook, window) == 3


def test_a_recorder_inside_an_async_vector_says_so_at_the_first_step(agent: CountingAgent, hook: RecurrentAgentHook) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # gymnasium's logger repeats the error as a warning
        envs = AsyncVectorEnv([lambda: SaliencyRecorder(CountingEnv(), hook)], context="fork", shared_memory=False)
        try:
            envs.reset()
            with pytest.raises(RuntimeError, match="belongs to another process"):
                envs.step(np.array([0]))
        finally:
            envs.close(terminate=True)


def test_a_hook_pickled_into_another_process_raises_there(hook: RecurrentAgentHook) -> None:
    program = "import pickle, sys; pickle.load(sys.stdin.buffer)"
    child = subprocess.run(
        [sys.executable, "-c", program],
        input=pickle.dumps(hook),
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        check=False,
    )
    assert child.returncode == 1
    assert b"RuntimeError: This RecurrentAgentHook belongs to another process" in child.stderr


# Acting.


def test_acting_greedily_is_the_loop_by_hand(tiny_gru: TinyGRU) -> None:
    hook = RecurrentAgentHook(tiny_gru)
    inputs = images(20)
    state = torch.zeros(1, 8)
    for x in inputs:
        with torch.no_grad():
            _, logits, state = tiny_gru((x[None], state))
        assert hook.act(x.numpy()) == int(logits.argmax())


def test_acting_preprocesses_the_frame_and_carries_the_state(agent: CountingAgent) -> None:
    hook = RecurrentAgentHook(agent, FramePreprocessor(size=(8, 8)))
    window = hook.open_window(num_envs=1)
    env = CountingEnv(size=(16, 16))
    env.reset()
    for t in range(4):
        assert hook.act(env.frame(0, t)) == (3 if t else 0)
        decided = hook.take(window)
        assert decided is not None
        last = env.level(0, t - 1) if t else 0
        np.testing.assert_allclose(decided.logits, [[t + 1, t, last, (t + 1) ** 2]], rtol=1e-4)


def test_acting_begins_anew_with_each_episode_of_the_recorder_and_when_told(agent: CountingAgent) -> None:
    recorder = recorded(CountingEnv((3, 2)), agent)
    passes: list[float] = []
    for _ in range(2):
        observation, _ = recorder.reset()
        ended = False
        while not ended:
            observation, _, ended, _, info = recorder.step(recorder.hook.act(observation))
            passes.append(float(info["saliency"]["logits"][1]))
    assert passes == [0, 1, 2, 0, 1]
    recorder.close()
    hook = RecurrentAgentHook(agent)
    window = hook.open_window(num_envs=1)
    for begins in (False, False, True):
        if begins:
            hook.new_episode()
        hook.act(np.ones((1, 8, 8), np.float32))
        decided = hook.take(window)
        assert decided is not None
        passes.append(float(decided.logits[0, 1]))
    assert passes[-3:] == [0, 1, 0]


def test_attaching_another_agent_forgets_the_state_of_the_first(agent: CountingAgent, hook: RecurrentAgentHook) -> None:
    image = np.ones((1, 8, 8), np.float32)
    hook.act(image)
    window = hook.attach(agent).open_window(num_envs=1)
    hook.act(image)
    decided = hook.take(window)
    assert decided is not None
    assert isinstance(decided.state, Tensor)
    assert decided.state.tolist() == [[0, 0]]


def test_acting_by_sampling_follows_the_probabilities_and_the_seed() -> None:
    class Even(nn.Module):
        def initial_state(self, n: int) -> Tensor:
            return torch.zeros(n, 1)

        def forward(self, inputs: tuple[Tensor, Tensor]) -> Any:
            x, state = inputs
            return x.mean((2, 3)), torch.log(torch.tensor([[0.5, 0.0, 0.25, 0.25]])), state

    def sample(seed: int | None, n: int = 50) -> list[int]:
        hook = RecurrentAgentHook(Even(), seed=seed)
        return [hook.act(np.ones((1, 4, 4), np.float32), greedy=False) for _ in range(n)]

    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    assert sample(1) == sample(1)
    assert len({tuple(sample(seed)) for seed in (1, 2, None)}) == 3
    shares = np.bincount(sample(3, n=400), minlength=4) / 400
    np.testing.assert_allclose(shares, [0.5, 0, 0.25, 0.25], atol=0.08)
    assert shares[1] == 0
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()  # noqa: NPY002


def test_acting_needs_an_adapter_that_can(agent: CountingAgent) -> None:
    class OnlyWatched:
        input_range = (0.0, 1.0)
        attach = staticmethod(lambda on_pass: lambda: None)
        evaluate, initial_state, repeat_state = [staticmethod(lambda *_: None)] * 3

    with pytest.raises(TypeError, match=r"OnlyWatched cannot act by itself: it has no act\(inputs, state\)\. Call your agent instead"):
        RecurrentAgentHook(OnlyWatched()).act(np.ones((1, 8, 8), np.float32))
    with pytest.raises(RuntimeError, match="No agent is attached"):
        RecurrentAgentHook().act(np.ones((1, 8, 8), np.float32))


BAD_INPUTS: dict[str, tuple[Any, type[Exception], str]] = {
    "a frame": (np.ones((8, 8, 3), np.uint8), TypeError, r"got \(8, 8, 3\) of torch\.uint8\. For frames, construct Recurr.*preprocessor="),
    "float64": (np.ones((1, 8, 8)), TypeError, r"got \(1, 8, 8\) of torch\.float64"),
    "a plane": (np.ones((8, 8), np.float32), ValueError, r"got \(8, 8\) of torch\.float32"),
    "a batch": (np.ones((1, 1, 8, 8), np.float32), ValueError, r"got \(1, 1, 8, 8\) of torch\.float32"),
    "NaN": (np.full((1, 8, 8), np.nan, np.float32), ValueError, "of finite numbers in 0..1, got NaN or infinity"),
}


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_acting_on_what_is_no_network_input_says_what_is_expected(name: str, hook: RecurrentAgentHook) -> None:
    observation, error, message = BAD_INPUTS[name]
    expected = r"Expected a network input \(C, h, w\) of torch\.float32 in 0\.\.1 or \(features,\), since the hook has no preprocessor, "
    with pytest.raises(error, match=message if name == "NaN" else expected + message):
        hook.act(observation)


def test_acting_feeds_the_preprocessors_image_in_the_adapters_range_and_the_agents_dtype() -> None:
    agent = CountingAgent(pack=torch.Tensor.double, unpack=torch.Tensor.double)
    hook = RecurrentAgentHook(RecurrentModuleAdapter(agent, input_range=(-1.0, 3.0)), FramePreprocessor(size=(8, 8)))
    window = hook.open_window(num_envs=1)
    hook.act(np.full((8, 8, 3), 51, np.uint8))
    decided = hook.take(window)
    assert decided is not None
    assert decided.inputs.dtype == torch.float64
    np.testing.assert_allclose(decided.inputs, -1 + 0.2 * 4, rtol=1e-6)


def test_the_recorder_accepts_what_act_feeds_an_agent_of_another_range() -> None:
    hook = RecurrentAgentHook(RecurrentModuleAdapter(CountingAgent(), (0.0, 255.0)), FramePreprocessor(size=(8, 8)))
    recorder = SaliencyRecorder(CountingEnv(), hook)
    observation, _ = recorder.reset()
    for _ in range(2):
        observation, *_, info = recorder.step(hook.act(observation))
        assert "saliency" in info


def shared_hook(agent: CountingAgent) -> tuple[RecurrentAgentHook, list[Any]]:
    hook = RecurrentAgentHook(agent, FramePreprocessor(size=(8, 8)))
    return hook, [SaliencyRecorder(CountingEnv(), hook) for _ in range(2)]


def test_acting_with_the_memory_of_another_recorders_episode_raises(agent: CountingAgent) -> None:
    hook, (training, evaluation) = shared_hook(agent)
    observation, _ = training.reset()
    observation, *_ = training.step(hook.act(observation))
    evaluation.reset()
    with pytest.raises(RuntimeError, match=r"with the memory of another recorder's episode.* Give each environment its own"):
        training.step(hook.act(observation))


def test_recorders_may_share_a_hook_that_acts_by_whole_episodes_or_without_acting(agent: CountingAgent) -> None:
    hook, recorders = shared_hook(agent)
    for recorder in (*recorders, *recorders):
        observation, _ = recorder.reset()
        for t in range(3):
            observation, *_, info = recorder.step(hook.act(observation))
            assert info["saliency"]["logits"][1] == t
    for recorder in recorders:
        recorder.reset()
    for recorder in recorders:
        act(agent)
        assert "saliency" in recorder.step(0)[-1]


def test_acting_leaves_the_training_flag_and_gradients_as_they_are(agent: CountingAgent, hook: RecurrentAgentHook) -> None:
    agent.train()
    hook.act(np.ones((1, 8, 8), np.float32))
    hook.act(np.ones((1, 8, 8), np.float32))
    assert agent.training
    assert agent.gain.grad is None
    assert torch.is_grad_enabled()
    act(agent)


def test_a_recorder_shares_its_hook_with_the_environment_made_from_its_spec(agent: CountingAgent) -> None:
    gym.register("tests/Counting-v0", entry_point=CountingEnv)
    try:
        env = gym.make("tests/Counting-v0", render_mode="rgb_array")
        recorder = recorded(env, agent)
        assert env.spec is not None
        again = gym.make(recorder.spec)
        assert again.get_wrapper_attr("hook") is recorder.hook
        assert ["saliency" in info for info in play(again, agent)[0]] == [False] + [True] * 5
        again.close()
        assert recorder.hook.attached
        recorder.close()
        assert not recorder.hook.attached
    finally:
        del gym.registry["tests/Counting-v0"]
