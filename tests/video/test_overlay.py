"""Overlays: colours, scales, layouts and what is refused; hypothesis where a law holds for every map."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from saliency_wrappers.decisions import SaliencyMaps
from saliency_wrappers.preprocessing import FramePreprocessor
from saliency_wrappers.step_saliency import StepSaliency
from saliency_wrappers.video import overlay
from saliency_wrappers.video.overlay import COLORMAPS, STRIP_HEIGHT, Drawing, EpisodeScale, check_frame, draw, draw_strip

GREYDANUS = FramePreprocessor.named("greydanus2018")
FRAME = np.full((8, 12, 3), 100, np.uint8)
LEFT = np.repeat(np.float32([[1, 1, 0, 0]]), 4, axis=0)
RIGHT = LEFT[:, ::-1].copy()

finite_maps = hnp.arrays(np.float32, (5, 7), elements=st.floats(width=32, allow_nan=False, allow_infinity=False))
frames = hnp.arrays(np.uint8, (9, 10, 3))


def maps_of(actor, critic=None):
    return SaliencyMaps(np.asarray(actor, np.float32), None if critic is None else np.asarray(critic, np.float32))


def flat(value, shape=(4, 4)):
    return np.full(shape, value, np.float32)


# Colours


def test_xaitk_style_blends_four_tenths_of_the_frame_with_six_of_blue_for_the_actor_and_red_for_the_critic():
    drawn = draw(FRAME, maps_of(LEFT, RIGHT))
    np.testing.assert_array_equal(drawn[:, 0], np.tile([40, 40, 40 + 153], (8, 1)))
    np.testing.assert_array_equal(drawn[:, -1], np.tile([40 + 153, 40, 40], (8, 1)))


def test_xaitk_style_rounds_to_the_nearest_level():
    drawn = draw(np.full((4, 4, 3), 101, np.uint8), maps_of(flat(0.5), flat(0.25)), scale=(0, 1))
    np.testing.assert_array_equal(drawn[0, 0], [round(40.4 + 0.6 * 63.75), 40, round(40.4 + 0.6 * 127.5)])


def test_additive_style_adds_the_colour_and_clips():
    drawn = draw(FRAME, maps_of(flat(0.2), flat(0.9)), style="additive", scale=(0, 1))
    np.testing.assert_array_equal(drawn[3, 3], [255, 100, 151])


def test_a_single_head_is_drawn_alone():
    np.testing.assert_array_equal(draw(FRAME, maps_of(LEFT, RIGHT), heads=("critic",))[0, 0], [40, 40, 40])
    np.testing.assert_array_equal(draw(FRAME, maps_of(LEFT, RIGHT), heads=("actor",))[0, -1], [40, 40, 40])


def test_without_a_critic_nothing_is_red():
    np.testing.assert_array_equal(draw(FRAME, maps_of(LEFT))[0, -1], [40, 40, 40])
    np.testing.assert_array_equal(draw(FRAME, maps_of(LEFT), heads=("critic",)), FRAME)


def test_without_maps_the_frame_is_plain():
    plain = draw(FRAME, None)
    np.testing.assert_array_equal(plain, FRAME)
    assert not np.shares_memory(plain, FRAME)


@pytest.mark.parametrize("style", ["xaitk", "additive"])
def test_outside_the_crop_the_frame_is_untouched_and_the_map_fills_the_crop(style):
    frame = np.full((210, 160, 3), 100, np.uint8)
    drawn = draw(frame, maps_of(flat(1, (80, 80))), GREYDANUS, style=style, scale=(0, 1))
    seen = GREYDANUS.covers((210, 160))
    np.testing.assert_array_equal(drawn[~seen], frame[~seen])
    assert (drawn[seen] != frame[seen]).any(axis=1).all()


def test_a_map_lands_where_the_agent_looked():
    actor = np.zeros((80, 80), np.float32)
    actor[0, 79] = 1
    drawn = draw(np.zeros((210, 160, 3), np.uint8), maps_of(actor), GREYDANUS)
    row, column = np.unravel_index(drawn[..., 2].argmax(), (210, 160))
    assert 35 <= row <= 36
    assert 158 <= column <= 159


def test_per_frame_maps_of_a_stack_are_drawn_as_their_largest_value():
    np.testing.assert_array_equal(draw(FRAME, maps_of(np.stack([LEFT, RIGHT, 0 * LEFT]))), draw(FRAME, maps_of(np.maximum(LEFT, RIGHT))))


def test_a_colour_map_replaces_the_heads_colour():
    drawn = draw(FRAME, maps_of(LEFT), heads=("actor",), colormap="viridis")
    bgr = cv2.applyColorMap(np.array([[0, 255]], np.uint8), cv2.COLORMAP_VIRIDIS)[0]
    np.testing.assert_array_equal(drawn[0, -1], np.rint(40 + 0.6 * bgr[0][::-1].astype(float)))
    np.testing.assert_array_equal(drawn[0, 0], np.rint(40 + 0.6 * bgr[1][::-1].astype(float)))


@pytest.mark.parametrize("colormap", COLORMAPS)
def test_every_colour_map_draws_and_changes_nothing_at_zero_when_added(colormap):
    drawn = draw(FRAME, maps_of(LEFT), heads=("actor",), colormap=colormap, style="additive")
    np.testing.assert_array_equal(drawn[0, -1], [100, 100, 100])
    assert drawn.dtype == np.uint8


# Layout


def test_panels_are_frame_actor_and_critic_side_by_side():
    panels = draw(FRAME, maps_of(LEFT, RIGHT), panels=True)
    assert panels.shape == (8, 36, 3)
    np.testing.assert_array_equal(panels[:, :12], FRAME)
    np.testing.assert_array_equal(panels[:, 12:24], draw(FRAME, maps_of(LEFT), heads=("actor",)))
    np.testing.assert_array_equal(panels[:, 24:], draw(FRAME, maps_of(LEFT, RIGHT), heads=("critic",)))


def test_panels_keep_their_size_without_critic_or_maps():
    assert np.array_equal(draw(FRAME, maps_of(LEFT), panels=True)[:, 24:], FRAME)
    assert np.array_equal(draw(FRAME, None, panels=True), np.hstack([FRAME] * 3))
    assert draw(FRAME, maps_of(LEFT), panels=True, heads=("actor",)).shape == (8, 24, 3)


def test_panels_may_use_one_colour_map_for_both_heads():
    panels = draw(FRAME, maps_of(LEFT, LEFT), panels=True, colormap="jet")
    np.testing.assert_array_equal(panels[:, 12:24], panels[:, 24:])


# Scales


def test_frame_scale_takes_each_head_from_its_own_range():
    np.testing.assert_array_equal(draw(FRAME, maps_of(1000 * LEFT - 3, 0.01 * RIGHT)), draw(FRAME, maps_of(LEFT, RIGHT)))


def test_a_given_range_is_clipped_and_compares_across_frames():
    actor = np.repeat(np.float32([[-1, 1, 2, 9]]), 4, axis=0)
    drawn = draw(np.zeros((4, 4, 3), np.uint8), maps_of(actor), style="additive", scale=(0, 4))
    np.testing.assert_array_equal(drawn[0, :, 2], [0, 64, 128, 255])


@pytest.mark.parametrize("value", [0.0, 3.0, -2.0, 3e38])
def test_a_constant_map_scales_to_zeros(value):
    np.testing.assert_array_equal(draw(FRAME, maps_of(flat(value), flat(value)), style="additive"), FRAME)


def test_a_range_over_all_floats_does_not_overflow():
    drawn = draw(FRAME, maps_of(np.float32([[-3.4e38, 3.4e38]])), style="additive")
    np.testing.assert_array_equal(drawn[0, [0, -1], 2], [100, 255])


def test_the_episode_scale_grows_with_the_peak_so_far_and_begins_anew_with_an_episode():
    scale = EpisodeScale()
    first, second = scale(maps_of(2 * LEFT, 8 * RIGHT), 0), scale(maps_of(4 * LEFT, 2 * RIGHT), 0)
    assert (first.actor.max(), first.critic.max(), second.actor.max(), second.critic.max()) == (1, 1, 1, 0.25)
    assert scale(maps_of(1 * LEFT), 0).actor.max() == 0.25
    assert scale(maps_of(1 * LEFT), 1).actor.max() == 1


def test_the_episode_scale_gives_zeros_for_constant_maps_and_below_zero():
    scale = EpisodeScale()
    assert not scale(maps_of(flat(0.0)), 0).actor.any()
    assert not scale(maps_of(flat(7.0)), 0).actor.any()
    assert scale(maps_of(flat(1.0)), 0).critic is None
    assert scale(maps_of(7 * LEFT - 3), 0).actor.min() == 0


# Laws


@settings(max_examples=40, deadline=None)
@given(frames, finite_maps, finite_maps, st.sampled_from(["xaitk", "additive"]), st.booleans())
def test_drawing_modifies_nothing_that_goes_in_and_gives_the_same_again(frame, actor, critic, style, panels):
    before = (frame.copy(), actor.copy(), critic.copy())
    for array in (frame, actor, critic):
        array.flags.writeable = False
    first = draw(frame, SaliencyMaps(actor, critic), style=style, panels=panels)
    second = draw(frame, SaliencyMaps(actor, critic), style=style, panels=panels)
    np.testing.assert_array_equal(first, second)
    assert first.dtype == np.uint8
    for array, copy in zip((frame, actor, critic), before, strict=True):
        np.testing.assert_array_equal(array, copy)


@settings(max_examples=40, deadline=None)
@given(frames, finite_maps)
def test_addition_never_darkens_and_leaves_the_other_channels_alone(frame, actor):
    drawn = draw(frame, SaliencyMaps(actor, None), style="additive")
    assert (drawn >= frame).all()
    np.testing.assert_array_equal(drawn[..., :2], frame[..., :2])


@settings(max_examples=40, deadline=None)
@given(finite_maps)
def test_the_episode_scale_stays_within_zero_and_one(actor):
    scaled = EpisodeScale()(SaliencyMaps(actor, actor), 0)
    assert np.isfinite(scaled.actor).all()
    assert scaled.actor.min() >= 0
    assert scaled.actor.max() <= 1


# What is refused


@pytest.mark.parametrize(
    ("frame", "error", "message"),
    [
        ([[0]], TypeError, r"Expected a frame as an array \(H, W, 3\) of uint8, actual: list"),
        (FRAME.astype(np.float32), TypeError, "actual: an array of float32"),
        (FRAME[..., 0], ValueError, r"Expected a frame of shape \(H, W, 3\), actual shape: \(8, 12\)"),
        (np.zeros((3, 8, 12), np.uint8), ValueError, r"actual shape: \(3, 8, 12\)"),
        (np.zeros((8, 12, 4), np.uint8), ValueError, r"actual shape: \(8, 12, 4\)"),
        (np.zeros((0, 12, 3), np.uint8), ValueError, r"actual shape: \(0, 12, 3\)"),
    ],
)
def test_what_is_no_frame_is_refused(frame, error, message):
    with pytest.raises(error, match=message):
        draw(frame, maps_of(LEFT))


def test_a_frame_of_another_size_is_refused():
    check_frame(FRAME, (8, 12))
    with pytest.raises(ValueError, match=r"Expected a frame of shape \(8, 13, 3\), actual shape: \(8, 12, 3\)"):
        check_frame(FRAME, (8, 13))


@pytest.mark.parametrize(
    ("maps", "error", "message"),
    [
        (SaliencyMaps([[1.0]], None), TypeError, "Expected the actor map as an array of float32, actual: list"),
        (SaliencyMaps(LEFT, LEFT.astype(int)), TypeError, "critic map as an array of float32, actual: an array of int64"),
        (SaliencyMaps(LEFT[0], None), ValueError, r"actor map of shape \(h, w\).*actual shape: \(4,\)"),
        (SaliencyMaps(LEFT, np.zeros((1, 1, 4, 4), np.float32)), ValueError, r"critic map of shape.*\(1, 1, 4, 4\)"),
        (SaliencyMaps(np.zeros((0, 4), np.float32), None), ValueError, r"actual shape: \(0, 4\)"),
        (maps_of([[0, np.nan]]), ValueError, "Expected a finite actor map, got 1 values of NaN or infinity"),
        (maps_of(LEFT, [[np.inf, -np.inf]]), ValueError, "Expected a finite critic map, got 2 values"),
    ],
)
def test_what_is_no_map_is_refused(maps, error, message):
    with pytest.raises(error, match=message):
        draw(FRAME, maps)
    if maps.actor is not LEFT:
        with pytest.raises(error, match=message):
            EpisodeScale()(maps, 0)


def test_a_map_of_another_size_than_the_preprocessors_is_refused():
    with pytest.raises(ValueError, match=r"Expected a map of shape \(80, 80\)"):
        draw(np.zeros((210, 160, 3), np.uint8), maps_of(LEFT), GREYDANUS)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"style": "jet"}, ValueError, r"Expected style to be one of \('xaitk', 'additive'\), got 'jet'"),
        ({"scale": "episode"}, ValueError, r"scale='episode' needs an episode: pass \(low, high\)"),
        ({"scale": "max"}, ValueError, r"'frame' or two numbers \(low, high\), got 'max'"),
        ({"scale": 1.0}, TypeError, r"'frame' or two numbers \(low, high\), got 1.0"),
        ({"scale": (0, "1")}, TypeError, "two numbers"),
        ({"scale": (1, 1)}, ValueError, "low < high"),
        ({"scale": (0, np.inf)}, ValueError, "finite scale"),
        ({"heads": ()}, ValueError, r"Expected heads to be some of \('actor', 'critic'\), each once, got \(\)"),
        ({"heads": ("actor", "actor")}, ValueError, "each once"),
        ({"heads": ("value",)}, ValueError, r"got \('value',\)"),
        ({"heads": ("actor",), "colormap": "blue"}, ValueError, "Expected colormap to be None or one of .*viridis.*got 'blue'"),
        ({"colormap": "viridis"}, ValueError, r"use panels=True, or one head, as in heads=\('actor',\)"),
    ],
)
def test_wrong_options_are_refused_whatever_is_drawn(options, error, message):
    with pytest.raises(error, match=message):
        draw(FRAME, maps_of(LEFT), **options)
    with pytest.raises(error, match=message):
        Drawing(**options)


# The strip

LOGITS = np.log(np.float32([0.25, 0.5, 0.25]))


def decided(action: Any = 1, logits: Any = LOGITS, value: float | None = 1.5) -> StepSaliency:
    return StepSaliency(episode=0, step=3, action=action, logits=logits, value=value, maps=None)


DECISION = decided()


def bars(strip, names):
    """Heights of the bars, by what is drawn above the labels in the right part."""
    area = strip[: STRIP_HEIGHT - 15, 104:] if strip.shape[1] >= 312 else strip[: STRIP_HEIGHT - 15, strip.shape[1] // 3 :]
    drawn = (area != area[0, 0]).any(axis=-1)
    return [int(slot.any(axis=1).sum()) for slot in np.array_split(drawn, names, axis=1)]


def chosen(strip):
    """Where the highlight is, as `(H, W)`."""
    red, green, blue = (strip[..., channel].astype(int) for channel in range(3))
    return (red > blue + 60) & (green > blue + 40)


@pytest.mark.parametrize("width", [1, 2, 84, 160, 320, 960])
@pytest.mark.parametrize("actions", [1, 4, 18])
def test_the_strip_has_one_height_whatever_it_shows(width, actions):
    decision = decided(action=0, logits=np.zeros(actions, np.float32))
    for strip in (draw_strip(width, decision), draw_strip(width, None), draw_strip(width, decision, ["A_LONG_NAME"] * actions)):
        assert strip.shape == (STRIP_HEIGHT, width, 3)
        assert strip.dtype == np.uint8


def test_an_empty_strip_is_flat():
    strip = draw_strip(320, None)
    assert (strip == strip[0, 0]).all()


def test_bars_are_as_high_as_the_probabilities():
    low, high, other = bars(draw_strip(320, DECISION), 3)
    assert low == other
    assert high == pytest.approx(2 * low, abs=1)


def test_the_chosen_action_is_highlighted_and_named():
    for action in range(3):
        strip = draw_strip(320, decided(action=action), ["NOOP", "FIRE", "LEFT"])
        area = chosen(strip)[:, 104:]
        assert [bool(slot.any()) for slot in np.array_split(area, 3, axis=1)] == [index == action for index in range(3)]
        assert chosen(strip)[:, :104].any()


def test_names_are_drawn_where_they_fit_and_numbers_where_not():
    names = ["NOOP", "FIRE", "LEFT"]
    assert not np.array_equal(draw_strip(320, DECISION, names)[-14:, 104:], draw_strip(320, DECISION)[-14:, 104:])
    long = ["A_VERY_LONG_NAME_INDEED"] * 3
    np.testing.assert_array_equal(draw_strip(320, DECISION, long)[-14:, 104:], draw_strip(320, DECISION)[-14:, 104:])


def test_the_value_is_written_and_its_absence_too():
    strips = [draw_strip(320, decided(value=value))[:20] for value in (1.5, -2.0, None)]
    assert not any(np.array_equal(a, b) for a, b in [(strips[0], strips[1]), (strips[1], strips[2]), (strips[0], strips[2])])
    assert all((strip != strip[0, 0]).any() for strip in strips)


def test_a_continuous_action_shows_its_numbers_and_no_bars():
    strip = draw_strip(320, decided(action=np.float32([0.5, -1.25])))
    assert chosen(strip).any()
    assert bars(strip[40:], 1) == [0]


@pytest.mark.parametrize(
    ("action", "words"),
    [
        ({"move": 1}, "{'move': 1}"),
        ((1, 2.5), "(1, 2.5)"),
        ("left", "left"),
        (np.array("left"), "left"),
        (None, "None"),
        (np.array(None), "None"),
        (0.7, "0.7"),
        (np.array(0.7, np.float32), "0.7"),
        (np.array([True, False]), "1 0"),
        (np.array([[0.25], [-3]]), "0.25 -3"),
    ],
)
def test_an_action_that_is_no_integer_is_written_out_without_bars(monkeypatch, action, words):
    written = []
    monkeypatch.setattr(overlay, "write_text", lambda area, text, *_: written.append(text))
    strip = draw_strip(320, decided(action=action), ["NOOP", "FIRE", "LEFT"])
    assert written == ["value 1.5", f"action {words}"]
    assert bars(strip, 3) == [0, 0, 0]


def test_an_integer_of_numpys_is_a_discrete_action():
    np.testing.assert_array_equal(draw_strip(320, decided(action=np.int64(1))), draw_strip(320, DECISION))


def test_forbidden_actions_and_odd_logits_give_bars_without_complaint():
    forbidden = bars(draw_strip(320, decided(logits=np.float32([-np.inf, 0, -np.inf]))), 3)
    assert forbidden[1] > 30
    for logits in ([np.nan, 0, 0], [-np.inf] * 3, [np.inf, 0, 0], [1e38, -1e38, 0]):
        assert draw_strip(320, decided(logits=np.float32(logits))).shape == (STRIP_HEIGHT, 320, 3)


def test_wrong_strips_are_refused():
    with pytest.raises(ValueError, match="at least 1 pixel wide, got 0"):
        draw_strip(0, None)
    with pytest.raises(ValueError, match=r"Expected 3 action names, one for each logit, got 2: \['A', 'B'\]"):
        draw_strip(320, DECISION, ["A", "B"])
