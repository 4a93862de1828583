"""`ActionHint`: where the mark is, what `info` says, and what is refused."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from saliency_wrappers import ActionHint

BOX = (2, 4, 3, 9)


class Dark(gym.Env[Any, Any]):
    """Black frames of 10x12 pixels, three actions."""

    observation_space = gym.spaces.Box(0, 255, (10, 12, 3), np.uint8)
    action_space: Any = gym.spaces.Discrete(3)
    render_mode = "rgb_array"

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.frame = np.zeros((10, 12, 3), np.uint8)
        return self.frame, {"lives": 3}

    def step(self, action: Any) -> Any:
        return self.frame, 1.0, False, False, {}

    def render(self) -> Any:
        return self.frame


def marked(observation: np.ndarray) -> list[tuple[int, ...]]:
    return [tuple(place) for place in np.argwhere(observation[..., 0] > 0)]


def test_the_mark_is_in_the_cell_of_the_hinted_action_and_nowhere_else():
    env = ActionHint(Dark(), choose=lambda frame: 1, box=BOX)
    observation, info = env.reset()
    assert info == {"lives": 3, "hint": 1}
    assert marked(observation) == [(2, 5), (2, 6), (3, 5), (3, 6)]
    assert not env.unwrapped.frame.any()
    assert np.array_equal(env.render(), observation)


def test_random_hints_repeat_with_their_seed_and_name_every_action():
    def hints(seed: int) -> list[int]:
        env = ActionHint(Dark(), box=BOX, seed=seed)
        _, info = env.reset()
        found = [info["hint"]]
        for _ in range(30):
            observation, *_, info = env.step(0)
            assert marked(observation)[0] == (2, 3 + 2 * info["hint"])
            found.append(info["hint"])
        return found

    assert hints(1) == hints(1) != hints(2)
    assert set(hints(1)) == {0, 1, 2}


@pytest.mark.parametrize("box", [(2, 2, 3, 9), (2, 11, 3, 9), (2, 4, 3, 5), (-1, 4, 3, 9), (2, 4, 3, 13)])
def test_a_box_that_cannot_be_is_refused(box: Any):
    with pytest.raises(ValueError, match="Expected a box within the frame"):
        ActionHint(Dark(), box=box)


def test_other_spaces_and_other_actions_are_refused():
    with pytest.raises(TypeError, match="Expected observations"):
        ActionHint(gym.make("CartPole-v1"))
    odd = Dark()
    odd.action_space = gym.spaces.Discrete(3, start=1)
    with pytest.raises(TypeError, match="Expected discrete actions from 0 on"):
        ActionHint(odd, box=BOX)
    with pytest.raises(ValueError, match="Expected a hint of 0 to 2, got 3"):
        ActionHint(Dark(), choose=lambda frame: 3, box=BOX).reset()
