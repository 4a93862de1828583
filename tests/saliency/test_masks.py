"""Masks are asked for as often as needed, fills fit the input, and masks are applied as the paper says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from xaitk_saliency import PerturbImage
from xaitk_saliency.impls.perturb_image.mc_rise import MCRISEGrid
from xaitk_saliency.impls.perturb_image.random_grid import RandomGrid
from xaitk_saliency.impls.perturb_image.rise import RISEGrid
from xaitk_saliency.impls.perturb_image.sliding_radial import SlidingRadial
from xaitk_saliency.impls.perturb_image.sliding_window import SlidingWindow

from saliency_wrappers.saliency.masks import (
    GaussianBlur,
    MaskCache,
    Masks,
    SlidingDisc,
    check_fill,
    depends_on_shape_only,
    filled,
    perturbed,
)

IMAGE = np.random.default_rng(0).random((1, 12, 12), np.float32)


class Given(PerturbImage):
    """Gives the masks it was given, and notes the images it was asked about."""

    def __init__(self, masks: Any) -> None:
        self.masks = masks
        self.asked: list[NDArray[Any]] = []

    def perturb(self, ref_image: NDArray[Any]) -> Any:
        self.asked.append(ref_image)
        return self.masks

    def get_config(self) -> dict[str, Any]:
        return {"masks": self.masks}


class ByShape(Given):
    depends_on_shape_only = True


def ones(n: int = 2, size: int = 12) -> NDArray[np.float32]:
    return np.ones((n, size, size), np.float32)


# Masks


@pytest.mark.parametrize(
    "perturber",
    [SlidingRadial((1, 1), (5, 5), (2, 2)), SlidingWindow((4, 4), (4, 4)), SlidingDisc(1, 4, 2)],
    ids=lambda one: type(one).__name__,
)
def test_masks_of_the_sliding_perturbers_are_made_once_for_each_shape(perturber: PerturbImage):
    cache = MaskCache(perturber)
    assert depends_on_shape_only(perturber)
    masks = cache(IMAGE)
    assert cache(1 - IMAGE) is masks
    assert cache(IMAGE[:, :8]) is not masks
    assert cache(IMAGE) is masks
    assert np.array_equal(masks.untouched, perturber.perturb(IMAGE[0]).astype(np.float32))


def test_masks_of_the_last_few_shapes_are_kept():
    perturber = ByShape(ones())
    cache = MaskCache(perturber, shapes=2)
    for size in (12, 8, 12, 6, 12):
        perturber.masks = ones(size=size)
        cache(np.zeros((1, size, size), np.float32))
    assert len(perturber.asked) == 3  # 12 was used last whenever another came
    perturber.masks = ones(size=8)
    cache(np.zeros((1, 8, 8), np.float32))
    assert len(perturber.asked) == 4


@pytest.mark.parametrize(
    "perturber", [RISEGrid(n=3, s=2, p1=0.5, threads=0), RandomGrid(n=3, s=(4, 4), p1=0.5)], ids=["RISEGrid", "RandomGrid"]
)
def test_perturbers_that_draw_are_asked_every_time(perturber: PerturbImage):
    cache = MaskCache(perturber)
    assert not depends_on_shape_only(perturber)
    assert not np.array_equal(cache(IMAGE).untouched, cache(IMAGE).untouched)


def test_a_perturber_that_looks_at_the_image_is_asked_every_time():
    perturber = Given(ones())
    cache = MaskCache(perturber)
    for image in (IMAGE, 1 - IMAGE, IMAGE):
        cache(image)
    assert np.array_equal(np.stack(perturber.asked), np.concatenate([IMAGE, 1 - IMAGE, IMAGE]))


class LooksAtTheImage(SlidingWindow):
    """A subclass may do anything: it is not taken for its base class."""

    def perturb(self, ref_image: NDArray[Any]) -> NDArray[Any]:
        return super().perturb(ref_image) | (ref_image > 0.5)


class SaysNo(ByShape):
    depends_on_shape_only = False


def test_a_subclass_is_asked_every_time_unless_it_says_that_only_the_shape_matters():
    assert not depends_on_shape_only(LooksAtTheImage((4, 4), (4, 4)))
    assert not depends_on_shape_only(SaysNo(ones()))
    perturber = ByShape(ones())
    cache = MaskCache(perturber)
    assert cache(IMAGE) is cache(1 - IMAGE)
    assert len(perturber.asked) == 1


@pytest.mark.parametrize(("channels", "shape"), [(1, (12, 12)), (4, (12, 12, 4))])
def test_perturbers_get_a_picture_with_channels_last(channels: int, shape: tuple[int, ...]):
    image = np.random.default_rng(0).random((channels, 12, 12), np.float32)
    perturber = Given(ones())
    MaskCache(perturber)(image)
    assert perturber.asked[0].shape == shape
    assert np.array_equal(perturber.asked[0].reshape(12, 12, -1)[..., -1], image[-1])


class Spoils(Given):
    def perturb(self, ref_image: NDArray[Any]) -> Any:
        ref_image[:] = 9
        return self.masks


@pytest.mark.parametrize("channels", [1, 3])
def test_a_perturber_that_writes_into_its_image_spoils_a_copy(channels: int):
    image = np.zeros((channels, 12, 12), np.float32)
    MaskCache(Spoils(ones()))(image)
    assert not image.any()


def test_masks_do_not_change_with_the_perturbers_own_array():
    perturber = ByShape(ones())
    masks = MaskCache(perturber)(IMAGE)
    perturber.masks[:] = 0
    assert (masks.untouched == 1).all()


@pytest.mark.parametrize(
    "masks",
    [ones(size=11), ones(0), ones()[0], ones()[None, None], np.moveaxis(ones(), 0, -1), []],
    ids=["other size", "no masks", "one mask without its axis", "two extra axes", "masks last", "empty list"],
)
def test_masks_of_a_wrong_shape_are_refused(masks: Any):
    with pytest.raises(ValueError, match=r"Expected masks of shape \(n, 12, 12\) from Given, got \("):
        MaskCache(Given(masks))(IMAGE)


def test_the_masks_of_mc_rise_are_refused_for_grey_inputs():
    with pytest.raises(ValueError, match=r"got \(2, 3, 12, 12\): colour masks need an input with red, green and blue channels"):
        MaskCache(MCRISEGrid(n=3, s=2, p1=0.5, k=2, threads=0))(IMAGE)


@pytest.mark.parametrize("value", [-0.01, 1.01, 255, float("nan"), float("inf")])
def test_masks_outside_zero_to_one_are_refused(value: float):
    masks = ones().astype(np.float64)
    masks[1, 3, 4] = value
    with pytest.raises(ValueError, match=r"Expected masks in \[0, 1\] from Given, got \S+ to \S+\."):
        MaskCache(Given(masks))(IMAGE)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float64, np.float16])
def test_masks_of_any_dtype_become_float32(dtype: Any):
    masks = MaskCache(Given(np.eye(12)[None].astype(dtype)))(IMAGE)
    assert masks.untouched.dtype == np.float32
    assert np.array_equal(masks.untouched[0], np.eye(12))


def test_masks_know_what_they_replace_and_how_much_in_all():
    masks = Masks(np.array([[[1, 0.25]], [[0, 1]]], np.float32))
    assert masks.replaced.tolist() == [[[0, 0.75]], [[1, 0]]]
    assert masks.coverage.tolist() == [[1, 0.75]]
    tensor = masks.on(torch.zeros(1, dtype=torch.float64))
    assert tensor.dtype == torch.float64
    assert tensor.tolist() == [[[[0, 0]]], [[[0, 0.75]]], [[[1, 0]]]]
    assert masks.on(torch.ones(5, dtype=torch.float64)) is tensor
    assert masks.on(torch.ones(1)).dtype == torch.float32


# SlidingDisc


def test_the_2018_masks_are_a_blurred_disc_at_every_fifth_pixel():
    """As `get_mask` in `visualize_atari`: ones where x² + y² <= 1, blurred by sigma 5, divided by its maximum."""
    masks = SlidingDisc(radius=1, stride=5, sigma=5).perturb(np.zeros((80, 80)))
    assert masks.shape == (256, 80, 80)
    assert masks.dtype == np.float32
    for index, centre in [(0, (0, 0)), (16 * 3 + 7, (15, 35)), (255, (75, 75))]:
        y, x = np.ogrid[-centre[0] : 80 - centre[0], -centre[1] : 80 - centre[1]]
        disc = np.zeros((80, 80))
        disc[x * x + y * y <= 1] = 1
        blurred = gaussian_filter(disc, sigma=5)
        assert np.abs(1 - masks[index] - blurred / blurred.max()).max() < 1e-6
    assert masks.min() == 0
    assert masks.max() <= 1


def test_a_disc_hardly_blurred_shows_its_own_pixels():
    masks = SlidingDisc(radius=1, stride=3, sigma=0.01).perturb(np.zeros((4, 5, 3)))
    assert masks.shape == (4, 4, 5)  # centres (0, 0), (0, 3), (3, 0), (3, 3)
    assert (1 - masks[1]).tolist() == [[0, 0, 1, 1, 1], [0, 0, 0, 1, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]]


def test_a_sliding_disc_is_made_from_its_own_configuration():
    disc = SlidingDisc(radius=2, stride=4, sigma=3)
    again = SlidingDisc.from_config(disc.get_config())
    assert np.array_equal(again.perturb(IMAGE[0]), disc.perturb(IMAGE[0]))


@pytest.mark.parametrize("argument", [{"radius": -1}, {"stride": 0}, {"sigma": 0}, {"sigma": float("nan")}], ids=str)
def test_a_disc_that_cannot_be_is_refused(argument: dict[str, Any]):
    with pytest.raises(ValueError, match="Expected radius >= 0, stride >= 1 and sigma > 0, got radius="):
        SlidingDisc(**argument)


# Fills


def test_a_constant_is_relative_to_the_input_range():
    assert (filled(0.5, IMAGE, (0, 1)) == 0.5).all()
    assert (filled(0.5, 255 * IMAGE, (0, 255)) == 127.5).all()
    assert (filled(0.25, IMAGE, (-1, 1)) == -0.5).all()
    assert (filled(1, IMAGE, (0, 255)) == 255).all()


@pytest.mark.parametrize("number", [np.float32(0.5), np.float64(0.5)])
def test_a_numpy_number_is_a_constant_too(number: Any):
    assert (filled(number, IMAGE, (0, 255)) == 127.5).all()


def test_arrays_and_callables_are_in_the_inputs_own_units():
    image = np.stack([IMAGE[0], 2 * IMAGE[0]])
    row = np.arange(12.0)
    assert np.array_equal(filled(row, image, (0, 255)), np.broadcast_to(row, (2, 12, 12)))
    assert np.array_equal(filled(np.array([3, 4])[:, None, None], image, (0, 1))[1], np.full((12, 12), 4))
    assert np.array_equal(filled(lambda x: x[::-1], image, (0, 1)), image[::-1])


def test_a_fill_has_the_images_dtype_and_own_memory():
    fill = np.zeros((1, 12, 12), np.float32)
    whole = filled(fill, IMAGE.astype(np.float64), (0, 1))
    assert whole.dtype == np.float64
    assert filled(fill, IMAGE, (0, 1)) is not fill
    filled(fill, IMAGE, (0, 1))[:] = 1
    assert not fill.any()


def test_a_callable_that_writes_into_its_image_spoils_a_copy():
    image = IMAGE.copy()

    def black(x: NDArray[Any]) -> NDArray[Any]:
        x[:] = 0
        return x

    assert not filled(black, image, (0, 1)).any()
    assert np.array_equal(image, IMAGE)


@pytest.mark.parametrize("shape", [(2, 12, 12), (11, 12), (1, 1, 12, 12), (5,)])
def test_a_fill_that_does_not_broadcast_is_refused(shape: tuple[int, ...]):
    message = r"Expected a fill that broadcasts to the input's shape \(1, 12, 12\), got \("
    with pytest.raises(ValueError, match=message):
        filled(np.zeros(shape), IMAGE, (0, 1))
    with pytest.raises(ValueError, match=message):
        filled(lambda _: np.zeros(shape), IMAGE, (0, 1))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_fill_that_is_not_finite_is_refused(value: float):
    with pytest.raises(ValueError, match="Expected a finite fill, got NaN or infinity"):
        filled(np.full((12, 12), value), IMAGE, (0, 1))


@pytest.mark.parametrize("fill", [-0.1, 127.5, 255, np.float32(2), float("nan")])
def test_a_constant_outside_zero_to_one_is_refused(fill: Any):
    with pytest.raises(ValueError, match=r"Expected a constant fill in \[0, 1\], relative to the input range .*, got "):
        check_fill(fill)


@pytest.mark.parametrize("fill", ["blur", {"sigma": 3}, None])
def test_a_fill_of_another_kind_is_a_type_error(fill: Any):
    with pytest.raises(TypeError, match=r"Expected fill to be a constant, an array or a callable, got (str|dict|NoneType)"):
        check_fill(fill)


@pytest.mark.parametrize("fill", [0, 1, 0.5, True, np.zeros(3), [[0.0]], GaussianBlur(1), np.mean])
def test_what_can_be_a_fill_is_accepted(fill: Any):
    check_fill(fill)


def test_the_blur_stays_within_each_channel_and_changes_nothing_else():
    image = np.zeros((2, 9, 9), np.float32)
    image[0, 4, 4] = 1
    before = image.copy()
    blurred = GaussianBlur(sigma=1.5)(image)
    assert np.allclose(blurred[0], gaussian_filter(image[0], 1.5))
    assert 0 < blurred[0, 4, 5] < 1
    assert not blurred[1].any()
    assert blurred.dtype == np.float32
    assert np.array_equal(image, before)
    assert repr(GaussianBlur()) == "GaussianBlur(sigma=3.0)"


@pytest.mark.parametrize("sigma", [0, -1, float("nan")])
def test_a_blur_without_width_is_refused(sigma: float):
    with pytest.raises(ValueError, match="Expected a positive sigma, got"):
        GaussianBlur(sigma)


# Applying masks


def test_masks_are_applied_by_hand():
    x = torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]])  # two channels of 1x2
    fill = torch.tensor([[[10.0, 10.0]], [[0.0, 8.0]]])
    replaced = torch.tensor([[[0.0, 0.5]], [[1.0, 0.0]]])[:, None]
    expected = [[[[1.0, 6.0]], [[3.0, 6.0]]], [[[10.0, 2.0]], [[0.0, 4.0]]]]
    assert perturbed(x, fill - x, replaced).tolist() == expected


@given(seed=st.integers(0, 2**16), channels=st.integers(1, 4), n=st.integers(1, 6))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_masks_are_applied_as_equation_one_and_mutate_nothing(seed: int, channels: int, n: int):
    random = np.random.default_rng(seed)
    x, fill = random.random((2, channels, 5, 6))
    m = random.random((n, 5, 6)).round(1)
    arguments = [torch.as_tensor(a) for a in (x, fill - x, (1 - m)[:, None])]
    before = [argument.clone() for argument in arguments]
    result = perturbed(*arguments).numpy()
    assert np.allclose(result, m[:, None] * x + (1 - m[:, None]) * fill)
    untouched = np.broadcast_to(m[:, None] == 1, result.shape)
    assert (result[untouched] == np.broadcast_to(x, result.shape)[untouched]).all()  # exactly
    assert all(torch.equal(a, b) for a, b in zip(arguments, before, strict=True))


# What changes


@given(seed=st.integers(0, 2**16), tolerance=st.sampled_from([0.0, 1e-4, 0.01, 0.3]))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_every_change_beyond_the_tolerance_is_found_and_few_others(seed: int, tolerance: float):
    draw = np.random.default_rng(seed)
    untouched = 1 - draw.uniform(size=(6, 8, 8)).astype(np.float32) ** 8
    untouched[0] = 1
    change = torch.from_numpy((draw.normal(size=(2, 8, 8)) * (draw.uniform(size=(2, 8, 8)) > 0.5)).astype(np.float32))
    masks = Masks(untouched)
    changed = masks.changed(torch.zeros(1), change, tolerance)
    amounts = torch.from_numpy(masks.replaced) * change.abs().amax(dim=0)
    assert changed.shape == (7, 8, 8)
    assert not changed[0].any()
    assert (changed[1:] >= (amounts > tolerance)).all()
    assert not changed[1:][amounts == 0].any()
    largest = change.abs().amax(dim=0)
    a_level_less = largest * ((tolerance / largest).pow(0.25) - 1 / 255).clamp(min=0) ** 4
    assert (amounts >= 0.999 * a_level_less)[changed[1:]].all()


def test_with_tolerance_zero_exactly_what_changes_is_found():
    untouched = np.ones((1, 2, 2), np.float32)
    untouched[0, 0, 0] = 1 - 1e-6
    untouched[0, 1, 1] = 0
    change = torch.tensor([[[1e-30, 1.0], [1.0, 0.0]]])
    assert Masks(untouched).changed(torch.zeros(1), change, 0.0)[1].tolist() == [[True, False], [False, False]]


def test_what_half_precision_rounds_to_nothing_is_still_found_in_single_precision():
    untouched = np.ones((1, 1, 1), np.float32)
    untouched[0, 0, 0] = 1 - 2.0**-24
    replaced = Masks(untouched).replaced.copy()
    replaced[...] = 1e-9
    masks = Masks(untouched)
    masks.__dict__["replaced"] = replaced
    change = torch.ones(1, 1, 1)
    assert not masks.changed(torch.zeros(1, dtype=torch.float16), change.half(), 0.0)[1].any()
    assert masks.changed(torch.zeros(1), change, 0.0)[1].all()
