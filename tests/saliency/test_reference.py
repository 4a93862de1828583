"""Parity with the two published pipelines on real agents: every decision of every file in `../shared/reference`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from saliency_wrappers.agents import as_adapter
from saliency_wrappers.decisions import Decision
from saliency_wrappers.models.checkpoints import load_checkpoint
from saliency_wrappers.models.networks import BabyA3CGRU, GreydanusLSTM
from saliency_wrappers.preprocessing import FramePreprocessor
from saliency_wrappers.saliency.presets import PRESETS

pytestmark = pytest.mark.timeout(600)  # half a minute of work, which a busy machine stretches

CHECKPOINTS = {"breakout": "breakout-v4.model.80.tar", "pong": "pong-v4.model.80.tar", "breakout_lstm": "breakout-lstm"}
FAMILIES = {"breakout": BabyA3CGRU, "pong": BabyA3CGRU, "breakout_lstm": GreydanusLSTM}
DECISIONS = {"breakout": 23, "pong": 16, "breakout_lstm": 24}


@dataclass(frozen=True)
class Reference:
    """An agent, and what the published pipelines say about its decisions."""

    agent: Any
    arrays: dict[str, NDArray[Any]]

    def state(self) -> Any:
        if "state" in self.arrays:
            return torch.as_tensor(self.arrays["state"])
        return torch.as_tensor(self.arrays["hx"]), torch.as_tensor(self.arrays["cx"])

    def decisions(self) -> Decision:
        """All of them, as one batch."""
        inputs, logits, value = (torch.as_tensor(self.arrays[name]) for name in ("input", "logits", "value"))
        return Decision(inputs[:, None], self.state(), logits, value)


@cache
def load(folder: Path, name: str) -> Reference:
    with np.load(folder / "reference" / f"{name}.npz") as arrays:
        return Reference(load_checkpoint(folder / "agents" / CHECKPOINTS[name]), {key: arrays[key] for key in arrays.files})


@pytest.fixture(params=sorted(CHECKPOINTS))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def reference(name: str, shared: Path) -> Reference:
    return load(shared, name)


def min_max_scaled(saliency: NDArray[Any]) -> NDArray[Any]:
    """As xaitk rescales a map."""
    return (saliency - saliency.min()) / (saliency.max() - saliency.min())


def test_network_inputs_equal_those_of_the_published_pipeline(reference: Reference, name: str):
    preprocessor = FramePreprocessor.named("greydanus2018")
    made = np.stack([preprocessor(frame)[0] for frame in reference.arrays["frame"]])
    assert len(made) == DECISIONS[name]
    assert made.dtype == reference.arrays["input"].dtype
    assert np.array_equal(made, reference.arrays["input"])


def test_logits_and_values_are_those_of_the_published_networks(reference: Reference, name: str):
    assert type(reference.agent) is FAMILIES[name]
    recorded = reference.decisions()
    logits, value = as_adapter(reference.agent).evaluate(recorded.inputs, recorded.state, None)
    assert value is not None
    assert logits.shape == recorded.logits.shape
    assert (logits - recorded.logits).abs().max() <= 1e-5
    assert (value - recorded.value).abs().max() <= 1e-5


def test_every_map_of_the_xaitk_preset_is_the_published_one(reference: Reference):
    made = PRESETS["xaitk"]()(as_adapter(reference.agent), [reference.decisions()])
    assert len(made) == len(reference.arrays["actor_map"])
    for i, maps in enumerate(made):
        assert maps.critic is not None
        assert np.abs(min_max_scaled(maps.actor) - reference.arrays["actor_map"][i]).max() <= 1e-4
        assert np.abs(min_max_scaled(maps.critic) - reference.arrays["critic_map"][i]).max() <= 1e-4


@pytest.mark.parametrize("name", ["breakout", "pong"])
def test_every_grid_of_the_greydanus2018_preset_is_the_published_one(reference: Reference):
    made = PRESETS["greydanus2018"]()(as_adapter(reference.agent), [reference.decisions()])
    assert len(made) == len(reference.arrays["actor_grid"])
    for i, maps in enumerate(made):
        for ours, published in ((maps.actor, reference.arrays["actor_grid"][i]), (maps.critic, reference.arrays["critic_grid"][i])):
            assert ours is not None
            assert ours.shape == (80, 80)
            # Half-pixel bilinear enlargement by five passes through the scores at every fifth pixel from the third.
            assert np.abs(ours[2::5, 2::5] - published).max() <= 1e-3 * published.max()


def test_another_decisions_state_does_not_give_these_logits(reference: Reference):
    """The agreement above is no accident: the state matters, and mixed-up states show."""
    recorded, state = reference.decisions(), reference.state()
    mixed_up = tuple(leaf.roll(1, dims=0) for leaf in state) if isinstance(state, tuple) else state.roll(1, dims=0)
    logits, _ = as_adapter(reference.agent).evaluate(recorded.inputs, mixed_up, None)
    assert (logits - recorded.logits).abs().amax(dim=1).median() > 1e-2
