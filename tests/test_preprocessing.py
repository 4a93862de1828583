"""Frames become the inputs agents were trained with, and maps go back to where the frames came from."""

from __future__ import annotations

from typing import Any

import ale_py
import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from saliency_wrappers.preprocessing import FramePreprocessor

NAMES = ["atari84", "greydanus2018", "xaitk"]
FRAME_SHAPE = (210, 160)

gym.register_envs(ale_py)


def noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def white_pixel(y: int, x: int) -> NDArray[np.uint8]:
    frame = np.zeros((*FRAME_SHAPE, 3), np.uint8)
    frame[y, x] = 255
    return frame


def centroid(picture: NDArray[Any]) -> NDArray[np.float64]:
    weights = picture.astype(np.float64)
    return np.array([(weights * axis).sum() for axis in np.indices(picture.shape)]) / weights.sum()


@pytest.mark.parametrize(("name", "shape"), [("atari84", (1, 84, 84)), ("greydanus2018", (1, 80, 80)), ("xaitk", (1, 80, 80))])
def test_named_instances_give_float32_inputs_in_the_unit_range(name: str, shape: tuple[int, ...]):
    preprocessor = FramePreprocessor.named(name)
    frame = noise(210, 160, 3)
    before = frame.copy()
    made = preprocessor(frame)
    assert made.shape == shape == preprocessor.input_shape
    assert made.dtype == np.float32
    assert made.min() >= 0
    assert made.max() <= 1
    assert np.array_equal(frame, before)


def test_a_preprocessor_is_told_by_name_by_instance_or_not_at_all():
    xaitk = FramePreprocessor.named("xaitk")
    assert FramePreprocessor.of("xaitk") is xaitk
    assert FramePreprocessor.of(xaitk) is xaitk
    assert FramePreprocessor.of(None) is None


def test_an_unknown_name_names_the_known_ones():
    with pytest.raises(ValueError, match=r"one of \['atari84', 'greydanus2018', 'xaitk'\], got 'greydanus'"):
        FramePreprocessor.of("greydanus")


def test_a_preprocessor_of_another_kind_is_a_type_error():
    with pytest.raises(TypeError, match="Expected a FramePreprocessor, its name or None, got tuple"):
        FramePreprocessor.of((80, 80))  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(0, 80), (80, -1)])
def test_a_size_without_pixels_is_refused(size: tuple[int, int]):
    with pytest.raises(ValueError, match="Expected a positive size and stack"):
        FramePreprocessor(size=size)


@pytest.mark.parametrize(("field", "value"), [("grey", "green"), ("scaling", "none"), ("resize", "cubic")])
def test_an_unknown_step_names_the_known_ones(field: str, value: str):
    with pytest.raises(ValueError, match=rf"Expected {field} to be one of \('\w.*, got '{value}'"):
        FramePreprocessor(size=(4, 4), **{field: value})  # type: ignore[arg-type]


def test_a_frame_of_floats_is_a_type_error():
    with pytest.raises(TypeError, match=r"Expected a frame as a uint8 array \(H, W, 3\), got an array of float64"):
        FramePreprocessor.named("xaitk")(np.zeros((210, 160, 3)))  # type: ignore[arg-type]


def test_a_list_is_a_type_error():
    with pytest.raises(TypeError, match=r"Expected a frame as a uint8 array \(H, W, 3\), got list"):
        FramePreprocessor.named("xaitk")([[0]])  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(3, 210, 160), (210, 160), (210, 160, 4), (210, 160, 1), (1, 210, 160, 3)])
