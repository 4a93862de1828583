"""Layers that are run at once give what they give one by one, on images that are there and on inputs under masks; so do cells."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sparse_cases import as_changes, dense_perturbation, random_images, window, with_kernels
from torch import Tensor, nn
from torch.nn import functional

from saliency_wrappers import as_adapter
from saliency_wrappers.models.networks import BabyA3CGRU
from saliency_wrappers.saliency.incremental import conv_chain as layers
from saliency_wrappers.saliency.incremental import sparse_images as changes
from saliency_wrappers.saliency.incremental.conv_chain import Images, Layer, run_layers
from saliency_wrappers.saliency.incremental.gathered_matmul import Product, elu, relu
from saliency_wrappers.saliency.incremental.kernels.llvm_vectors import LANES
from saliency_wrappers.saliency.incremental.masked_input import MaskedInput
from saliency_wrappers.saliency.incremental.positions import Batch, ConvGeometry, dilated
from saliency_wrappers.saliency.incremental.scratch import workspace
from saliency_wrappers.saliency.incremental.sparse_images import Masked
from saliency_wrappers.saliency.incremental.tensor import IncrementalBatch
from saliency_wrappers.saliency.masks import Masks
from saliency_wrappers.saliency.passes import Perturbation, Segment, dense_pass, incremental_pass
from saliency_wrappers.saliency.scoring import SquaredDifference

laws = settings(max_examples=60, deadline=None, derandomize=True)

ACTIVATIONS: dict[str, Any] = {"none": None, "relu": relu, "elu": elu}


@pytest.fixture(autouse=True)
def several_threads() -> Generator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


one_layer = st.fixed_dictionaries(
    {
        "size": st.tuples(st.integers(1, 4), st.integers(1, 4)),
        "stride": st.tuples(st.integers(1, 3), st.integers(1, 3)),
        "padding": st.tuples(st.integers(0, 3), st.integers(0, 3)),
        "dilation": st.tuples(st.integers(1, 2), st.integers(1, 2)),
        "outputs": st.sampled_from([LANES * vectors for vectors in (1, 2, 3, 5)]),
        "bias": st.booleans(),
        "function": st.sampled_from(["none", "relu", "elu"]),
    }
)


def convolutions(given: list[dict[str, Any]], channels: int, size: tuple[int, int]) -> tuple[list[Layer], Callable[[Tensor], Tensor]]:
    """The layers that fit the image, and what PyTorch makes of them."""
    found: list[Layer] = []
    modules: list[nn.Module] = []
    for one in given:
        kernel = ConvGeometry(one["size"], one["stride"], one["padding"], one["dilation"])
        after = (kernel.outputs(0, size[0]), kernel.outputs(1, size[1]))
        if min(after) < 1:
            continue
        module = nn.Conv2d(channels, one["outputs"], kernel.size, kernel.stride, kernel.padding, kernel.dilation, bias=one["bias"])
        matrix = module.weight.detach().permute(2, 3, 1, 0).reshape(-1, one["outputs"])
        bias = None if module.bias is None else module.bias.detach()
        found.append(Layer(kernel, Product(matrix, bias), ACTIVATIONS[one["function"]]))
        modules += [module, {"none": nn.Identity(), "relu": nn.ReLU(), "elu": nn.ELU()}[one["function"]]]
        channels, size = one["outputs"], after
    return found, nn.Sequential(*modules)


@laws
@given(
    given_layers=st.lists(one_layer, min_size=1, max_size=4),
    size=st.tuples(st.integers(1, 14), st.integers(1, 14)),
    channels=st.integers(1, 3),
    frames=st.integers(1, 3),
    rows=st.integers(1, 30),
    seed=st.integers(0, 2**16),
)
def test_layers_at_once_give_what_they_give_one_by_one(
    given_layers: list[dict[str, Any]], size: tuple[int, int], channels: int, frames: int, rows: int, seed: int
):
    torch.manual_seed(seed)
    found, network = convolutions(given_layers, channels, size)
    if not found:
        return
    images, changed, of = random_images(seed, frames, rows, channels, *size)
    with torch.inference_mode(), workspace.run(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "_WIDENING", 10**6)
        there = as_changes(images, changed, of)
        done = run_layers(found, Images.whole(there.rows, there.batch), there.batch)
        assert done is not None
        expected = network(images)
        for layer in found:
            changed = dilated(changed, layer.kernel)
    assert torch.equal(done[1], changed)
    made = done[0].view(len(images), -1, expected.shape[1])
    torch.testing.assert_close(made[:, :-1].transpose(1, 2).reshape(expected.shape), expected, rtol=1e-4, atol=2e-5)
    assert not made[:, -1].any()


def test_layers_that_do_not_fill_vectors_are_not_run_at_once():
    found, _ = convolutions([{**LAYER, "outputs": LANES}, {**LAYER, "outputs": LANES + 4}], 1, (10, 10))
    assert len(found) == 2
    there = as_changes(*random_images(0, 1, 3, 1, 10, 10))
    with torch.inference_mode(), workspace.run():
        assert run_layers(found[:1], Images.whole(there.rows, there.batch), there.batch) is not None
        assert run_layers(found, Images.whole(there.rows, there.batch), there.batch) is None


def masked(frames: int, channels: int, shared: bool, seed: int = 1) -> tuple[Masked, Tensor]:
    """Inputs under masks, each frame's first untouched, and the images that they make."""
    random = torch.Generator().manual_seed(seed)
    parts: list[MaskedInput] = []
    same = torch.rand(40, 1, 9, 11, generator=random)
    for frame in range(frames):
        replaced = same if shared else torch.rand(40, 1, 9, 11, generator=random)
        replaced = replaced * (torch.rand(40, 1, 9, 11, generator=random) > 0.8) if not shared else replaced
        replaced[0] = 0
        x, change = torch.rand(2, channels, 9, 11, generator=random)
        parts.append(MaskedInput(x, change, replaced, torch.tensor([0, *range(1 + frame, 40, 1 + frame)])))
    images = torch.cat([one.inputs + one.replaced[one.rows] * one.change for one in parts])
    changed = torch.cat([one.replaced[one.rows, 0] > 0 for one in parts])
    lengths = torch.tensor([len(one.rows) for one in parts])
    return Masked(Batch.of(changed, torch.arange(frames).repeat_interleave(lengths)), parts), images


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("frames", [1, 3])
def test_masks_are_applied_as_layers_need_them(frames: int, channels: int, shared: bool):
    given, images = masked(frames, channels, shared)
    torch.manual_seed(1)
    network = nn.Sequential(nn.Conv2d(channels, 16, 3, 2, 1), nn.ELU(), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU(), nn.Flatten()).eval()
    with torch.inference_mode(), workspace.run():
        batch = network(IncrementalBatch(given))
        assert "settled" not in vars(given), "no image is made"
        torch.testing.assert_close(batch.whole_batch(), network(images), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(given.settled.dense(), images)


def test_changes_that_do_not_count_are_seen_where_others_are():
    """What a tolerance leaves out is not followed, but where something is computed the input is what it is."""
    given, images = masked(1, 2, shared=True)
    changed = torch.zeros_like(given.batch.changed)
    changed[1:, 4, 5] = True
    network = nn.Sequential(nn.Conv2d(2, 16, 3, 3), nn.ReLU())
    with torch.inference_mode(), workspace.run():
        batch = Masked(Batch.of(changed, given.batch.frames), given.parts)
        made, expected = network(IncrementalBatch(batch)).whole_batch(), network(images)
    assert "settled" not in vars(batch)
    torch.testing.assert_close(made[:, :, 1, 1], expected[:, :, 1, 1], rtol=1e-5, atol=1e-5)
    assert torch.equal(made[1:, :, 0], made[:1, :, 0].expand(len(made) - 1, -1, -1))


def test_decisions_with_masks_of_their_own_are_run_together():
    torch.manual_seed(1)
    adapter = as_adapter(BabyA3CGRU(4).eval())
    both = [
        Perturbation(torch.rand(1, 1, 80, 80), torch.rand(1, 80, 80), changed.float()[:, None], changed, torch.rand(1, 256), None)
        for changed in (window(3), window(40))
    ]
    segments = [Segment(one, torch.arange(2)) for one in both]
    with torch.inference_mode():
        logits, values = incremental_pass(adapter, segments)
        expected = [dense_pass(adapter, one) for one in segments]
    assert values is not None
    torch.testing.assert_close(logits, torch.cat([one for one, _ in expected]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(values, torch.cat([one for _, one in expected]), rtol=1e-4, atol=1e-5)


def test_all_layers_of_the_published_networks_are_run_at_once(monkeypatch: pytest.MonkeyPatch):
    counts: list[int] = []

    def counting(some: Any, *rest: Any) -> Any:
        counts.append(len(some))
        return run_layers(some, *rest)

    monkeypatch.setattr(changes, "run_layers", counting)
    one = dense_perturbation(3)
    with torch.inference_mode():
        incremental_pass(as_adapter(BabyA3CGRU(4).eval()), [Segment(one, torch.arange(4))])
    assert counts == [4]


class Branches(nn.Module):
    """Uses what a layer gives twice, and what it gives before a function that comes later in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(channels, 16, 3, 2, 1) for channels in (2, 16, 16))

    def forward(self, x: Tensor) -> Tensor:
        x = functional.elu(self.first(x))
        one, other = self.second(x), self.third(x)
        x = functional.relu_(one).flatten(1)
        return torch.cat([x, functional.tanh(other).flatten(1), functional.relu(self.third(other * 2)).flatten(1)], dim=1)


@pytest.mark.parametrize(
    "make",
    [
        Branches,
        lambda: nn.Sequential(nn.Conv2d(2, 16, 3, 2), nn.Tanh(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.ELU(), nn.Conv2d(16, 8, 1), nn.ReLU()),
        lambda: nn.Sequential(nn.Conv2d(2, 16, 3, 2), nn.MaxPool2d(2), nn.Conv2d(16, 16, 2), nn.ReLU(), nn.Flatten(), nn.Linear(16, 24)),
        lambda: nn.Sequential(nn.Conv2d(2, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU()),  # wider than what goes in
        lambda: nn.Sequential(nn.Conv2d(2, 16, 3, 2), nn.ELU(), nn.BatchNorm2d(16), nn.Conv2d(16, 8, 3), nn.ELU()),
    ],
)
@pytest.mark.parametrize("there", [True, False])
def test_what_is_between_the_layers_and_how_often_they_are_used_makes_no_difference(make: Callable[[], nn.Module], there: bool):
    torch.manual_seed(1)
    network = make().eval()
    images, changed, of = random_images(1, 2, 9, 2, 12, 12)
    with torch.inference_mode(), workspace.run(), with_kernels(there):
        output = network(IncrementalBatch(as_changes(images, changed, of)))
        output = output.whole_batch() if isinstance(output, IncrementalBatch) else output
        torch.testing.assert_close(output, network(images), rtol=1e-4, atol=1e-5)


def test_images_of_which_too_much_would_be_known_are_computed_layer_by_layer(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(layers, "_LARGEST", 600)
    network = nn.Sequential(nn.Conv2d(2, 16, 3, 2), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU()).eval()
    images, changed, of = random_images(1, 1, 5, 2, 12, 12)
    with torch.inference_mode(), workspace.run():
        there = as_changes(images, changed, of)
        found, _ = convolutions([{**LAYER, "outputs": 16}], 2, (12, 12))
        assert run_layers(found, Images.whole(there.rows, there.batch), there.batch) is None
        torch.testing.assert_close(network(IncrementalBatch(there)).whole_batch(), network(images), rtol=1e-4, atol=1e-5)


LAYER = {"size": (3, 3), "stride": (2, 2), "padding": (0, 0), "dilation": (1, 1), "bias": True, "function": "relu"}


# Cells


@pytest.mark.parametrize("kind", ["gru", "lstm"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("hidden", [16, 24, 5])
@pytest.mark.parametrize("states", ["of each frame", "of each image"])
@pytest.mark.parametrize("there", [True, False])
def test_cells_are_pytorchs(kind: str, bias: bool, hidden: int, states: str, there: bool):
    torch.manual_seed(1)
    conv, cell = nn.Conv2d(2, 16, 3, 2, 1), (nn.GRUCell if kind == "gru" else nn.LSTMCell)(16 * 9, hidden, bias=bias)
    images, changed, of = random_images(1, 3, 7, 2, 6, 6)
    frames = of if states == "of each frame" else torch.arange(21)
    state = [3 * torch.randn(21, hidden)[frames] for _ in range(2)]
    incoming = state[0] if kind == "gru" else tuple(state)

    def acted(x: Any) -> Any:
        return cell(functional.elu(conv(x)).flatten(1), incoming)

    with torch.inference_mode(), workspace.run(), with_kernels(there):
        torch.testing.assert_close(acted(IncrementalBatch(as_changes(images, changed, of))), acted(images), rtol=1e-5, atol=1e-6)


def test_gates_are_right_at_every_height():
    """Of numbers so large that exponentials overflow, and so small that they are 1 but for rounding."""
    heights = torch.tensor([-1e30, -300.0, -88.0, -20.0, -1.0, -1e-3, -1e-9, 0.0, 1e-9, 1e-3, 1.0, 20.0, 88.0, 300.0, 1e30, torch.nan])
    cell = nn.GRUCell(16, 16, bias=False)
    images, changed, of = torch.ones(2, 16, 1, 1), torch.tensor([[[False]], [[True]]]), torch.zeros(2, dtype=torch.int64)
    with torch.inference_mode(), workspace.run():
        cell.weight_ih.copy_(torch.diag(heights).repeat(3, 1).nan_to_num(nan=0.0))
        cell.weight_hh.zero_()
        cell.weight_ih[[15, 31, 47]] = torch.nan
        state = torch.full((2, 16), 0.5)
        made = cell(IncrementalBatch(as_changes(images, changed, of)).flatten(1), state)
        torch.testing.assert_close(made, cell(images.flatten(1), state), rtol=0, atol=2e-7, equal_nan=True)


@pytest.mark.parametrize("shapes", [[(6, 16)], [(7, 24)], [(7, 16), (7, 8)], [(7, 16), (6, 16)]])
def test_states_that_do_not_fit_are_an_error_as_they_are_in_pytorch(shapes: list[tuple[int, int]]):
    images, changed, of = random_images(1, 1, 7, 2, 6, 6)
    states = [torch.zeros(shape) for shape in shapes]
    weights, call = ((torch.zeros(48, 72), torch.zeros(48, 16)), torch.gru_cell) if len(states) == 1 else (WEIGHTS, torch.lstm_cell)
    given: Any = states[0] if len(states) == 1 else states
    for x in (IncrementalBatch(as_changes(images, changed, of)), images):
        with torch.inference_mode(), workspace.run(), pytest.raises(RuntimeError):
            call(x.flatten(1), given, *weights)


WEIGHTS = (torch.zeros(64, 72), torch.zeros(64, 16))


@pytest.mark.parametrize("width", [8, 16, 24, 40])
def test_features_are_multiplied_whatever_the_width(width: int):
    torch.manual_seed(1)
    network = nn.Sequential(nn.Conv2d(2, 16, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 9, width)).eval()
    images, changed, of = random_images(1, 3, 7, 2, 6, 6)
    with torch.inference_mode(), workspace.run():
        torch.testing.assert_close(network(IncrementalBatch(as_changes(images, changed, of))), network(images), rtol=1e-5, atol=1e-5)


# Masks and memory


@pytest.mark.parametrize("there", [True, False])
def test_masks_are_weighed_where_they_replace_something(there: bool):
    draw = np.random.default_rng(1)
    untouched = np.ones((6, 7, 9), np.float32)
    untouched[1, 2:5, 3:4] = draw.random((3, 1))
    untouched[2, 0, :] = untouched[3, :, 8] = 0.25
    untouched[4] = draw.random((7, 9))
    untouched[5, 6, 0] = 0
    masks, scores = Masks(untouched), draw.random(6)
    assert masks.boxes.tolist() == [[0, 0, 0, 0], [2, 5, 3, 4], [0, 1, 0, 9], [0, 7, 8, 9], [0, 7, 0, 9], [6, 7, 0, 1]]
    with with_kernels(there):
        made = SquaredDifference().weigh(scores, masks)
    replaced = 1 - untouched.astype(np.float64)
    np.testing.assert_allclose(made, np.einsum("k,khw->hw", scores, replaced) / replaced.sum(axis=0), rtol=1e-6)


def test_memory_of_inference_mode_is_not_written_to_outside_of_it():
    like = torch.zeros(1)
    with workspace.run(), torch.inference_mode():
        workspace.take((10,), like)
    with workspace.run():
        workspace.take((10,), like).fill_(1)
