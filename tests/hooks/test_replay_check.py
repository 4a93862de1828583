"""A replay that gives other outputs than were recorded is told, with both vectors and the likely reason, at the two moments it can show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from counting import Blackout, CountingAgent, CountingEnv, play, recorded
from tiny_agents import TinyGRU, TinyLSTM, images, seeded
from torch import Tensor, nn

from saliency_wrappers import RecurrentAgentHook, SaliencyRecorder
from saliency_wrappers.agents import RecurrentModuleAdapter, as_adapter
from saliency_wrappers.decisions import Decision
from saliency_wrappers.hooks.replay_check import ReplayCheck, ReplayMismatchError, check_preprocessing, replay, replay_held
from saliency_wrappers.preprocessing import FramePreprocessor
from saliency_wrappers.states import StateTree


class Fixed(RecurrentModuleAdapter):
    """Gives the outputs it was given, and counts how often it was asked."""

    def __init__(self, logits: Tensor, value: Tensor | None, memory: bool = True) -> None:
        super().__init__(nn.Identity())
        self.outputs, self.memory, self.asked = (logits, value), memory, 0

    def evaluate(self, inputs: Tensor, state: StateTree, episode_start: Tensor | None) -> tuple[Tensor, Tensor | None]:
        self.asked += 1
        return self.outputs

    def initial_state(self, n: int) -> StateTree:
        return torch.zeros(n, 2) if self.memory else None


def decision(logits: Any = ((1.0, 2.0),), value: Any = ((0.5,),), state: Any = None) -> Decision:
    tensors = [None if part is None else torch.tensor(part) for part in (logits, value)]
    assert tensors[0] is not None
    return Decision(torch.zeros(1, 1, 2, 2), state, tensors[0], tensors[1])


def test_outputs_that_agree_pass():
    replay(Fixed(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5]])), decision())
    replay(Fixed(torch.tensor([[1.0, 2.0]]), torch.tensor([0.5])), decision())  # a value without its own axis is the same value
    replay(Fixed(torch.tensor([[1.0, 2.0]]), None), decision(value=None))


@pytest.mark.parametrize(("largest", "allowed"), [(0.5, 1e-5), (1.0, 1e-5), (1000.0, 1e-2), (-1000.0, 1e-2)])
def test_the_tolerance_grows_with_the_largest_output_but_not_below_one(largest: float, allowed: float):
    recorded = decision(logits=((0.0, largest),), value=None)
    for part, passes in ((0.9, True), (1.2, False)):
        adapter = Fixed(torch.tensor([[part * allowed, largest]]), None)
        if passes:
            replay(adapter, recorded)
        else:
            with pytest.raises(ReplayMismatchError):
                replay(adapter, recorded)


def test_another_tolerance_can_be_asked_for():
    replay(Fixed(torch.tensor([[1.0, 2.1]]), torch.tensor([[0.5]])), decision(), tolerance=0.06)
    with pytest.raises(ReplayMismatchError):
        replay(Fixed(torch.tensor([[1.0, 2.1]]), torch.tensor([[0.5]])), decision(), tolerance=0.04)


def test_a_mismatch_shows_both_vectors():
    with pytest.raises(
        ReplayMismatchError, match=r"gave other logits than the acting pass\.\n  recorded: \[\[1. 2.\]\]\n  replayed: \[\[1. 3.\]\]"
    ):
        replay(Fixed(torch.tensor([[1.0, 3.0]]), torch.tensor([[0.5]])), decision())
    with pytest.raises(
        ReplayMismatchError, match=r"gave other value than the acting pass\.\n  recorded: \[\[0.5\]\]\n  replayed: \[\[0.25\]\]"
    ):
        replay(Fixed(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.25]])), decision())


@pytest.mark.parametrize("logits", [[[1.0]], [[1.0, 2.0, 3.0]], [[1.0, 2.0]] * 2])
def test_another_number_of_outputs_is_a_mismatch(logits: Any):
    with pytest.raises(ReplayMismatchError, match="gave other logits"):
        replay(Fixed(torch.tensor(logits), torch.tensor([[0.5]])), decision())


def test_nan_is_a_mismatch_whichever_side_it_is_on():
    nan = float("nan")
    with pytest.raises(ReplayMismatchError, match=r"replayed: \[\[ ?1. +nan\]\]"):
        replay(Fixed(torch.tensor([[1.0, nan]]), torch.tensor([[0.5]])), decision())
    with pytest.raises(ReplayMismatchError, match=r"recorded: \[\[nan\]\]"):
        replay(Fixed(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5]])), decision(value=((nan,),)))


def test_nan_has_a_message_of_its_own():
    nan = float("nan")
    with pytest.raises(ReplayMismatchError, match=r"The agent gave logits that are not numbers\.\n(.*\n)+Look for weights that diverged"):
        replay(Fixed(torch.tensor([[1.0, nan]]), None), decision(logits=((1.0, nan),), value=None))


INFINITE = float("inf")


def test_masked_actions_agree_at_minus_infinity_and_the_others_by_their_own_scale():
    recorded = decision(logits=((1.0, -INFINITE, 2.0),), value=None)
    replay(Fixed(torch.tensor([[1.0, -INFINITE, 2.0]]), None), recorded)
    for replayed in ([1.0, -INFINITE, 2.001], [1.0, INFINITE, 2.0], [1.0, -5.0, 2.0], [-INFINITE, -INFINITE, 2.0]):
        with pytest.raises(ReplayMismatchError, match="gave other logits than the acting pass"):
            replay(Fixed(torch.tensor([replayed]), None), recorded)
    masked = decision(logits=((-INFINITE, -INFINITE),), value=None)
    replay(Fixed(torch.tensor([[-INFINITE, -INFINITE]]), None), masked)


def test_a_mismatch_of_a_held_decision_names_the_remedy():
    with pytest.raises(
        ReplayMismatchError, match=r'(?s)gave other logits.*with mode="inline", or call flush\(\) before the weights change'
    ):
        replay_held(Fixed(torch.tensor([[1.0, 3.0]]), torch.tensor([[0.5]])), decision())
    replay_held(Fixed(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5]])), decision())


def test_a_value_on_one_side_only_is_a_mismatch():
    with pytest.raises(ReplayMismatchError, match="The acting pass gave a value, its replay no value"):
        replay(Fixed(torch.tensor([[1.0, 2.0]]), None), decision())
    with pytest.raises(ReplayMismatchError, match="The acting pass gave no value, its replay a value"):
        replay(Fixed(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5]])), decision(value=None))


def acted(module: Any, steps: int, state: Any = None) -> list[Decision]:
    """What a loop decides, as a hook sees it."""
    adapter, seen = as_adapter(module), []
    detach = adapter.attach(seen.append)
    for row in images(steps):
        _, _, state = module((row[None], state))
    detach()
    return [Decision.of(one) for one in seen]


@pytest.mark.parametrize("agent", [TinyLSTM, TinyGRU])
def test_what_was_captured_replays(agent: Any):
    module = seeded(agent)
    for one in acted(module, 3):
        replay(as_adapter(module), one)


def test_weights_that_changed_since_are_named_as_a_reason(tiny_lstm: TinyLSTM):
    (one,) = acted(tiny_lstm, 1)
    with torch.no_grad():
        tiny_lstm.actor_linear.bias.add_(0.01)
    with pytest.raises(ReplayMismatchError, match="or its weights changed since it acted") as caught:
        replay(as_adapter(tiny_lstm), one)
    assert "draw at random" not in str(caught.value)


class NoisyLinear(nn.Linear):
    """As in NoisyNet: other weights in each training pass."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input + torch.randn_like(input) if self.training else input)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    r"layer \(Dropout\)": lambda: nn.Dropout(0.9),
    r"layer \(RReLU\)": lambda: nn.RReLU(0, 1),
    r"layer \(NoisyLinear\)": lambda: NoisyLinear(12, 12),
    r"layer\.1 \(BatchNorm2d\)": lambda: nn.Sequential(nn.Identity(), nn.BatchNorm2d(1)),
}


