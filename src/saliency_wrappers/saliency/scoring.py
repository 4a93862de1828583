"""Scoring rules: from outputs on perturbed inputs to a map, as xaitk `GenerateClassifierConfidenceSaliency` implementations.

`PerturbationScores` is what scores have in common; `SquaredDifference` is the default, `GridSquaredDifference` the 2018 variant, more are
in `policy_scores`. `change_weighted` is the other way to make a map of scores; `saliency_map` runs any generator.
"""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeGuard

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from xaitk_saliency.interfaces.gen_classifier_conf_sal import GenerateClassifierConfidenceSaliency

from saliency_wrappers.decisions import Array
from saliency_wrappers.saliency.incremental.kernels import load_kernels
from saliency_wrappers.saliency.incremental.parallel import parallel_for
from saliency_wrappers.saliency.masks import Masks

if TYPE_CHECKING:
    from xaitk_saliency.impls.gen_classifier_conf_sal.mc_rise_scoring import MCRISEScoring


def squared_differences(reference: NDArray[Any], perturbed: NDArray[Any]) -> NDArray[np.float64]:
    """`s_k = 0.5 * sum((y - y_k)**2)` (Greydanus et al. 2018, eq. 2).

    Args:
        reference: y, `(outputs,)`.
        perturbed: y_k, `(n, outputs)`.

    Returns:
        `(n,)` float64, `>= 0`.

    Raises:
        ValueError: other shapes, or differences whose squares float32 cannot hold.
    """
    reference, perturbed = np.asarray(reference), np.asarray(perturbed)
    if perturbed.ndim != 2 or reference.shape != perturbed.shape[1:]:
        raise ValueError(f"Expected reference (outputs,) and perturbed (n, outputs), got {reference.shape} and {perturbed.shape}.")
    scores = 0.5 * ((perturbed.astype(np.float64) - reference) ** 2).sum(axis=1)
    if scores.max(initial=0.0) > np.finfo(np.float32).max:
        raise ValueError(f"The agent's outputs are too large: squared differences of {scores.max():.3g} exceed the range of float32.")
    return scores


class PerturbationScores(GenerateClassifierConfidenceSaliency):
    """A score for each mask, and maps of these scores: `map = sum_k s_k (1 - m_k) / sum_k (1 - m_k)`, 0 where no mask reaches.

    A subclass defines `scores`. Maps stay raw: magnitudes compare across frames and episodes. `PerturbationSaliency` can weigh the same
    scores by how much each mask changes each pixel instead (`change_weighted`).
    """

    reads_policy: ClassVar[bool] = False
    """Whether outputs are read as logits of a policy; the value of a critic needs other scores then."""

    @abstractmethod
    def scores(self, reference: NDArray[Any], perturbed: NDArray[Any]) -> NDArray[np.float64]:
        """Return the score of each mask.

        Args:
            reference: y, `(outputs,)`.
            perturbed: y_k, `(n, outputs)`.

        Returns:
            `(n,)` float64, or `(n, outputs)` with a score for each action.
        """

    def generate(self, reference: NDArray[Any], perturbed: NDArray[Any], perturbed_masks: NDArray[Any]) -> Array:
        """A map `(h, w)` float32, or one for each action `(outputs, h, w)`, on the scale of the scores.

        Args:
            reference: y, `(outputs,)`.
            perturbed: y_k, `(n, outputs)`.
            perturbed_masks: m_k, `(n, h, w)` in [0, 1]; 1: untouched.
        """
        scores, masks = self.scores(reference, perturbed), Masks(np.asarray(perturbed_masks, np.float32))
        return self.weigh(scores, masks) if scores.ndim == 1 else np.stack([self.weigh(one, masks) for one in scores.T])

    def weigh(self, scores: NDArray[np.float64], masks: Masks) -> Array:
        """Return the map `(h, w)` of scores `(n,)`, from masks whose sums are cached."""
        if len(scores) != len(masks.untouched):
            raise ValueError(f"Expected as many scores as masks, got {len(scores)} and {len(masks.untouched)}.")
        weights = _weighed(scores.astype(np.float32), masks)
        return np.divide(weights, masks.coverage, out=np.zeros_like(weights), where=masks.coverage > 0)

    def get_config(self) -> dict[str, Any]:
        """Return no arguments."""
        return {}


