"""Adapters keep their contract, watch without disturbing, and the contract test catches those that do not."""

from __future__ import annotations

import contextlib
import copy
import io
import pickle
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from tiny_agents import TinyGRU, TinyLSTM, images, seeded
from torch import Tensor, nn

from saliency_wrappers.agents import ActingAdapter, AgentAdapter, RecurrentModuleAdapter, UnreadPass, as_adapter
from saliency_wrappers.agents.base import batch_axes, split_rows
from saliency_wrappers.agents.module_hooks import undisturbed
from saliency_wrappers.decisions import Decision
from saliency_wrappers.hooks.replay_check import replay
from saliency_wrappers.models.networks import AtariLSTM, BabyA3CGRU, GreydanusLSTM
from saliency_wrappers.states import StateTree
from saliency_wrappers.testing.adapter_contract import check_adapter


class InPlaceLSTM(TinyLSTM):
    """Keeps its state in the tensors that come in, as agents that save memory do."""

    def forward(self, inputs: tuple[Tensor, Any]) -> tuple[Tensor, Tensor, Any]:
        value, logits, (hx, cx) = super().forward(inputs)
        state = inputs[1]
        state[0].copy_(hx.detach())
        state[1].copy_(cx.detach())
        return value, logits, state


class WithoutValue(TinyGRU):
    def forward(self, inputs: tuple[Tensor, Tensor]) -> tuple[Any, Tensor, Tensor]:
        _, logits, state = super().forward(inputs)
        return None, logits, state


