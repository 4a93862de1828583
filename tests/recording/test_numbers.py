"""Plain numbers are taken from whatever holds one, and errors say what was converted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from counting import CountingAgent, CountingEnv, network_input, recorded

from saliency_wrappers import EpisodeStore
from saliency_wrappers.recording.numbers import plain_number

ONES = [
    1.5,
    np.float32(1.5),
    np.array(1.5),
    np.array([1.5]),
    np.array([[1.5]]),
    [1.5],
    (1.5,),
    torch.tensor(1.5),
    torch.tensor([1.5], requires_grad=True),
    np.array([1.5], object),
]


@pytest.mark.parametrize("number", ONES)
def test_one_number_of_any_form_is_a_float(number: Any) -> None:
    assert plain_number(number, "a reward") == 1.5
    assert type(plain_number(number, "a reward")) is float


@pytest.mark.parametrize(
    ("number", "error", "message"),
    [
        (np.zeros(2), ValueError, r"Expected a reward as one number, got shape \(2,\)"),
        ([], ValueError, r"Expected a reward as one number, got shape \(0,\)"),
        ("1", TypeError, "Expected a reward as a number, got str"),
        (None, TypeError, "Expected a reward as a number, got NoneType"),
    ],
)
def test_what_is_no_number_is_named(number: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        plain_number(number, "a reward")


@pytest.mark.parametrize("reward", ONES)
def test_rewards_of_any_form_are_stored(reward: Any, tmp_path: Path) -> None:
    class Rewarding(CountingEnv):
        def step(self, action: Any) -> Any:
            observation, _, *rest = super().step(action)
            return observation, reward, *rest

    agent = CountingAgent()
    recorder = recorded(Rewarding((1,)), agent, store=tmp_path / "store", mode="capture")
    observation, _ = recorder.reset()
    agent((network_input(observation), agent.initial_state(1)))
    recorder.step(0)
    recorder.close()
    (episode,) = EpisodeStore(tmp_path / "store").episodes
    assert [block.field("reward").tolist() for block in episode.blocks()] == [[1.5]]


def test_an_action_of_ragged_lists_is_recorded_as_it_is() -> None:
    agent = CountingAgent()
    recorder = recorded(CountingEnv((3,)), agent)
    observation, _ = recorder.reset()
    agent((network_input(observation), agent.initial_state(1)))
    assert recorder.step([[1], [1, 2]])[-1]["saliency"]["action"] == [[1], [1, 2]]
    recorder.close()
