"""Scores of policies and values: by hand, as laws, through xaitk's configuration, and found as plugins."""

from __future__ import annotations

import importlib
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from smqtk_core.configuration import from_config_dict, to_config_dict
from xaitk_saliency import GenerateClassifierConfidenceSaliency, PerturbImage

from saliency_wrappers import (
    SARFA,
    KLDivergence,
    LogitDrop,
    ProbabilityDrop,
    Searchlight,
    SlidingDisc,
    SquaredDifference,
    SquaredProbabilityDifference,
    TotalVariation,
    ValueDifference,
)

SCORES = [
    KLDivergence(),
    TotalVariation(),
    SquaredProbabilityDifference(),
    ProbabilityDrop(),
    ProbabilityDrop(action=0),
    LogitDrop(),
    LogitDrop(action=0),
    SARFA(),
    SARFA(action=0),
    ValueDifference(),
    ValueDifference("signed"),
    ValueDifference("absolute"),
    SquaredDifference(),
]
MASKS = np.array([[[0.0, 1.0]], [[1.0, 0.5]], [[0.25, 1.0]]], np.float32)


def test_divergences_by_hand():
    p, q = np.array([0.5, 0.3, 0.2]), np.array([[0.2, 0.3, 0.5]])
    reference, perturbed = np.log(p), np.log(q)
    assert KLDivergence().scores(reference, perturbed) == pytest.approx([0.5 * np.log(2.5) + 0.2 * np.log(0.4)])
    assert TotalVariation().scores(reference, perturbed) == pytest.approx([0.3])
    assert SquaredProbabilityDifference().scores(reference, perturbed) == pytest.approx([0.09])
    assert ProbabilityDrop().scores(reference, perturbed)[0] == pytest.approx([0.3, 0, -0.3])


def test_sarfa_by_hand():
    p, p_k = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
    q, q_k = p[1:] / 0.5, p_k[1:] / 0.8
    drop, k = 0.3, 1 / (1 + (q_k * np.log(q_k / q)).sum())
    made = SARFA().scores(np.log(p), np.log(p_k)[None])
    assert made[0, 0] == pytest.approx(2 * drop * k / (drop + k))
    assert made[0, 2] == 0  # its probability rose


def test_value_differences_by_hand():
    made = [ValueDifference(kind).scores(np.array([1.0]), np.array([[3.0], [0.5]])).tolist() for kind in ("signed", "absolute", "squared")]
    assert made == [[-2, 0.5], [2, 0.5], [2, 0.125]]


@pytest.mark.parametrize("generator", SCORES, ids=lambda one: f"{type(one).__name__}{list(one.get_config().values())}")
@pytest.mark.parametrize(
    ("reference", "perturbed"),
    [
        ([1.0, 1.0], [[1.0, 1.0]] * 3),  # constant
        ([1e4, 0.0, -1e4], [[0.0, 1e4, 0.0], [-1e4, 0.0, 1e4], [1e4, 0.0, -1e4]]),  # saturated
        ([2.0], [[1.0], [2.0], [-5.0]]),  # one action
    ],
    ids=["constant", "saturated", "one action"],
)
def test_maps_are_finite_on_policies_at_the_edge(generator: Any, reference: Any, perturbed: Any):
    made = generator.generate(np.array(reference), np.array(perturbed), MASKS)
    assert made.shape in ((1, 2), (len(reference), 1, 2))
    assert np.isfinite(made).all()


@pytest.mark.parametrize(
    "generator", [one for one in SCORES if type(one) not in (SquaredDifference, ValueDifference)], ids=lambda one: type(one).__name__
)
def test_forbidden_actions_have_no_say(generator: Any):
    reference, perturbed = np.array([1.0, -1.0, 0.5]), np.array([[0.0, 1.0, 0.3], [1.0, 1.0, 1.0]])
    with_forbidden = generator.scores(np.append(reference, -np.inf), np.hstack([perturbed, np.full((2, 1), -np.inf)]))
    assert np.isfinite(with_forbidden).all()
    expected = generator.scores(reference, perturbed)
    assert np.allclose(with_forbidden[:, :3] if expected.ndim == 2 else with_forbidden, expected)


@given(seed=st.integers(0, 2**16), actions=st.integers(1, 6), scale=st.sampled_from([0.1, 1.0, 100.0]))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_laws_of_scores(seed: int, actions: int, scale: float):
    random = np.random.default_rng(seed)
    reference, perturbed = scale * random.normal(size=actions), scale * random.normal(size=(5, actions))
    kl, tv = KLDivergence().scores(reference, perturbed), TotalVariation().scores(reference, perturbed)
    assert ((tv >= 0) & (tv <= 1)).all()
    assert (kl >= 2 * tv**2 - 1e-9).all()  # Pinsker
    shifted = KLDivergence().scores(reference + 3, perturbed - 7)
    assert np.allclose(shifted, kl)
    sarfa, drop = SARFA().scores(reference, perturbed), ProbabilityDrop().scores(reference, perturbed)
    assert ((sarfa >= 0) & (sarfa <= 1)).all()
    assert (sarfa[drop <= 0] == 0).all()
    assert np.allclose(drop.sum(axis=1), 0)


@pytest.mark.filterwarnings("ignore")  # get_impls imports the plugins of smqtk, which warn
@pytest.mark.parametrize("thing", [*SCORES, Searchlight(stride=3), SlidingDisc(radius=2)], ids=lambda one: type(one).__name__)
def test_parts_come_back_from_xaitks_configuration(thing: Any):
    interface = PerturbImage if isinstance(thing, PerturbImage) else GenerateClassifierConfidenceSaliency
    again = from_config_dict(to_config_dict(thing), interface.get_impls())
    assert type(again) is type(thing)
    assert again.get_config() == thing.get_config()


def test_plugins_are_declared_where_smqtk_looks():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    declared = {importlib.import_module(name) for name in project["entry-points"]["smqtk_plugins"].values()}
    assert {importlib.import_module(type(one).__module__) for one in (*SCORES, Searchlight(), SlidingDisc())} <= declared


def test_an_action_that_is_none_is_refused():
    with pytest.raises(ValueError, match="Expected an action of 0 to 1, got 2"):
        ProbabilityDrop(action=2).scores(np.zeros(2), np.zeros((1, 2)))
    with pytest.raises(ValueError, match="Expected an action of 0 or more"):
        SARFA(action=-1)
    with pytest.raises(ValueError, match="Expected kind to be"):
        ValueDifference("cubed")  # type: ignore[arg-type]


def test_the_searchlight_is_the_discs_opposite():
    image = np.zeros((10, 10))
    assert np.allclose(Searchlight().perturb(image) + SlidingDisc().perturb(image), 1)