def test_a_frame_that_is_not_height_width_rgb_is_refused(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=rf"Expected a frame of shape \(H, W, 3\), channels last, got \({shape[0]}, "):
        FramePreprocessor.named("atari84")(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("name", ["greydanus2018", "xaitk"])
def test_a_frame_too_small_for_the_crop_is_refused_both_ways(name: str):
    preprocessor = FramePreprocessor.named(name)
    message = r"Expected a frame that holds rows 35:195 and columns 0:160, got one of 194x160"
    with pytest.raises(ValueError, match=message):
        preprocessor(noise(194, 160, 3))
    with pytest.raises(ValueError, match=message):
        preprocessor.project(np.zeros((80, 80), np.float32), (194, 160))
    assert preprocessor(noise(195, 160, 3)).shape == (1, 80, 80)


def test_the_stretch_reaches_from_black_to_white_and_rounds_half_up():
    # Means 10, 11, 12 and 14 stretch to 0, 63.75, 127.5 and 255.
    frame = np.array([[10, 11], [12, 14]], np.uint8)[..., None].repeat(3, axis=2)
    preprocessor = FramePreprocessor(size=(2, 2), grey="mean", scaling="stretch", resize="bilinear-antialiased")
    assert (255 * preprocessor(frame)[0]).round(4).tolist() == [[0, 64], [128, 255]]


@pytest.mark.parametrize("grey", [0, 131, 255])
@pytest.mark.parametrize("name", NAMES)
def test_a_uniform_frame_gives_a_finite_uniform_input(name: str, grey: int):
    made = FramePreprocessor.named(name)(np.full((210, 160, 3), grey, np.uint8))
    expected = 0 if name == "greydanus2018" else grey / 255
    assert np.abs(made - expected).max() < 1e-6


def test_the_mean_weighs_channels_alike_and_luma_does_not():
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 0] = 255
    assert np.allclose(FramePreprocessor(size=(4, 4), grey="mean", resize="bilinear")(red), 1 / 3)
    assert np.allclose(FramePreprocessor(size=(4, 4), grey="luma")(red), 76 / 255)


def test_what_lies_outside_the_crop_does_not_change_the_input():
    frame = noise(210, 160, 3)
    other = frame.copy()
    other[:35], other[195:] = 0, 255
    for name in ("greydanus2018", "xaitk"):
        preprocessor = FramePreprocessor.named(name)
        assert np.array_equal(preprocessor(frame), preprocessor(other))
        assert np.array_equal(preprocessor.covers(FRAME_SHAPE)[:, 0], [35 <= row < 195 for row in range(210)])


def test_columns_are_cropped_like_rows():
    preprocessor = FramePreprocessor(size=(4, 3), rows=(1, 5), columns=(2, 5), resize="bilinear", grey="mean")
    frame = noise(6, 8, 3)
    assert np.allclose(preprocessor(frame)[0], frame[1:5, 2:5].mean(axis=2) / 255)
    assert preprocessor.project(np.ones((4, 3), np.float32), (6, 8)).sum() == preprocessor.covers((6, 8)).sum() == 12


@given(row=st.integers(0, 209), column=st.integers(0, 159), name=st.sampled_from(NAMES))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_a_map_of_the_pixel_that_shows_a_place_lies_on_that_place(row: int, column: int, name: str):
    preprocessor = FramePreprocessor.named(name)
    seen = preprocessor(white_pixel(row, column))[0]
    if not preprocessor.covers(FRAME_SHAPE)[row, column]:
        assert not seen.any()
        return
    projected = preprocessor.project(seen, FRAME_SHAPE)
    extent = preprocessor.covers(FRAME_SHAPE).any(axis=1).sum(), FRAME_SHAPE[1]
    pixel = np.array(extent) / np.array(preprocessor.size)  # how much of the frame an input pixel is
    # The picture of a frame pixel, laid back on the frame, is centred on that pixel, but for half an input pixel at the borders.
    assert (np.abs(centroid(projected) - (row, column)) <= 0.5 * pixel + 0.5).all()
    peak = np.unravel_index(projected.argmax(), FRAME_SHAPE)
    assert (np.abs(np.array(peak) - (row, column)) <= pixel).all()


@given(row=st.integers(1, 78), column=st.integers(1, 78), name=st.sampled_from(NAMES))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_a_one_pixel_map_lands_in_the_middle_of_what_that_pixel_saw(row: int, column: int, name: str):
    preprocessor = FramePreprocessor.named(name)
    saliency = np.zeros(preprocessor.size, np.float32)
    saliency[row, column] = 1
    top = (preprocessor.rows or (0, 0))[0]
    extent = np.array([preprocessor.covers(FRAME_SHAPE).any(axis=1).sum(), FRAME_SHAPE[1]])
    expected = (np.array([row, column]) + 0.5) * extent / preprocessor.size - 0.5 + (top, 0)
    projected = preprocessor.project(saliency, FRAME_SHAPE)
    assert np.abs(centroid(projected) - expected).max() < 0.05
    assert np.abs(centroid(preprocessor.project(saliency, FRAME_SHAPE) > 0) - expected).max() <= 1


