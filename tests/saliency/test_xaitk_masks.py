"""xaitk's own masks and scores: colour masks, what `SlidingDisc` takes, the default spacing, discovery by entry points."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_agents import TinyLSTM, images, seeded
from xaitk_saliency.impls.gen_classifier_conf_sal.mc_rise_scoring import MCRISEScoring
from xaitk_saliency.impls.perturb_image.mc_rise import MCRISEGrid
from xaitk_saliency.impls.perturb_image.sliding_radial import SlidingRadial
from xaitk_saliency.impls.perturb_image.sliding_window import SlidingWindow

from saliency_wrappers import Decision, PerturbationSaliency, as_adapter
from saliency_wrappers.saliency.colour_masks import colour_fills
from saliency_wrappers.saliency.default_masks import spaced_for
from saliency_wrappers.saliency.masks import MaskCache, SlidingDisc
from saliency_wrappers.saliency.scoring import GridSquaredDifference, SquaredDifference

ROOT = Path(__file__).parents[2]


def decision_of(channels: int) -> tuple[Any, Decision]:
    module = seeded(TinyLSTM, 3, channels)
    state = tuple(torch.zeros(1, 8) for _ in range(2))
    x = images(channels=channels)
    with torch.no_grad():
        value, logits, _ = module((x, state))
    return as_adapter(module), Decision(x, state, logits, value, action=torch.tensor([1]))


def grid(k: int, n: int = 12) -> MCRISEGrid:
    return MCRISEGrid(n=n, s=3, p1=0.5, k=k, seed=0, threads=0)


# Colour masks


@pytest.mark.parametrize("path", ["plain", "incremental", "auto"])
@pytest.mark.parametrize(("k", "channels"), [(3, 3), (2, 3), (4, 6)])
def test_colour_masks_give_a_map_for_each_colour(k: int, channels: int, path: Any):
    adapter, decision = decision_of(channels)
    method = PerturbationSaliency(grid(k), MCRISEScoring(k=k, p1=0.5), path=path)
    (maps,) = method(adapter, [decision])
    assert maps.actor.shape == (k, 12, 12)
    assert maps.critic is not None
    assert maps.critic.shape == (k, 12, 12)
    assert maps.actor.any()
    assert not np.array_equal(maps.actor[0], maps.actor[1])


def test_where_a_mask_of_a_colour_is_0_the_input_is_that_colour():
    adapter, decision = decision_of(3)
    method = PerturbationSaliency(grid(3), MCRISEScoring(k=3))
    outputs = method.outputs(adapter, decision)
    masks = outputs.masks.colours
    assert masks is not None
    x = decision.inputs[0].numpy()
    expected = x + np.einsum("knhw,kchw->nchw", 1 - masks, np.eye(3)[:, :, None, None] - x)
    with torch.no_grad():
        value, logits, _ = adapter.module((torch.from_numpy(expected).float(), tuple(leaf.repeat(12, 1) for leaf in decision.state)))
    np.testing.assert_allclose(outputs.logits[1:], logits, atol=1e-5)
    np.testing.assert_allclose(outputs.values[1:], value, atol=1e-5)


def test_the_map_is_what_xaitk_makes_of_these_outputs():
    adapter, decision = decision_of(3)
    method = PerturbationSaliency(grid(3), MCRISEScoring(k=3, p1=0.5))
    outputs, (maps,) = method.outputs(adapter, decision), method(adapter, [decision])
    expected = MCRISEScoring(k=3, p1=0.5).generate(outputs.logits[0], outputs.logits[1:], outputs.masks.colours)
    np.testing.assert_allclose(maps.actor, expected[:, 1], atol=1e-5)


def test_any_other_scores_take_the_masks_of_all_colours_together():
    adapter, decision = decision_of(3)
    (maps,) = PerturbationSaliency(grid(3), SquaredDifference())(adapter, [decision])
    assert maps.actor.shape == (12, 12)
    assert maps.actor.max() > 0


@pytest.mark.parametrize("channels", [1, 4])
def test_colour_masks_say_what_they_need_on_grey_inputs(channels: int):
    adapter, decision = decision_of(channels)
    method = PerturbationSaliency(grid(3), MCRISEScoring(k=3))
    with pytest.raises(ValueError, match=f"need an input with red, green and blue channels .* not {channels}. Use RISEGrid"):
        method(adapter, [decision])


def test_given_colours_are_used():
    adapter, decision = decision_of(3)
    colours = np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    (hues,), (given,) = (PerturbationSaliency(grid(2), MCRISEScoring(k=2), fill=fill)(adapter, [decision]) for fill in (None, colours))
    assert given.actor.shape == (2, 12, 12)
    assert not np.array_equal(given.actor, hues.actor)


def test_colours_are_hues_in_the_range_of_inputs_or_as_given():
    image = np.zeros((6, 2, 2), np.float32)
    hues = colour_fills(0.5, 3, image, (0.0, 255.0))
    assert hues.shape == (3, 6, 2, 2)
    np.testing.assert_allclose(hues[:, :, 0, 0], 255 * np.tile(np.eye(3), (1, 2)))
    given = np.arange(12.0).reshape(2, 6)
    np.testing.assert_array_equal(colour_fills(given, 2, image, (0.0, 255.0))[:, :, 1, 1], given)
    two = colour_fills([0.0, 1.0], 2, image, (0.0, 255.0))
    assert (two[0].max(), two[1].min()) == (0, 255)


@pytest.mark.parametrize(
    ("perturber", "k", "message"),
    [
        (SlidingWindow((4, 4), (4, 4)), 3, "MCRISEScoring needs colour masks .* expected MCRISEGrid"),
        (grid(2), 3, "Expected MCRISEScoring with k=2"),
    ],
)
def test_scores_of_colours_refuse_masks_of_other_colours(perturber: Any, k: int, message: str):
    adapter, decision = decision_of(3)
    with pytest.raises(ValueError, match=message):
        PerturbationSaliency(perturber, MCRISEScoring(k=k))(adapter, [decision])


def test_colour_masks_refuse_maps_for_each_frame():
    adapter, decision = decision_of(6)
    with pytest.raises(ValueError, match="colour masks, whose maps are one for each colour"):
        PerturbationSaliency(grid(3), MCRISEScoring(k=3), frames=2)(adapter, [decision])


# SlidingDisc and scores take what xaitk's take


def test_a_disc_takes_two_numbers_lists_and_no_blur():
    image = np.zeros((20, 15))
    np.testing.assert_array_equal(SlidingDisc((2, 2), (5, 5), (3.0, 3.0)).perturb(image), SlidingDisc(2, 5, 3.0).perturb(image))
    np.testing.assert_array_equal(SlidingDisc([2, 2], [5, 5], [3, 3]).perturb(image), SlidingDisc(2, 5, 3.0).perturb(image))
    sharp = SlidingDisc((1, 3), (10, 5), sigma=None).perturb(image)
    assert sharp.shape == (6, 20, 15)
    assert set(np.unique(sharp)) == {0.0, 1.0}
    hole = sharp[4] == 0  # its centre is (10, 5)
    assert hole[:, 5].nonzero()[0].tolist() == [9, 10, 11]
    assert hole[10].nonzero()[0].tolist() == [2, 3, 4, 5, 6, 7, 8]
    assert SlidingDisc((0, 2), (5, 5), None).perturb(image).shape == (12, 20, 15)


@pytest.mark.parametrize("disc", [SlidingDisc(), SlidingDisc((1, 2), (5, 4), (3.0, 2.0)), SlidingDisc(2, 5, None)])
def test_a_disc_can_be_made_from_its_configuration(disc: SlidingDisc):
    again = SlidingDisc.from_config(disc.get_config())
    np.testing.assert_array_equal(again.perturb(np.zeros((12, 12))), disc.perturb(np.zeros((12, 12))))


def test_a_disc_refuses_other_parameters():
    with pytest.raises(TypeError, match="Expected stride to be a number or two"):
        SlidingDisc(stride=(5, 5, 5))
    with pytest.raises(TypeError, match="Expected radius to be a number or two"):
        SlidingDisc(radius="large")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Expected radius >= 0, stride >= 1"):
        SlidingDisc(stride=(5, 0))


@pytest.mark.parametrize("scores", [SquaredDifference(), GridSquaredDifference(stride=6)])
def test_scores_take_lists(scores: SquaredDifference):
    masks = SlidingDisc(1, 6, 2.0).perturb(np.zeros((12, 12)))
    perturbed = np.random.default_rng(0).normal(size=(4, 3))
    made = scores.generate([1.0, 2.0, 3.0], perturbed.tolist(), list(masks))  # type: ignore[arg-type]
    np.testing.assert_allclose(made, scores.generate(np.array([1.0, 2.0, 3.0]), perturbed, masks))


# The default masks


@pytest.mark.parametrize("size", [(80, 80), (84, 84), (64, 64), (96, 96), (12, 12)])
def test_the_default_masks_of_small_inputs_are_the_published_ones(size: tuple[int, int]):
    made = MaskCache(PerturbationSaliency().perturber)(np.zeros((3, *size), np.float32)).untouched
    np.testing.assert_array_equal(made, SlidingRadial((1, 1), (5, 5), (5, 5)).perturb(np.zeros(size)).astype(np.float32))


@pytest.mark.parametrize("size", [(210, 160), (128, 128), (110, 110)])
def test_the_default_masks_of_large_inputs_are_spaced_wider(size: tuple[int, int]):
    masks = MaskCache(PerturbationSaliency().perturber)(np.zeros((3, *size), np.float32))
    assert 200 < len(masks.untouched) < 350
    assert masks.coverage.min() > 0.1


def test_the_default_spacing_grows_with_the_image():
    sparse = spaced_for(PerturbationSaliency().perturber, 240, 320)
    assert sparse.get_config() == {"radius": [3.2, 3.2], "stride": [16, 16], "sigma": [16, 16]}


def test_a_perturber_that_was_given_is_never_spaced_otherwise():
    given = SlidingRadial((1, 1), (40, 40), (5, 5))
    assert len(MaskCache(given)(np.zeros((1, 240, 320), np.float32)).untouched) == 6 * 8


# Discovery


def test_xaitk_finds_masks_and_scores_without_an_import(tmp_path: Path):
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["smqtk_plugins"]
    installed = tmp_path / "declared-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: declared\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text("[smqtk_plugins]\n" + "".join(f"{name}={module}\n" for name, module in points.items()))
    program = (
        "from xaitk_saliency import PerturbImage, GenerateClassifierConfidenceSaliency as Generate\n"
        "print(*sorted(kind.__name__ for kind in PerturbImage.get_impls() | Generate.get_impls()))"
    )
    path = os.pathsep.join([str(tmp_path), str(ROOT / "src")])
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert {"SlidingDisc", "SquaredDifference", "GridSquaredDifference", "MCRISEGrid"} <= set(ran.stdout.split())
