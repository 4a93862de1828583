"""Evaluations that go on from a file, pictures of curves, and the check with random weights."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from tiny_agents import TinyLSTM, images, seeded

from saliency_wrappers import (
    Decision,
    KLDivergence,
    PerturbationSaliency,
    SaliencyMaps,
    SlidingDisc,
    SquaredDifference,
    as_adapter,
    evaluate,
)
from saliency_wrappers.faithfulness import FRACTIONS, plot_curves, plot_memory, sanity_check


@pytest.fixture
def agent() -> TinyLSTM:
    return seeded(TinyLSTM)


def decisions(agent: Any, n: int = 3) -> list[Decision]:
    adapter: Any = as_adapter(agent)
    made = [(images(seed=seed), adapter.initial_state(1)) for seed in range(n)]
    return [Decision(one, state, *adapter.evaluate(one, state, None)) for one, state in made]


class Counted:
    """Random maps that count how often they were asked for."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, adapter: Any, rows: Any) -> list[SaliencyMaps]:
        self.calls += 1
        return [SaliencyMaps(np.random.default_rng(i).random((12, 12), np.float32), None) for i in range(len(rows))]


def table(agent: Any, method: Any, path: Path | None, **options: Any) -> Any:
    chosen = decisions(agent, options.pop("n", 3))
    return evaluate(as_adapter(agent), chosen, {"one": method}, controls=False, resamples=10, resume=path, **options)


def test_what_was_measured_is_not_measured_again(agent: Any, tmp_path: Path):
    method = Counted()
    first = table(agent, method, tmp_path / "kept.json")
    calls = method.calls
    again = table(agent, method, tmp_path / "kept.json")
    assert method.calls == calls
    assert again.scores == first.scores
    assert again.curves == first.curves
    assert list(tmp_path.iterdir()) == [tmp_path / "kept.json"]


@pytest.mark.parametrize("change", [{"seed": 1}, {"n": 4}])
def test_another_run_replaces_the_file(agent: Any, tmp_path: Path, change: Any):
    method = Counted()
    table(agent, method, tmp_path / "kept.json")
    calls = method.calls
    table(agent, method, tmp_path / "kept.json", **change)
    assert method.calls > calls


def test_a_method_of_the_same_name_but_other_parts_is_measured(agent: Any, tmp_path: Path):
    discs = [PerturbationSaliency(SlidingDisc(1, stride, 1)) for stride in (3, 4)]
    scores = [table(agent, disc, tmp_path / "kept.json").scores for disc in discs]
    assert scores[0] != scores[1]


@pytest.mark.parametrize("content", ["{", "[]", '{"key": 3}'])
def test_a_file_of_another_kind_is_refused_and_left(agent: Any, tmp_path: Path, content: str):
    (tmp_path / "kept.json").write_text(content)
    with pytest.raises(ValueError, match="to hold results of an earlier run"):
        table(agent, Counted(), tmp_path / "kept.json")
    assert (tmp_path / "kept.json").read_text() == content


def test_curves_are_in_the_card_and_in_a_picture(agent: Any, tmp_path: Path):
    card = table(agent, Counted(), None)
    assert set(card.curves["one"]) == {"insertion blur", "deletion blur", "insertion background", "deletion background"}
    assert len(card.curves["one"]["insertion blur"]) == len(FRACTIONS)
    assert card.curves["one"]["insertion blur"][-1] == pytest.approx(0, abs=1e-6)
    assert json.loads(card.to_json())["curves"]["one"]["deletion blur"] == card.curves["one"]["deletion blur"]
    card.plot(tmp_path / "curves.png")
    assert np.ptp(cv2.imread(str(tmp_path / "curves.png"))) > 100
    plot_memory([0.2, math.nan, 0.4], tmp_path / "memory.png", [0.3, 0.5, 0.5])
    assert np.ptp(cv2.imread(str(tmp_path / "memory.png"))) > 100
    with pytest.raises(ValueError, match="at least one method"):
        plot_curves({}, tmp_path / "none.png")


@pytest.mark.parametrize("scores", [SquaredDifference(), KLDivergence()])
def test_scores_follow_the_weights_and_the_agent_gets_them_back(agent: Any, scores: Any):
    before = {name: part.clone() for name, part in agent.state_dict().items()}
    method = PerturbationSaliency(SlidingDisc(1, 3, 1), scores)
    found = sanity_check(as_adapter(agent), agent, decisions(agent), method)
    assert found.stages == ("actor_linear", "critic_linear", "lstm", "conv")
    assert found.correlations[0] == found.correlations[1]  # the critic has no say in the actor's scores
    assert all(-1 <= one < 0.9 for one in found.correlations)
    assert -1 <= found.floor < 1
    assert all(torch.equal(part, before[name]) for name, part in agent.state_dict().items())
    assert found == sanity_check(as_adapter(agent), agent, decisions(agent), method)


def test_what_cannot_be_checked_is_refused(agent: Any):
    with pytest.raises(ValueError, match="Expected decisions and a module"):
        sanity_check(as_adapter(agent), agent, [], PerturbationSaliency())
    with pytest.raises(ValueError, match="0 modules"):
        sanity_check(as_adapter(agent), torch.nn.Identity(), decisions(agent), PerturbationSaliency())