class WithLayer(TinyGRU):
    def __init__(self, layer: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.layer = layer()

    def forward(self, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        return super().forward((self.layer(inputs[0] - 0.5), inputs[1]))


@pytest.mark.parametrize("named", LAYERS)
def test_layers_that_draw_while_training_are_named_with_the_remedy(named: str):
    module = seeded(WithLayer, LAYERS[named]).train()
    (one,) = acted(module, 1, torch.zeros(1, 8))
    message = rf"These layers draw at random[^:]*: {named}\. Act with agent\.eval\(\), or without them"
    with pytest.raises(ReplayMismatchError, match=message):
        replay(as_adapter(module), one)
    module.eval()
    (one,) = acted(module, 1, torch.zeros(1, 8))
    replay(as_adapter(module), one)


class AlwaysNoisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


def test_layers_that_draw_even_in_evaluation_are_named_and_quiet_ones_are_not():
    module = seeded(WithLayer, lambda: nn.Sequential(AlwaysNoisy(), nn.Dropout(0.0)))
    (one,) = acted(module, 1, torch.zeros(1, 8))
    with pytest.raises(ReplayMismatchError, match=r"draw at random[^:]*: layer\.0 \(AlwaysNoisy\)\. "):
        replay(as_adapter(module), one)


# When it looks


FIRST, LATER = torch.zeros(1, 2), torch.ones(1, 2)


def checks(verify: Any, states: list[Any], memory: bool = True) -> tuple[list[bool], list[bool]]:
    """For each state in turn: whether it was checked, and whether a moment was still to come then."""
    adapter = Fixed(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5]]), memory)
    check = ReplayCheck(verify)
    checked, unfinished = [], []
    for state in states:
        before = adapter.asked
        checked.append(check(adapter, decision(state=state)))
        assert adapter.asked - before == checked[-1]
        unfinished.append(check.unfinished)
    return checked, unfinished


