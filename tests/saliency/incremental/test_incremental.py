"""The incremental path gives what the dense pass gives, whatever the agent asks for; laws over random networks, masks and windows."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sparse_cases import as_changes, decisions_of, dense_perturbation, random_images, window, with_kernels
from torch import Tensor, nn
from torch.nn import functional
from xaitk_saliency.impls.perturb_image.rise import RISEGrid
from xaitk_saliency.impls.perturb_image.sliding_radial import SlidingRadial
from xaitk_saliency.impls.perturb_image.sliding_window import SlidingWindow

from saliency_wrappers import Decision, PerturbationSaliency, SaliencyMaps, as_adapter, load_checkpoint, load_pretrained
from saliency_wrappers.agents import RecurrentModuleAdapter
from saliency_wrappers.models.networks import AtariLSTM, BabyA3CGRU, GreydanusLSTM
from saliency_wrappers.saliency.incremental.positions import ConvGeometry, dilated, slide
from saliency_wrappers.saliency.incremental.scratch import workspace
from saliency_wrappers.saliency.incremental.sparse_images import convolved
from saliency_wrappers.saliency.incremental.tensor import IncrementalBatch, Step
from saliency_wrappers.saliency.passes import Perturbation, Segment, dense_pass, incremental_pass
from saliency_wrappers.saliency.paths import COMPILED_POSITIONS, WORTHWHILE, Evaluation

laws = settings(max_examples=60, deadline=None, derandomize=True)


layer = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["conv", "conv", "max", "average"]),
        "size": st.tuples(st.integers(1, 4), st.integers(1, 4)),
        "stride": st.tuples(st.integers(1, 3), st.integers(1, 3)),
        "padding": st.tuples(st.integers(0, 2), st.integers(0, 2)),
        "dilation": st.tuples(st.integers(1, 2), st.integers(1, 2)),
        "bias": st.booleans(),
        "outputs": st.sampled_from([3, 16, 40, 48]),
        "then": st.sampled_from(["relu", "relu in place", "elu", "elu in place", "tanh", "batch norm", "sigmoid", "none", "scaled"]),
    }
)


def built(layers: Sequence[dict[str, Any]], channels: int, height: int, width: int, seed: int) -> nn.Sequential:
    """The layers that fit the image, with random weights."""
    torch.manual_seed(seed)
    parts: list[nn.Module] = []
    size = [height, width]
    for one in layers:
        conv, highest = one["kind"] == "conv", one["kind"] == "max"
        dilation = one["dilation"] if conv or (highest and min(size) > 2) else (1, 1)  # else it sees nothing but padding
        padding = one["padding"] if conv else tuple(min(p, k // 2) for p, k in zip(one["padding"], one["size"], strict=True))
        kernel = ConvGeometry(one["size"], one["stride"], padding, dilation)
        fitting = [kernel.outputs(axis, size[axis]) for axis in (0, 1)]
        if min(fitting) < 1:
            continue
        size = fitting
        if conv:
            parts.append(nn.Conv2d(channels, one["outputs"], one["size"], one["stride"], padding, dilation, bias=one["bias"]))
            channels = one["outputs"]
        elif highest:
            parts.append(nn.MaxPool2d(one["size"], one["stride"], padding, dilation))
        else:
            parts.append(nn.AvgPool2d(one["size"], one["stride"], padding))
        parts += then(one["then"], channels)
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(channels * size[0] * size[1], (4, 32)[seed % 2], bias=seed % 3 > 0)).eval()


class Scaled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 1 - 2 * x / 3.0


def then(name: str, channels: int) -> list[nn.Module]:
    norm = nn.BatchNorm2d(channels)
    norm.running_mean, norm.running_var = torch.randn(channels), torch.rand(channels) + 0.5
    modules: dict[str, list[nn.Module]] = {
        "relu": [nn.ReLU()],
        "relu in place": [nn.ReLU(inplace=True)],
        "elu": [nn.ELU()],
        "elu in place": [nn.ELU(inplace=True)],
        "tanh": [nn.Tanh()],
        "batch norm": [norm, nn.LeakyReLU()],
        "sigmoid": [nn.Sigmoid()],
        "none": [nn.Identity(), nn.Dropout(0.5)],
        "scaled": [Scaled()],
    }
    return modules[name]


@laws
@given(
    layers=st.lists(layer, min_size=1, max_size=4),
    size=st.tuples(st.integers(5, 14), st.integers(5, 14)),
    channels=st.integers(1, 3),
    frames=st.integers(1, 3),
    seed=st.integers(0, 2**16),
    there=st.booleans(),
)
def test_incremental_equals_dense(layers: list[dict[str, Any]], size: tuple[int, int], channels: int, frames: int, seed: int, there: bool):
    network = built(layers, channels, *size, seed)
    images, changed, of = random_images(seed, frames, 4, channels, *size)
    with torch.inference_mode(), workspace.run(), with_kernels(there):
        expected = network(images)
        steps: list[Step] = []
        output = network(IncrementalBatch(as_changes(images, changed, of), steps))
    assert type(output) is Tensor
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5 * max(1.0, float(expected.abs().max())))
    assert all(step.incremental for step in steps)
    assert steps[-1].operator == "linear"


@laws
@given(
    size=st.tuples(st.integers(4, 12), st.integers(4, 12)),
    kernel=st.builds(
        ConvGeometry,
        st.tuples(st.integers(1, 4), st.integers(1, 4)),
        st.tuples(st.integers(1, 3), st.integers(1, 3)),
        st.tuples(st.integers(0, 2), st.integers(0, 2)),
        st.tuples(st.integers(1, 2), st.integers(1, 2)),
    ),
    seed=st.integers(0, 2**16),
    there=st.booleans(),
)
def test_what_a_kernel_sees_and_fills_is_what_a_convolution_sees_and_fills(
    size: tuple[int, int], kernel: ConvGeometry, seed: int, there: bool
):
    height, width = size
    outputs = [kernel.outputs(axis, size[axis]) for axis in (0, 1)]
    if min(outputs) < 1:
        return
    changed = torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed)) > 0.8
    ones = torch.ones(1, 1, *kernel.size)
    filled = functional.conv2d(changed[:, None].float(), ones, None, kernel.stride, kernel.padding, kernel.dilation)
    with with_kernels(there), workspace.run():
        assert torch.equal(dilated(changed, kernel), filled[:, 0] > 0)
    image = torch.arange(1.0, height * width + 1)
    seen = torch.cat([image, torch.zeros(1)])[slide(height, width, kernel, torch.device("cpu"))].sum(1)
    expected = functional.conv2d(image.view(1, 1, height, width), ones, None, kernel.stride, kernel.padding, kernel.dilation)
    torch.testing.assert_close(seen, expected.flatten())


@pytest.mark.parametrize("there", [True, False])
def test_only_changed_positions_are_computed(there: bool):
    images, changed, of = random_images(1, 1, 5, 1, 12, 12)
    changed[1:] = False
    changed[2, 4, 4] = True
    with torch.inference_mode(), with_kernels(there), workspace.run():
        pending = convolved(as_changes(images, changed, of), torch.ones(2, 1, 3, 3), None, ConvGeometry((3, 3), padding=(1, 1)))
        assert pending.share == 9 / (5 * 144)
        places = pending.places
        assert places.changed == 9
        assert [tuple(place) for place in places.listed[places.known :].tolist()] == [(2, 12 * y + x) for y in (3, 4, 5) for x in (3, 4, 5)]


# Whatever an agent does with its input, the result is the dense one


class Odd(nn.Module):
    """An agent that does something with its input, and then acts."""

    def __init__(self, does: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.does = does
        self.conv = nn.Conv2d(2, 3, 3, padding=1)
        self.second = nn.Conv2d(3, 3, 3, stride=2)
        self.depthwise = nn.Conv2d(3, 3, 3, groups=3)
        self.norm = nn.BatchNorm2d(3)
        self.register_buffer("scale", torch.rand(3, 1, 1))
        self.register_buffer("wide", torch.rand(3, 2, 1, 9))

    def forward(self, inputs: tuple[Tensor, None]) -> tuple[Tensor, Tensor, None]:
        features = self.does(self, inputs[0]).flatten(1)
        return features[:, 4:5], features[:, :4], None


def in_place_then_both(agent: Any, x: Tensor) -> Tensor:
    y = agent.conv(x)
    z = y.relu_()
    return y + z


def kept_before_in_place(agent: Any, x: Tensor) -> Tensor:
    y = agent.conv(x)
    z = y * 2
    y.tanh_()
    return torch.cat([y, z], dim=1)


def batch_statistics(agent: Any, x: Tensor) -> Tensor:
    return functional.batch_norm(agent.conv(x), None, None, training=True)


def alias_then_in_place(agent: Any, x: Tensor) -> Tensor:
    y = agent.conv(x)
    functional.elu(y.contiguous(), inplace=True)
    y.detach().mul_(2)
    return agent.second(y)


def features_in_place(agent: Any, x: Tensor) -> Tensor:
    features = agent.conv(x).flatten(1)
    functional.relu(features, inplace=True)
    return features


def helpers_of_its_kind(agent: Any, x: Tensor) -> Tensor:
    ones = x.new_ones(len(x), 3 * 9 * 9)
    return agent.conv(x).flatten(1) + ones if x.is_contiguous() and x.stride(0) == 162 else ones


ODD: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "residual": lambda agent, x: agent.second(agent.conv(x) + agent.conv(x).relu()),
    "channel by channel": lambda agent, x: agent.second(agent.conv(x) * agent.scale),
    "channels last": lambda agent, x: agent.second(agent.conv(x).permute(0, 2, 3, 1).permute(0, 3, 1, 2)),
    "grouped": lambda agent, x: agent.depthwise(agent.conv(x).relu()),
    "slices": lambda agent, x: agent.second(agent.conv(x)[:, :, 1:, 1:]),
    "in place": in_place_then_both,
    "in place, by another name": alias_then_in_place,
    "features in place": features_in_place,
    "helpers of its kind": helpers_of_its_kind,
    "channelwise slope": lambda agent, x: agent.second(functional.prelu(agent.conv(x), agent.scale.flatten())),
    "in place keyword": lambda agent, x: agent.second(functional.leaky_relu(agent.conv(x), 0.3, inplace=True)),
    "in place, kept": kept_before_in_place,
    "positional in place": lambda agent, x: agent.second(functional.relu(agent.conv(x), True)),
    "batch statistics": batch_statistics,
    "padding by name": lambda agent, x: functional.conv2d(x, agent.conv.weight, padding="same"),
    "nothing but padding": lambda agent, x: functional.max_pool2d(functional.conv2d(x, agent.wide), (1, 2), 1, (0, 1), (1, 2)).tanh(),
    "ceil mode": lambda agent, x: functional.max_pool2d(agent.conv(x), 2, 2, ceil_mode=True),
    "adaptive": lambda agent, x: functional.adaptive_avg_pool2d(agent.conv(x).relu(), 2),
    "double": lambda agent, x: agent.conv(x).double().mul(2).float(),
    "strided view": lambda agent, x: agent.conv(x.to(memory_format=torch.channels_last).contiguous()),
    "view": lambda agent, x: agent.conv(x).view(len(x), -1),
    "view by size": lambda agent, x: agent.conv(x).reshape(x.size(0), 3 * x.shape[2] * x.shape[3]),
    "wide view": lambda agent, x: agent.conv(x).view(len(x), 3, -1).mean(2).repeat(1, 4),
    "numpy": lambda agent, x: torch.from_numpy(agent.conv(x).numpy()),
    "no convolution": lambda agent, x: x / 2,
    "augmented in place": lambda agent, x: agent.conv(x.mul_(0.5)),
    "softmax": lambda agent, x: agent.conv(x).softmax(dim=1),
    "list": lambda agent, x: torch.stack([agent.conv(row[None])[0] for row in x]),
    "gradient asked for": lambda agent, x: agent.conv(x) if not x.requires_grad and x.is_floating_point() else x,
}


@pytest.mark.filterwarnings("ignore:The outputs of Odd")  # batch statistics: run row by row
@pytest.mark.parametrize("name", ODD)
def test_whatever_an_agent_does_with_its_input_the_outputs_are_the_dense_ones(name: str):
    torch.manual_seed(3)
    adapter = Stateless(Odd(ODD[name]).eval())
    decision = Decision(torch.rand(1, 2, 9, 9), None, torch.zeros(1, 4), torch.zeros(1, 1))
    windows = SlidingWindow((3, 3), (3, 3))
    fast = PerturbationSaliency(windows, path="incremental").outputs(adapter, decision)
    dense = PerturbationSaliency(windows, path="plain").outputs(adapter, decision)
    np.testing.assert_allclose(fast.logits, dense.logits, rtol=1e-4, atol=1e-5)
    assert fast.values is not None
    assert dense.values is not None
    np.testing.assert_allclose(fast.values, dense.values, rtol=1e-4, atol=1e-4)


class Stateless(RecurrentModuleAdapter):
    def initial_state(self, n: int) -> None:
        return None


# The agents


def lively(agent: nn.Module) -> nn.Module:
    """An agent of double precision that learned nothing, but whose outputs depend on its input."""
    generator = torch.Generator().manual_seed(1)
    for parameter in agent.parameters():
        if parameter.ndim > 1:
            nn.init.orthogonal_(parameter, gain=2.0, generator=generator)
        else:
            nn.init.zeros_(parameter)
    return agent.double().eval()


AGENTS: dict[str, Callable[[], nn.Module]] = {
    "lstm": lambda: lively(GreydanusLSTM(4)),
    "gru": lambda: lively(BabyA3CGRU(6)),
    "bundled": lambda: load_pretrained("ALE/Breakout-v5")[0].double(),
    "small": lambda: lively(AtariLSTM(4)),
    "stacked": lambda: lively(AtariLSTM(4, channels=4)),
}


@pytest.mark.parametrize("name", AGENTS)
def test_several_decisions_at_once_give_the_maps_of_each_alone(name: str):
    adapter = as_adapter(AGENTS[name]())
    size = 84 if name in ("small", "stacked") else 80
    decisions = decisions_of(adapter, 3, channels=4 if name == "stacked" else 1, size=size)
    perturber = SlidingRadial((1, 1), (12, 12), (3, 3))
    together = PerturbationSaliency(perturber)(adapter, decisions)
    dense = PerturbationSaliency(perturber, path="plain")
    assert PerturbationSaliency(perturber).plan(adapter, decisions[0]).path == "incremental"
    for decision, maps in zip(decisions, together, strict=True):
        (expected,) = dense(adapter, [decision])
        assert maps.critic is not None
        assert expected.critic is not None
        for ours, theirs in ((maps.actor, expected.actor), (maps.critic, expected.critic)):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6 * theirs.max())


def test_states_that_differ_from_row_to_row_are_not_shared():
    """As an agent may do that draws its memory from its input."""

    class Draws(BabyA3CGRU):
        def forward(self, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
            x, state = inputs
            return super().forward((x, state + x.flatten(1).mean(1, keepdim=True)))

    torch.manual_seed(2)
    adapter = as_adapter(Draws(4).eval())
    (decision,) = decisions_of(adapter, 1)
    windows = SlidingWindow((20, 20), (20, 20))
    fast, dense = (PerturbationSaliency(windows, path=path).outputs(adapter, decision) for path in ("incremental", "plain"))
    np.testing.assert_allclose(fast.logits, dense.logits, rtol=1e-4, atol=1e-6)


def test_a_batch_size_cuts_the_rows_and_changes_nothing():
    adapter = as_adapter(lively(GreydanusLSTM(4)))
    decisions = decisions_of(adapter, 2)
    perturber = SlidingRadial((1, 1), (16, 16), (3, 3))
    whole = PerturbationSaliency(perturber, path="incremental")(adapter, decisions)
    for size in (1, 3, 7):
        cut = PerturbationSaliency(perturber, path="incremental", batch_size=size)(adapter, decisions)
        for a, b in zip(whole, cut, strict=True):
            np.testing.assert_allclose(a.actor, b.actor, rtol=0, atol=1e-6 * a.actor.max())


def test_batches_stay_within_the_limit_of_changed_pixels():
    adapter = as_adapter(BabyA3CGRU(4).eval())
    perturbations = [dense_perturbation(rows=300) for _ in range(3)]
    evaluation = Evaluation("incremental")
    batches = list(evaluation._batches(adapter, perturbations))
    for batch in batches:
        assert sum(int(one.perturbation.changed[one.rows].sum()) for one in batch) <= COMPILED_POSITIONS
    seen = [(id(one.perturbation), row) for batch in batches for one in batch for row in one.rows[1:].tolist()]
    assert sorted(seen) == sorted((id(one), row) for one in perturbations for row in range(1, 301))
    assert all(one.rows[0] == 0 for batch in batches for one in batch)


# Which path


def plan_of(adapter: Any, perturber: Any, **options: Any) -> Any:
    decision = decisions_of(adapter, 1)[0]
    return PerturbationSaliency(perturber, **options).plan(adapter, decision)


def test_the_plan_says_which_path_runs_and_what_is_computed():
    adapter = as_adapter(BabyA3CGRU(4).eval())
    plan = plan_of(adapter, SlidingRadial((1, 1), (10, 10), (2, 2)))
    assert plan.path == "incremental"
    assert plan.masks == 64
    assert 0 < plan.changing < 64
    assert [step.operator for step in plan.steps] == ["conv2d", "elu"] * 4 + ["gru_cell"]
    shares = [step.share for step in plan.steps if step.operator == "conv2d"]
    assert plan.share < shares[0] < shares[-1] < 1
    assert str(plan).startswith("incremental path: only what the masks change is computed, by compiled kernels\n")
    assert "conv2d       32 x 40 x 40" in str(plan)


def test_masks_that_change_most_pixels_are_run_on_the_plain_path():
    adapter = as_adapter(BabyA3CGRU(4).eval())
    plan = plan_of(adapter, RISEGrid(20, 4, 0.5, seed=0), fill=1.0)
    assert plan.path == "plain"
    assert plan.share > WORTHWHILE
    assert "of the pixels" in plan.reason


@pytest.mark.parametrize(
    ("agent", "reason"),
    [
        (lambda module: torch.compile(module, backend="eager"), "OptimizedModule runs as a whole"),
        (nn.DataParallel, "DataParallel runs as a whole"),
    ],
)
def test_a_module_that_runs_as_a_whole_takes_the_plain_path(agent: Callable[[nn.Module], nn.Module], reason: str):
    torch.manual_seed(1)
    module = BabyA3CGRU(4).eval()
    adapter = as_adapter(agent(module))
    (decision,) = decisions_of(as_adapter(module), 1)
    method = PerturbationSaliency(SlidingWindow((20, 20), (20, 20)))
    assert method.plan(adapter, decision).reason == reason
    (made,), (expected,) = method(adapter, [decision]), method(as_adapter(module), [decision])
    np.testing.assert_allclose(made.actor, expected.actor, rtol=0, atol=1e-3 * expected.actor.max())


def test_an_agent_that_fails_on_what_changes_alone_takes_the_plain_path():
    class Picky(BabyA3CGRU):
        def forward(self, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
            if type(inputs[0]) is not Tensor:
                raise TypeError("only tensors")
            return super().forward(inputs)

    adapter = as_adapter(Picky(4).eval())
    plan = plan_of(adapter, SlidingWindow((20, 20), (20, 20)))
    assert plan.path == "plain"
    assert plan.reason == "the agent does not run on what changes alone (TypeError: only tensors)"


def test_an_agent_whose_outputs_would_be_others_takes_the_plain_path():
    class Cheats(BabyA3CGRU):
        def forward(self, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
            value, logits, state = super().forward(inputs)
            return value, logits + (type(inputs[0]) is not Tensor), state

    adapter = as_adapter(Cheats(4).eval())
    assert plan_of(adapter, SlidingWindow((20, 20), (20, 20))).reason == "the agent's outputs would be others"


def test_what_a_tolerance_leaves_out_does_not_speak_against_an_agent():
    """However much it changes: here the agent sees nothing but changes below the tolerance."""

    class Sensitive(BabyA3CGRU):
        def forward(self, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
            value, logits, state = super().forward(inputs)
            return 1e6 * value, 1e6 * logits, state

    adapter = as_adapter(lively(Sensitive(4)))
    method = PerturbationSaliency(SlidingRadial((1, 1), (12, 12), (5, 5)), tolerance=0.05)
    decision = decisions_of(adapter, 1)[0]
    assert method.plan(adapter, decision).path == "incremental"
    exact = PerturbationSaliency(SlidingRadial((1, 1), (12, 12), (5, 5))).outputs(adapter, decision)
    assert np.abs(method.outputs(adapter, decision).logits - exact.logits).max() > 1e-3 * np.abs(exact.logits).max()


def test_a_method_that_has_run_can_be_pickled():
    adapter = as_adapter(BabyA3CGRU(4).eval())
    decisions = decisions_of(adapter, 1)
    method = PerturbationSaliency(SlidingWindow((20, 20), (20, 20)))
    (expected,) = method(adapter, decisions)
    (made,) = pickle.loads(pickle.dumps(method))(adapter, decisions)
    np.testing.assert_array_equal(made.actor, expected.actor)


def test_a_path_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="Expected path to be one of"):
        PerturbationSaliency(path="fast")  # pyright: ignore


# Memory


def test_the_workspace_gives_back_what_a_run_took():
    like = torch.zeros(1)
    with workspace.run():
        first = workspace.take((10,), like)
        with workspace.run():
            inner = workspace.take((10,), like)
        again = workspace.take((5,), like)
    with workspace.run():
        later = workspace.take((10,), like)
    assert inner.data_ptr() == again.data_ptr() != first.data_ptr()
    assert later.data_ptr() == first.data_ptr()


def test_outputs_are_not_part_of_the_workspace():
    """What a run gives stays as it is when the next one uses the same memory."""
    torch.manual_seed(1)
    adapter = as_adapter(BabyA3CGRU(4).eval())
    one, other = (
        Perturbation(torch.rand(1, 1, 80, 80), torch.rand(1, 80, 80), changed.float()[:, None], changed, torch.zeros(1, 256), None)
        for changed in (window(3), window(40))
    )
    with torch.inference_mode():
        logits, _ = incremental_pass(adapter, [Segment(one, torch.arange(2))])
        before = logits.clone()
        incremental_pass(adapter, [Segment(other, torch.arange(2))])
        assert torch.equal(logits, before)
        torch.testing.assert_close(logits, dense_pass(adapter, Segment(one, torch.arange(2)))[0], rtol=1e-4, atol=1e-5)


# One map for each stacked frame


def test_one_map_for_each_stacked_frame():
    class Reads(nn.Module):
        """Looks at one corner of the second frame only."""

        def forward(self, inputs: tuple[Tensor, None]) -> tuple[Tensor, Tensor, None]:
            seen = inputs[0][:, 2:4, :3, :3].sum(dim=(1, 2, 3))[:, None]
            return seen, torch.cat([seen, -seen], dim=1), None

    adapter = Stateless(Reads())
    decision = Decision(torch.rand(1, 6, 9, 9), None, torch.zeros(1, 2), torch.zeros(1, 1))
    windows = SlidingWindow((3, 3), (3, 3))
    (made,) = PerturbationSaliency(windows, fill=0.0, frames=3)(adapter, [decision])
    assert made.actor.shape == (3, 9, 9)
    assert made.critic is not None
    assert made.critic.shape == (3, 9, 9)
    assert [bool(one.any()) for one in made.actor] == [False, True, False]
    (whole,) = PerturbationSaliency(windows, fill=0.0)(adapter, [decision])
    np.testing.assert_allclose(made.actor[1], whole.actor, rtol=1e-5)


def test_frames_that_do_not_share_the_channels_evenly_are_refused(tiny_lstm: nn.Module):
    adapter = Stateless(Odd(ODD["residual"]))
    decision = Decision(torch.rand(1, 2, 9, 9), None, torch.zeros(1, 4), torch.zeros(1, 1))
    with pytest.raises(ValueError, match="Expected channels that 3 frames share evenly, got an input of 2 channels"):
        PerturbationSaliency(frames=3)(adapter, [decision])
    with pytest.raises(ValueError, match="positive number of frames"):
        PerturbationSaliency(frames=0)


# The reference agents


@pytest.mark.parametrize(
    ("game", "checkpoint"), [("breakout", "breakout-v4.model.80.tar"), ("pong", "pong-v4.model.80.tar"), ("breakout_lstm", "breakout-lstm")]
)
def test_on_every_third_reference_decision_the_incremental_maps_are_the_plain_ones(game: str, checkpoint: str, shared: Path):
    adapter = RecurrentModuleAdapter(load_checkpoint(shared / "agents" / checkpoint))
    with np.load(shared / "reference" / f"{game}.npz") as arrays:
        states = [arrays["state"]] if "state" in arrays else [arrays["hx"], arrays["cx"]]
        decisions = [reference_decision(arrays, states, i) for i in range(0, len(arrays["step"]), 3)]
        exact = [reference_decision(arrays, states, i, torch.float64) for i in range(0, len(arrays["step"]), 15)]
    methods = [PerturbationSaliency(path="incremental"), PerturbationSaliency(path="plain"), PerturbationSaliency(tolerance=1e-4)]
    for fast, dense, close in zip(*(method(adapter, decisions) for method in methods), strict=True):
        # In single precision the dense pass itself is up to 4e-5 from the truth, where the outputs hardly change.
        assert_within(5e-5, fast, dense)
        assert_within(0.012, close, dense)
    double = as_adapter(copy.deepcopy(adapter.module).double())
    for fast, dense in zip(*(method(double, exact) for method in methods[:2]), strict=True):
        assert_within(1e-6, fast, dense)


def assert_within(share: float, ours: SaliencyMaps, theirs: SaliencyMaps) -> None:
    for head in ("actor", "critic"):
        expected = getattr(theirs, head)
        assert np.abs(getattr(ours, head) - expected).max() <= share * expected.max()


def reference_decision(arrays: Any, states: list[Any], i: int, dtype: torch.dtype = torch.float32) -> Decision:
    state = tuple(torch.from_numpy(one[i : i + 1]).to(dtype) for one in states)
    return Decision(
        inputs=torch.from_numpy(arrays["input"][i])[None, None].to(dtype),
        state=state[0] if len(state) == 1 else state,
        logits=torch.from_numpy(arrays["logits"][i : i + 1]),
        value=torch.from_numpy(arrays["value"][i : i + 1]),
    )
