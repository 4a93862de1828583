"""Maps are those of the formula, whatever the agent's form, and nothing that went in is changed."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from tiny_agents import TinyGRU, TinyLSTM, images, seeded
from torch import Tensor, nn
from xaitk_saliency import PerturbImage
from xaitk_saliency.impls.gen_classifier_conf_sal.occlusion_scoring import OcclusionScoring
from xaitk_saliency.impls.gen_classifier_conf_sal.rise_scoring import RISEScoring
from xaitk_saliency.impls.gen_classifier_conf_sal.squared_difference_scoring import SquaredDifferenceScoring
from xaitk_saliency.impls.perturb_image.random_grid import RandomGrid
from xaitk_saliency.impls.perturb_image.rise import RISEGrid
from xaitk_saliency.impls.perturb_image.sliding_radial import SlidingRadial
from xaitk_saliency.impls.perturb_image.sliding_window import SlidingWindow

from saliency_wrappers.agents import RecurrentModuleAdapter, as_adapter
from saliency_wrappers.decisions import Decision, SaliencyMaps
from saliency_wrappers.saliency.masks import GaussianBlur, SlidingDisc
from saliency_wrappers.saliency.method import SaliencyMethod
from saliency_wrappers.saliency.perturbation import PerturbationSaliency, _moved
from saliency_wrappers.saliency.presets import PRESETS, saliency_method
from saliency_wrappers.saliency.scoring import GridSquaredDifference, SquaredDifference
from saliency_wrappers.states import StateTree, map_state

PERTURBERS: dict[str, Callable[[], PerturbImage]] = {
    "SlidingRadial": lambda: SlidingRadial((1, 1), (5, 5), (5, 5)),
    "SlidingDisc": lambda: SlidingDisc(1, 4, 2),
    "SlidingWindow": lambda: SlidingWindow((4, 4), (3, 3)),
    "RISEGrid": lambda: RISEGrid(n=8, s=3, p1=0.5, seed=0, threads=0),
    "RandomGrid": lambda: RandomGrid(n=8, s=(4, 4), p1=0.5, seed=0),
}


class Constant(nn.Module):
    """Decides the same whatever it sees."""

    def initial_state(self, n: int) -> Tensor:
        return torch.zeros(n, 2)

    def forward(self, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        n = len(inputs[0])
        return torch.full((n, 1), 0.3), torch.tensor([0.1, 0.2, 0.7]).repeat(n, 1), inputs[1] + 1


class Bytes(RecurrentModuleAdapter):
    """An agent of images in 0..255, as Stable-Baselines3 has them."""

    input_range = (0.0, 255.0)


class DividesBy255(TinyGRU):
    def forward(self, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        return super().forward((inputs[0].float() / 255, inputs[1]))


class Spy(RecurrentModuleAdapter):
    """Notes what it is asked to evaluate."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        self.inputs: list[Tensor] = []
        self.starts: list[Tensor | None] = []

    def evaluate(self, inputs: Tensor, state: StateTree, episode_start: Tensor | None) -> tuple[Tensor, Tensor | None]:
        self.inputs.append(inputs)
        self.starts.append(episode_start)
        return super().evaluate(inputs, state, episode_start)


def random_state(adapter: Any, n: int, seed: int = 0) -> Any:
    dice = torch.Generator().manual_seed(seed)
    return map_state(lambda leaf: torch.randn(leaf.shape, generator=dice).to(leaf.dtype), adapter.initial_state(n))


def decide(adapter: Any, inputs: Tensor, seed: int = 0, **parts: Any) -> Decision:
    """A decision in the middle of an episode."""
    state = random_state(adapter, len(inputs), seed)
    logits, value = adapter.evaluate(inputs, state, None)
    return Decision(inputs, state, logits, value, **parts)


