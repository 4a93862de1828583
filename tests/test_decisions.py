"""Records refuse rows that do not match; state trees keep their structure and their copies are independent."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from saliency_wrappers.decisions import AgentPass, Decision, SaliencyMaps, numbers_of
from saliency_wrappers.states import copy_state, copy_tensor, map_state, state_leaves
from saliency_wrappers.step_saliency import StepSaliency, decisions_of


class Memory(NamedTuple):
    """What sb3-contrib calls its states."""

    pi: Any
    vf: Any


def nested() -> dict[str, Any]:
    return {"lstm": Memory((torch.ones(1, 2), torch.zeros(1, 2)), None), "gru": torch.full((1, 3), 2.0)}


@pytest.mark.parametrize(
    ("state", "sums"),
    [
        (None, []),
        ((), []),
        (torch.ones(1, 2), [2.0]),
        ((torch.ones(1, 2), torch.zeros(1, 2)), [2.0, 0.0]),
        (Memory(torch.ones(1), torch.ones(2)), [1.0, 2.0]),
        ({"a": torch.ones(1), "b": (torch.ones(2), None)}, [1.0, 2.0]),
        (nested(), [6.0, 2.0, 0.0]),
    ],
    ids=["None", "empty", "tensor", "tuple", "NamedTuple", "dict", "nested"],
)
def test_a_state_keeps_its_structure_and_its_leaves_come_in_order(state: Any, sums: list[float]):
    assert [float(leaf.sum()) for leaf in state_leaves(state)] == sums
    doubled = map_state(lambda leaf: 2 * leaf, state)
    assert type(doubled) is type(state)
    assert [float(leaf.sum()) for leaf in state_leaves(doubled)] == [2 * number for number in sums]


def test_a_named_tuple_within_a_dict_keeps_its_type_and_fields():
    copied: Any = copy_state(nested())
    assert type(copied["lstm"]) is Memory
    assert copied["lstm"].vf is None
    assert torch.equal(copied["lstm"].pi[0], torch.ones(1, 2))


def test_any_mapping_is_a_state():
    state = OrderedDict(b=torch.ones(1), a=torch.zeros(1))
    assert list(map_state(torch.neg, state)) == ["b", "a"]  # type: ignore[arg-type]


@pytest.mark.parametrize("state", [[torch.ones(1)], np.ones(3), "hx", 0.5, {"a": [torch.ones(1)]}], ids=str)
def test_a_state_of_another_kind_is_a_type_error(state: Any):
    message = r"Expected a recurrent state made of tensors, tuples, mappings or None, got (list|ndarray|str|float)\."
    with pytest.raises(TypeError, match=message):
        map_state(torch.clone, state)
    with pytest.raises(TypeError, match=message):
        list(state_leaves(state))


def test_copies_of_inference_tensors_are_ordinary_tensors():
    with torch.inference_mode():
        source = torch.ones(2, requires_grad=False)
        inside = copy_tensor(source)
        state: Any = copy_state((source, {"c": source}))
    outside = copy_tensor(source)
    for copied in (inside, outside, state[0], state[1]["c"]):
        assert not copied.is_inference()
        copied.add_(1)  # an inference tensor would refuse
        assert torch.equal(copied, torch.full((2,), 2.0))
    assert torch.equal(source, torch.ones(2))


def test_copies_have_no_gradient_history_and_do_not_share_memory():
    weights = torch.ones(2, requires_grad=True)
    made = weights * 2
    copied = copy_tensor(made)
    assert not copied.requires_grad
    assert copied.grad_fn is None
    buffer = torch.zeros(2)
    state: Any = copy_state((buffer,))
    buffer.fill_(7)
    assert torch.equal(state[0], torch.zeros(2))


def a_pass(**changes: Any) -> AgentPass:
    parts: dict[str, Any] = {"inputs": torch.zeros(1, 1, 2, 2), "state": None, "logits": torch.zeros(1, 3), "value": torch.zeros(1, 1)}
    return AgentPass(**(parts | changes))


def test_the_decision_of_a_pass_is_independent_of_the_callers_buffers():
    seen = a_pass(episode_start=torch.ones(1, dtype=torch.bool))
    decision = Decision.of(seen)
    for buffer in (seen.inputs, seen.logits, seen.value):
        assert buffer is not None
        buffer.fill_(9)
    assert seen.episode_start is not None
    seen.episode_start.fill_(False)
    assert decision.value is not None
    assert decision.episode_start is not None
    assert not any(tensor.any() for tensor in (decision.inputs, decision.logits, decision.value))
    assert decision.episode_start.all()


@pytest.mark.parametrize("make", [Decision.of, Decision.by_reference])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_outputs_that_were_kept_are_those_of_the_pass(make: Callable[[AgentPass], Decision], dtype: torch.dtype):
    logits, value = torch.randn(2, 3).to(dtype), torch.randn(2).to(dtype)
    seen = a_pass(inputs=torch.zeros(2, 1, 2, 2), logits=logits.clone(), value=value.clone())
    seen.numbers = numbers_of(seen.logits, seen.value)
    for buffer in (seen.logits, seen.value):
        assert buffer is not None
        buffer.fill_(9)
    decision = make(seen)
    assert decision.value is not None
    assert torch.equal(decision.logits, logits)
    assert torch.equal(decision.value, value)
    assert (decision.logits.dtype, decision.value.dtype) == (dtype, dtype)


@pytest.mark.parametrize(
    "values", [(None, None), (torch.ones(1), torch.zeros(1)), (torch.ones(1, 1), torch.zeros(1)), (None, torch.ones(1))]
)
@pytest.mark.parametrize("actions", [(1, 0), (np.ones(2), 2)])
@pytest.mark.parametrize("dtypes", [(torch.float32, torch.float32), (torch.float16, torch.float64)])
def test_many_decisions_are_those_that_come_one_by_one(values: Any, actions: Any, dtypes: Any):
    records = [
        StepSaliency.capture(
            a_pass(state=torch.full((1, 2), float(number)), logits=torch.randn(1, 3).to(dtype), value=value), action, 0, number
        )
        for number, (value, dtype, action) in enumerate(zip(values, dtypes, actions, strict=True))
    ]
    with torch.inference_mode():
        decisions = decisions_of(records)
    for one, decision in zip(records, decisions, strict=True):
        alone = one.decision()
        assert decision.inputs is one.inputs
        assert decision.state is one.state
        for name in ("logits", "value", "action"):
            expected, found = getattr(alone, name), getattr(decision, name)
            assert (found is None) == (expected is None)
            if expected is not None:
                assert torch.equal(found, expected)
                assert (found.dtype, found.shape, found.is_inference()) == (expected.dtype, expected.shape, False)


def test_a_state_that_is_a_copy_is_not_copied_again():
    state = (torch.zeros(1, 2),)
    assert Decision.of(a_pass(state=state, copied=True)).state is state
    assert Decision.of(a_pass(state=state)).state is not state


@pytest.mark.parametrize("value", [None, torch.tensor([2.0]), torch.tensor([[2.0]]), torch.tensor([[[2.0]]])])
def test_a_record_shows_the_outputs_of_its_row(value: Any):
    record = StepSaliency.capture(a_pass(logits=torch.tensor([[4, 5, 6]]), value=value), 0, 0, 0)
    assert record.logits.dtype == np.float32
    assert record.logits.tolist() == [4, 5, 6]
    assert record.value == (None if value is None else 2.0)
    assert record.well_formed == (value is None or value.ndim < 3)


def test_more_than_one_value_a_row_is_refused():
    record = StepSaliency.capture(a_pass(value=torch.zeros(1, 2)), 0, 0, 0)
    assert not record.well_formed
    with pytest.raises(ValueError, match="Expected one value in each row"):
        _ = record.value


def test_a_record_is_independent_of_the_callers_buffers():
    seen, action = a_pass(episode_start=torch.ones(1, dtype=torch.bool), state=torch.zeros(1, 2)), np.zeros(2)
    record = StepSaliency.capture(seen, (action, 1), 3, 17, 1)
    for buffer in (seen.inputs, seen.state, seen.logits, seen.value, seen.episode_start):
        assert isinstance(buffer, Tensor)
        buffer.fill_(0 if buffer.dtype is torch.bool else 9)
    action[:] = 9
    decision = record.decision()
    for part in (decision.inputs, decision.state, decision.logits, decision.value):
        assert isinstance(part, Tensor)
        assert not part.any()
    assert decision.episode_start is not None
    assert decision.episode_start.all()
    assert record.action[0].tolist() == [0, 0]
    assert (record.episode, record.step, record.environment, record.maps) == (3, 17, 1, None)


def test_a_record_by_reference_is_copied_when_asked():
    seen = a_pass()
    record = StepSaliency.capture(seen, 0, 0, 0, by_reference=True)
    own = record.with_own_inputs()
    seen.inputs.fill_(9)
    assert record.inputs is seen.inputs
    assert own.inputs is not None
    assert not own.inputs.any()
    assert record.without_inputs().inputs is None


def test_the_action_of_a_decision_is_counted_from_the_first_one():
    action = StepSaliency.capture(a_pass(), 5, 0, 0).decision(first_action=4).action
    assert action is not None
    assert action.tolist() == [1]


def test_a_record_without_input_makes_no_decision():
    with pytest.raises(ValueError, match="Expected a record of the agent's pass, got one that was made without the network's input"):
        step(None).decision()


def test_outputs_of_a_pass_are_tensors_without_history():
    seen = a_pass(logits=None, value=None)
    assert seen.gave(torch.zeros(1, 3, requires_grad=True) * 2, None) is seen
    assert seen.logits is not None
    assert not seen.logits.requires_grad
    with pytest.raises(TypeError, match="Expected value as a tensor or None, got float"):
        seen.gave(torch.zeros(1, 3), 0.5)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("record", [Decision.of(a_pass()), StepSaliency(0, 0, 0, np.zeros(3, np.float32), 0.0, None)])
def test_records_are_frozen(record: Any):
    for field in fields(record):
        with pytest.raises(FrozenInstanceError):
            setattr(record, field.name, None)


def test_records_are_replaced_by_others():
    decision, record = Decision.of(a_pass()), StepSaliency.capture(a_pass(), 0, 0, 0)
    assert vars(replace(decision)) == vars(decision)
    maps = SaliencyMaps(np.ones((2, 2), np.float32), None)
    assert vars(record.with_maps(maps)) == {**vars(record), "maps": maps}


def test_the_decision_of_a_pass_made_in_inference_mode_is_of_ordinary_tensors():
    with torch.inference_mode():
        seen = a_pass()
    decision = Decision.of(seen)
    assert not decision.inputs.is_inference()
    assert not decision.logits.is_inference()


def test_absent_parts_of_a_pass_stay_absent():
    decision = Decision.of(a_pass(value=None))
    assert (decision.value, decision.episode_start, decision.action, decision.state) == (None, None, None, None)


def test_a_pass_without_logits_is_no_decision():
    with pytest.raises(ValueError, match="Expected a pass with policy output, got one without logits"):
        Decision.of(a_pass(logits=None))


@pytest.mark.parametrize("name", ["logits", "value", "episode_start", "action"])
@pytest.mark.parametrize("rows", [(), (3,)], ids=["no batch axis", "three rows"])
def test_a_decision_refuses_parts_with_another_number_of_rows(name: str, rows: tuple[int, ...]):
    parts: dict[str, Tensor | None] = {"inputs": torch.zeros(2, 1, 4, 4), "state": None, "logits": torch.zeros(2, 3), "value": None}
    with pytest.raises(ValueError, match=rf"Expected {name} with 2 rows, as many as inputs \(2, 1, 4, 4\), got \({'3,' if rows else ''}\)"):
        Decision(**(parts | {name: torch.zeros(rows)}))  # type: ignore[arg-type]


def test_the_length_of_a_decision_is_its_number_of_rows():
    assert len(Decision(torch.zeros(4, 1, 2, 2), None, torch.zeros(4, 3), torch.zeros(4))) == 4
    assert a_pass(inputs=torch.zeros(5, 1, 2, 2)).batch == 5


def step(maps: SaliencyMaps | None) -> StepSaliency:
    return StepSaliency(episode=3, step=17, action=2, logits=np.zeros(4, np.float32), value=0.5, maps=maps)


def test_the_info_is_the_published_dictionary():
    maps = SaliencyMaps(np.ones((2, 2), np.float32), None)
    info = step(maps).info()
    assert list(info) == ["episode", "step", "action", "actor", "critic", "logits", "value"]
    assert (info["episode"], info["step"], info["action"], info["value"], info["critic"]) == (3, 17, 2, 0.5, None)
    assert np.array_equal(info["actor"], maps.actor)


def test_the_info_of_pending_maps_has_neither_map():
    info = step(None).info()
    assert list(info) == ["episode", "step", "action", "pending", "logits", "value"]
    assert info["pending"] is True


class Move(NamedTuple):
    way: Any
    force: Any


def test_the_reader_of_the_info_may_change_the_arrays_of_the_action():
    for action in (np.ones(2), {"way": np.ones(2)}, (np.ones(2), 3), Move(np.ones(2), torch.ones(2)), {"deep": (0, {"way": np.ones(2)})}):
        saliency = StepSaliency(episode=0, step=0, action=action, logits=np.zeros(2, np.float32), value=None, maps=None)
        told = saliency.info()["action"]
        assert repr(told) == repr(action)
        for array in arrays_in(told):
            array[:] = 7
        assert repr(saliency.info()["action"]) == repr(action)
        assert len(list(arrays_in(told))) > 0
        assert repr(told) != repr(action)


def arrays_in(action: Any) -> Any:
    if isinstance(action, np.ndarray | Tensor):
        yield action
    elif isinstance(action, dict | tuple):
        for part in action.values() if isinstance(action, dict) else action:
            yield from arrays_in(part)


def test_records_cannot_be_changed():
    with pytest.raises(AttributeError, match="cannot assign to field"):
        step(None).step = 18  # type: ignore[misc]
