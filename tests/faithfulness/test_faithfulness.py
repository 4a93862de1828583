"""Curves, controls, intervals and the scorecard, on an agent whose only relevant pixels are known."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import bootstrap
from torch import Tensor

from saliency_wrappers import Decision, FunctionAdapter, PerturbationSaliency, SaliencyMaps, SlidingDisc, evaluate, map_confidence
from saliency_wrappers.faithfulness import FRACTIONS, CurveMaker, RandomPixels, area, control_methods, pixel_order, spaced
from saliency_wrappers.faithfulness.bootstrap import Resampler, interval
from saliency_wrappers.saliency.masks import GaussianBlur

SIZE = 20


class Eye(torch.nn.Module):
    """Looks at a 2x2 place and nowhere else."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        seen = images[:, :, 4:6, 4:6].mean(dim=(1, 2, 3))
        return torch.stack([8 * seen, torch.full_like(seen, 2.0)], dim=1), 10 * seen[:, None]


@pytest.fixture
def adapter() -> FunctionAdapter:
    eye = Eye()
    return FunctionAdapter(eye, lambda images, _state, _start: eye(images))


def decisions(adapter: Any, n: int = 12) -> list[Decision]:
    random = np.random.default_rng(0)
    made = []
    for i in range(n):
        image = 0.1 * random.random((1, 1, SIZE, SIZE)).astype(np.float32)
        image[:, :, 4:6, 4:6] = 0.5 + 0.04 * i if i % 3 else 0.0
        image[:, :, 12:15, 12:15] = random.random()  # seen by nobody
        inputs = torch.as_tensor(image)
        made.append(Decision(inputs, None, *adapter.evaluate(inputs, None, None)))
    return made


class Oracle:
    """Knows where the agent looks; `sign=-1` shows everything else first."""

    def __init__(self, sign: int = 1) -> None:
        self.sign = sign

    def __call__(self, adapter: Any, rows: Any) -> list[SaliencyMaps]:
        truth = np.zeros((SIZE, SIZE), np.float32)
        truth[4:6, 4:6] = self.sign
        return [SaliencyMaps(truth, truth) for _ in rows]


def test_the_true_map_gets_the_best_scores_and_its_opposite_the_worst(adapter: Any):
    methods = {"worst": Oracle(-1), "truth": Oracle(), "default": PerturbationSaliency(SlidingDisc(1, 3, 1))}
    card = evaluate(adapter, decisions(adapter), methods, resamples=200)
    for fill in ("blur", "background"):
        for kind in ("insertion", "deletion", "critic insertion", "critic deletion"):
            for axis in ("lin", "log"):
                by_method = {name: card.scores[name][f"{kind} {fill} {axis}"].value for name in card.scores}
                others = [value for name, value in by_method.items() if name not in ("truth", "worst")]
                assert by_method["truth"] >= max(others) - 1e-3  # several orders show these four pixels first
                assert by_method["worst"] <= min(others) + 0.05
    assert card.scores["truth"]["insertion background lin"].value > 0.98
    assert card.gains["truth"]["insertion background log"].separate_from_zero
    assert card.gains["worst"]["insertion background log"].value == 0


def test_insertion_of_nothing_that_matters_scores_zero(adapter: Any):
    (one,) = decisions(adapter, 2)[1:]
    maker = CurveMaker(adapter, one, {"black": 0.0})
    order = pixel_order(Oracle(-1)(adapter, [one])[0].actor, np.random.default_rng(0))
    curve = maker.curves(order)["black", "insertion"].policy
    assert curve[0] == pytest.approx(curve[-2], abs=1e-6)
    assert curve[-1] == pytest.approx(0, abs=1e-7)


def test_curves_by_hand(adapter: Any):
    (one,) = decisions(adapter, 2)[1:]
    maker = CurveMaker(adapter, one, {"black": 0.0})
    order = pixel_order(Oracle()(adapter, [one])[0].actor, np.random.default_rng(0))
    curves = maker.curves(order)
    for i, fraction in enumerate(FRACTIONS):
        shown = np.zeros(SIZE * SIZE, bool)
        shown[order[: round(fraction * SIZE * SIZE)]] = True
        image = one.inputs * torch.as_tensor(shown.reshape(SIZE, SIZE))
        logits, value = adapter.evaluate(image, None, None)
        pi, whole = logits.softmax(1)[0], one.logits.softmax(1)[0]
        made = curves["black", "insertion"]
        assert made.policy[i] == pytest.approx(0.5 * float((pi - whole).abs().sum()), abs=1e-6)
        assert made.action[i] == pytest.approx(float(pi[one.logits.argmax()]), abs=1e-6)
        assert made.value is not None
        assert made.value[i] == pytest.approx(abs(float(value - one.value)), abs=1e-5)


def test_areas_by_hand():
    flat = np.ones(len(FRACTIONS))
    assert area(flat) == pytest.approx(1)
    assert area(flat, "log") == pytest.approx(1)
    assert area(np.array(FRACTIONS)) == pytest.approx(0.5)


