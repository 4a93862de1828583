"""`ScorerContract`: the laws of scorers, to be subclassed in a test. `check_scorer` runs them on one scorer."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xaitk_saliency.interfaces.gen_classifier_conf_sal import GenerateClassifierConfidenceSaliency

from saliency_wrappers.decisions import Array
from saliency_wrappers.saliency.masks import SlidingDisc
from saliency_wrappers.saliency.scoring import PerturbationScores
from saliency_wrappers.testing.contract import Contract, ContractError


class ScorerContractError(ContractError):
    """A scorer breaks laws of `PerturbationScores`, or of xaitk's `GenerateClassifierConfidenceSaliency`."""


class ScorerContract(Contract):
    """The laws that every scorer keeps, one `test_*` method each; those of `scores` for subclasses of `PerturbationScores` only.

    Subclass it in a test module; pytest runs each law by itself::

        class TestMyScores(ScorerContract):
            def make_scorer(self) -> GenerateClassifierConfidenceSaliency:
                return MyScores()
    """

    error = ScorerContractError

    def make_scorer(self) -> GenerateClassifierConfidenceSaliency:
        """Return the scorer to check."""
        raise NotImplementedError(f"{type(self).__name__} defines make_scorer, which returns the scorer to check.")

    def make_masks(self) -> Array:
        """Return masks `(n, h, w)` float32 in [0, 1]; 1: untouched. By default 16 discs, a grid with stride 5 on 20x20 pixels."""
        return SlidingDisc(radius=2, stride=5, sigma=2)(np.zeros((20, 20), np.uint8)).astype(np.float32)

    def make_outputs(self, n: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the outputs without a mask `(outputs,)`, and those under each of n masks `(n, outputs)`. By default four logits."""
        noise = np.random.default_rng(0)
        reference = noise.normal(size=4).astype(np.float32)
        return reference, (reference + 0.5 * noise.normal(size=(n, 4))).astype(np.float32)

    @cached_property
    def scorer(self) -> GenerateClassifierConfidenceSaliency:
        """The scorer that is checked."""
        return self.make_scorer()

    @cached_property
    def masks(self) -> Array:
        """The masks `(n, h, w)`."""
        return self.make_masks()

    @cached_property
    def outputs(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The outputs without a mask and under each mask."""
        return self.make_outputs(len(self.masks))

    def _map(self, scorer: GenerateClassifierConfidenceSaliency | None = None) -> NDArray[Any]:
        reference, perturbed = self.outputs
        return np.asarray((scorer or self.scorer).generate(reference.copy(), perturbed.copy(), self.masks.copy()))

    def _scores(self, reference: NDArray[Any], perturbed: NDArray[Any]) -> NDArray[np.float64] | None:
        """The scores of a `PerturbationScores`; None for any other scorer."""
        return self.scorer.scores(reference, perturbed) if isinstance(self.scorer, PerturbationScores) else None

    def test_a_map_has_the_size_of_the_masks(self) -> None:
        """A map is `(h, w)`, or `(outputs, h, w)` with one for each output."""
        size, outputs, made = self.masks.shape[1:], len(self.outputs[0]), self._map()
        self.require(made.shape in (size, (outputs, *size)), f"a map {size} or {(outputs, *size)}, got {made.shape}")

    def test_a_map_is_finite(self) -> None:
        """Maps are floating-point numbers without NaN and infinity."""
        made = self._map()
        self.require(np.issubdtype(made.dtype, np.floating), f"a map of floating-point numbers, got {made.dtype}")
        self.require(bool(np.isfinite(made).all()), "a finite map")

    def test_maps_are_deterministic(self) -> None:
        """The same outputs and masks give the same map."""
        self.require(np.array_equal(self._map(), self._map()), "the same outputs and masks give the same map")

    def test_outputs_that_never_change_give_zeros(self) -> None:
        """Where no mask changes an output, the map is 0 everywhere."""
        reference = self.outputs[0]
        made = np.asarray(self.scorer.generate(reference, np.repeat(reference[None], len(self.masks), axis=0), self.masks.copy()))
        self.require(bool((made == 0).all()), "a map of zeros where no mask changes an output")

    def test_arguments_are_left_as_they_are(self) -> None:
        """Neither outputs nor masks are written to."""
        reference, perturbed, masks = self.outputs[0].copy(), self.outputs[1].copy(), self.masks.copy()
        self.scorer.generate(reference, perturbed, masks)
        for name, before, now in (
            ("reference", self.outputs[0], reference),
            ("perturbed", self.outputs[1], perturbed),
            ("masks", self.masks, masks),
        ):
            self.require(np.array_equal(before, now), f"generate leaves {name} as it is")

    def test_the_configuration_makes_an_equal_scorer(self) -> None:
        """`from_config(get_config())` gives the same maps."""
        other = type(self.scorer).from_config(self.scorer.get_config())
        self.require(np.allclose(self._map(other), self._map()), "from_config(get_config()) gives a scorer with the same maps")

    def test_each_mask_has_a_score(self) -> None:
        """`scores` gives `(n,)` or `(n, outputs)` float64."""
        n, outputs = len(self.masks), len(self.outputs[0])
        scores = self._scores(*self.outputs)
        if scores is not None:
            self.require(scores.shape in ((n,), (n, outputs)), f"scores ({n},) or ({n}, {outputs}), got {scores.shape}")
            self.require(scores.dtype == np.float64, f"scores of float64, got {scores.dtype}")

    def test_a_score_depends_on_its_own_mask_only(self) -> None:
        """The scores of outputs in another order are the scores in that order."""
        reference, perturbed = self.outputs
        scores, backwards = self._scores(reference, perturbed), self._scores(reference, perturbed[::-1].copy())
        if scores is not None and backwards is not None:
            self.require(np.allclose(scores, backwards[::-1]), "a mask's score does not depend on the other masks' outputs")

    def test_a_forbidden_action_gives_finite_scores(self) -> None:
        """Scores that read a policy take logits of `-inf`."""
        reference, perturbed = (one.copy() for one in self.outputs)
        reference[-1], perturbed[:, -1] = -np.inf, -np.inf
        if isinstance(self.scorer, PerturbationScores) and self.scorer.reads_policy:
            self.require(bool(np.isfinite(self.scorer.scores(reference, perturbed)).all()), "finite scores where a logit is -inf")


def check_scorer(scorer: GenerateClassifierConfidenceSaliency, masks: Array | None = None) -> None:
    """Run every law of `ScorerContract` on a scorer, without pytest.

    Args:
        scorer: what to check.
        masks: `(n, h, w)` float32 in [0, 1]; 1: untouched. None: 16 discs on 20x20 pixels.

    Raises:
        ScorerContractError: every law that does not hold, and how it was seen; `error.laws` has them by name.
    """
    _Given(scorer, masks).check()


class _Given(ScorerContract):
    """The contract of a scorer that exists."""

    def __init__(self, scorer: GenerateClassifierConfidenceSaliency, masks: Array | None) -> None:
        self._given = scorer, masks

    def make_scorer(self) -> GenerateClassifierConfidenceSaliency:
        return self._given[0]

    def make_masks(self) -> Array:
        return super().make_masks() if self._given[1] is None else self._given[1]
