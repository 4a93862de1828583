"""The film of learning: where the objects of a game are, how much of a map lies on them, and one video over several checkpoints."""

from __future__ import annotations

import re
from pathlib import Path

import ale_py
import gymnasium as gym
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tiny_agents import seeded
from videos import frames_of

from saliency_wrappers import FramePreprocessor, RecurrentAgentHook
from saliency_wrappers.cli import main
from saliency_wrappers.cli.film_training import numbered_checkpoints
from saliency_wrappers.cli.game_objects import boxes_mask, moving_objects, moving_pixels
from saliency_wrappers.cli.perturbers import named_perturber
from saliency_wrappers.cli.takes import mass_fraction, record_take, sequence, side_by_side
from saliency_wrappers.models.networks import BabyA3CGRU
from saliency_wrappers.saliency.presets import saliency_method
from saliency_wrappers.video.overlay import Drawing
from saliency_wrappers.video.painter import Painter

PREPROCESSOR = FramePreprocessor.named("greydanus2018")
FEW_MASKS = saliency_method("xaitk", named_perturber("sliding-window", (80, 80), window_size=20, stride=20))
gym.register_envs(ale_py)


def take(env_id: str = "ALE/Breakout-v5", actions: int = 4, name: str = "agent", decisions: int = 4, start: int = 0):
    agent = seeded(BabyA3CGRU, actions)
    env = gym.make(env_id, render_mode="rgb_array")
    hook = RecurrentAgentHook(agent, PREPROCESSOR, seed=0)
    return record_take(env, hook, name, FEW_MASKS, decisions=decisions, start=start, greedy=False)


@pytest.mark.parametrize(("game", "ball", "slack"), [("Breakout", (200, 72, 72), 0), ("Pong", (236, 236, 236), 1)])
def test_the_ball_is_where_its_box_says(game: str, ball: tuple[int, int, int], slack: int) -> None:
    env = gym.make(f"ALE/{game}-v5")
    frame, _ = env.reset(seed=0)
    generator, seen = np.random.default_rng(0), 0
    for step in range(200):
        frame, *_ = env.step(1 if step % 20 == 0 else int(generator.integers(env.action_space.n)))
        boxes = moving_objects(env)
        assert boxes is not None
        flying = (frame[95:187, 20:135] == np.array(ball)).all(axis=2)  # away from walls, bricks and paddles
        if len(boxes) == 2 and flying.sum() == 8:
            seen += 1
            near = boxes_mask(boxes[:1], (210, 160), (slack, slack))[95:187, 20:135]
            assert near[flying].all()
            assert near.sum() <= (2 + 2 * slack) * (4 + 2 * slack)
    env.close()
    assert seen > 20


def test_the_objects_of_other_environments_are_unknown() -> None:
    env = gym.make("ALE/SpaceInvaders-v5")
    env.reset(seed=0)
    assert moving_objects(env) is None
    env.close()
    assert moving_objects(gym.make("CartPole-v1")) is None


def test_boxes_are_cut_off_at_the_frame() -> None:
    assert boxes_mask([(-3, 2, 2, 4)], (6, 6)).sum() == 4
    assert boxes_mask([(5, 5, 9, 9)], (6, 6), (1, 1)).sum() == 4
    assert not boxes_mask([], (6, 6)).any()


def test_moving_pixels_are_those_that_differ_from_the_median_frame() -> None:
    frames = [np.full((6, 6, 3), 50, np.uint8) for _ in range(5)]
    for step, frame in enumerate(frames):
        frame[step, 2] = 200
    for step, mask in enumerate(moving_pixels(frames)):
        assert np.argwhere(mask).tolist() == [[step, 2]]


def test_the_mass_of_a_uniform_map_is_the_area_and_an_empty_map_has_none() -> None:
    mask = np.zeros((210, 160), np.bool_)
    mask[35:195, :40] = True
    assert mass_fraction(np.ones((80, 80), np.float32), mask, PREPROCESSOR) == pytest.approx(0.25)
    inside = np.zeros((80, 80), np.float32)
    inside[:, :10] = 1
    assert mass_fraction(inside, mask, PREPROCESSOR) == 1
    assert np.isnan(mass_fraction(np.zeros((80, 80), np.float32), mask, PREPROCESSOR))
    assert np.isnan(mass_fraction(None, mask, PREPROCESSOR))


def test_a_take_begins_where_it_was_asked_to_and_repeats_itself() -> None:
    first, again = take(decisions=3, start=2), take(decisions=3, start=2)
    assert [saliency.step for saliency in first.saliency] == [2, 3, 4]
    assert first.target == "ball and paddle"
    assert ((first.mass > 0) & (first.mass < 1)).all()
    np.testing.assert_array_equal(first.mass, again.mass)
    np.testing.assert_array_equal(first.frames[-1], again.frames[-1])


def test_where_objects_are_unknown_moving_pixels_are_measured() -> None:
    made = take("ALE/SpaceInvaders-v5", actions=6, decisions=3)
    assert made.target == "moving pixels"
    assert 0 < made.area < 0.2


def test_a_hook_without_preprocessor_is_refused() -> None:
    env = gym.make("ALE/Breakout-v5", render_mode="rgb_array")
    with pytest.raises(ValueError, match="Expected a hook with a preprocessor"):
        record_take(env, RecurrentAgentHook(BabyA3CGRU(4)), "agent")
    env.close()


def test_layouts_show_every_take() -> None:
    takes = [take(name="agent.1"), take(name="agent.2")]
    painter = Painter(Drawing())
    one_after_another, together = list(sequence(takes, painter)), list(side_by_side(takes, painter))
    assert len(one_after_another) == 8
    assert len(together) == 4
    assert together[0].shape[1] > 2 * one_after_another[0].shape[1]
    assert len({picture.shape for picture in one_after_another}) == 1


def film(*arguments: object):
    return CliRunner().invoke(main, ["film-training", "--no-progress", *map(str, arguments)])


def test_the_command_films_the_numbered_checkpoints_of_a_folder(tmp_path: Path) -> None:
    for step in (200, 1000):
        torch.save(seeded(BabyA3CGRU, 4).state_dict(), tmp_path / f"agent.{step}.pt")
    (tmp_path / "checkpoint.pt").write_bytes(b"another file")
    result = film(tmp_path, "--decisions", 2, "--output", tmp_path / "film.mp4")
    assert result.exit_code == 0, result.output
    assert re.search(r"agent\.200: return 0, mass on ball and paddle: actor 0\.\d+, critic 0\.\d+.*\nagent\.1000: ", result.output)
    assert len(frames_of(tmp_path / "film.mp4")) == 4


def test_a_folder_stands_for_its_checkpoints_by_their_numbers(tmp_path: Path) -> None:
    for name in ("agent.1000.pt", "agent.200.pt", "agent.safetensors", "events.out.77", "log.3.txt"):
        (tmp_path / name).touch()
    assert [file.name for file in numbered_checkpoints([tmp_path])] == ["agent.200.pt", "agent.1000.pt"]
    assert numbered_checkpoints([tmp_path / "agent.safetensors"]) == [tmp_path / "agent.safetensors"]


def test_wrong_usage_of_the_command_is_one_line(tmp_path: Path) -> None:
    result = film(tmp_path)
    assert result.exit_code == 2
    assert "Expected checkpoints named like agent.50000.pt in" in result.output
    torch.save(BabyA3CGRU(4).state_dict(), tmp_path / "agent.1.pt")
    result = film(tmp_path, "--scale", "episode")
    assert result.exit_code == 2
    assert "could not be compared between checkpoints" in result.output