class SquaredDifference(PerturbationScores):
    """`map = sum_k s_k (1 - m_k) / sum_k (1 - m_k)`, 0 where no mask reaches (Greydanus et al. 2018, eq. 2 and 4).

    Unlike xaitk's `SquaredDifferenceScoring` the map stays raw: magnitudes compare across frames and episodes. It is in squared units of
    the output and `>= 0`.
    """

    def scores(self, reference: NDArray[Any], perturbed: NDArray[Any]) -> NDArray[np.float64]:
        """`(n,)` float64 `>= 0`, see `squared_differences`."""
        return squared_differences(reference, perturbed)


_LEAST_CHANGE = 1e-6
"""Masks that change no more than this in all, in units of the input range, are skipped."""


def mask_changes(masks: Masks, change: Array) -> Array:
    """`C_k = sum_p (1 - m_k(p)) c(p)`: how much each mask changes in all.

    Args:
        masks: m_k, n of them.
        change: c, `(h, w)` float32 `>= 0`: how much a pixel differs from the fill.

    Returns:
        `(n,)` float32.
    """
    replaced = torch.from_numpy(masks.replaced)
    return torch.mv(replaced.flatten(1), torch.from_numpy(np.ascontiguousarray(change, np.float32)).flatten()).numpy()


def change_weighted(scores: NDArray[np.float64], masks: Masks, change: Array, changes: Array | None = None) -> Array:
    """`map(p) = c(p) sum_k (1 - m_k(p)) s_k / C_k`: each score goes to the pixels that its mask changes, in proportion to their change.

    The map sums to the sum of all scores, but those of masks with `C_k <= 1e-6`, which change nothing.

    Args:
        scores: s_k, `(n,)`.
        masks: m_k.
        change: c, `(h, w)` float32 `>= 0`, in units of the input range: the largest `|f(p) - x(p)|` of all channels.
        changes: C_k, `(n,)`, when they are known from `mask_changes`.

    Returns:
        `(h, w)` float32.
    """
    if len(scores) != len(masks.untouched):
        raise ValueError(f"Expected as many scores as masks, got {len(scores)} and {len(masks.untouched)}.")
    totals = mask_changes(masks, change) if changes is None else changes
    parts = np.divide(scores, totals, out=np.zeros(len(scores)), where=totals > _LEAST_CHANGE)
    return _weighed(parts.astype(np.float32), masks) * np.asarray(change, np.float32)


def _weighed(scores: Array, masks: Masks) -> Array:
    """`sum_k s_k (1 - m_k)`, `(h, w)`."""
    replaced = torch.from_numpy(masks.replaced)
    kernels = load_kernels(replaced)
    if kernels is None:
        # By torch: NumPy's BLAS has threads of its own, which go on spinning beside torch's for a while.
        return torch.mv(replaced.flatten(1).T, torch.from_numpy(scores)).numpy().reshape(masks.coverage.shape)
    total = np.empty_like(masks.coverage)
    parallel_for(lambda begin, end: kernels.weigh(masks.replaced, masks.boxes, scores, total, begin, end), len(total), 20)
    return total