def test_by_default_the_first_decision_and_the_first_with_a_memory_are_checked():
    checked, unfinished = checks("first", [FIRST, FIRST, LATER, LATER, FIRST, LATER])
    assert checked == [True, False, True, False, False, False]
    assert unfinished == [True, True, False, False, False, False]


def test_when_the_first_decision_already_remembers_one_check_is_enough():
    assert checks("first", [LATER, FIRST, LATER]) == ([True, False, False], [False, False, False])


def test_no_state_at_all_at_the_beginning_is_an_initial_state():
    assert checks("first", [None, LATER, LATER]) == ([True, True, False], [True, False, False])


def test_an_agent_without_memory_is_checked_once():
    assert checks("first", [None, None], memory=False) == ([True, False], [False, False])


def test_a_check_can_be_had_always_or_never():
    assert checks("always", [FIRST, FIRST, LATER, LATER])[0] == [True] * 4
    assert checks("never", [FIRST, LATER]) == ([False, False], [False, False])


@pytest.mark.parametrize("verify", ["second", True, None])
def test_an_unknown_moment_names_the_known_ones(verify: Any):
    with pytest.raises(ValueError, match=r"Expected verify to be one of \('first', 'always', 'never'\), got"):
        ReplayCheck(verify)


def test_another_agent_is_checked_anew():
    check = ReplayCheck("first")
    for _ in range(2):
        adapter = Fixed(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5]]))
        assert [check(adapter, decision(state=state)) for state in (FIRST, LATER, LATER)] == [True, True, False]
        assert not check.unfinished


class NotTelling(Fixed):
    def initial_state(self, n: int) -> StateTree:
        raise TypeError("Give the module an initial_state method.")


def test_where_the_initial_state_is_not_known_it_is_none_or_zeros():
    check, adapter = ReplayCheck("first"), NotTelling(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5]]))
    assert [check(adapter, decision(state=state)) for state in (None, FIRST, (FIRST, LATER), LATER)] == [True, False, True, False]


