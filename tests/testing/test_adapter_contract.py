"""`AdapterContract` as a user's test, and adapters that each break a law: every broken law is reported, by its name."""

from __future__ import annotations

import random
import re
import subprocess
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tiny_agents import TinyGRU, TinyLSTM, images, seeded
from torch import Tensor, nn

from saliency_wrappers.agents import AgentAdapter, RecurrentModuleAdapter, as_adapter
from saliency_wrappers.decisions import AgentPass
from saliency_wrappers.states import StateTree, map_state
from saliency_wrappers.testing import AdapterContract, AdapterContractError, AgentSnapshot, check_adapter
from saliency_wrappers.testing.contract import broken_laws, laws_of


class TestTheContractInPytest(AdapterContract):
    def make_adapter(self) -> AgentAdapter:
        return as_adapter(seeded(TinyLSTM))

    def make_inputs(self) -> Tensor:
        return images(3)


class TestTheContractThroughAUsersLoop(AdapterContract):
    def make_adapter(self) -> AgentAdapter:
        return as_adapter(seeded(TinyGRU))

    def make_inputs(self) -> Tensor:
        return images(2)

    def make_play(self, adapter: AgentAdapter) -> Callable[[Tensor], Any]:
        memory = adapter.initial_state(1)

        def play(x: Tensor) -> None:
            nonlocal memory
            _, _, memory = adapter.module((x, memory))  # type: ignore[attr-defined]

        return play


def test_a_contract_without_its_factories_says_which_are_missing():
    with pytest.raises(NotImplementedError, match="AdapterContract defines make_adapter"):
        _ = AdapterContract().adapter
    with pytest.raises(NotImplementedError, match="AdapterContract defines make_inputs"):
        _ = AdapterContract().inputs


def test_pytest_is_not_needed_to_check_an_adapter():
    program = "import sys, saliency_wrappers.testing as t; assert 'pytest' not in sys.modules; print(sorted(t.__all__)[0])"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "AdapterContract"


# Adapters that each break a law