class GridSquaredDifference(SquaredDifference):
    """The 2018 code's own map: the scores laid out on the grid of mask centres, enlarged bilinearly to the input's size."""

    def __init__(self, stride: int = 5) -> None:
        """Expect masks with centres every `stride` pixels, row by row from (0, 0)."""
        if stride < 1:
            raise ValueError(f"Expected a stride of 1 or more, got {stride}.")
        self.stride = stride

    def weigh(self, scores: NDArray[np.float64], masks: Masks) -> Array:
        """The map `(h, w)` of scores `(n,)`."""
        height, width = masks.untouched.shape[1:]
        grid = (-(-height // self.stride), -(-width // self.stride))
        if len(scores) != grid[0] * grid[1]:
            raise ValueError(f"Expected {grid[0] * grid[1]} masks, a grid of {grid} with stride {self.stride}, got {len(scores)}.")
        return np.asarray(cv2.resize(scores.reshape(grid).astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR), np.float32)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's argument."""
        return {"stride": self.stride}


def added_maps(by_fill: Sequence[Array]) -> Array:
    """The map of one fill as it is; those of several divided by the sum of their absolute values, and added."""
    if len(by_fill) == 1:
        return by_fill[0]
    totals = [np.abs(one).sum(dtype=np.float64) for one in by_fill]
    parts = [one / total if total > 0 else np.zeros_like(one) for one, total in zip(by_fill, totals, strict=True)]
    return np.asarray(np.sum(parts, axis=0, dtype=np.float64), np.float32)


def saliency_map(
    generator: GenerateClassifierConfidenceSaliency,
    reference: NDArray[Any],
    perturbed: NDArray[Any],
    masks: Masks,
    chosen: int,
) -> Array:
    """Return the map of one head by any generator.

    Args:
        generator: any xaitk generator. One that gives a map for each output has the chosen one's taken.
        reference: y, `(outputs,)`.
        perturbed: y_k, `(n, outputs)`.
        masks: m_k.
        chosen: the index of the output whose map is wanted from a generator that gives one for each.

    Returns:
        `(h, w)` float32; from colour masks with `MCRISEScoring` `(k, h, w)`, one map for each colour. NaN where the generator gives it
        (xaitk's rescaling does, for scores that are all the same).
    """
    if isinstance(generator, PerturbationScores) and type(generator).generate is PerturbationScores.generate:
        return generator.weigh(chosen_scores(generator, reference, perturbed, chosen), masks)
    given = _colour_masks(generator, masks) if _is_mc_rise(generator) else masks.untouched
    with np.errstate(divide="ignore", invalid="ignore"):
        generated = np.asarray(generator.generate(reference, perturbed, given.copy()), np.float32)
    shape = masks.coverage.shape
    if given.ndim == 4 and generated.shape == (len(given), len(reference), *shape):
        return generated[:, _checked_index(chosen, len(reference))]
    if generated.shape == (len(reference), *shape):
        generated = generated[_checked_index(chosen, len(reference))]
    if generated.shape != shape:
        raise ValueError(
            f"Expected a map of shape {shape} or one for each of {len(reference)} outputs from {type(generator).__name__}, "
            f"got {generated.shape}."
        )
    return generated


def _is_mc_rise(generator: GenerateClassifierConfidenceSaliency) -> TypeGuard[MCRISEScoring]:
    """Whether a generator is xaitk's `MCRISEScoring`, whose module imports scikit-learn: it is not loaded to find that out."""
    module = sys.modules.get("xaitk_saliency.impls.gen_classifier_conf_sal.mc_rise_scoring")
    return module is not None and isinstance(generator, module.MCRISEScoring)


def _colour_masks(generator: MCRISEScoring, masks: Masks) -> Array:
    """The colour masks `(k, n, h, w)` that `MCRISEScoring` needs; `ValueError` where there are none, or another number of colours."""
    if masks.colours is None:
        raise ValueError("MCRISEScoring needs colour masks (k, n, h, w): expected MCRISEGrid as perturber, got masks without colours.")
    if len(masks.colours) != generator.k:
        raise ValueError(f"Expected MCRISEScoring with k={len(masks.colours)}, the number of the masks' colours, got k={generator.k}.")
    return masks.colours


def chosen_scores(generator: PerturbationScores, reference: NDArray[Any], perturbed: NDArray[Any], chosen: int) -> NDArray[np.float64]:
    """The scores `(n,)` of a generator; of one that scores each action those of the chosen one."""
    scores = generator.scores(reference, perturbed)
    return scores if scores.ndim == 1 else scores[:, _checked_index(chosen, scores.shape[1])]


def _checked_index(chosen: int, outputs: int) -> int:
    if not 0 <= chosen < outputs:
        raise ValueError(f"Expected an action of 0 to {outputs - 1}, to take its map, got {chosen}.")
    return chosen