@pytest.mark.parametrize("verify", ["first", "always", "never"])
@pytest.mark.parametrize(("logits", "value"), [(((0.5,),), ((1.0, 2.0),)), ((0.5,), ((1.0, 2.0),)), ((0.5,), (1.0,))])
def test_outputs_that_are_swapped_are_told_even_when_nothing_is_replayed(verify: Any, logits: Any, value: Any):
    adapter = Fixed(torch.tensor(logits), torch.tensor(value))
    with pytest.raises(ValueError, match=r"Expected value \(n,\) or \(n, 1\) and logits \(n, num_actions\), got .*: are they swapped\?"):
        ReplayCheck(verify)(adapter, decision(logits, value))


@pytest.mark.parametrize(("number", "inside"), [(1.0, True), (1.0005, True), (255.0, False), (-0.1, False), (float("nan"), False)])
def test_an_input_outside_the_adapters_range_is_told_with_the_remedy(number: float, inside: bool):
    check, adapter = ReplayCheck("first"), Fixed(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5]]))
    one = replace(decision(), inputs=torch.tensor([[[[0.0, number]]]]))
    if inside:
        assert check(adapter, one)
    else:
        with pytest.raises(ValueError, match=r"network input in 0\.\.1, the adapter's input_range, got .* RecurrentAgentHook\(agent, inp"):
            check(adapter, one)
    adapter.input_range = (-255.0, 255.0)
    if number == number:
        ReplayCheck("first")(adapter, one)


class DropsState(RecurrentModuleAdapter):
    def evaluate(self, inputs: Tensor, state: StateTree, episode_start: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return super().evaluate(inputs, self.initial_state(len(inputs)), episode_start)


@pytest.mark.parametrize("begin", ["None", "zeros"])
def test_a_dropped_state_shows_at_the_second_moment(begin: str, tiny_lstm: TinyLSTM):
    check, adapter = ReplayCheck("first"), DropsState(tiny_lstm)
    state = None if begin == "None" else adapter.initial_state(1)
    first, second, _ = acted(tiny_lstm, 3, state)
    assert check(adapter, first)
    with pytest.raises(ReplayMismatchError, match="Either the captured input or state is not all that the agent consumed"):
        check(adapter, second)
    with pytest.raises(ReplayMismatchError):  # a moment that failed is still to come
        check(adapter, second)


def test_a_state_of_another_dtype_than_the_initial_one_is_compared_all_the_same():
    assert checks("first", [FIRST.double(), LATER.double()])[0] == [True, True]


# The input that the preprocessor makes


def frame() -> Any:
    return np.random.default_rng(0).integers(0, 256, (210, 160, 3), np.uint8)


PREPROCESSOR = FramePreprocessor.named("greydanus2018")


def test_an_input_that_the_preprocessor_makes_passes():
    check_preprocessing(PREPROCESSOR, frame(), torch.as_tensor(PREPROCESSOR(frame()))[None])
    check_preprocessing(PREPROCESSOR, frame(), torch.as_tensor(PREPROCESSOR(frame()))[None] + 0.4 / 255)
    check_preprocessing(PREPROCESSOR, frame(), torch.as_tensor(PREPROCESSOR(frame()))[None].bfloat16())
    check_preprocessing(PREPROCESSOR, None, torch.zeros(1, 1, 80, 80))


def test_an_input_of_another_shape_is_told_with_the_remedy():
    message = (
        r"Expected a network input of shape \(1, 80, 80\), .* got \(1, 84, 84\)\. Give RecurrentAgentHook the preprocessor the agent is fed"
    )
    with pytest.raises(ValueError, match=message):
        check_preprocessing(PREPROCESSOR, frame(), torch.zeros(1, 1, 84, 84))


@pytest.mark.parametrize("wrong", [0.6 / 255, float("nan")])
def test_an_input_of_other_pixels_is_told_with_the_remedy(wrong: float):
    inputs = torch.as_tensor(PREPROCESSOR(frame()))[None].clone()
    inputs[0, 0, 40, 40] += wrong
    with pytest.raises(
        ValueError, match=r"differs from the hook's preprocessor applied to the rendered frame by up to (0\.00\d+|nan)\. Give"
    ):
        check_preprocessing(PREPROCESSOR, frame(), inputs)


def test_the_other_published_preprocessing_is_told_apart():
    inputs = torch.as_tensor(FramePreprocessor.named("xaitk")(frame()))[None]
    with pytest.raises(ValueError, match="differs from the hook's preprocessor"):
        check_preprocessing(PREPROCESSOR, frame(), inputs)


def test_a_moment_is_still_to_come_until_the_input_is_the_preprocessors():
    check, adapter = ReplayCheck("first"), Fixed(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5]]))
    for state in (FIRST, LATER, LATER):
        with pytest.raises(ValueError, match="Expected a network input of shape"):
            check(adapter, decision(state=state), PREPROCESSOR, lambda: [frame()])
        assert check.unfinished
    right = FramePreprocessor(size=(2, 2), determines_input=False)
    assert [check(adapter, decision(state=state), right, lambda: [frame()]) for state in (FIRST, LATER)] == [True, True]
    assert not check.unfinished


