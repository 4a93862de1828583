"""Batches of perturbed inputs: agents whose rows influence one another, `batch_size`, states of different forms, agents that are gone."""

from __future__ import annotations

import gc
import logging
from typing import Any

import numpy as np
import pytest
import torch
from tiny_agents import TinyLSTM, images, seeded
from torch import Tensor, nn
from xaitk_saliency import PerturbImage
from xaitk_saliency.impls.perturb_image.sliding_window import SlidingWindow

from saliency_wrappers import Decision, PerturbationSaliency, as_adapter
from saliency_wrappers.agents import RecurrentModuleAdapter
from saliency_wrappers.saliency import paths
from saliency_wrappers.saliency.agent_memo import AgentMemo
from saliency_wrappers.saliency.dense_tuning import DenseSetting, DenseTuner, run_densely
from saliency_wrappers.saliency.passes import Perturbation, joinable

PATHS = ("plain", "incremental", "auto")
WINDOWS = SlidingWindow((3, 3), (2, 2))


class MeanOfBatch(TinyLSTM):
    """A dueling head that takes the mean over the whole batch."""

    def forward(self, inputs: tuple[Tensor, Any]) -> tuple[Tensor, Tensor, Any]:
        value, advantage, state = super().forward(inputs)
        return value, value + advantage - advantage.mean(), state


class SumOfRowsBefore(TinyLSTM):
    """Row 0 is never influenced."""

    def forward(self, inputs: tuple[Tensor, Any]) -> tuple[Tensor, Tensor, Any]:
        value, logits, state = super().forward(inputs)
        return value, logits.cumsum(0), state


class BatchValue(TinyLSTM):
    """Only the value is influenced."""

    def forward(self, inputs: tuple[Tensor, Any]) -> tuple[Tensor, Tensor, Any]:
        value, logits, state = super().forward(inputs)
        return value - value.mean(), logits, state