class DropsState(RecurrentModuleAdapter):
    def evaluate(self, inputs: Tensor, state: StateTree, episode_start: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return super().evaluate(inputs, self.initial_state(len(inputs)), episode_start)


class CapturesNoState(RecurrentModuleAdapter):
    def incoming(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> AgentPass | None:
        return AgentPass(args[0][0], map_state(torch.zeros_like, args[0][1]), None, None)


class CannotBeRead(RecurrentModuleAdapter):
    def outgoing(self, incoming: AgentPass, output: Any) -> AgentPass | None:
        raise ValueError("no way")


class CapturesStateThatCameOut(RecurrentModuleAdapter):
    def attach(self, on_pass: Callable[[AgentPass], None]) -> Callable[[], None]:
        def after(module: nn.Module, args: Any, output: Any) -> None:
            value, logits, state = output
            on_pass(AgentPass(args[0][0], state, logits, value))

        return self.module.register_forward_hook(after).remove


class Noisy(RecurrentModuleAdapter):
    def evaluate(self, inputs: Tensor, state: StateTree, episode_start: Tensor | None) -> tuple[Tensor, Tensor | None]:
        logits, value = super().evaluate(inputs, state, episode_start)
        return logits + 1e-3 * torch.rand(()), value


class NoisyValue(RecurrentModuleAdapter):
    def evaluate(self, inputs: Tensor, state: StateTree, episode_start: Tensor | None) -> tuple[Tensor, Tensor | None]:
        logits, value = super().evaluate(inputs, state, episode_start)
        return logits, value + 1e-3 * torch.rand(())  # type: ignore[operator]


class SeesEvaluate(RecurrentModuleAdapter):
    def evaluate(self, inputs: Tensor, state: StateTree, episode_start: Tensor | None) -> tuple[Tensor, Tensor | None]:
        with torch.no_grad():
            value, logits, _ = self.module((inputs, state))
        return logits, value


class SeesNothing(RecurrentModuleAdapter):
    def attach(self, on_pass: Callable[[AgentPass], None]) -> Callable[[], None]:
        return lambda: None


class NeverDetaches(RecurrentModuleAdapter):
    def attach(self, on_pass: Callable[[AgentPass], None]) -> Callable[[], None]:
        super().attach(on_pass)
        return lambda: None


class MutatesBuffers(RecurrentModuleAdapter):
    def evaluate(self, inputs: Tensor, state: StateTree, episode_start: Tensor | None) -> tuple[Tensor, Tensor | None]:
        self.module.passes += 1
        return super().evaluate(inputs, state, episode_start)


class MutatesInputs(RecurrentModuleAdapter):
    def evaluate(self, inputs: Tensor, state: StateTree, episode_start: Tensor | None) -> tuple[Tensor, Tensor | None]:
        outputs = super().evaluate(inputs, state, episode_start)
        if episode_start is not None and not episode_start.any():
            inputs.mul_(0.5)
        return outputs


class MutatesState(RecurrentModuleAdapter):
    def evaluate(self, inputs: Tensor, state: StateTree, episode_start: Tensor | None) -> tuple[Tensor, Tensor | None]:
        outputs = super().evaluate(inputs, state, episode_start)
        if len(inputs) == 1:
            map_state(lambda leaf: leaf.mul_(1.000001), state)
        return outputs


class LeavesTrainingOff(RecurrentModuleAdapter):
    def evaluate(self, inputs: Tensor, state: StateTree, episode_start: Tensor | None) -> tuple[Tensor, Tensor | None]:
        self.module.train(not self.module.training)
        return super().evaluate(inputs, state, episode_start)


class DrawsAtRandom(RecurrentModuleAdapter):
    def evaluate(self, inputs: Tensor, state: StateTree, episode_start: Tensor | None) -> tuple[Tensor, Tensor | None]:
        torch.rand(1)
        return super().evaluate(inputs, state, episode_start)


class DrawsFromNumPy(RecurrentModuleAdapter):
    def evaluate(self, inputs: Tensor, state: StateTree, episode_start: Tensor | None) -> tuple[Tensor, Tensor | None]:
        np.random.rand()  # noqa: NPY002
        return super().evaluate(inputs, state, episode_start)


class DrawsFromPython(RecurrentModuleAdapter):
    def evaluate(self, inputs: Tensor, state: StateTree, episode_start: Tensor | None) -> tuple[Tensor, Tensor | None]:
        random.random()
        return super().evaluate(inputs, state, episode_start)


class ChangesWeights(RecurrentModuleAdapter):
    def evaluate(self, inputs: Tensor, state: StateTree, episode_start: Tensor | None) -> tuple[Tensor, Tensor | None]:
        outputs = super().evaluate(inputs, state, episode_start)
        if episode_start is not None and not episode_start.any():
            with torch.no_grad():
                self.module.conv.bias += 1e-6
        return outputs


class KeepsWhatCameOut(RecurrentModuleAdapter):
    """Leaves its last outputs in an attribute, as modules that keep their own state do."""

    def evaluate(self, inputs: Tensor, state: StateTree, episode_start: Tensor | None) -> tuple[Tensor, Tensor | None]:
        outputs = super().evaluate(inputs, state, episode_start)
        self.module.remembered = [outputs[0].clone()]
        return outputs


class CountsInAnObject(RecurrentModuleAdapter):
    """Changes an object that is an attribute, as the distribution of a policy is."""

    def evaluate(self, inputs: Tensor, state: StateTree, episode_start: Tensor | None) -> tuple[Tensor, Tensor | None]:
        self.module.lstm.counter.count += 1
        return super().evaluate(inputs, state, episode_start)


class CutsDownToIntegers(RecurrentModuleAdapter):
    input_range = (0.0, 255.0)

    def evaluate(self, inputs: Tensor, state: StateTree, episode_start: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return super().evaluate(inputs.to(torch.uint8).float(), state, episode_start)


class TakesIntegersOnly(RecurrentModuleAdapter):
    input_range = (0.0, 255.0)

    def evaluate(self, inputs: Tensor, state: StateTree, episode_start: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if not torch.equal(inputs, inputs.round()):
            raise TypeError("no image")
        return super().evaluate(inputs, state, episode_start)


class NotANumberInBetween(RecurrentModuleAdapter):
    def evaluate(self, inputs: Tensor, state: StateTree, episode_start: Tensor | None) -> tuple[Tensor, Tensor | None]:
        logits, value = super().evaluate(inputs, state, episode_start)
        return torch.where(inputs.amax() < 0.8, torch.nan, logits), value


class TilesState(RecurrentModuleAdapter):
    def repeat_state(self, state: StateTree, n: int) -> StateTree:
        return map_state(lambda leaf: leaf.repeat(n, 1), state)


class RepeatsAlongTheWrongAxis(RecurrentModuleAdapter):
    def repeat_state(self, state: StateTree, n: int) -> StateTree:
        return map_state(lambda leaf: leaf.repeat_interleave(n, dim=1), state)


class ForgetsHalfTheState(RecurrentModuleAdapter):
    def repeat_state(self, state: StateTree, n: int) -> StateTree:
        return super().repeat_state(state[0], n)  # type: ignore[index]


class DependsOnNeighbours(RecurrentModuleAdapter):
    def evaluate(self, inputs: Tensor, state: StateTree, episode_start: Tensor | None) -> tuple[Tensor, Tensor | None]:
        logits, value = super().evaluate(inputs, state, episode_start)
        return logits + logits.mean(dim=0) - logits[0] if len(logits) > 1 else logits, value


class ValueDependsOnNeighbours(RecurrentModuleAdapter):
    def evaluate(self, inputs: Tensor, state: StateTree, episode_start: Tensor | None) -> tuple[Tensor, Tensor | None]:
        logits, value = super().evaluate(inputs, state, episode_start)
        return logits, value - value.mean() if len(logits) > 1 else value  # type: ignore[operator, union-attr]


class FlatLogits(RecurrentModuleAdapter):
    def evaluate(self, inputs: Tensor, state: StateTree, episode_start: Tensor | None) -> tuple[Tensor, Tensor | None]:
        logits, value = super().evaluate(inputs, state, episode_start)
        return logits.flatten(), value


class OneValueForAll(RecurrentModuleAdapter):
    def evaluate(self, inputs: Tensor, state: StateTree, episode_start: Tensor | None) -> tuple[Tensor, Tensor | None]:
        logits, value = super().evaluate(inputs, state, episode_start)
        return logits, value.mean()  # type: ignore[union-attr]


class BackwardRange(RecurrentModuleAdapter):
    input_range = (1.0, 0.0)


class NarrowRange(RecurrentModuleAdapter):
    input_range = (0.0, 0.5)


class InitialStateOfOneRow(RecurrentModuleAdapter):
    """Relies on broadcasting, which cells forbid but for one row."""

    def initial_state(self, n: int) -> StateTree:
        return None if n > 2 else (torch.zeros(1, 8), torch.zeros(1, 8))


def broken_by(broken: type[RecurrentModuleAdapter], tiny_lstm: TinyLSTM) -> dict[str, str]:
    tiny_lstm.register_buffer("passes", torch.zeros(()), persistent=False)
    tiny_lstm.remembered = []
    tiny_lstm.lstm.counter = types.SimpleNamespace(count=0)
    inputs = images(3)
    with pytest.raises(AdapterContractError) as raised:
        check_adapter(broken(tiny_lstm), (255 * inputs).round() if broken.input_range == (0, 255) else inputs)
    for law, why in raised.value.laws.items():
        assert why in str(raised.value)
        assert len(raised.value.laws) == 1 or law in str(raised.value)
    return raised.value.laws


AGENT = "evaluate_leaves_the_agent_as_it_is"
GIVEN = "evaluate_leaves_inputs_and_state_as_they_are"
ROWS = "evaluate_gives_one_row_of_outputs_for_each_input"
ANY_NUMBER = "evaluate_takes_any_number_in_the_input_range"
TRUNCATED = "perturbed_inputs_are_not_truncated"
REPLAY = "replaying_a_pass_gives_its_outputs"
REPEAT = "repeat_state_repeats_each_row"
GROWS = "initial_state_grows_along_one_axis"
NEIGHBOURS = "rows_do_not_influence_one_another"


@pytest.mark.parametrize(
    ("broken", "law", "message"),
    [
        (
            DropsState,
            "replaying_a_pass_gives_its_outputs",
            r"replaying a pass gives its outputs\. Replaying the decision gave other logits",
        ),
        (
            CapturesNoState,
            "replaying_a_pass_gives_its_outputs",
            r"replaying a pass gives its outputs\. Replaying the decision gave other logits",
        ),
        (CapturesStateThatCameOut, "evaluate_is_not_seen", "evaluate is not seen as a pass of the agent"),
        (Noisy, "evaluate_is_deterministic", "evaluate is deterministic: the same call gave other logits"),
        (NoisyValue, "evaluate_is_deterministic", "evaluate is deterministic: the same call gave other values"),
        (SeesEvaluate, "evaluate_is_not_seen", "evaluate is not seen as a pass of the agent"),
        (SeesNothing, "every_acting_pass_is_seen", "every acting pass is seen: 3 were made, 0 seen"),
        (CannotBeRead, "every_acting_pass_can_be_read", "every acting pass can be read, got passes that could not be captured: no way"),
        (NeverDetaches, "nothing_is_seen_after_detaching", "after detaching no pass is seen"),
        (MutatesBuffers, AGENT, "evaluate leaves weights and buffers as they are"),
        (MutatesInputs, GIVEN, "evaluate leaves its inputs as they are"),
        (MutatesState, GIVEN, "evaluate leaves its state as it is"),
        (LeavesTrainingOff, AGENT, "evaluate leaves the training flags as they are"),
        (DrawsAtRandom, AGENT, "evaluate leaves torch's random state as it is"),
        (DrawsFromNumPy, AGENT, "evaluate leaves NumPy's random state as it is"),
        (DrawsFromPython, AGENT, "evaluate leaves Python's random state as it is"),
        (ChangesWeights, AGENT, r"evaluate leaves weights and buffers as they are, it changed conv\.bias"),
        (
            KeepsWhatCameOut,
            "evaluate_leaves_the_agent_as_it_is",
            "evaluate leaves the agent's attributes as they are, it changed remembered",
        ),
        (
            CountsInAnObject,
            "evaluate_leaves_the_agent_as_it_is",
            r"evaluate leaves the agent's attributes as they are, it changed lstm\.counter",
        ),
        (
            CutsDownToIntegers,
            "perturbed_inputs_are_not_truncated",
            "evaluate does not cut perturbed inputs, which are floating-point numbers, down to integers",
        ),
        (
            TakesIntegersOnly,
            "evaluate_takes_any_number_in_the_input_range",
            r"evaluate takes any number in 0\.0\.\.255\.0, got TypeError: no image",
        ),
        (NotANumberInBetween, ANY_NUMBER, r"evaluate gives no NaN for inputs in 0\.0\.\.1\.0"),
        (
            TilesState,
            "repeat_state_repeats_each_row",
            r"repeat_state\(state, 3\) repeats each row three times in a row along the batch axis",
        ),
        (
            RepeatsAlongTheWrongAxis,
            "repeat_state_repeats_each_row",
            r"along the batch axis, got \[\(2, 24\), \(2, 24\)\] from \[\(2, 8\), \(2, 8\)\]",
        ),
        (ForgetsHalfTheState, REPEAT, r"along the batch axis, got \[\(6, 8\)\] from \[\(2, 8\), \(2, 8\)\]"),
        (DependsOnNeighbours, NEIGHBOURS, "the rows beside it do not change a row's logits"),
        (ValueDependsOnNeighbours, NEIGHBOURS, "the rows beside it do not change a row's value"),
        (FlatLogits, ROWS, r"evaluate gives logits \(n, num_actions\), got \(9,\) for n=3"),
        (OneValueForAll, ROWS, r"evaluate gives one value a row, got \(\)"),
        (BackwardRange, "input_range_holds_the_inputs", r"input_range is \(low, high\) with low < high, got \(1\.0, 0\.0\)"),
        (NarrowRange, "input_range_holds_the_inputs", r"inputs lie in 0\.0\.\.0\.5, got 0\.\d+\.\.0\.9\d*"),
        (
            InitialStateOfOneRow,
            "initial_state_grows_along_one_axis",
            r"Expected initial_state\(n\) to grow with n along one axis of each tensor",
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_contract_says_what_a_broken_adapter_breaks(broken: type[RecurrentModuleAdapter], law: str, message: str, tiny_lstm: TinyLSTM):
    laws = broken_by(broken, tiny_lstm)
    assert re.search(message, laws[f"test_{law}"])


def test_every_broken_law_is_reported_and_no_other(tiny_lstm: TinyLSTM):
    class BreaksThree(NarrowRange, TilesState, MutatesBuffers):
        """Its range, its repeated states, its buffers."""

    assert set(broken_by(BreaksThree, tiny_lstm)) == {
        "test_input_range_holds_the_inputs",
        "test_repeat_state_repeats_each_row",
        "test_evaluate_leaves_the_agent_as_it_is",
    }


@pytest.mark.parametrize("broken", [SeesEvaluate, NeverDetaches, DrawsAtRandom, TilesState, NarrowRange, MutatesBuffers, TakesIntegersOnly])
def test_one_fault_breaks_one_law(broken: type[RecurrentModuleAdapter], tiny_lstm: TinyLSTM):
    assert len(broken_by(broken, tiny_lstm)) <= (2 if broken is TakesIntegersOnly else 1)


def test_a_law_that_raises_something_else_is_broken_and_the_others_are_still_run(tiny_lstm: TinyLSTM):
    class Raises(AdapterContract):
        def make_adapter(self) -> AgentAdapter:
            return as_adapter(tiny_lstm)

        def make_inputs(self) -> Tensor:
            return images(2)

        def test_evaluate_is_deterministic(self) -> None:
            raise KeyError("gone")

        def test_zzz_own_law(self) -> None:
            self.require(False, "the agent wins")

    assert broken_laws(Raises()) == {
        "test_evaluate_is_deterministic": "Expected: no exception, got KeyError: 'gone'",
        "test_zzz_own_law": "Expected: the agent wins.",
    }
    assert len(list(laws_of(Raises()))) == len(list(laws_of(AdapterContract()))) + 1


def test_integers_and_the_same_numbers_in_floating_point_are_the_same_to_an_adapter(tiny_lstm: TinyLSTM):
    class SeesNoDifference(RecurrentModuleAdapter):
        input_range = (0.0, 255.0)

        def evaluate(self, inputs: Tensor, state: StateTree, episode_start: Tensor | None) -> tuple[Tensor, Tensor | None]:
            return super().evaluate(inputs.float() / (255 if inputs.dtype == torch.uint8 else 1), state, episode_start)

        def act(self, inputs: Tensor, state: StateTree) -> tuple[Tensor, StateTree]:
            return super().act(inputs.float() / 255, state)

    with pytest.raises(AdapterContractError, match=r"the same for torch\.uint8 as for the same numbers in torch\.float32") as raised:
        check_adapter(SeesNoDifference(tiny_lstm), (255 * images(3)).to(torch.uint8))
    assert "test_integers_and_floating_point_numbers_are_the_same" in raised.value.laws


def test_a_contract_test_needs_two_inputs_and_a_way_to_act(tiny_lstm: TinyLSTM):
    with pytest.raises(ValueError, match=r"Expected at least two inputs \(n, C, h, w\) or \(n, features\), got \(1, 1, 12, 12\)"):
        check_adapter(as_adapter(tiny_lstm), images(1))
    with pytest.raises(ValueError, match=r"Expected at least two inputs \(n, C, h, w\) or \(n, features\), got \(2, 12, 12\)"):
        check_adapter(as_adapter(tiny_lstm), torch.zeros(2, 12, 12))
    with pytest.raises(TypeError, match=r"Expected play=\.\.\., a function that makes the agent act"):
        check_adapter(Passive(tiny_lstm), images(2))


class Passive:
    """An adapter that cannot act by itself."""

    input_range = (0.0, 1.0)

    def __init__(self, module: nn.Module) -> None:
        self._inner = RecurrentModuleAdapter(module)
        self.evaluate, self.attach = self._inner.evaluate, self._inner.attach
        self.initial_state, self.repeat_state = self._inner.initial_state, self._inner.repeat_state


def test_the_contract_test_leaves_the_agent_as_it_was(tiny_lstm: TinyLSTM):
    tiny_lstm.train()
    before, hooks = AgentSnapshot(tiny_lstm), [len(part._forward_hooks) for part in tiny_lstm.modules()]
    check_adapter(as_adapter(tiny_lstm), images(3))
    assert list(before.changes()) == []
    assert [len(part._forward_hooks) for part in tiny_lstm.modules()] == hooks
