"""`ScorerContract` as a user's test, every scorer of ours, and scorers that each break a law."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from xaitk_saliency.impls.gen_classifier_conf_sal.squared_difference_scoring import SquaredDifferenceScoring

from saliency_wrappers import (
    SARFA,
    GridSquaredDifference,
    KLDivergence,
    LogitDrop,
    PerturbationScores,
    ProbabilityDrop,
    SquaredDifference,
    SquaredProbabilityDifference,
    TotalVariation,
    ValueDifference,
)
from saliency_wrappers.testing import ScorerContract, ScorerContractError, check_scorer


class TestSquaredDifference(ScorerContract):
    def make_scorer(self) -> PerturbationScores:
        return SquaredDifference()


class TestValues(ScorerContract):
    def make_scorer(self) -> PerturbationScores:
        return ValueDifference("signed")

    def make_outputs(self, n: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        reference, perturbed = super().make_outputs(n)
        return reference[:1], perturbed[:, :1]


OURS = [
    GridSquaredDifference(5),
    KLDivergence(),
    TotalVariation(),
    SquaredProbabilityDifference(),
    ProbabilityDrop(),
    ProbabilityDrop(2),
    LogitDrop(),
    SARFA(1),
    ValueDifference(),
]


@pytest.mark.parametrize("scorer", OURS, ids=lambda scorer: f"{type(scorer).__name__} {scorer.get_config()}")
def test_our_scorers_keep_the_contract(scorer: PerturbationScores):
    check_scorer(scorer)


class Plain(PerturbationScores):
    """Keeps the contract: the sum of all changes."""

    def scores(self, reference: NDArray[Any], perturbed: NDArray[Any]) -> NDArray[np.float64]:
        return np.abs(perturbed.astype(np.float64) - reference).sum(axis=1)


class Flat(Plain):
    def generate(self, reference: NDArray[Any], perturbed: NDArray[Any], perturbed_masks: NDArray[Any]) -> Any:
        return super().generate(reference, perturbed, perturbed_masks).ravel()


class Relative(Plain):
    """Divides by the largest score, which is 0 where nothing changes."""

    def generate(self, reference: NDArray[Any], perturbed: NDArray[Any], perturbed_masks: NDArray[Any]) -> Any:
        made = super().generate(reference, perturbed, perturbed_masks)
        with np.errstate(invalid="ignore"):
            return made / made.max()


class Infinite(Plain):
    def generate(self, reference: NDArray[Any], perturbed: NDArray[Any], perturbed_masks: NDArray[Any]) -> Any:
        with np.errstate(divide="ignore"):
            return np.log(0 * super().generate(reference, perturbed, perturbed_masks))


class Random(Plain):
    noise = np.random.default_rng(0)

    def scores(self, reference: NDArray[Any], perturbed: NDArray[Any]) -> NDArray[np.float64]:
        return super().scores(reference, perturbed) * self.noise.uniform(0.5, 1)


class WritesToMasks(Plain):
    def generate(self, reference: NDArray[Any], perturbed: NDArray[Any], perturbed_masks: NDArray[Any]) -> Any:
        made = super().generate(reference, perturbed, perturbed_masks)
        perturbed_masks *= 0.5
        return made


class ForgetsItsArgument(Plain):
    def __init__(self, power: int = 2) -> None:
        self.power = power

    def scores(self, reference: NDArray[Any], perturbed: NDArray[Any]) -> NDArray[np.float64]:
        return super().scores(reference, perturbed) ** self.power


class OneScoreForAll(Plain):
    def scores(self, reference: NDArray[Any], perturbed: NDArray[Any]) -> NDArray[np.float64]:
        return super().scores(reference, perturbed)[:1]


class SinglePrecision(Plain):
    def scores(self, reference: NDArray[Any], perturbed: NDArray[Any]) -> Any:
        return super().scores(reference, perturbed).astype(np.float32)


class ComparesMasks(Plain):
    def scores(self, reference: NDArray[Any], perturbed: NDArray[Any]) -> NDArray[np.float64]:
        return np.cumsum(super().scores(reference, perturbed))


class TakesNoInfinity(Plain):
    reads_policy = True

    def scores(self, reference: NDArray[Any], perturbed: NDArray[Any]) -> NDArray[np.float64]:
        with np.errstate(invalid="ignore"):
            return super().scores(reference, perturbed)


@pytest.mark.parametrize(
    ("broken", "law", "message"),
    [
        (Flat(), "a_map_has_the_size_of_the_masks", r"a map \(20, 20\) or \(4, 20, 20\), got \(400,\)"),
        (Infinite(), "a_map_is_finite", "a finite map"),
        (Relative(), "outputs_that_never_change_give_zeros", "a map of zeros where no mask changes an output"),
        (Random(), "maps_are_deterministic", "the same outputs and masks give the same map"),
        (WritesToMasks(), "arguments_are_left_as_they_are", "generate leaves masks as it is"),
        (
            ForgetsItsArgument(3),
            "the_configuration_makes_an_equal_scorer",
            "gives a scorer with the same maps",
        ),
        (OneScoreForAll(), "each_mask_has_a_score", r"scores \(16,\) or \(16, 4\), got \(1,\)"),
        (SinglePrecision(), "each_mask_has_a_score", "scores of float64, got float32"),
        (ComparesMasks(), "a_score_depends_on_its_own_mask_only", "does not depend on the other masks' outputs"),
        (TakesNoInfinity(), "a_forbidden_action_gives_finite_scores", "finite scores where a logit is -inf"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, PerturbationScores) else "",
)
def test_the_contract_says_what_a_broken_scorer_breaks(broken: PerturbationScores, law: str, message: str):
    with pytest.raises(ScorerContractError) as raised:
        check_scorer(broken)
    assert re.search(message, raised.value.laws[f"test_{law}"])
    assert raised.value.laws[f"test_{law}"] in str(raised.value)


def test_laws_of_scores_do_not_concern_other_scorers():
    with pytest.raises(ScorerContractError) as raised, np.errstate(invalid="ignore", divide="ignore"):
        check_scorer(SquaredDifferenceScoring())
    assert set(raised.value.laws) == {"test_outputs_that_never_change_give_zeros"}, "xaitk rescales, which is 0 / 0 there"
    with pytest.raises(NotImplementedError, match="defines make_scorer"):
        _ = ScorerContract().scorer
