"""Vector observations: `method_for` chooses a method by them, `feature_names` names them, `drawn_beside` tells films what to draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gymnasium import Env, Space
from gymnasium.spaces import Box
from gymnasium.vector import VectorEnv
from xaitk_saliency.interfaces.gen_classifier_conf_sal import GenerateClassifierConfidenceSaliency
from xaitk_saliency.interfaces.perturb_image import PerturbImage

from saliency_wrappers.faithfulness.detailed import DetailedSaliency
from saliency_wrappers.saliency.feature_names import known_features
from saliency_wrappers.saliency.features import FeatureMethod
from saliency_wrappers.saliency.fills import Fills
from saliency_wrappers.saliency.inputs import InputSaliency
from saliency_wrappers.saliency.method import SaliencyMethod
from saliency_wrappers.saliency.presets import saliency_method


def is_vector(space: Space[Any]) -> bool:
    """Return whether observations are vectors: a `Box` of one axis."""
    return isinstance(space, Box) and len(space.shape) == 1


def method_for(
    space: Space[Any],
    names: Sequence[str] | None,
    method: str | SaliencyMethod | None = None,
    perturber: PerturbImage | None = None,
    saliency_gen: GenerateClassifierConfidenceSaliency | None = None,
    fill: Fills | None = None,
) -> SaliencyMethod:
    """Return a method, as `saliency_method` does.

    Args:
        space: of one environment's observations.
        names: of its features. None: numbers.
        method: None: `"features"` where observations are vectors, otherwise `"xaitk"`.
        perturber: of a method for images.
        saliency_gen: of a method for images.
        fill: of a method for images.
    """
    if method is None:
        method = "features" if is_vector(space) else "xaitk"
    chosen = saliency_method(method, perturber, saliency_gen, fill)
    return chosen.named(names) if isinstance(chosen, FeatureMethod) and is_vector(space) else chosen


def drawn_beside(method: SaliencyMethod, space: Space[Any]) -> dict[str, Any]:
    """Return what is drawn beside frames, as the options `features` and `inputs` of a `Painter`."""
    method = method.maps_from if isinstance(method, DetailedSaliency) else method
    shape = space.shape
    names = method.players(shape[0]) if isinstance(method, FeatureMethod) and is_vector(space) and shape else None
    return {"features": names, "inputs": isinstance(method, InputSaliency)}


def feature_names(env: Any, space: Space[Any]) -> tuple[str, ...] | None:
    """Return the names of the features of an environment's vectors.

    Args:
        env: an environment, or a vector of them, wrapped or not. An attribute `feature_names`, of it or of a wrapper, counts first; then
            what is known of Gymnasium's own environments.
        space: of one environment's observations.

    Returns:
        As many different names as there are features. None where they are not known.
    """
    if not is_vector(space) or not space.shape:
        return None
    if isinstance(env, VectorEnv):
        first: Any = next(iter(getattr(env.unwrapped, "envs", [])), None)
        env = env if first is None else first
    return names_or_known(own_names(env), getattr(env, "spec", None), space.shape[0])


def names_or_known(own: tuple[str, ...] | None, spec: Any, features: int) -> tuple[str, ...] | None:
    """Return an environment's own names, if they are one for each feature, or those that are known for its specification."""
    if own is not None and len(own) == len(set(own)) == features:
        return own
    return None if spec is None else known_features(str(getattr(spec, "id", "")), features)


def own_names(env: Any) -> tuple[str, ...] | None:
    """Return what an environment, or a wrapper of it, has as `feature_names`. None where it has none."""
    try:
        return as_names(env.get_wrapper_attr("feature_names") if isinstance(env, Env) else getattr(env, "feature_names", None))
    except Exception:  # an environment's own code, asked for an ornament
        return None


def as_names(names: Any) -> tuple[str, ...] | None:
    """Return names as a tuple, from a sequence or a method that gives one. None for None, or for a single text."""
    names = names() if callable(names) else names
    return None if names is None or isinstance(names, str) else tuple(map(str, names))