def one_by_one(adapter: Any, decision: Decision, perturber: PerturbImage, fill: NDArray[Any] | None = None) -> SaliencyMaps:
    """The formula as it is written, in a plain loop: one forward pass per mask."""
    x = decision.inputs[0].double().numpy()
    masks = perturber.perturb(x[0] if len(x) == 1 else np.moveaxis(x, 0, -1)).astype(np.float64)
    fill = gaussian_filter(x, (0, 3, 3)) if fill is None else fill

    def outputs(image: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        logits, value = adapter.evaluate(torch.as_tensor(image[None]).to(decision.inputs.dtype), decision.state, None)
        return logits[0].double().numpy(), value[0].double().numpy()

    logits, value = outputs(x)
    totals, weights = np.zeros((2, *x.shape[1:])), np.zeros(x.shape[1:])
    for m in masks:
        perturbed_logits, perturbed_value = outputs(m * x + (1 - m) * fill)
        totals[0] += 0.5 * ((logits - perturbed_logits) ** 2).sum() * (1 - m)
        totals[1] += 0.5 * ((value - perturbed_value) ** 2).sum() * (1 - m)
        weights += 1 - m
    actor, critic = np.divide(totals, weights, out=np.zeros_like(totals), where=weights > 0)
    return SaliencyMaps(actor.astype(np.float32), critic.astype(np.float32))


def assert_close(made: SaliencyMaps, expected: SaliencyMaps, tolerance: float = 1e-4) -> None:
    """Within a part of the map's peak, for both heads."""
    for ours, theirs in ((made.actor, expected.actor), (made.critic, expected.critic)):
        assert ours is not None
        assert theirs is not None
        assert ours.dtype == np.float32
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()


def assert_equal(made: SaliencyMaps, expected: SaliencyMaps) -> None:
    assert_close(made, expected, 0)


# The formula


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", PERTURBERS)
@pytest.mark.parametrize("agent", [TinyLSTM, TinyGRU])
def test_maps_are_those_of_the_formula_one_forward_pass_per_mask(agent: Any, name: str, channels: int):
    adapter = as_adapter(seeded(agent, channels=channels))
    decision = decide(adapter, images(channels=channels))
    (made,) = PerturbationSaliency(PERTURBERS[name]())(adapter, [decision])
    expected = one_by_one(adapter, decision, PERTURBERS[name]())
    assert expected.actor.max() > 0
    assert_close(made, expected)


def test_the_remembered_state_is_part_of_the_decision(tiny_lstm: TinyLSTM):
    adapter = as_adapter(tiny_lstm)
    decision = decide(adapter, images())
    forgetful = replace(decision, state=adapter.initial_state(1))
    with_memory, without = PerturbationSaliency()(adapter, [decision, forgetful])
    assert not np.allclose(with_memory.actor, without.actor, rtol=0.05)
    assert_close(without, one_by_one(adapter, forgetful, PERTURBERS["SlidingRadial"]()))


def test_maps_come_in_order_for_each_row_of_each_decision(tiny_gru: TinyGRU):
    adapter = as_adapter(tiny_gru)
    decisions = [decide(adapter, images(n, seed=n), seed=n) for n in (2, 1, 3)]
    method = PerturbationSaliency(batch_size=4)
    together = method(adapter, decisions)
    assert len(together) == 6
    rows = [(decision, i) for decision in decisions for i in range(len(decision))]
    for made, (decision, i) in zip(together, rows, strict=True):
        alone = Decision(
            decision.inputs[i : i + 1],
            decision.state[i : i + 1],
            decision.logits[i : i + 1],
            decision.value[i : i + 1],  # type: ignore[index]
        )
        assert_equal(made, method(adapter, [alone])[0])
    assert method(adapter, []) == []


class Layers(nn.Module):
    """Two layers of memory, `(layers, n, hidden)` as sb3-contrib keeps them."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(144, 5, num_layers=2)
        self.head = nn.Linear(5, 4)

    def initial_state(self, n: int) -> Any:
        return Pair(torch.zeros(2, n, 5), torch.zeros(2, n, 5))

    def forward(self, inputs: tuple[Tensor, Any]) -> tuple[Tensor, Tensor, Any]:
        x, state = inputs
        out, after = self.lstm(x.flatten(1)[None], tuple(state))
        made = self.head(out[0])
        return made[:, :1], made[:, 1:], Pair(*after)


class Pair(NamedTuple):
    hidden: Tensor
    cell: Tensor


class LayersAdapter(RecurrentModuleAdapter):
    def repeat_state(self, state: StateTree, n: int) -> StateTree:
        return map_state(lambda leaf: leaf.repeat_interleave(n, dim=1), state)


def test_a_state_with_layers_first_is_split_and_repeated_along_its_own_batch_axis():
    adapter = LayersAdapter(seeded(Layers))
    batch = decide(adapter, images(3))
    made = PerturbationSaliency()(adapter, [batch])
    for i in range(3):
        state = map_state(lambda leaf, i=i: leaf[:, i : i + 1], batch.state)  # type: ignore[misc]
        alone = Decision(batch.inputs[i : i + 1], state, batch.logits[i : i + 1], batch.value[i : i + 1])  # type: ignore[index]
        assert_close(made[i], one_by_one(adapter, alone, PERTURBERS["SlidingRadial"]()))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-4), (torch.float16, 0.1), (torch.bfloat16, 0.5)], ids=str)
def test_models_of_other_float_types_give_nearly_the_same_float32_maps(dtype: torch.dtype, tolerance: float):
    single = as_adapter(seeded(TinyLSTM))
    adapter = as_adapter(seeded(TinyLSTM).to(dtype))
    decision = decide(single, images())
    converted = replace(decision, inputs=decision.inputs.to(dtype), state=map_state(lambda leaf: leaf.to(dtype), decision.state))
    assert_close(PerturbationSaliency()(adapter, [converted])[0], PerturbationSaliency()(single, [decision])[0], tolerance)


def test_inputs_of_bytes_are_perturbed_as_numbers():
    adapter = Bytes(seeded(DividesBy255))
    pixels = (255 * images()).round().to(torch.uint8)
    decision = decide(adapter, pixels)
    floats = replace(decision, inputs=pixels.float())
    (made,) = PerturbationSaliency()(adapter, [decision])
    assert_equal(made, PerturbationSaliency()(adapter, [floats])[0])
    assert_close(made, one_by_one(adapter, floats, PERTURBERS["SlidingRadial"]()))
    assert pixels.dtype == torch.uint8


def test_a_constant_fill_is_relative_to_the_adapters_input_range():
    pixels = (255 * images()).round()
    adapter = Bytes(seeded(DividesBy255))
    decision = decide(adapter, pixels)
    (relative,) = PerturbationSaliency(fill=0.5)(adapter, [decision])
    assert_equal(relative, PerturbationSaliency(fill=np.float32(127.5).reshape(1, 1))(adapter, [decision])[0])
    assert_close(relative, one_by_one(adapter, decision, PERTURBERS["SlidingRadial"](), np.full((1, 12, 12), 127.5)))
    unit = as_adapter(seeded(TinyGRU))
    assert_close(relative, PerturbationSaliency(fill=0.5)(unit, [replace(decision, inputs=pixels / 255)])[0])


@pytest.mark.parametrize("fill", [0, 1.0, np.linspace(0, 1, 12), lambda x: x[:, ::-1]], ids=["black", "white", "row", "callable"])
def test_any_fill_shows_through(fill: Any, tiny_gru: TinyGRU):
    adapter = as_adapter(tiny_gru)
    decision = decide(adapter, images())
    x = decision.inputs[0].numpy()
    whole = np.broadcast_to(fill(x) if callable(fill) else fill, x.shape)
    made = PerturbationSaliency(SlidingWindow((4, 4), (4, 4)), fill=fill)(adapter, [decision])[0]
    assert_close(made, one_by_one(adapter, decision, SlidingWindow((4, 4), (4, 4)), whole))


class Restarts(Spy):
    """Begins with the initial state where an episode starts."""

    def evaluate(self, inputs: Tensor, state: StateTree, episode_start: Tensor | None) -> tuple[Tensor, Tensor | None]:
        assert episode_start is not None
        state = map_state(lambda leaf: leaf * ~episode_start[:, None], state)
        return super().evaluate(inputs, state, episode_start)


def test_the_episode_start_reaches_the_agent_for_every_mask(tiny_lstm: TinyLSTM):
    adapter, plain = Restarts(tiny_lstm), as_adapter(tiny_lstm)
    decision = decide(plain, images(2))
    start = torch.tensor([True, False])
    with torch.no_grad():
        logits, value = adapter.evaluate(decision.inputs, decision.state, start)
    decision = replace(decision, episode_start=start, logits=logits, value=value)
    adapter.starts.clear()
    adapter.inputs.clear()
    began, went_on = PerturbationSaliency(batch_size=4)(adapter, [decision])
    seen = torch.cat([start for start in adapter.starts if start is not None])
    assert seen.dtype == torch.bool
    assert seen.tolist() == [True] * 10 + [False] * 10
    assert all(len(start) == len(inputs) for start, inputs in zip(adapter.starts, adapter.inputs, strict=True))  # type: ignore[arg-type]
    first, second = (Decision(decision.inputs[i : i + 1], None, decision.logits[i : i + 1], None) for i in range(2))
    assert_close(began, one_by_one(plain, replace(first, state=plain.initial_state(1)), PERTURBERS["SlidingRadial"]()))
    second = replace(second, state=map_state(lambda leaf: leaf[1:], decision.state))
    assert_close(went_on, one_by_one(plain, second, PERTURBERS["SlidingRadial"]()))


def test_no_episode_start_stays_none(tiny_lstm: TinyLSTM):
    adapter = Spy(tiny_lstm)
    PerturbationSaliency()(adapter, [decide(as_adapter(tiny_lstm), images())])
    assert set(adapter.starts) == {None}


class ActorOnly(TinyGRU):
    def forward(self, inputs: tuple[Tensor, Tensor]) -> tuple[Any, Tensor, Tensor]:
        return None, *super().forward(inputs)[1:]


def test_an_agent_without_a_value_has_no_critic_map(tiny_gru: TinyGRU):
    adapter = as_adapter(seeded(ActorOnly))
    decision = decide(adapter, images())
    (made,) = PerturbationSaliency()(adapter, [decision])
    assert made.critic is None
    expected = PerturbationSaliency()(as_adapter(tiny_gru), [decision])[0]
    assert np.array_equal(made.actor, expected.actor)


class FlatValue(TinyGRU):
    def forward(self, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        value, logits, state = super().forward(inputs)
        return value[:, 0], logits, state


def test_values_with_and_without_their_own_axis_give_the_same_map(tiny_gru: TinyGRU):
    decision = decide(as_adapter(tiny_gru), images())
    flat, column = (PerturbationSaliency()(as_adapter(module), [decision])[0] for module in (seeded(FlatValue), tiny_gru))
    assert_equal(flat, column)


def test_a_given_device_is_where_the_maps_are_computed(tiny_lstm: TinyLSTM):
    adapter = Spy(tiny_lstm)
    decision = decide(as_adapter(tiny_lstm), images())
    made = PerturbationSaliency(device="cpu")(adapter, [decision])
    assert {inputs.device.type for inputs in adapter.inputs} == {"cpu"}
    assert_equal(made[0], PerturbationSaliency(device=torch.device("cpu"))(adapter, [decision])[0])
    with pytest.raises(RuntimeError, match="device"):
        PerturbationSaliency(device="nowhere")


@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_maps_do_not_depend_on_the_grad_mode_and_leave_it(context: Any, tiny_lstm: TinyLSTM):
    adapter = as_adapter(tiny_lstm)
    method = PerturbationSaliency()
    expected = method(adapter, [decide(adapter, images())])[0]
    method = PerturbationSaliency()
    with context():
        mode = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        made = method(adapter, [decide(adapter, images())])
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == mode
    assert_equal(made[0], expected)
    assert_equal(method(adapter, [decide(adapter, images())])[0], expected)  # what was kept is of use outside


def test_inputs_that_carry_gradients_are_explained_too(tiny_lstm: TinyLSTM):
    adapter = as_adapter(tiny_lstm)
    decision = decide(adapter, images())
    learnt = replace(decision, inputs=decision.inputs.clone().requires_grad_())
    assert_equal(PerturbationSaliency()(adapter, [learnt])[0], PerturbationSaliency()(adapter, [decision])[0])


def test_the_agents_own_hooks_do_not_see_the_computation(tiny_lstm: TinyLSTM):
    adapter = as_adapter(tiny_lstm.train())
    decision = decide(adapter, images())
    seen: list[Any] = []
    detach = adapter.attach(seen.append)
    PerturbationSaliency()(adapter, [decision])
    assert seen == []
    assert all(part.training for part in tiny_lstm.modules())
    detach()


# Laws


@pytest.fixture(scope="module")
def lstm() -> Any:
    """One adapter for every example of a property."""
    return as_adapter(seeded(TinyLSTM, channels=2))


@given(seed=st.integers(0, 2**16), name=st.sampled_from(sorted(PERTURBERS)), n=st.integers(1, 3))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_inputs_state_weights_and_masks_are_never_mutated(seed: int, name: str, n: int, lstm: Any):
    decision = decide(lstm, images(n, 2, seed=seed), seed, episode_start=torch.zeros(n, dtype=torch.bool), action=torch.zeros(n).long())
    before = copy.deepcopy(decision)
    weights = copy.deepcopy(lstm.module.state_dict())
    method = PerturbationSaliency(PERTURBERS[name]())
    masks = method.outputs(lstm, decide(lstm, images(1, 2))).masks
    kept = masks.untouched.copy()
    random = torch.get_rng_state()
    method(lstm, [decision])
    assert torch.equal(random, torch.get_rng_state())
    assert np.array_equal(kept, masks.untouched)
    assert all(torch.equal(weights[key], tensor) for key, tensor in lstm.module.state_dict().items())
    for part in ("inputs", "logits", "value", "episode_start", "action"):
        assert torch.equal(getattr(decision, part), getattr(before, part))
    assert all(torch.equal(a, b) for a, b in zip(decision.state, before.state, strict=True))  # type: ignore[arg-type]


@given(seed=st.integers(0, 2**16), batch_size=st.integers(1, 12))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_maps_do_not_depend_on_the_batch_size(seed: int, batch_size: int, lstm: Any):
    decision = decide(lstm, images(1, 2, seed=seed), seed)
    whole, chunks = (PerturbationSaliency(batch_size=size)(lstm, [decision])[0] for size in (100, batch_size))
    assert_close(chunks, whole, 1e-4)


@pytest.mark.parametrize("batch_size", [1, 3, 9, 10, 11])
def test_no_forward_pass_is_larger_than_the_batch_size_and_each_mask_is_run_once(batch_size: int, tiny_lstm: TinyLSTM):
    adapter = Spy(tiny_lstm)
    PerturbationSaliency(batch_size=batch_size)(adapter, [decide(as_adapter(tiny_lstm), images())])
    assert max(map(len, adapter.inputs)) <= batch_size
    assert sum(map(len, adapter.inputs)) == 1 + 9


def test_the_measured_batch_size_is_kept_for_an_agent_and_an_input_shape(tiny_lstm: TinyLSTM):
    adapter = Spy(tiny_lstm)
    method = PerturbationSaliency(SlidingWindow((2, 2), (2, 2)))  # 36 masks
    decision = decide(as_adapter(tiny_lstm), images())
    first = method(adapter, [decision])[0]
    rows = sum(map(len, adapter.inputs))
    adapter.inputs.clear()
    assert_close(method(adapter, [decision])[0], first)
    assert sum(map(len, adapter.inputs)) == 37 < rows


@given(seed=st.integers(0, 2**16), name=st.sampled_from(sorted(PERTURBERS)))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_a_constant_network_has_finite_zero_maps(seed: int, name: str):
    adapter = as_adapter(Constant())
    (made,) = PerturbationSaliency(PERTURBERS[name]())(adapter, [decide(adapter, images(seed=seed))])
    assert made.critic is not None
    assert np.array_equal(made.actor, np.zeros((12, 12)))
    assert np.array_equal(made.critic, np.zeros((12, 12)))


@given(seed=st.integers(0, 2**16), left=st.tuples(st.integers(0, 12), st.integers(0, 12)))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_with_tolerance_zero_only_masks_that_change_nothing_are_left_out(seed: int, left: tuple[int, int], lstm: Any):
    """Each channel is black to the left, as is the fill: some windows change nothing and are not run. The maps are those of every mask."""
    inputs = images(1, 2, seed=seed)
    for channel, width in enumerate(left):
        inputs[0, channel, :, :width] = 0
    fill = 0.5 * inputs[0].numpy()
    decision = decide(lstm, inputs, seed)
    adapter = Spy(lstm.module)
    windows = SlidingWindow((3, 3), (3, 3))
    method = PerturbationSaliency(windows, fill=fill, batch_size=5, path="plain")
    method(adapter, [decision])  # measures
    adapter.inputs.clear()
    (made,) = method(adapter, [decision])
    changed = sum(bool((~window & (inputs[0].numpy() > 0)).any()) for window in windows.perturb(np.zeros((12, 12))))
    assert sum(map(len, adapter.inputs)) == 1 + changed
    assert_close(made, one_by_one(lstm, decision, SlidingWindow((3, 3), (3, 3)), fill))


def test_an_input_that_no_mask_changes_costs_one_pass_and_has_zero_maps(tiny_lstm: TinyLSTM):
    adapter = Spy(tiny_lstm)
    black = torch.zeros(1, 1, 12, 12)
    (made,) = PerturbationSaliency()(adapter, [decide(as_adapter(tiny_lstm), black)])
    assert sum(map(len, adapter.inputs)) == 1
    assert not made.actor.any()
    assert made.critic is not None
    assert not made.critic.any()


@pytest.mark.parametrize(("adapter", "high"), [(RecurrentModuleAdapter, 1.0), (Bytes, 255.0)])
@pytest.mark.parametrize(("tolerance", "run"), [(0.0, 2), (0.09, 2), (0.11, 1), (0.31, 0)])
def test_the_tolerance_is_relative_to_the_input_range(adapter: Any, high: float, tolerance: float, run: int):
    """One window changes its pixels by 0.1 of the range, one by 0.3, the others not at all."""

    class Counts(adapter):
        rows = 0

        def evaluate(self, inputs: Tensor, state: StateTree, episode_start: Tensor | None) -> tuple[Tensor, Tensor | None]:
            Counts.rows += len(inputs)
            return super().evaluate(inputs, state, episode_start)

    agent = Counts(seeded(TinyGRU))
    x = torch.full((1, 1, 12, 12), 0.5 * high)
    fill = x[0].numpy().copy()
    fill[:, :4, :4] += 0.1 * high
    fill[:, 4:8, 4:8] -= 0.3 * high
    with torch.no_grad():
        decision = Decision(x, torch.zeros(1, 8), *agent.evaluate(x, torch.zeros(1, 8), None))
    Counts.rows = 0
    (made,) = PerturbationSaliency(SlidingWindow((4, 4), (4, 4)), fill=fill, tolerance=tolerance, batch_size=3, path="plain")(
        agent, [decision]
    )
    assert Counts.rows == 1 + run
    windows = made.actor.reshape(3, 4, 3, 4).mean(axis=(1, 3))
    assert [bool(windows[0, 0] > 0), bool(windows[1, 1] > 0)] == [run == 2, run >= 1]
    assert (windows > 0).sum() == run


# Any perturber, any generator


@pytest.mark.parametrize("name", PERTURBERS)
@pytest.mark.parametrize(
    "generator", [OcclusionScoring(), RISEScoring(), RISEScoring(p1=0.5), SquaredDifferenceScoring()], ids=lambda one: type(one).__name__
)
def test_every_xaitk_perturber_goes_with_every_xaitk_generator(name: str, generator: Any, tiny_lstm: TinyLSTM):
    adapter = as_adapter(tiny_lstm)
    decision = decide(adapter, images())
    method = PerturbationSaliency(PERTURBERS[name](), generator)
    (made,) = method(adapter, [decision])
    outputs = method.outputs(adapter, decision)
    assert outputs.values is not None
    expected = generator.generate(outputs.logits[0], outputs.logits[1:], outputs.masks.untouched)
    critic = generator.generate(outputs.values[0], outputs.values[1:], outputs.masks.untouched)
    if expected.ndim == 3:
        expected, critic = expected[decision.logits[0].argmax()], critic[0]
    assert_close(made, SaliencyMaps(expected.astype(np.float32), critic.astype(np.float32)), 1e-5)


def test_of_a_map_per_action_the_taken_actions_is_given_and_the_greedy_ones_when_unknown(tiny_lstm: TinyLSTM):
    adapter = as_adapter(tiny_lstm)
    decision = decide(adapter, images())
    method = PerturbationSaliency(saliency_gen=OcclusionScoring())
    outputs = method.outputs(adapter, decision)
    maps = OcclusionScoring().generate(outputs.logits[0], outputs.logits[1:], outputs.masks.untouched)
    for action in range(3):
        (made,) = method(adapter, [replace(decision, action=torch.tensor([action]))])
        assert np.allclose(made.actor, maps[action], atol=1e-6)
    assert np.allclose(method(adapter, [decision])[0].actor, maps[int(decision.logits.argmax())], atol=1e-6)
    assert not np.allclose(maps[0], maps[1])
    with pytest.raises(ValueError, match="Expected an action of 0 to 2, to take its map, got 3"):
        method(adapter, [replace(decision, action=torch.tensor([3]))])


def test_the_rows_of_a_batch_have_the_maps_of_their_own_actions(tiny_lstm: TinyLSTM):
    adapter = as_adapter(tiny_lstm)
    method = PerturbationSaliency(saliency_gen=OcclusionScoring())
    batch = decide(adapter, images(1).repeat(2, 1, 1, 1))
    batch = replace(batch, state=map_state(lambda leaf: leaf[:1].repeat(2, 1), batch.state), action=torch.tensor([0, 2]))
    first, second = method(adapter, [batch])
    for made, action in ((first, 0), (second, 2)):
        alone = Decision(
            batch.inputs[:1], map_state(lambda leaf: leaf[:1], batch.state), batch.logits[:1], None, action=torch.tensor([action])
        )
        assert np.allclose(made.actor, method(adapter, [alone])[0].actor, atol=1e-5)
    assert not np.allclose(first.actor, second.actor)


def test_xaitks_rescaling_of_a_constant_network_gives_zeros_and_one_warning():
    adapter = as_adapter(Constant())
    method = PerturbationSaliency(saliency_gen=SquaredDifferenceScoring())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made = method(adapter, [decide(adapter, images(3, seed=seed)) for seed in range(2)])
    assert len(made) == 6
    for one in made:
        assert one.critic is not None
        assert np.array_equal(one.actor, np.zeros((12, 12)))
        assert np.array_equal(one.critic, np.zeros((12, 12)))
    assert [str(warning.message) for warning in caught] == [
        "SquaredDifferenceScoring gave NaN for scores that are all the same: such maps become zeros."
    ]


def test_a_perturber_that_draws_is_asked_anew_for_each_decision(tiny_lstm: TinyLSTM):
    adapter = as_adapter(tiny_lstm)
    method = PerturbationSaliency(RISEGrid(n=8, s=3, p1=0.5, threads=0))
    decision = decide(adapter, images())
    first, second = method(adapter, [decision, decision])
    assert not np.allclose(first.actor, second.actor)


# The outputs themselves


def test_outputs_are_those_of_the_input_itself_and_under_each_mask(tiny_lstm: TinyLSTM):
    adapter = as_adapter(tiny_lstm)
    decision = decide(adapter, images())
    result = PerturbationSaliency(SlidingWindow((6, 6), (6, 6)), fill=0).outputs(adapter, decision)
    assert result.logits.shape == (5, 3)
    assert result.values is not None
    assert result.values.shape == (5, 1)
    assert np.allclose(result.logits[0], decision.logits[0], atol=1e-6)
    blacked = decision.inputs.clone()
    blacked[..., :6, 6:] = 0
    assert np.allclose(result.logits[2], adapter.evaluate(blacked, decision.state, None)[0], atol=1e-6)


# What is refused


@pytest.mark.parametrize("tolerance", [-0.1, float("nan")])
def test_a_negative_tolerance_is_refused(tolerance: float):
    with pytest.raises(ValueError, match="Expected a tolerance >= 0, got"):
        PerturbationSaliency(tolerance=tolerance)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_size_without_rows_is_refused(batch_size: int):
    with pytest.raises(ValueError, match="Expected a positive batch_size, got"):
        PerturbationSaliency(batch_size=batch_size)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"perturber": SquaredDifference()}, "Expected perturber to be an xaitk PerturbImage, got SquaredDifference"),
        ({"perturber": lambda image: image}, "Expected perturber to be an xaitk PerturbImage, got function"),
        ({"saliency_gen": SlidingDisc()}, "Expected saliency_gen to be an xaitk GenerateClassifierConfidenceSaliency, got SlidingDisc"),
        ({"saliency_gen": SquaredDifference}, "Expected saliency_gen to be an xaitk GenerateClassifierConfidenceSaliency, got ABCMeta"),
        ({"fill": "blur"}, "Expected fill to be a constant, an array or a callable, got str"),
    ],
)
def test_a_part_of_another_kind_is_a_type_error(parts: dict[str, Any], message: str):
    with pytest.raises(TypeError, match=message):
        PerturbationSaliency(**parts)


def test_a_constant_fill_outside_the_unit_range_is_refused_at_once():
    with pytest.raises(ValueError, match=r"Expected a constant fill in \[0, 1\], relative to the input range .*, got 127"):
        PerturbationSaliency(fill=127)


@pytest.mark.parametrize("shape", [(12, 12), (1, 12, 12), (1, 144), (1, 1, 1, 12, 12)])
def test_an_input_that_is_no_image_is_refused(shape: tuple[int, ...], tiny_lstm: TinyLSTM):
    decision = Decision(torch.zeros(shape), None, torch.zeros(shape[0], 3), None)
    adapter = as_adapter(tiny_lstm)
    with pytest.raises(ValueError, match=r"Expected the input of one decision, an image \(1, C, h, w\), got \(1, "):
        PerturbationSaliency()(adapter, [decision])


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_an_input_with_channels_last_is_refused(channels: int, tiny_lstm: TinyLSTM):
    decision = Decision(torch.zeros(1, 80, 80, channels), None, torch.zeros(1, 3), None)
    with pytest.raises(
        ValueError, match=rf"Expected channels first, \(1, C, h, w\), got \(1, 80, 80, {channels}\), which looks like channels"
    ):
        PerturbationSaliency()(as_adapter(tiny_lstm), [decision])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_input_that_is_not_finite_is_refused(value: float, tiny_lstm: TinyLSTM):
    inputs = images()
    inputs[0, 0, 5, 5] = value
    adapter = as_adapter(tiny_lstm)
    with pytest.raises(ValueError, match="Expected a finite network input, got NaN or infinity"):
        PerturbationSaliency()(adapter, [Decision(inputs, adapter.initial_state(1), torch.zeros(1, 3), None)])


@pytest.mark.parametrize("head", ["actor_linear", "critic_linear"])
def test_outputs_that_are_not_finite_are_refused(head: str, tiny_lstm: TinyLSTM):
    adapter = as_adapter(tiny_lstm)
    decision = decide(adapter, images())
    with torch.no_grad():
        getattr(tiny_lstm, head).bias[0] = float("nan")
    with pytest.raises(ValueError, match=r"The agent's output is not finite: \[nan"):
        PerturbationSaliency()(adapter, [decision])


class FailsInTheDark(TinyGRU):
    """Gives NaN for a picture that is darker than it knows."""

    def forward(self, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        value, logits, state = super().forward(inputs)
        dark = inputs[0].flatten(1).amin(dim=1) < 0
        return value, logits.masked_fill(dark[:, None], float("nan")), state


def test_outputs_that_are_not_finite_on_a_perturbed_input_are_refused_not_hidden_as_zeros():
    adapter = as_adapter(seeded(FailsInTheDark))
    decision = decide(adapter, images())
    with pytest.raises(ValueError, match=r"The agent's output on a perturbed input is not finite: \[nan, nan, nan\]"):
        PerturbationSaliency(SlidingWindow((4, 4), (4, 4)), fill=lambda x: -x)(adapter, [decision])


class Strange(SlidingWindow):
    def perturb(self, ref_image: NDArray[Any]) -> NDArray[Any]:
        return super().perturb(ref_image)[:, :-1]


def test_masks_of_a_wrong_shape_are_refused_before_the_agent_runs(tiny_lstm: TinyLSTM):
    adapter = Spy(tiny_lstm)
    decision = decide(as_adapter(tiny_lstm), images())
    with pytest.raises(ValueError, match=r"Expected masks of shape \(n, 12, 12\) from Strange, got \(9, 11, 12\)"):
        PerturbationSaliency(Strange((4, 4), (4, 4)))(adapter, [decision])
    with pytest.raises(ValueError, match=r"Expected a fill that broadcasts to the input's shape \(1, 12, 12\), got \(3, 12, 12\)"):
        PerturbationSaliency(fill=np.zeros((3, 12, 12)))(adapter, [decision])
    assert adapter.inputs == []


# Presets and parts


def test_both_presets_are_what_they_say():
    xaitk, paper = PRESETS["xaitk"](), PRESETS["greydanus2018"]()
    assert xaitk.perturber.get_config() == SlidingRadial((1, 1), (5, 5), (5, 5)).get_config()
    assert type(xaitk.saliency_gen) is SquaredDifference
    assert paper.perturber.get_config() == {"radius": 1, "stride": 5, "sigma": 5}
    assert isinstance(paper.perturber, SlidingDisc)
    assert type(paper.saliency_gen) is GridSquaredDifference
    for method in (xaitk, paper):
        assert repr(method.fill) == "GaussianBlur(sigma=3)"
        assert isinstance(method, SaliencyMethod)
        assert method.tolerance == 0


def test_a_method_is_told_by_name_or_taken_as_it_is():
    method = PerturbationSaliency()
    assert saliency_method(method) is method
    assert isinstance(saliency_method().perturber, SlidingRadial)  # type: ignore[attr-defined]
    assert isinstance(saliency_method("greydanus2018").perturber, SlidingDisc)  # type: ignore[attr-defined]


def foreign(adapter: Any, decisions: Any) -> list[SaliencyMaps]:
    return []


def test_any_callable_is_a_method():
    assert saliency_method(foreign) is foreign  # type: ignore[comparison-overlap]


def test_parts_that_are_given_replace_the_methods_own():
    generator, window, blur = OcclusionScoring(), SlidingWindow(), GaussianBlur(1)
    base = PerturbationSaliency(SlidingDisc(), generator, blur, 0.25, 7, "cpu")
    changed: Any = saliency_method(base, perturber=window)
    assert changed is not base
    assert (changed.perturber, changed.saliency_gen, changed.fill) == (window, generator, blur)
    assert (changed.tolerance, changed.batch_size, changed.device) == (0.25, 7, torch.device("cpu"))
    assert isinstance(base.perturber, SlidingDisc)
    assert saliency_method(base, fill=0.0).fill == 0.0  # type: ignore[attr-defined]
    assert saliency_method("greydanus2018", saliency_gen=generator).saliency_gen is generator  # type: ignore[attr-defined]


def repr_of_kind(value: Any) -> str:
    return getattr(value, "__name__", type(value).__name__)


def test_an_unknown_preset_names_the_known_ones():
    with pytest.raises(ValueError, match=r"the name of one, one of \[.*'greydanus2018', .*'xaitk'\], got 'greydanus'"):
        saliency_method("greydanus")


@pytest.mark.parametrize("method", [None, 3, SlidingDisc(), OcclusionScoring(), PerturbationSaliency], ids=repr_of_kind)
def test_a_method_of_another_kind_is_a_type_error(method: Any):
    with pytest.raises(TypeError, match="Expected a saliency method or the name of one, got"):
        saliency_method(method)


@pytest.mark.parametrize(
    "parts", [{"perturber": SlidingDisc()}, {"saliency_gen": SquaredDifference()}, {"fill": 0.0}], ids=lambda parts: next(iter(parts))
)
def test_parts_for_a_foreign_method_are_refused(parts: dict[str, Any]):
    with pytest.raises(TypeError, match="perturber, saliency_gen and fill are parts of a PerturbationSaliency; function has none"):
        saliency_method(foreign, **parts)


@dataclass
class UnhashableAdapter:
    """A plain dataclass, equal by value and so without a hash."""

    inner: RecurrentModuleAdapter
    notes: list[str] = field(default_factory=list)
    input_range: tuple[float, float] = (0.0, 1.0)

    def evaluate(self, inputs: Tensor, state: StateTree, episode_start: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return self.inner.evaluate(inputs, state, episode_start)

    def attach(self, on_pass: Any) -> Any:
        return self.inner.attach(on_pass)

    def initial_state(self, n: int) -> StateTree:
        return self.inner.initial_state(n)

    def repeat_state(self, state: StateTree, n: int) -> StateTree:
        return self.inner.repeat_state(state, n)


def test_an_adapter_need_not_be_hashable(tiny_lstm: TinyLSTM):
    inner = RecurrentModuleAdapter(tiny_lstm)
    decision = decide(inner, images())
    (made,) = PerturbationSaliency()(as_adapter(UnhashableAdapter(inner)), [decision])
    assert_equal(made, PerturbationSaliency()(inner, [decision])[0])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda method: pickle.loads(pickle.dumps(method))], ids=["deepcopy", "pickle"])
def test_a_method_that_was_used_can_be_sent_elsewhere(copied: Any, tiny_lstm: TinyLSTM):
    adapter = as_adapter(tiny_lstm)
    decision = decide(adapter, images())
    method = PerturbationSaliency(SlidingWindow((2, 2), (2, 2)))
    (made,) = method(adapter, [decision])
    assert_close(copied(method)(adapter, [decision])[0], made)


class Masked(nn.Module):
    """Forbids its last action, as policies with action masks do."""

    def __init__(self, agent: TinyLSTM) -> None:
        super().__init__()
        self.agent = agent

    def initial_state(self, n: int) -> Any:
        return as_adapter(self.agent).initial_state(n)

    def forward(self, inputs: Any) -> Any:
        value, logits, state = self.agent(inputs)
        return value, torch.cat([logits[:, :-1], torch.full_like(logits[:, -1:], -torch.inf)], dim=1), state


def test_a_forbidden_action_has_no_say_in_the_actors_map(tiny_lstm: TinyLSTM):
    adapter = as_adapter(Masked(tiny_lstm))
    inputs, state = images(1), adapter.initial_state(1)
    logits, value = adapter.evaluate(inputs, state, None)
    maps = PerturbationSaliency()(adapter, [Decision(inputs, state, logits.clone(), value)])[0]
    outputs = PerturbationSaliency().outputs(as_adapter(tiny_lstm), Decision(inputs, state, logits.clone(), value))
    allowed = SquaredDifference().generate(outputs.logits[0, :-1], outputs.logits[1:, :-1], outputs.masks.untouched)
    np.testing.assert_allclose(maps.actor, allowed, rtol=1e-5, atol=1e-9)
    assert maps.actor.max() > 0


def test_what_goes_to_a_gpu_goes_by_way_of_pinned_memory_without_waiting() -> None:
    """As far as it can be seen without one."""

    class Recorded:
        device = torch.device("cpu")
        calls: ClassVar[list[Any]] = []

        def pin_memory(self) -> Recorded:
            self.calls.append("pinned")
            return self

        def to(self, device: torch.device, **options: Any) -> str:
            self.calls.append((device, options))
            return "moved"

    assert _moved(cast(Any, Recorded()), torch.device("cuda", 0)) == "moved"
    assert Recorded.calls == ["pinned", (torch.device("cuda", 0), {"non_blocking": True})]
    there = torch.zeros(2)
    assert _moved(there, torch.device("cpu")) is there