def test_a_wrong_preprocessor_refuses_every_decision_when_errors_are_warned_of():
    agent = CountingAgent()
    wrong = FramePreprocessor(size=(8, 8), scaling="stretch")
    recorder = SaliencyRecorder(CountingEnv(), RecurrentAgentHook(agent, wrong), perturber=Blackout(), fill=0.0, on_error="warn")
    with pytest.warns(UserWarning, match="differs from the hook's preprocessor"):
        assert ["saliency" in info for info in play(recorder, agent)[0]] == [False] * 6


def test_an_agent_attached_in_the_midst_of_an_episode_is_checked():
    agent, other = CountingAgent(), WrongAtItsSecondPass()
    recorder = recorded(CountingEnv(), agent)
    recorder.reset()
    for who in (agent, agent):
        who((torch.full((1, 1, 8, 8), 1 / 255), torch.ones(1, 2)))
        recorder.step(0)
    recorder.hook.preprocessor = None
    recorder.hook.attach(other)
    other((torch.full((1, 1, 8, 8), 1 / 255), torch.ones(1, 2)))
    with pytest.raises(ReplayMismatchError, match="gave other logits"):
        recorder.step(0)


class WrongAtItsSecondPass(CountingAgent):
    passes = 0

    def forward(self, inputs: Any) -> Any:
        self.passes += 1
        value, logits, state = super().forward(inputs)
        return value, logits + self.passes, state


def test_a_mismatch_in_a_block_of_the_recorder_names_the_remedy():
    agent = CountingAgent()
    recorder = recorded(CountingEnv(), agent, mode="deferred")
    recorder.reset()
    agent((torch.full((1, 1, 8, 8), 1 / 255), torch.ones(1, 2)))
    recorder.step(0)
    with torch.no_grad():
        agent.gain.add_(1)
    with pytest.raises(ReplayMismatchError, match="before the weights change"):
        recorder.flush()


@pytest.mark.parametrize("input_range", [(0.0, 255.0), (-1.0, 1.0)])
def test_the_preprocessors_input_is_compared_in_the_adapters_range(input_range: tuple[float, float]):
    low, high = input_range
    inputs = torch.as_tensor(PREPROCESSOR(frame()))[None] * (high - low) + low
    check_preprocessing(PREPROCESSOR, frame(), inputs + 0.4 / 255 * (high - low), input_range)
    with pytest.raises(ValueError, match="differs from the hook's preprocessor"):
        check_preprocessing(PREPROCESSOR, frame(), inputs + 0.6 / 255 * (high - low), input_range)
    with pytest.raises(ValueError, match="differs from the hook's preprocessor"):
        check_preprocessing(PREPROCESSOR, frame(), inputs)


@pytest.mark.parametrize("preprocessor", [PREPROCESSOR.stacked(4), replace(PREPROCESSOR, determines_input=False)], ids=["stack", "pooled"])
def test_where_one_frame_does_not_determine_the_input_pixels_are_not_compared(preprocessor: FramePreprocessor):
    check_preprocessing(preprocessor, frame(), torch.rand(1, *preprocessor.input_shape))
