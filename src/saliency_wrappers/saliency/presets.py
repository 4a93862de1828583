"""`PRESETS`: named saliency methods. `saliency_method` resolves a name or a method and replaces its parts."""

from __future__ import annotations

from collections.abc import Callable

from xaitk_saliency.interfaces.gen_classifier_conf_sal import GenerateClassifierConfidenceSaliency
from xaitk_saliency.interfaces.perturb_image import PerturbImage

from saliency_wrappers.saliency.features import FEATURE_METHODS
from saliency_wrappers.saliency.fills import Background, Fills
from saliency_wrappers.saliency.inputs import InputSaliency
from saliency_wrappers.saliency.masks import GaussianBlur, SlidingDisc
from saliency_wrappers.saliency.method import SaliencyMethod
from saliency_wrappers.saliency.perturbation import PerturbationSaliency
from saliency_wrappers.saliency.policy_scores import KLDivergence
from saliency_wrappers.saliency.scoring import GridSquaredDifference

PRESETS: dict[str, Callable[[], PerturbationSaliency]] = {
    "xaitk": PerturbationSaliency,
    "greydanus2018": lambda: PerturbationSaliency(
        perturber=SlidingDisc(radius=1, stride=5, sigma=5), saliency_gen=GridSquaredDifference(stride=5), fill=GaussianBlur(sigma=3)
    ),
    "change_weighted": lambda: PerturbationSaliency(saliency_gen=KLDivergence(), weighting="change"),
    "change_weighted_two_fills": lambda: PerturbationSaliency(
        saliency_gen=KLDivergence(), fill=(GaussianBlur(sigma=3), Background()), weighting="change"
    ),
}
"""Named methods: `"xaitk"`, the published application's; `"greydanus2018"`, the paper's own code; `"change_weighted"`, the masks of
`"xaitk"` with KL divergences weighted by change; `"change_weighted_two_fills"`, the same with a blur and a background as fills, which takes
twice the passes. Its background is the running median of the inputs; give `fill=(GaussianBlur(3), Background(episode))` for a fixed one."""

METHODS: dict[str, Callable[[], SaliencyMethod]] = {**PRESETS, **FEATURE_METHODS, "inputs": InputSaliency}
"""All methods by name: those for images, `"features"` and `"feature_occlusion"` for vectors, `"inputs"` for dictionaries of both."""


def saliency_method(
    method: str | SaliencyMethod = "xaitk",
    perturber: PerturbImage | None = None,
    saliency_gen: GenerateClassifierConfidenceSaliency | None = None,
    fill: Fills | None = None,
) -> SaliencyMethod:
    """A preset by its name, or a method as it is; the parts that are given replace the method's own.

    Raises:
        ValueError: no preset of this name.
        TypeError: neither a name nor a method, or parts for a method that has none.
    """
    if isinstance(method, str):
        if method not in METHODS:
            raise ValueError(f"Expected a saliency method or the name of one, one of {sorted(METHODS)}, got {method!r}.")
        method = METHODS[method]()
    # xaitk's parts can be called too, and so can a class.
    if not callable(method) or isinstance(method, PerturbImage | GenerateClassifierConfidenceSaliency | type):
        raise TypeError(f"Expected a saliency method or the name of one, got {type(method).__name__}.")
    if perturber is None and saliency_gen is None and fill is None:
        return method
    if not isinstance(method, PerturbationSaliency):
        raise TypeError(f"perturber, saliency_gen and fill are parts of a PerturbationSaliency; {type(method).__name__} has none.")
    return PerturbationSaliency(
        method.perturber if perturber is None else perturber,
        method.saliency_gen if saliency_gen is None else saliency_gen,
        method.fill if fill is None else fill,
        method.tolerance,
        method.batch_size,
        method.device,
        method.path,
        method.frames,
        method.weighting,
        method.critic_gen if saliency_gen is None else None,
    )