@pytest.mark.parametrize("name", NAMES)
def test_a_map_is_laid_within_the_crop_and_is_zero_outside(name: str):
    preprocessor = FramePreprocessor.named(name)
    saliency = np.full(preprocessor.size, 7.0)
    projected = preprocessor.project(saliency, FRAME_SHAPE)
    assert projected.shape == FRAME_SHAPE
    assert projected.dtype == np.float32
    assert np.array_equal(projected, 7 * preprocessor.covers(FRAME_SHAPE))
    assert (saliency == 7).all()


@pytest.mark.parametrize("shape", [(84, 84), (1, 80, 80), (6400,)])
def test_a_map_of_another_shape_than_the_input_is_refused(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"Expected a map of shape \(80, 80\), as the network input, got \("):
        FramePreprocessor.named("xaitk").project(np.zeros(shape, np.float32), FRAME_SHAPE)


def test_a_frame_shape_with_channels_is_refused():
    with pytest.raises(ValueError, match=r"Expected a frame's shape as \(H, W\), got \(210, 160, 3\)"):
        FramePreprocessor.named("xaitk").project(np.zeros((80, 80), np.float32), (210, 160, 3))  # type: ignore[arg-type]


def atari(**changes: Any) -> AtariPreprocessing:
    env = gym.make("ALE/Breakout-v5", frameskip=1, repeat_action_probability=0.0, render_mode="rgb_array")
    return AtariPreprocessing(env, noop_max=0, scale_obs=True, **changes)


def test_atari84_is_gymnasiums_atari_preprocessing_where_it_does_not_pool():
    # With frame_skip=1 Gymnasium does not take the maximum over two screens.
    env = atari(frame_skip=1)
    preprocessor = FramePreprocessor.named("atari84")
    observation, _ = env.reset(seed=1)
    for t in range(40):
        frame: Any = env.render()
        assert np.array_equal(preprocessor(frame)[0], observation)
        observation, *_ = env.step(1 if t == 0 else t % 4)
    env.close()


def test_atari84_does_not_claim_to_determine_an_input_that_pools_two_screens():
    assert not FramePreprocessor.named("atari84").determines_input
    assert FramePreprocessor.named("greydanus2018").determines_input


def test_a_stack_of_frames_is_as_gymnasium_stacks_them_newest_last():
    env = FrameStackObservation(atari(frame_skip=1), 4)
    frames: list[Any] = []
    observation, _ = env.reset(seed=1)
    for _ in range(6):
        frames.append(env.render())
        observation, *_ = env.step(1)
    frames.append(env.render())
    made = FramePreprocessor.named("atari84").stacked(4)(np.stack(frames[-4:]))
    assert made.shape == (4, 84, 84)
    assert np.array_equal(made, observation)
    env.close()


def test_a_stack_preprocesses_each_frame_alone_and_one_frame_no_longer_determines_it():
    single = FramePreprocessor.named("greydanus2018")
    stacked = single.stacked(4)
    frames = noise(4, 210, 160, 3)
    assert np.array_equal(stacked(frames), np.concatenate([single(frame) for frame in frames]))
    assert stacked.input_shape == (4, 80, 80)
    assert single.determines_input
    assert not stacked.determines_input


@pytest.mark.parametrize("shape", [(210, 160, 3), (3, 210, 160, 3), (210, 160, 3, 4), (4, 3, 210, 160)])
def test_a_stack_of_another_number_of_frames_is_refused(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"Expected a frame of shape \(4, H, W, 3\), channels last, got \("):
        FramePreprocessor.named("atari84").stacked(4)(np.zeros(shape, np.uint8))


def test_a_stack_without_frames_is_refused():
    with pytest.raises(ValueError, match="Expected a positive size and stack"):
        FramePreprocessor.named("atari84").stacked(0)


@pytest.mark.parametrize("stack", [1, 4])
def test_a_preprocessor_that_does_not_determine_the_input_takes_the_stack_from_it(stack: int) -> None:
    preprocessor = FramePreprocessor.named("atari84")
    assert preprocessor.for_input((stack, 84, 84)).input_shape == (stack, 84, 84)
    assert preprocessor.for_input((stack, 80, 80)) is preprocessor
    assert FramePreprocessor.named("greydanus2018").for_input((4, 80, 80)).stack == 1