class TwoCells(nn.Module):
    """Two cells, so that only it knows its initial state: a dict, not of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.actor, self.critic = TinyLSTM(), TinyGRU()

    def initial_state(self, n: int) -> dict[str, Any]:
        return {"actor": (torch.ones(n, 8), torch.zeros(n, 8)), "critic": torch.full((n, 8), 0.5)}

    def forward(self, inputs: tuple[Tensor, dict[str, Any]]) -> tuple[Tensor, Tensor, dict[str, Any]]:
        x, state = inputs
        _, logits, actor = self.actor((x, state["actor"]))
        value, _, critic = self.critic((x, state["critic"]))
        return value, logits, {"actor": actor, "critic": critic}


PUBLISHED: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "GreydanusLSTM": (lambda: seeded(GreydanusLSTM, 4), 80),
    "BabyA3CGRU": (lambda: seeded(BabyA3CGRU, 6), 80),
    "AtariLSTM": (lambda: seeded(AtariLSTM, 4), 84),
    "a user's own LSTM": (lambda: seeded(TinyLSTM), 12),
    "a user's own GRU": (lambda: seeded(TinyGRU), 12),
    "state updated in place": (lambda: seeded(InPlaceLSTM), 12),
    "no value": (lambda: seeded(WithoutValue), 12),
    "a dict of states": (lambda: seeded(TwoCells), 12),
    "DataParallel": (lambda: nn.DataParallel(seeded(TwoCells)), 12),
    "float64": (lambda: seeded(TinyLSTM).double(), 12),
    "in training mode": (lambda: seeded(TinyLSTM).train(), 12),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_modules_in_the_published_form_keep_the_contract(name: str):
    make, size = PUBLISHED[name]
    inputs = images(3, 1, size)
    check_adapter(as_adapter(make()), inputs.double() if name == "float64" else inputs)


def test_the_contract_can_be_checked_through_the_users_own_loop(tiny_lstm: TinyLSTM):
    state = None

    def play(x: Tensor) -> None:
        nonlocal state
        _, _, state = tiny_lstm((x, state))  # with gradients, from no state at all

    check_adapter(as_adapter(tiny_lstm), images(3), play)


def test_an_adapter_is_taken_as_it_is_and_a_module_is_wrapped(tiny_lstm: TinyLSTM):
    adapter = as_adapter(tiny_lstm)
    assert isinstance(adapter, RecurrentModuleAdapter)
    assert isinstance(adapter, AgentAdapter)
    assert isinstance(adapter, ActingAdapter)
    assert as_adapter(adapter) is adapter
    assert adapter.input_range == (0.0, 1.0)


@pytest.mark.parametrize("agent", [None, "agent.tar", lambda x: x], ids=["None", "path", "function"])
def test_an_agent_that_no_adapter_fits_is_a_type_error(agent: Any):
    with pytest.raises(TypeError, match=r"Expected an nn\.Module .* or an AgentAdapter, got \w+\. Write an adapter with evaluate, attach"):
        as_adapter(agent)


def test_initial_states_are_zeros_of_the_only_cell():
    hx, cx = as_adapter(seeded(TinyLSTM).double()).initial_state(3)  # type: ignore[misc]
    assert hx.shape == cx.shape == (3, 8)
    assert hx.dtype == torch.float64
    assert not hx.any()
    assert not cx.any()
    hx.add_(1)
    assert not cx.any()
    assert as_adapter(seeded(TinyGRU)).initial_state(2).shape == (2, 8)  # type: ignore[union-attr]


@pytest.mark.parametrize(("module", "count"), [(nn.Linear(1, 1), 0), (nn.ModuleList([nn.GRUCell(1, 1), nn.GRUCell(1, 1)]), 2)])
def test_a_module_whose_initial_state_cannot_be_told_says_what_to_add(module: nn.Module, count: int):
    message = rf"Expected {type(module).__name__} to have initial_state\(n\) or exactly one .*, found {count} cells\. Give the module"
    with pytest.raises(TypeError, match=message):
        as_adapter(module).initial_state(1)


def test_states_are_repeated_row_by_row_in_their_own_structure():
    rows = torch.arange(4.0).reshape(2, 2)
    repeated: Any = as_adapter(seeded(TinyGRU)).repeat_state({"a": (rows, None)}, 2)
    assert repeated["a"][0].tolist() == [[0, 1], [0, 1], [2, 3], [2, 3]]
    assert repeated["a"][1] is None


class Layered(nn.Module):
    """With an `nn.LSTM`, whose state is `(layers, n, hidden)`."""

    def __init__(self, kind: Any = nn.LSTM, **options: Any) -> None:
        super().__init__()
        self.memory = kind(144, 8, num_layers=2, **options)
        width = (options.get("proj_size") or 8) * (2 if options.get("bidirectional") else 1)
        self.heads = nn.Linear(width, 4)

    def forward(self, inputs: tuple[Tensor, Any]) -> Any:
        features, state = self.memory(inputs[0].flatten(1)[None], inputs[1])
        outputs = self.heads(features[0])
        return outputs[:, :1], outputs[:, 1:], state


class LayeredWithItsOwn(Layered):
    def initial_state(self, n: int) -> Any:
        return (torch.full((2, n, 8), 0.5), torch.zeros(2, n, 8))


LAYERED: dict[str, Callable[[], nn.Module]] = {
    "LSTM": lambda: seeded(Layered),
    "GRU": lambda: seeded(Layered, nn.GRU),
    "both directions": lambda: seeded(Layered, bidirectional=True),
    "projected": lambda: seeded(Layered, proj_size=3),
    "its own initial state": lambda: seeded(LayeredWithItsOwn),
}


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("name", LAYERED)
def test_states_with_the_batch_on_their_second_axis_keep_the_contract(name: str):
    check_adapter(as_adapter(LAYERED[name]()), images(3))


def test_where_the_initial_state_is_not_known_states_are_repeated_along_their_first_axis():
    adapter = as_adapter(nn.ModuleList([nn.GRUCell(1, 1), nn.GRUCell(1, 1)]))
    repeated: Any = adapter.repeat_state((torch.zeros(2, 3), torch.ones(1, 4)), 2)
    assert [tuple(leaf.shape) for leaf in repeated] == [(4, 3), (2, 4)]


def test_the_input_range_is_the_classes_or_given():
    class NarrowRange(RecurrentModuleAdapter):
        input_range = (0.0, 0.5)

    module = nn.Identity()
    assert RecurrentModuleAdapter(module).input_range == (0.0, 1.0)
    assert NarrowRange(module).input_range == (0.0, 0.5)
    assert RecurrentModuleAdapter(module, (0, 255)).input_range == (0.0, 255.0)
    assert RecurrentModuleAdapter(module, input_range=(-1.0, 1.0)).input_range == (-1.0, 1.0)
    with pytest.raises(ValueError, match=r"Expected input_range as \(low, high\) with low < high, got \(1, 0\)"):
        RecurrentModuleAdapter(module, (1, 0))


# What is seen


def watched(module: nn.Module) -> tuple[list[Any], Callable[[], None]]:
    seen: list[Any] = []
    return seen, as_adapter(module).attach(seen.append)


def play(module: Any, n: int = 3, state: Any = None) -> list[tuple[Tensor, Tensor]]:
    """The published loop; logits and values of each step."""
    outputs: list[tuple[Tensor, Tensor]] = []
    for row in images(n):
        value, logits, state = module((row[None], state))
        outputs.append((logits, value))
    return outputs


@pytest.mark.parametrize("grad", [True, False])
def test_passes_are_seen_with_gradients_on_and_off(grad: bool, tiny_lstm: TinyLSTM):
    seen, detach = watched(tiny_lstm)
    with torch.set_grad_enabled(grad):
        outputs = play(tiny_lstm)
    assert outputs[0][0].requires_grad is grad
    assert len(seen) == 3
    for one, (logits, value), row in zip(seen, outputs, images(3), strict=True):
        assert one.logits is not None
        assert one.value is not None
        assert torch.equal(one.logits, logits)
        assert torch.equal(one.value, value)
        assert torch.equal(one.inputs[0], row)
        assert not any(tensor.requires_grad for tensor in (one.logits, one.value, one.inputs))
    detach()
    play(tiny_lstm)
    assert len(seen) == 3


def test_a_state_updated_in_place_is_seen_as_it_was_before():
    module = seeded(InPlaceLSTM)
    seen, _ = watched(module)
    state = (torch.zeros(1, 8), torch.zeros(1, 8))
    with torch.no_grad():
        outputs = play(module, 2, state)
    first, second = (one.state for one in seen)
    assert state[0].any()
    assert not any(leaf.any() for leaf in first)  # type: ignore[union-attr]
    assert all(leaf.any() for leaf in second)  # type: ignore[union-attr]
    logits, _ = as_adapter(module).evaluate(seen[1].inputs, second, None)
    assert torch.equal(logits, outputs[1][0])


def test_evaluate_does_not_write_into_a_state_that_the_module_updates_in_place():
    state = (torch.zeros(1, 8), torch.zeros(1, 8))
    as_adapter(seeded(InPlaceLSTM)).evaluate(images(), state, None)
    assert not any(leaf.any() for leaf in state)


def test_a_pass_in_inference_mode_is_seen_as_ordinary_tensors(tiny_lstm: TinyLSTM):
    seen, _ = watched(tiny_lstm)
    with torch.inference_mode():
        play(tiny_lstm)
    decision = Decision.of(seen[1])
    assert not any(tensor.is_inference() for tensor in (decision.inputs, decision.logits, *decision.state))  # type: ignore[misc]


OTHER_CALLS: dict[str, tuple[Any, Any]] = {
    "no state": ((torch.ones(1, 2),), "an answer"),
    "model(x, state)": ((torch.ones(1, 2), {}), "an answer"),
    "a pair came out": (((torch.ones(1), None),), (1, 2)),
    "a dict came out": (((torch.ones(1), None),), {"logits": torch.ones(1, 2)}),
    "no tensor": (("text",), "an answer"),
    "no axis": (((torch.ones(()), None),), "an answer"),
}


class OtherForm(nn.Module):
    answer: Any = "an answer"

    def forward(self, x: Any, state: Any = None) -> Any:
        return self.answer


@pytest.mark.parametrize("name", OTHER_CALLS)
def test_a_call_of_another_form_is_told_from_a_pass_without_policy_output(name: str):
    args, answer = OTHER_CALLS[name]
    module = OtherForm()
    seen, _ = watched(module)
    module.answer = answer
    module(*args)
    module(x=(torch.ones(1), None))
    assert seen == [UnreadPass("of another form than model((x, state)) -> value, logits, state")] * 2


@pytest.mark.parametrize("answer", [torch.ones(1), (torch.ones(1), None, None)], ids=["a value", "no logits"])
def test_a_value_alone_is_a_pass_without_policy_output(answer: Any):
    module = OtherForm()
    seen, _ = watched(module)
    module.answer = answer
    module((torch.ones(1), None))
    assert [one.logits for one in seen] == [None]


UNREADABLE: dict[str, tuple[Any, Any, str]] = {
    "a dict with an int": ({"h": torch.ones(1), "n": 0}, (None, torch.ones(1, 2), None), "made of tensors, .* got int"),
    "a float value": (None, (0.5, torch.ones(1, 2), None), "Expected value as a tensor or None, got float"),
    "a list of logits": (None, (None, [1.0, 2.0], None), "Expected logits as a tensor or None, got list"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_captured_never_raises_out_of_the_users_call(name: str):
    state, answer, reason = UNREADABLE[name]
    module = OtherForm()
    seen, _ = watched(module)
    module.answer = answer
    assert module((torch.ones(1, 1, 2, 2), state)) is answer
    (one,) = seen
    assert isinstance(one, UnreadPass)
    assert re.match(f"that could not be captured: .*{reason}", one.reason)


class ListLSTM(TinyLSTM):
    """A state in a list, in a mapping."""

    def initial_state(self, n: int) -> Any:
        return {"cell": [torch.zeros(n, 8), torch.zeros(n, 8)]}

    def forward(self, inputs: tuple[Tensor, Any]) -> tuple[Tensor, Tensor, Any]:
        value, logits, state = super().forward((inputs[0], tuple(inputs[1]["cell"])))
        return value, logits, {"cell": list(state)}


def test_lists_in_a_state_are_taken_as_tuples():
    module = seeded(ListLSTM)
    seen, _ = watched(module)
    play(module, 2, module.initial_state(1))
    assert [type(one.state["cell"]) for one in seen] == [tuple, tuple]  # type: ignore[index, call-overload]
    check_adapter(as_adapter(module), images(3))


class Barrier(TinyGRU):
    """Two passes in two threads are in its midst at once."""

    def __init__(self) -> None:
        super().__init__()
        self.both = threading.Barrier(2, timeout=60)

    def forward(self, inputs: Any) -> Any:
        self.both.wait()
        outputs = super().forward(inputs)
        self.both.wait()
        return outputs


def test_passes_in_two_threads_do_not_mix():
    module = seeded(Barrier)
    seen, _ = watched(module)
    threads = [threading.Thread(target=module, args=((row[None], torch.zeros(1, 8)),)) for row in images(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len({float(one.inputs.sum()) for one in seen}) == 2
    adapter = RecurrentModuleAdapter(seeded(TinyGRU))
    for one in seen:
        replay(adapter, Decision.of(one))


class Reentrant(TinyGRU):
    """Looks ahead by calling itself, which may fail, within a pass."""

    def forward(self, inputs: tuple[Tensor, Any], depth: int = 1) -> Any:
        x, state = inputs
        if float(x.sum()):
            self((torch.zeros_like(x), state))
            with contextlib.suppress(RuntimeError):
                self((torch.ones(1, 3, 12, 12).mul(0), state))
        return super().forward((x, state))


def test_passes_within_a_pass_do_not_mix_even_when_they_fail():
    module = seeded(Reentrant)
    seen, _ = watched(module)
    play(module, 2, torch.zeros(1, 8))
    assert [bool(one.inputs.any()) for one in seen] == [False, True, False, True]
    adapter = RecurrentModuleAdapter(seeded(TinyGRU))
    for one in seen:
        replay(adapter, Decision.of(one))


def test_a_pass_that_fails_is_not_seen_and_does_not_spoil_the_next(tiny_lstm: TinyLSTM):
    seen, _ = watched(tiny_lstm)
    with pytest.raises(RuntimeError, match="channels"):
        tiny_lstm((images(channels=3), None))
    play(tiny_lstm, 1)
    assert len(seen) == 1


def test_two_observers_both_see_and_leave_one_by_one(tiny_lstm: TinyLSTM):
    (first, leave), (second, _) = watched(tiny_lstm), watched(tiny_lstm)
    play(tiny_lstm, 1)
    leave()
    leave()
    play(tiny_lstm, 1)
    assert (len(first), len(second)) == (1, 2)


def test_a_module_without_a_value_is_seen_with_none():
    module = seeded(WithoutValue)
    seen, _ = watched(module)
    module((images(), torch.zeros(1, 8)))
    assert seen[0].value is None
    assert as_adapter(module).evaluate(images(), torch.zeros(1, 8), None)[1] is None


COPIES: dict[str, Callable[[nn.Module], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda module: pickle.loads(pickle.dumps(module)),
    "torch.save": lambda module: torch.load(saved(module), weights_only=False),
}


def saved(module: nn.Module) -> io.BytesIO:
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    return buffer


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_of_a_watched_module_works_and_is_not_watched(how: str, tiny_lstm: TinyLSTM):
    seen, detach = watched(tiny_lstm)
    twin = COPIES[how](tiny_lstm)
    assert torch.equal(play(twin)[-1][0], play(tiny_lstm)[-1][0])
    assert len(seen) == 3
    detach()
    play(twin)
    assert len(seen) == 3


def test_a_copy_made_after_detaching_has_no_hook(tiny_lstm: TinyLSTM):
    _, detach = watched(tiny_lstm)
    detach()
    assert not tiny_lstm._forward_hooks
    assert not tiny_lstm._forward_pre_hooks
    assert not tiny_lstm._forward_hooks_with_kwargs
    assert not tiny_lstm._forward_pre_hooks_with_kwargs


def test_watching_does_not_keep_the_module_alive():
    import gc
    import weakref

    module = seeded(TinyLSTM)
    alive = weakref.ref(module)
    seen, detach = watched(module)
    play(module, 1)
    del module, detach
    gc.collect()
    assert alive() is None
    assert len(seen) == 1


def test_the_wrapped_module_and_the_wrapper_are_seen_through_data_parallel(tiny_lstm: TinyLSTM):
    parallel = nn.DataParallel(tiny_lstm)
    outer, inner = watched(parallel)[0], watched(tiny_lstm)[0]
    outputs = play(parallel)
    for seen in (outer, inner):
        assert [bool(torch.equal(one.logits, logits)) for one, (logits, _) in zip(seen, outputs, strict=True)] == [True] * 3  # type: ignore[arg-type]


def test_a_compiled_module_is_seen_when_hooked_itself_and_when_hooked_before_compiling(tiny_lstm: TinyLSTM, tiny_gru: TinyGRU):
    compiled = torch.compile(tiny_lstm, backend="eager")
    hooked_after, _ = watched(compiled)
    hooked_before, _ = watched(tiny_gru)
    agents = (
        (hooked_after, compiled, as_adapter(compiled)),
        (hooked_before, torch.compile(tiny_gru, backend="eager"), as_adapter(tiny_gru)),
    )
    for seen, agent, adapter in agents:
        with torch.no_grad():
            outputs = play(agent, 2, adapter.initial_state(1))
        assert len(seen) == 2
        for one, (logits, _) in zip(seen, outputs, strict=True):
            assert one.logits is not None
            assert torch.equal(one.logits, logits)
            replay(adapter, Decision.of(one))
        assert len(seen) == 2


def test_a_compiled_agent_is_seen_without_our_hooks_being_compiled():
    # In a process of its own: the hook comes first, and torch._dynamo only with torch.compile.
    program = """
