"""What an environment tells about its actions is asked for, not guessed."""

from __future__ import annotations

import enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from counting import NUM_ACTIONS, Blackout, CountingAgent, CountingEnv, network_input, recorded
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from numpy.typing import NDArray
from xaitk_saliency import GenerateClassifierConfidenceSaliency

from saliency_wrappers import EpisodeStore, RecordSaliencyVideo, compute_saliency
from saliency_wrappers.step_saliency import StepSaliency
from saliency_wrappers.video.overlay import draw_strip
from saliency_wrappers.wrappers.actions import action_names, first_action


class Move(enum.Enum):
    NOOP = 0
    LEFT = 1


class ByAction(GenerateClassifierConfidenceSaliency):
    """A map for each logit, of the logit's index."""

    def generate(self, reference: Any, perturbed: Any, perturbed_masks: Any) -> NDArray[np.float32]:
        return (
            np.ones((reference.size, *perturbed_masks.shape[1:]), np.float32) * np.arange(reference.size, dtype=np.float32)[:, None, None]
        )

    def get_config(self) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize(
    ("space", "first"),
    [
        (Discrete(4), 0),
        (Discrete(4, start=1), 1),
        (Discrete(3, start=-1), -1),
        (MultiDiscrete([3], start=[2]), 2),
        (MultiDiscrete([3, 2], start=[1, 1]), 0),
        (Box(0, 1), 0),
    ],
)
def test_the_space_tells_the_first_action(space: Any, first: int) -> None:
    assert first_action(space) == first


@pytest.mark.parametrize(
    ("meanings", "names"),
    [
        (lambda: ["A", "B"], ["A", "B"]),
        (("A", "B"), ["A", "B"]),
        ({1: "B", 0: "A"}, ["A", "B"]),
        (lambda: {0: "A", 1: "B"}, ["A", "B"]),
        (lambda: list(Move), ["NOOP", "LEFT"]),
        (Move, None),  # called without a value, an enumeration fails: numbers are shown
        (lambda: np.array(["A", "B"]), ["A", "B"]),
        (lambda: [0, 1], ["0", "1"]),
        (lambda: "AB", None),
        (lambda: 3, None),
        (lambda: 1 / 0, None),
        (None, None),
    ],
)
def test_names_of_any_form_are_strings_or_none(meanings: Any, names: list[str] | None) -> None:
    assert action_names(SimpleNamespace(get_action_meanings=meanings)) == names


@pytest.mark.parametrize("mode", ["inline", "deferred"])
@pytest.mark.parametrize("start", [0, 1, -2])
def test_the_map_of_the_taken_action_is_that_of_its_logit(start: int, mode: str) -> None:
    env, agent = CountingEnv((5,)), CountingAgent()
    env.action_space = Discrete(NUM_ACTIONS, start=start)
    recorder = recorded(env, agent, mode=mode, saliency_gen=ByAction(), keep=True)
    observation, _ = recorder.reset()
    state = agent.initial_state(1)
    for index in range(NUM_ACTIONS):
        _, _, state = agent((network_input(observation), state))
        observation, _, _, _, info = recorder.step(index + start)
        assert info["saliency"]["action"] == index + start
    recorder.flush()
    assert [float(maps.actor.max()) for maps in recorder.maps(0)] == [0, 1, 2, 3]
    recorder.close()


@pytest.mark.parametrize("start", [0, 3, -2])
def test_the_computed_map_of_a_stored_action_is_that_of_its_logit(start: int, tmp_path: Path) -> None:
    env, agent = CountingEnv((NUM_ACTIONS,)), CountingAgent()
    env.action_space = Discrete(NUM_ACTIONS, start=start)
    recorder = recorded(env, agent, mode="capture", store=EpisodeStore(tmp_path))
    observation, _ = recorder.reset()
    state = agent.initial_state(1)
    for index in range(NUM_ACTIONS):
        _, _, state = agent((network_input(observation), state))
        observation, *_ = recorder.step(index + start)
    recorder.close()
    compute_saliency(tmp_path, agent, perturber=Blackout(), fill=0.0, saliency_gen=ByAction())
    episode = EpisodeStore.open(tmp_path).episode(0)
    assert episode.header.first_action == start
    assert [float(maps.actor.max()) for _, maps in episode.maps()] == [0, 1, 2, 3]
    assert [stored.action for stored in episode.decisions()] == [index + start for index in range(NUM_ACTIONS)]


def test_the_strip_highlights_the_logit_of_the_taken_action() -> None:
    logits = np.float32([0, 1, 2])
    from_zero = draw_strip(320, StepSaliency(0, 0, 1, logits, None, None), ["A", "B", "C"])
    from_five = draw_strip(320, StepSaliency(0, 0, 6, logits, None, None), ["A", "B", "C"], first_action=5)
    np.testing.assert_array_equal(from_zero, from_five)


@pytest.mark.parametrize("meanings", [{0: "A", 1: "B", 2: "C", 3: "D"}, list(Move), ["A"]])
def test_names_of_any_form_are_filmed(meanings: Any, tmp_path: Path) -> None:
    env, agent = CountingEnv((2,), size=(64, 320)), CountingAgent()
    env.get_action_meanings = lambda: meanings  # type: ignore[attr-defined]
    filmed = RecordSaliencyVideo(recorded(env, agent), tmp_path, strip=True)
    observation, _ = filmed.reset()
    agent((network_input(observation), agent.initial_state(1)))
    filmed.step(0)
    filmed.close()
    assert (tmp_path / "saliency-episode-0.mp4").stat().st_size > 0