class Counting(TinyLSTM):
    """Counts the rows of each pass."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def forward(self, inputs: tuple[Tensor, Any]) -> tuple[Tensor, Tensor, Any]:
        self.batches.append(len(inputs[0]))
        return super().forward(inputs)


def decision_of(module: nn.Module, seed: int = 0) -> Decision:
    x, state = images(seed=seed), tuple(torch.full((1, 8), 0.1) for _ in range(2))
    with torch.no_grad():
        value, logits, _ = module((x, state))
    return Decision(x, state, logits, value)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", [MeanOfBatch, SumOfRowsBefore, BatchValue])
def test_an_agent_whose_rows_influence_one_another_is_run_row_by_row(kind: type[TinyLSTM], path: Any):
    module = seeded(kind)
    adapter, decision = RecurrentModuleAdapter(module), decision_of(module)
    (expected,) = PerturbationSaliency(WINDOWS, path="plain", batch_size=1)(adapter, [decision])
    method = PerturbationSaliency(WINDOWS, path=path)
    with pytest.warns(UserWarning, match=f"outputs of {kind.__name__} for an input depend on the other inputs"):
        (made,) = method(adapter, [decision])
    np.testing.assert_allclose(made.actor, expected.actor, rtol=0, atol=1e-6 * expected.actor.max())
    np.testing.assert_allclose(made.critic, expected.critic, rtol=0, atol=1e-6 * max(1e-3, expected.critic.max()))
    assert "one at a time" in method.plan(adapter, decision).reason
    method(adapter, [decision])  # it warns once


def test_a_decision_with_few_masks_is_compared_with_its_recorded_outputs():
    module = seeded(MeanOfBatch)
    adapter, decision, windows = RecurrentModuleAdapter(module), decision_of(module), SlidingWindow((4, 4), (4, 4))
    (expected,) = PerturbationSaliency(windows, batch_size=1)(adapter, [decision])
    with pytest.warns(UserWarning, match="depend on the other inputs"):
        (made,) = PerturbationSaliency(windows)(adapter, [decision])
    np.testing.assert_allclose(made.actor, expected.actor, rtol=0, atol=1e-6 * expected.actor.max())


class SumOfRowsBehind(TinyLSTM):
    """The last row is never influenced."""

    def forward(self, inputs: tuple[Tensor, Any]) -> tuple[Tensor, Tensor, Any]:
        value, logits, state = super().forward(inputs)
        return value, logits.flip(0).cumsum(0).flip(0), state


class RelativeToTheFirst(TinyLSTM):
    """Row 0 is never influenced, and neither is any other by its neighbours."""

    def forward(self, inputs: tuple[Tensor, Any]) -> tuple[Tensor, Tensor, Any]:
        value, logits, state = super().forward(inputs)
        return value, logits + 3 * (logits - logits[:1]), state


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("kind", "masks"),
    [
        *[(kind, masks) for kind in (MeanOfBatch, SumOfRowsBefore, RelativeToTheFirst, BatchValue) for masks in (1, 4, 9)],
        *[(SumOfRowsBehind, masks) for masks in (4, 9)],  # of two rows the untouched input is the last one, which it leaves alone
    ],
)
def test_a_decision_with_few_masks_shows_rows_that_influence_one_another(kind: type[TinyLSTM], masks: int, path: Any):
    module, size = seeded(kind), {1: 12, 4: 6, 9: 4}[masks]
    adapter, decision, windows = RecurrentModuleAdapter(module), decision_of(module), SlidingWindow((size, size), (size, size))
    (expected,) = PerturbationSaliency(windows, path="plain", batch_size=1)(adapter, [decision])
    with pytest.warns(UserWarning, match="depend on the other inputs"):
        (made,) = PerturbationSaliency(windows, path=path)(adapter, [decision])
    np.testing.assert_allclose(made.actor, expected.actor, rtol=0, atol=1e-6 * expected.actor.max())


def test_a_batch_behind_the_first_one_is_compared_too(monkeypatch: pytest.MonkeyPatch):
    class MixesLargeOutputs(TinyLSTM):
        """Only a batch with an input of mean 0.9 or more is mixed."""

        def forward(self, inputs: tuple[Tensor, Any]) -> tuple[Tensor, Tensor, Any]:
            value, logits, state = super().forward(inputs)
            bright = inputs[0].mean(dim=(1, 2, 3)).max() > 0.75
            return value, logits + bright * logits.mean(0), state

    class BrightAtTheEnd(PerturbImage):
        """80 masks, of which only the last one shows the bright fill everywhere."""

        def perturb(self, ref_image: Any) -> Any:
            masks = np.ones((80, *ref_image.shape[:2]), np.float32)
            for i, mask in enumerate(masks):
                mask.flat[i] = 0
            masks[-1] = 0.1
            return masks

        def get_config(self) -> dict[str, Any]:
            return {}

    monkeypatch.setattr(DenseTuner, "best", lambda *_: DenseSetting(41, "contiguous"))
    module = seeded(MixesLargeOutputs)
    adapter, decision = RecurrentModuleAdapter(module), decision_of(module)
    (expected,) = PerturbationSaliency(BrightAtTheEnd(), fill=1.0, path="plain", batch_size=1)(adapter, [decision])
    method = PerturbationSaliency(BrightAtTheEnd(), fill=1.0, path="plain")
    monkeypatch.setattr(method._evaluation._probe, "_few", 1000)  # the probe sees the last row, too
    with pytest.warns(UserWarning, match="depend on the other inputs"):
        (made,) = method(adapter, [decision])
    np.testing.assert_allclose(made.actor, expected.actor, rtol=0, atol=1e-6 * expected.actor.max())


@pytest.mark.parametrize("size", [16, 19, 40, 100, 300])
def test_the_comparison_costs_at_most_one_row_in_fifty(size: int):
    module = seeded(Counting)
    decision = decision_of(module)
    module.batches.clear()
    inputs, replaced = decision.inputs, torch.rand(290, 1, 12, 12)
    perturbation = Perturbation(inputs, -inputs[0], replaced, replaced[:, 0] > 0, decision.state, None)
    outputs, witnesses = run_densely(RecurrentModuleAdapter(module), perturbation, DenseSetting(size, "contiguous"))
    assert len(outputs[0]) == len(perturbation.rows) == 290
    assert sum(module.batches) == 290 + len(witnesses[0]) - 1 <= 290 * 1.02
    assert len(witnesses[0]) == min(len(module.batches), 1 + 290 // 50)


@pytest.mark.parametrize("path", PATHS)
def test_rows_that_begin_to_influence_one_another_later_are_found_by_the_recorded_outputs(path: Any):
    class Later(MeanOfBatch):
        coupled = False

        def forward(self, inputs: tuple[Tensor, Any]) -> tuple[Tensor, Tensor, Any]:
            return super().forward(inputs) if self.coupled else TinyLSTM.forward(self, inputs)

    module = seeded(Later)
    adapter, method = RecurrentModuleAdapter(module), PerturbationSaliency(WINDOWS, path=path)
    method(adapter, [decision_of(module)])
    module.coupled = True
    decisions = [decision_of(module, seed) for seed in (1, 2)]
    with pytest.warns(UserWarning, match="depend on the other inputs"):
        made = method(adapter, decisions)
    expected = PerturbationSaliency(WINDOWS, path="plain", batch_size=1)(adapter, decisions)
    for one, other in zip(made, expected, strict=True):
        np.testing.assert_allclose(one.actor, other.actor, rtol=0, atol=1e-6 * other.actor.max())


@pytest.mark.parametrize("path", PATHS)
def test_recorded_outputs_of_other_weights_do_not_count_as_influence(path: Any):
    module = seeded(TinyLSTM)
    decision = decision_of(module)
    other = Decision(decision.inputs, decision.state, decision.logits + 5, decision.value)
    method, adapter = PerturbationSaliency(WINDOWS, path=path), RecurrentModuleAdapter(module)
    (made,), (expected,) = method(adapter, [other]), method(adapter, [decision])
    np.testing.assert_array_equal(made.actor, expected.actor)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("size", [1, 2, 5])
def test_no_pass_has_more_rows_than_batch_size(size: int, path: Any, measured: None):
    module = seeded(Counting)
    adapter = RecurrentModuleAdapter(module)
    decisions = [decision_of(module, seed) for seed in range(3)]
    expected = PerturbationSaliency(WINDOWS)(adapter, decisions)
    module.batches.clear()
    method = PerturbationSaliency(WINDOWS, path=path, batch_size=size)
    made = method(adapter, decisions)
    assert max(module.batches) == size
    for one, other in zip(made, expected, strict=True):
        np.testing.assert_allclose(one.actor, other.actor, rtol=0, atol=1e-5 * other.actor.max())


class Remembering(TinyLSTM):
    """Its memory grows by one entry at each decision."""

    def initial_state(self, n: int) -> Tensor:
        return self.actor_linear.weight.new_zeros(n, 1, 8)

    def forward(self, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        x, memory = inputs
        hx, _ = self.lstm(torch.tanh(self.conv(x)).flatten(1), (memory.mean(1), memory.amax(1)))
        return self.critic_linear(hx), self.actor_linear(hx), torch.cat([memory, hx[:, None]], 1)


@pytest.mark.parametrize("path", PATHS)
def test_decisions_with_memories_of_different_lengths_get_batches_of_their_own(path: Any):
    module, decisions = seeded(Remembering), list[Decision]()
    adapter, state = RecurrentModuleAdapter(module), module.initial_state(1)
    with torch.no_grad():
        for seed in range(4):
            x = images(seed=seed)
            value, logits, after = module((x, state))
            decisions.append(Decision(x, state, logits, value))
            state = after
    method = PerturbationSaliency(WINDOWS, path=path)
    for one, decision in zip(method(adapter, decisions), decisions, strict=True):
        (expected,) = method(adapter, [decision])
        np.testing.assert_allclose(one.actor, expected.actor, rtol=0, atol=1e-5 * expected.actor.max())


class NamedState(TinyLSTM):
    """Its memory is a mapping."""

    def initial_state(self, n: int) -> dict[str, Tensor]:
        return {"h": torch.zeros(n, 8), "c": torch.zeros(n, 8)}

    def forward(self, inputs: tuple[Tensor, Any]) -> tuple[Tensor, Tensor, Any]:
        x, state = inputs
        value, logits, (h, c) = super().forward((x, (state["h"], state["c"])))
        return value, logits, {"h": h, "c": c}


def test_memories_with_keys_in_another_order_are_joined_by_key():
    module = seeded(NamedState)
    adapter, decisions = RecurrentModuleAdapter(module), list[Decision]()
    for seed, keys in enumerate(("hc", "ch", "hc")):
        x, memory = images(seed=seed), {key: torch.full((1, 8), {"h": 0.5, "c": -0.3}[key] * (1 + seed)) for key in keys}
        with torch.no_grad():
            value, logits, _ = module((x, memory))
        decisions.append(Decision(x, memory, logits, value))
    method = PerturbationSaliency(WINDOWS, path="incremental")
    expected = [method(adapter, [decision])[0] for decision in decisions]
    for one, other in zip(method(adapter, decisions), expected, strict=True):
        np.testing.assert_allclose(one.actor, other.actor, rtol=0, atol=1e-5 * other.actor.max())
    first, second = (_perturbation(decision) for decision in decisions[:2])
    assert joinable(adapter, first, second)
    assert not joinable(adapter, first, _perturbation(Decision(decisions[0].inputs, {"h": torch.zeros(1, 8)}, logits, value)))


def _perturbation(decision: Decision) -> Perturbation:
    replaced = torch.zeros(1, 1, 12, 12)
    return Perturbation(decision.inputs, decision.inputs[0], replaced, replaced[:, 0] > 0, decision.state, None)


@pytest.mark.parametrize("path", PATHS)
def test_a_method_remembers_only_agents_that_live(path: Any):
    method = PerturbationSaliency(WINDOWS, path=path)
    for _ in range(5):
        module = seeded(TinyLSTM)
        method(RecurrentModuleAdapter(module), [decision_of(module)])
    gc.collect()
    evaluation = method._evaluation
    tuned = evaluation._tuner._best
    assert [len(memo) for memo in (evaluation._suitability._known, tuned, evaluation._probe._probed, evaluation._choices)] == [0] * 4


def test_a_memo_tells_agents_apart_by_identity_and_forgets_them():
    class Agent:
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]

    class Slotted:
        __slots__ = ()

    memo, first, second = AgentMemo[int](), Agent(), Agent()
    memo.put(first, "a", 1)
    memo.put(first, "b", 2)
    assert (memo.get(first, "a"), memo.get(first, "b"), memo.get(second, "a"), len(memo)) == (1, 2, None, 1)
    del first
    gc.collect()
    assert len(memo) == 0
    for _ in range(3):
        slotted = Slotted()
        memo.put(slotted, "a", 3)
        assert (memo.get(slotted, "a"), len(memo)) == (3, 1)


# Speed: the choice is measured, and announced where a decision takes long


@pytest.mark.parametrize(
    ("incremental", "dense", "path"), [(0.9, 1.0, "incremental"), (1.1, 1.0, "plain"), (0.99, 1.0, "plain"), (0.96, 1.0, "incremental")]
)
def test_the_faster_path_is_taken(incremental: float, dense: float, path: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(paths.Evaluation, "_measured", lambda *_: (incremental, dense))
    module = seeded(TinyLSTM)
    plan = PerturbationSaliency(WINDOWS).plan(as_adapter(module), decision_of(module))
    assert plan.path == path
    if path == "plain":
        assert plan.reason == f"it is faster here, as measured: 1000.0 ms, and {1000 * incremental:.1f} ms on the incremental path"


def test_the_choice_is_measured_again_where_masks_change_much_more(monkeypatch: pytest.MonkeyPatch):
    works: list[int] = []

    def measured(self: Any, adapter: Any, perturbation: Perturbation) -> tuple[float, float]:
        works.append(int(perturbation.counts.sum()))
        return 1e-3 * works[-1], 1.3e-3 * works[0]  # incremental passes take longer with more changes, dense ones do not

    monkeypatch.setattr(paths.Evaluation, "_measured", measured)
    module = seeded(TinyLSTM)
    adapter, decision = as_adapter(module), decision_of(module)
    method = PerturbationSaliency(WINDOWS)
    x = decision.inputs[0].numpy()

    def path(changed: float) -> str:
        fill = x.copy()
        fill.reshape(-1)[: int(changed * x.size)] += 1
        method._fills = [fill]
        return method.plan(adapter, decision).path

    assert [path(0.4), path(0.42), path(0.2)] == ["incremental"] * 3
    assert len(works) == 1
    assert [path(0.8), path(0.9), path(1.0)] == ["plain"] * 3  # at most a factor of 1.3, and it is never measured again
    assert len(works) == 2


def test_both_paths_are_measured_once_for_an_agent(measured: None, monkeypatch: pytest.MonkeyPatch):
    times: list[tuple[float, float]] = []
    measure = paths.Evaluation._measured

    def counted(*args: Any) -> tuple[float, float]:
        times.append(measure(*args))
        return times[-1]

    monkeypatch.setattr(paths.Evaluation, "_measured", counted)
    module = seeded(TinyLSTM)
    method, adapter = PerturbationSaliency(WINDOWS), as_adapter(module)
    for seed in range(3):
        method(adapter, [decision_of(module, seed)])
    assert len(times) == 1
    assert min(times[0]) > 0


def test_settings_that_are_equally_fast_always_give_the_same_choice(monkeypatch: pytest.MonkeyPatch):
    noise = np.random.default_rng(0)

    def seconds(adapter: object, perturbation: object, setting: DenseSetting, rows: int) -> float:
        return (2.0 if setting.layout == "channels_last" else 1.0) * float(noise.uniform(1.0, 1.02))

    monkeypatch.setattr("saliency_wrappers.saliency.dense_tuning._seconds", seconds)
    module = seeded(TinyLSTM)
    method = PerturbationSaliency(SlidingWindow((1, 1), (1, 1)), path="plain")
    chosen = set[DenseSetting]()
    for _ in range(20):
        method._evaluation._tuner = DenseTuner(None)
        method(as_adapter(module), [decision_of(module)])
        chosen.update(setting for _, values in method._evaluation._tuner._best._known.values() for _, setting in values.values())
    assert len(chosen) <= 1


@pytest.mark.parametrize("path", PATHS)
def test_a_decision_that_takes_long_is_announced_once(path: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    monkeypatch.setattr(paths, "SLOW", 0.0)
    module = seeded(TinyLSTM)
    method, adapter = PerturbationSaliency(WINDOWS, path=path), as_adapter(module)
    with caplog.at_level(logging.WARNING):
        for seed in range(2):
            method(adapter, [decision_of(module, seed)])
    (said,) = [record.getMessage() for record in caplog.records if "will take about" in record.getMessage()]
    assert f"on the {'dense' if path == 'plain' else 'incremental'} path: 36 masks on an input of 1 x 12 x 12" in said
    plan = method.plan(adapter, decision_of(module))
    assert plan.seconds > 0
    assert "s a decision" in str(plan)


def test_a_slow_decision_is_measured_in_part(measured: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(paths, "SLOW", 0.0)
    module = seeded(Counting)
    adapter, decision = RecurrentModuleAdapter(module), decision_of(module)
    method = PerturbationSaliency(WINDOWS, batch_size=10)
    evaluation = method._evaluation
    (made,), (expected,) = method(adapter, [decision]), PerturbationSaliency(WINDOWS)(adapter, [decision])
    np.testing.assert_allclose(made.actor, expected.actor, rtol=0, atol=1e-5 * expected.actor.max())
    (choice,) = [value for _, values in evaluation._choices._known.values() for value in values.values()]
    assert choice.seconds > 0