def test_ties_are_broken_at_random_and_the_order_descends():
    saliency = np.zeros((10, 10))
    saliency[7, 3] = 1
    orders = np.stack([pixel_order(saliency, np.random.default_rng(seed)) for seed in range(50)])
    assert (orders[:, 0] == 73).all()
    assert 35 < orders[:, 1].mean() < 65
    assert sorted(orders[0]) == list(range(100))
    with pytest.raises(ValueError, match="Expected a finite map"):
        pixel_order(np.full((3, 3), np.nan), np.random.default_rng(0))


def test_a_map_of_another_size_is_refused(adapter: Any):
    maker = CurveMaker(adapter, decisions(adapter, 1)[0], {"black": 0.0})
    with pytest.raises(ValueError, match="Expected a map of the input's size"):
        maker.curves(np.arange(9))


def test_sums_are_divided_never_ratios_averaged():
    parts, wholes = np.array([1.0, 0.0]), np.array([2.0, 1e-9])
    assert Resampler(2, 10).ratio(parts, wholes)[0] == pytest.approx(0.5)
    assert Resampler(2, 10).ratio(np.zeros(2), np.zeros(2))[0] == 0


def test_intervals_are_those_of_scipy():
    random = np.random.default_rng(0)
    parts, wholes = random.random(60), 1 + random.random(60)

    def ratio(a: NDArray[Any], b: NDArray[Any], axis: int = -1) -> Any:
        return a.sum(axis) / b.sum(axis)

    theirs = bootstrap((parts, wholes), ratio, paired=True, method="percentile", n_resamples=4000, rng=1).confidence_interval
    ours = interval(*Resampler(60, 4000).ratio(parts, wholes))
    assert ours.low == pytest.approx(theirs.low, abs=0.01)
    assert ours.high == pytest.approx(theirs.high, abs=0.01)


def test_blocks_are_drawn_together():
    weights = Resampler(12, 50, block=4).weights
    assert (weights.sum(axis=1) == 12).all()
    with pytest.raises(ValueError, match="block of 1 to n"):
        Resampler(3, 10, block=4)


def test_every_table_has_controls_and_says_what_it_is(adapter: Any):
    methods = {"default": PerturbationSaliency(SlidingDisc(1, 3, 1))}
    calls: list[tuple[int, int]] = []
    card = evaluate(adapter, decisions(adapter, 6), methods, baseline="default", resamples=50, progress=lambda *done: calls.append(done))
    assert list(card.scores) == [*control_methods(0.0, Oracle()), "default"]
    assert calls[-1] == (42, 42)
    table = card.table()
    assert "n=6" in table
    assert "|x - background|" in table
    read = json.loads(card.to_json())
    assert read["scores"]["default"]["insertion blur lin"]["value"] == card.scores["default"]["insertion blur lin"].value
    assert all(gain.value == 0 for gain in card.gains["default"].values())


def test_the_same_seed_gives_the_same_table(adapter: Any):
    first, again = (evaluate(adapter, decisions(adapter, 4), {"random": RandomPixels()}, controls=False, resamples=20) for _ in range(2))
    assert {k: v for k, v in first.scores["random"].items() if k != "seconds"} == {
        k: v for k, v in again.scores["random"].items() if k != "seconds"
    }


def test_presets_are_measured_by_name(adapter: Any):
    card = evaluate(adapter, decisions(adapter, 3), ["change_weighted_two_fills"], controls=False, resamples=10)
    assert list(card.scores) == ["change_weighted_two_fills"]


def test_what_cannot_be_measured_is_refused(adapter: Any):
    with pytest.raises(ValueError, match="Expected decisions and methods, got 0 decisions"):
        evaluate(adapter, [], ["xaitk"])
    with pytest.raises(ValueError, match="Expected baseline to be one of"):
        evaluate(adapter, decisions(adapter, 2), {"a": Oracle()}, baseline="b")


def test_decisions_are_spaced():
    assert spaced(range(700), 100) == list(range(0, 700, 7))
    assert spaced(range(1400), 50) == list(range(0, 1400, 28))
    assert spaced(range(20), 100) == [0, 7, 14]
    assert spaced(range(3), 100) == [0]


def test_confidence_is_high_for_the_truth_and_low_for_its_opposite(adapter: Any):
    one = decisions(adapter, 2)[1]
    truth, worst = (Oracle(sign)(adapter, [one])[0].actor for sign in (1, -1))
    high, low = (map_confidence(adapter, one, made, background=0.0) for made in (truth, worst))
    assert high.value > 0.95
    assert low.value < high.value - 0.2
    assert high.value == pytest.approx(1 - high.left)
    assert high.explains
    assert high.effect == low.effect
    with pytest.raises(ValueError, match="Expected a fraction"):
        map_confidence(adapter, one, truth, fraction=0)


def test_where_a_blur_changes_nothing_there_is_nothing_to_explain(adapter: Any):
    inputs = torch.full((1, 1, SIZE, SIZE), 0.3)
    one = Decision(inputs, None, *adapter.evaluate(inputs, None, None))
    confidence = map_confidence(adapter, one, np.zeros((SIZE, SIZE)), GaussianBlur(5))
    assert not confidence.explains
    assert confidence.value == pytest.approx(1, abs=1e-5)
