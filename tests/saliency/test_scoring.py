"""Scoring rules against arrays written by hand, against a plain loop, and against xaitk's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from xaitk_saliency import GenerateClassifierConfidenceSaliency
from xaitk_saliency.impls.gen_classifier_conf_sal.occlusion_scoring import OcclusionScoring
from xaitk_saliency.impls.gen_classifier_conf_sal.rise_scoring import RISEScoring
from xaitk_saliency.impls.gen_classifier_conf_sal.squared_difference_scoring import SquaredDifferenceScoring

from saliency_wrappers.saliency.masks import Masks
from saliency_wrappers.saliency.scoring import GridSquaredDifference, SquaredDifference, saliency_map, squared_differences

REFERENCE = np.array([1.0, 2.0], np.float32)
PERTURBED = np.array([[1.0, 2.0], [3.0, 2.0], [0.0, 0.0]], np.float32)  # scores 0, 2 and 2.5
MASKS = np.array(
    [
        [[0.0, 0.0, 1.0], [1.0, 1.0, 1.0]],
        [[1.0, 0.5, 0.0], [1.0, 1.0, 1.0]],
        [[1.0, 1.0, 0.5], [0.0, 1.0, 0.9]],
    ],
    np.float32,
)
# Place by place, sum of s (1 - m) over sum of (1 - m), for example (2 * 1 + 2.5 * 0.5) / 1.5 above right; nothing reaches below middle.
GOLDEN = [[0.0, 2 * 0.5 / 1.5, 3.25 / 1.5], [2.5, 0.0, 2.5]]


def test_scores_by_hand():
    assert squared_differences(REFERENCE, PERTURBED).tolist() == [0.0, 2.0, 2.5]
    assert squared_differences(np.array([0.5]), np.array([[0.5], [-1.5]])).tolist() == [0.0, 2.0]


def test_scores_of_nearly_equal_outputs_keep_their_digits():
    reference, perturbed = np.array([1000.1, 0.1], np.float32), np.array([[1000.2, 0.3]], np.float32)
    expected = 0.5 * sum((float(y) - float(z)) ** 2 for y, z in zip(reference, perturbed[0], strict=True))
    assert squared_differences(reference, perturbed)[0] == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize(("reference", "perturbed"), [((2,), (3,)), ((3,), (4, 2)), ((1, 2), (4, 2)), ((), (4, 1))])
def test_outputs_that_do_not_belong_together_are_refused(reference: tuple[int, ...], perturbed: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"Expected reference \(outputs,\) and perturbed \(n, outputs\), got"):
        squared_differences(np.zeros(reference), np.zeros(perturbed))


def test_the_raw_map_by_hand():
    made = SquaredDifference().generate(REFERENCE, PERTURBED, MASKS)
    assert made.dtype == np.float32
    assert np.allclose(made, GOLDEN, atol=1e-6)
    assert made[1, 1] == 0


def test_the_raw_map_is_xaitks_before_xaitk_rescales_it():
    ours = SquaredDifference().generate(REFERENCE, PERTURBED, MASKS)
    theirs = SquaredDifferenceScoring().generate(REFERENCE, PERTURBED, MASKS)
    assert np.allclose((ours - ours.min()) / (ours.max() - ours.min()), theirs, atol=1e-6)


def test_boolean_masks_weigh_like_zeros_and_ones():
    masks = np.array([[[True, False]], [[False, True]], [[True, True]]])
    assert SquaredDifference().generate(REFERENCE, PERTURBED, masks).tolist() == [[2.0, 0.0]]


def test_masks_of_another_number_than_scores_are_refused():
    with pytest.raises(ValueError, match="Expected as many scores as masks, got 3 and 2"):
        SquaredDifference().generate(REFERENCE, PERTURBED, MASKS[:2])


@given(seed=st.integers(0, 2**16), n=st.integers(1, 8), outputs=st.integers(1, 5), spare=st.booleans())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_the_raw_map_is_equation_four_term_by_term(seed: int, n: int, outputs: int, spare: bool):
    random = np.random.default_rng(seed)
    reference, perturbed = random.normal(size=outputs), random.normal(size=(n, outputs))
    masks = random.random((n, 4, 5)).astype(np.float32)
    if spare:
        masks[:, 2, 3] = 1
    before = [array.copy() for array in (reference, perturbed, masks)]
    made = SquaredDifference().generate(reference, perturbed, masks)
    for y in range(4):
        for x in range(5):
            total, weight = 0.0, 0.0
            for k in range(n):
                score = 0.5 * sum((reference[i] - perturbed[k, i]) ** 2 for i in range(outputs))
                total += score * (1 - float(masks[k, y, x]))
                weight += 1 - float(masks[k, y, x])
            assert made[y, x] == pytest.approx(total / weight if weight else 0, rel=1e-4, abs=1e-7)
    assert all(np.array_equal(a, b) for a, b in zip(before, (reference, perturbed, masks), strict=True))


@given(seed=st.integers(0, 2**16), scale=st.floats(0.01, 100))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_raw_maps_grow_with_the_square_of_the_outputs(seed: int, scale: float):
    random = np.random.default_rng(seed)
    reference, perturbed, masks = random.normal(size=3), random.normal(size=(6, 3)), random.random((6, 4, 4))
    once, scaled = (SquaredDifference().generate(factor * reference, factor * perturbed, masks) for factor in (1.0, scale))
    assert np.allclose(scaled, scale**2 * once, rtol=1e-4)


def test_a_constant_network_has_a_finite_zero_map():
    for generator in (SquaredDifference(), GridSquaredDifference(stride=2)):
        made = generator.generate(REFERENCE, np.tile(REFERENCE, (4, 1)), np.random.default_rng(0).random((4, 4, 4)))
        assert np.array_equal(made, np.zeros((4, 4)))


def test_the_grid_map_by_hand():
    """Half-pixel bilinear: between two centres four pixels apart the weights are 1/8, 3/8, 5/8, 7/8; flat beyond the outer ones."""
    reference, perturbed = np.array([0.0]), np.sqrt(2 * np.array([[0.0], [8.0], [16.0], [24.0]]))
    made = GridSquaredDifference(stride=4).generate(reference, perturbed, np.ones((4, 8, 8)))
    across = np.array([0, 0, 1, 3, 5, 7, 8, 8])
    down = np.array([0, 0, 2, 6, 10, 14, 16, 16])
    assert made.dtype == np.float32
    assert np.allclose(made, across[None, :] + down[:, None], atol=1e-5)


def test_the_grid_of_a_size_that_the_stride_does_not_divide_is_rounded_up():
    scores = np.arange(6.0)
    made = GridSquaredDifference(stride=5).weigh(scores, Masks(np.ones((6, 7, 11), np.float32)))  # centres 0, 5 and 0, 5, 10
    assert made.shape == (7, 11)
    assert (made[0, 0], made[0, -1], made[-1, 0], made[-1, -1]) == (0, 2, 3, 5)


@pytest.mark.parametrize("n", [3, 5])
def test_a_grid_of_another_number_of_masks_is_refused(n: int):
    with pytest.raises(ValueError, match=rf"Expected 4 masks, a grid of \(2, 2\) with stride 4, got {n}"):
        GridSquaredDifference(stride=4).generate(np.zeros(1), np.zeros((n, 1)), np.ones((n, 8, 8)))


@pytest.mark.parametrize("stride", [0, -5])
def test_a_grid_without_stride_is_refused(stride: int):
    with pytest.raises(ValueError, match="Expected a stride of 1 or more, got"):
        GridSquaredDifference(stride)


@pytest.mark.parametrize("generator", [SquaredDifference(), GridSquaredDifference(stride=3)], ids=lambda one: type(one).__name__)
def test_scorers_are_made_from_their_own_configuration(generator: Any):
    again = type(generator).from_config(generator.get_config())
    assert again.get_config() == generator.get_config()
    assert isinstance(again, GenerateClassifierConfidenceSaliency)


# Any generator


class Gives(GenerateClassifierConfidenceSaliency):
    """Gives what it was given, and notes what it was asked."""

    def __init__(self, made: Any) -> None:
        self.made = made

    def generate(self, reference: NDArray[Any], perturbed: NDArray[Any], perturbed_masks: NDArray[Any]) -> Any:
        self.asked = (reference, perturbed, perturbed_masks)
        return self.made

    def get_config(self) -> dict[str, Any]:
        return {"made": self.made}


def mapped(generator: Any, chosen: int = 0) -> NDArray[np.float32]:
    return saliency_map(generator, REFERENCE, PERTURBED, Masks(MASKS), chosen)


def test_a_generator_gets_reference_perturbed_and_untouched():
    generator = Gives(np.zeros((2, 3)))
    mapped(generator)
    for asked, expected in zip(generator.asked, (REFERENCE, PERTURBED, MASKS), strict=True):
        assert np.array_equal(asked, expected)


def test_a_generator_that_writes_into_its_masks_spoils_a_copy():
    class Spoils(Gives):
        def generate(self, reference: Any, perturbed: Any, perturbed_masks: NDArray[Any]) -> Any:
            perturbed_masks[:] = 0
            return self.made

    masks = Masks(MASKS.copy())
    saliency_map(Spoils(np.zeros((2, 3))), REFERENCE, PERTURBED, masks, 0)
    assert np.array_equal(masks.untouched, MASKS)


def test_one_map_is_taken_as_it_is():
    made = mapped(Gives(np.array(GOLDEN, np.float64)))
    assert made.dtype == np.float32
    assert np.allclose(made, GOLDEN)


@pytest.mark.parametrize("chosen", [0, 1])
def test_of_one_map_for_each_output_the_chosen_one_is_taken(chosen: int):
    assert (mapped(Gives(np.arange(12).reshape(2, 2, 3)), chosen) == np.arange(12).reshape(2, 2, 3)[chosen]).all()


@pytest.mark.parametrize("chosen", [-1, 2])
def test_an_action_without_a_map_is_refused(chosen: int):
    with pytest.raises(ValueError, match=rf"Expected an action of 0 to 1, to take its map, got {chosen}"):
        mapped(Gives(np.zeros((2, 2, 3))), chosen)
    assert mapped(Gives(np.zeros((2, 3))), chosen).shape == (2, 3)  # where there is one map, no action is needed


@pytest.mark.parametrize("shape", [(3, 2), (3, 2, 3), (2, 3, 2), (1, 2, 3), (6,), ()])
def test_a_map_of_another_shape_is_refused(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"Expected a map of shape \(2, 3\) or one for each of 2 outputs from Gives, got \("):
        mapped(Gives(np.zeros(shape)))


@pytest.mark.parametrize("generator", [OcclusionScoring(), RISEScoring(), RISEScoring(p1=0.5)], ids=["occlusion", "RISE", "debiased RISE"])
@pytest.mark.parametrize("chosen", [0, 1])
def test_xaitks_generators_of_a_map_per_class_give_the_chosen_classs(generator: Any, chosen: int):
    theirs = generator.generate(REFERENCE, PERTURBED, MASKS)
    assert theirs.shape == (2, 2, 3)
    assert not np.allclose(theirs[0], theirs[1])
    assert np.allclose(mapped(generator, chosen), theirs[chosen])


def test_xaitks_squared_difference_gives_its_own_map():
    assert np.allclose(mapped(SquaredDifferenceScoring()), SquaredDifferenceScoring().generate(REFERENCE, PERTURBED, MASKS))


def test_a_subclass_that_generates_its_own_map_is_asked_for_it():
    class Root(SquaredDifference):
        def generate(self, reference: Any, perturbed: Any, perturbed_masks: Any) -> Any:
            return np.sqrt(super().generate(reference, perturbed, perturbed_masks))

    assert np.allclose(mapped(Root()), np.sqrt(GOLDEN), atol=1e-6)


def test_differences_whose_squares_overflow_are_refused_not_hidden_as_zeros():
    with pytest.raises(ValueError, match="outputs are too large"):
        squared_differences(np.zeros(1), np.full((2, 1), 1e20))