import sys, torch
from tiny_agents import TinyLSTM, images, seeded
from saliency_wrappers import RecurrentAgentHook
modules = [seeded(TinyLSTM), seeded(TinyLSTM)]
hooks = [RecurrentAgentHook(module) for module in modules]
windows = [hook.open_window(num_envs=1) for hook in hooks]
modules[0]((images(), None))
assert "torch._dynamo" not in sys.modules
modules[0].compile(backend="eager", fullgraph=True)
modules[1] = torch.compile(modules[1], backend="eager", fullgraph=True)
state = (torch.zeros(1, 8), torch.zeros(1, 8))
with torch.no_grad():
    for module in modules:
        module((images(), state))
        module((images(), state))
print([window.accepted for window in windows], torch._dynamo.utils.counters["stats"]["unique_graphs"])
"""
    folder = str(Path(__file__).parents[1] / "support")
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=folder)
    assert run.stdout.split("\n")[0] == "[3, 2] 1", run.stderr


# What is left as it was


class Stochastic(TinyGRU):
    """Batch normalisation, dropout, and a mixture of training flags."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.dropout = nn.Dropout(0.5)

    def forward(self, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        x, state = inputs
        return super().forward((self.dropout(self.norm(x)), state))


@pytest.fixture
def stochastic() -> Stochastic:
    module = seeded(Stochastic).train()
    module.conv.eval()
    return module


def snapshot(module: nn.Module) -> dict[str, Any]:
    return {
        "training": [part.training for part in module.modules()],
        "weights": [tensor.clone() for tensor in (*module.parameters(), *module.buffers())],
        "hooks": [(list(part._forward_hooks), list(part._forward_pre_hooks)) for part in module.modules()],
        "random": torch.get_rng_state(),
        "grad": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
    }


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    return len(a) == len(b) and all(map(same, a, b)) if isinstance(a, list) else a == b


def assert_unchanged(module: nn.Module, before: dict[str, Any]) -> None:
    after = snapshot(module)
    assert [name for name in before if not same(before[name], after[name])] == []


@pytest.mark.parametrize("grad", [True, False])
def test_evaluate_leaves_flags_statistics_hooks_and_random_state(grad: bool, stochastic: Stochastic):
    seen, _ = watched(stochastic)
    with torch.set_grad_enabled(grad):
        before = snapshot(stochastic)
        as_adapter(stochastic).evaluate(images(4), torch.zeros(4, 8), None)
        assert_unchanged(stochastic, before)
    assert seen == []
    stochastic((images(4), torch.zeros(4, 8)))
    assert not same(before["weights"], snapshot(stochastic)["weights"]), "without undisturbed, statistics change"
    assert len(seen) == 1


def test_evaluate_restores_everything_when_the_module_fails(stochastic: Stochastic):
    seen, _ = watched(stochastic)
    before = snapshot(stochastic)
    with pytest.raises(RuntimeError):
        as_adapter(stochastic).evaluate(images(channels=2), torch.zeros(1, 8), None)
    assert_unchanged(stochastic, before)
    stochastic((images(4), torch.zeros(4, 8)))
    assert len(seen) == 1


def test_undisturbed_restores_everything_when_the_block_fails(stochastic: Stochastic):
    before = snapshot(stochastic)

    def fail() -> None:
        with undisturbed(stochastic):
            assert not any(part.training for part in stochastic.modules())
            torch.rand(5)
            raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        fail()
    assert_unchanged(stochastic, before)


def test_undisturbed_blocks_may_be_nested(tiny_lstm: TinyLSTM):
    seen, _ = watched(tiny_lstm)
    with undisturbed(tiny_lstm):
        with undisturbed(tiny_lstm):
            play(tiny_lstm, 1)
        play(tiny_lstm, 1)
    assert seen == []
    play(tiny_lstm, 1)
    assert len(seen) == 1


def test_the_agent_can_be_trained_after_and_around_evaluate(tiny_lstm: TinyLSTM):
    logits, _ = play(tiny_lstm)[-1]
    as_adapter(tiny_lstm).evaluate(images(), (torch.zeros(1, 8), torch.zeros(1, 8)), None)
    logits.sum().backward()
    assert tiny_lstm.lstm.weight_hh.grad is not None
    assert tiny_lstm.lstm.weight_hh.grad.any()


# Rows of a batch


class LayersFirst(RecurrentModuleAdapter):
    """Keeps its state as sb3-contrib does, `(layers, envs, hidden)`."""

    def initial_state(self, n: int) -> StateTree:
        return Pair(torch.zeros(2, n, 5), {"cell": torch.zeros(n, 3)})


class Pair(NamedTuple):
    hidden: Any
    rest: Any


def a_batch(n: int, state: StateTree) -> Decision:
    rows = torch.arange(float(n))
    return Decision(images(n), state, rows[:, None].repeat(1, 3), rows[:, None], rows > 0, rows.long())


def test_a_batch_is_split_row_by_row_whatever_the_batch_axis_of_its_state(tiny_lstm: TinyLSTM):
    hidden, cell = torch.arange(30.0).reshape(2, 3, 5), torch.arange(9.0).reshape(3, 3)
    decision = a_batch(3, Pair(hidden, {"cell": cell}))
    adapter = LayersFirst(tiny_lstm)
    assert batch_axes(adapter) == [1, 0]
    rows = split_rows(adapter, decision)
    assert len(rows) == 3
    for i, row in enumerate(rows):
        state: Any = row.state
        assert type(state) is Pair
        assert torch.equal(state.hidden, hidden[:, i : i + 1])
        assert torch.equal(state.rest["cell"], cell[i : i + 1])
        assert torch.equal(row.inputs, decision.inputs[i : i + 1])
        assert [row.logits.tolist(), row.value.tolist()] == [[[i] * 3], [[i]]]  # type: ignore[union-attr]
        assert [row.episode_start.tolist(), row.action.tolist()] == [[i > 0], [i]]  # type: ignore[union-attr]


def test_a_batch_of_tuple_states_is_split(tiny_lstm: TinyLSTM):
    state = (torch.arange(16.0).reshape(2, 8), -torch.arange(16.0).reshape(2, 8))
    rows = split_rows(as_adapter(tiny_lstm), a_batch(2, state))
    assert [row.state[1].tolist() for row in rows] == [[state[1][0].tolist()], [state[1][1].tolist()]]  # type: ignore[index]


def test_absent_parts_of_a_batch_stay_absent_in_its_rows(tiny_lstm: TinyLSTM):
    decision = Decision(images(2), None, torch.zeros(2, 3), None)
    for row in split_rows(as_adapter(tiny_lstm), decision):
        assert (row.state, row.value, row.episode_start, row.action) == (None, None, None, None)


def test_one_row_is_not_split_and_its_initial_state_not_asked_for():
    decision = Decision(images(), torch.zeros(1, 4), torch.zeros(1, 3), None)
    assert split_rows(as_adapter(nn.Linear(1, 1)), decision) == [decision]


def test_initial_states_that_do_not_grow_are_refused(tiny_lstm: TinyLSTM):
    tiny_lstm.initial_state = lambda n: torch.zeros(1, 8)  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"Expected initial_state\(n\) to grow with n along one axis .* got \[\(\(1, 8\), \(1, 8\)\)\]"):
        split_rows(as_adapter(tiny_lstm), a_batch(2, torch.zeros(2, 8)))
