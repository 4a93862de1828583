"""Saliency videos: every frame carries its own decision's maps, recordings start and stop as `RecordVideo`'s, and nothing is lost.

The environment's frame and the agent's input encode the step, and the map encodes the input: an index shifted by one is a wrong colour.
"""

from __future__ import annotations

import gc
import os
import signal
import warnings
from pathlib import Path
from typing import ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.save_video import capped_cubic_video_schedule
from gymnasium.wrappers import RecordVideo, RenderCollection, TimeLimit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from videos import frames_of, run

from saliency_wrappers.decisions import SaliencyMaps
from saliency_wrappers.hooks.hook import RecurrentAgentHook
from saliency_wrappers.step_saliency import StepSaliency
from saliency_wrappers.video import film
from saliency_wrappers.video.overlay import STRIP_HEIGHT, draw_strip
from saliency_wrappers.wrappers.recorder import SaliencyRecorder
from saliency_wrappers.wrappers.video import RecordSaliencyVideo

PLAIN = None


class CountingEnv(gym.Env):
    """Shows, and observes, the number of steps since the reset. `fails` says when: "step 3", "reset 1", "render 5"."""

    metadata: ClassVar = {"render_modes": ["rgb_array", "ansi", "human"], "render_fps": 20}

    def __init__(self, lengths=(5,), render_mode="rgb_array", fails="", reuse=False, shown=None):
        self.observation_space = gym.spaces.Box(0, 1, (1, 4, 4), np.float32)
        self.action_space = gym.spaces.Discrete(3)
        self.render_mode = render_mode
        self.lengths = lengths
        self.fails = fails
        self.calls = {"step": 0, "reset": 0, "render": 0}
        self.buffer = np.zeros((16, 24, 3), np.uint8) if reuse else None
        self.shown = shown

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.length = self.lengths[self.calls["reset"] % len(self.lengths)]
        self.called("reset")
        self.t = 0
        return self.seen(), {}

    def step(self, action):
        self.called("step")
        self.t += 1
        return self.seen(), 1.0, self.t >= self.length, False, {}

    def render(self):
        self.called("render")
        if self.shown is not None and self.calls["render"] > 3:
            return self.shown
        frame = np.empty((16, 24, 3), np.uint8) if self.buffer is None else self.buffer
        frame[:] = shade(self.t)
        return frame

    def seen(self):
        return np.full((1, 4, 4), (self.t % 16) / 100, np.float32)

    def called(self, name):
        if self.fails == f"{name} {self.calls[name]}":
            raise OSError(f"the environment failed at {self.fails}")
        self.calls[name] += 1


def shade(t):
    return 6 * (t % 16)


def tint(t):
    """How much bluer the frame of decision t is than a plain one."""
    return 40 + 6 * (t % 16)


class CountingAgent(nn.Module):
    """Its value and its state count its passes; `fails` at the pass of that number."""

    def __init__(self, fails=None):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.fails = fails

    def initial_state(self, n):
        return torch.zeros(n, 1)

    def forward(self, call):
        inputs, state = call
        if self.fails is not None and bool((state == self.fails).any()):
            raise ZeroDivisionError("the agent failed")
        return state * self.weight, torch.cat([state, -state, inputs.mean((1, 2, 3))[:, None]], 1) * self.weight, state + 1


class Stamp:
    """A method whose maps say which input they were made from; `fails` at the call of that number, counted from 0."""

    def __init__(self, fails=None):
        self.fails = fails
        self.calls = 0
        self.explained = []

    def __call__(self, adapter, decisions):
        self.calls += 1
        if self.fails == self.calls - 1:
            raise ArithmeticError("the perturber failed")
        steps = [round(float(decision.inputs.mean()) * 100) for decision in decisions]
        self.explained += steps
        return [SaliencyMaps(np.full((4, 4), tint(t) / 255, np.float32), None) for t in steps]


def recorded(folder, env=None, method=None, agent=None, recorder=None, wrap=lambda env: env, **options):
    """The whole tower, drawn so that `stamps` can read it; `.agent` is the hooked agent."""
    agent = agent or CountingAgent()
    env = env or CountingEnv()
    options = {"style": "additive", "scale": (0, 1), "heads": ("actor",), **options}
    env = SaliencyRecorder(wrap(env), RecurrentAgentHook(agent), method or Stamp(), **(recorder or {}))
    env = RecordSaliencyVideo(env, folder, **options)
    env.agent = agent
    return env


def play(env, steps, scripted=lambda t: False):
    """Take so many steps, resetting where an episode ends; without asking the agent at scripted ones."""
    observation, state, t = env.reset()[0], torch.zeros(1, 1), 0
    for _ in range(steps):
        action = 1
        if not scripted(t):
            _, logits, state = env.agent((torch.as_tensor(observation)[None], state))
            action = int(logits.argmax())
        observation, _, terminated, truncated, _ = env.step(action)
        t += 1
        if terminated or truncated:
            observation, state, t = env.reset()[0], torch.zeros(1, 1), 0


def stamps(frames):
    """What each frame says: the step it shows, and the step of its map, None on a plain one."""
    read = []
    for frame in frames:
        red, _, blue = frame.reshape(-1, 3).mean(axis=0)
        shown, drawn = round(red / 6), blue - red
        read.append((shown, PLAIN if drawn < 20 else round((drawn - 40) / 6)))
    return read


def episode(length):
    """The frames of an episode all of whose decisions are explained: one for each, and the last one plain."""
    return [(t, t) for t in range(length)] + [(length, PLAIN)]


def names(folder):
    return {path.name for path in folder.iterdir()}


class MemoryWriter:
    """Stands in for the streaming writer where many videos are made."""

    videos: ClassVar = {}

    def __init__(self, path, fps):
        self.frames = MemoryWriter.videos[path.stem] = []

    def write(self, frame):
        self.frames.append(frame)

    def close(self):
        pass


@pytest.fixture
def videos(monkeypatch):
    """The stamps of the videos that were made, by name."""
    monkeypatch.setattr(film, "StreamingWriter", MemoryWriter)
    monkeypatch.setattr(MemoryWriter, "videos", {})
    return lambda: {name: stamps(frames) for name, frames in MemoryWriter.videos.items()}


MODES = [{"mode": "inline"}, {"mode": "deferred", "block": 3}, {"mode": "deferred"}]

# Which map is drawn on which frame


@pytest.mark.parametrize("mode", MODES)
def test_a_video_shows_each_decision_on_the_frame_it_was_made_on_and_the_last_frame_plain(tmp_path, mode):
    env = recorded(tmp_path, CountingEnv([12]), recorder=mode)
    play(env, 12)
    env.close()
    assert names(tmp_path) == {"saliency-episode-0.mp4", "saliency-episode-1.mp4"}
    assert stamps(frames_of(tmp_path / "saliency-episode-0.mp4")) == episode(12)


@pytest.mark.parametrize("mode", MODES)
def test_every_episode_of_t_steps_gives_t_plus_one_frames(tmp_path, videos, mode):
    env = recorded(tmp_path, CountingEnv([5, 1, 3, 8]), recorder=mode, episode_trigger=lambda e: True)
    play(env, 17)
    env.close()
    assert videos() == {f"saliency-episode-{e}": episode(length) for e, length in enumerate([5, 1, 3, 8])} | {
        "saliency-episode-4": [(0, PLAIN)]
    }


@pytest.mark.parametrize("mode", MODES)
def test_frames_of_scripted_steps_are_plain(tmp_path, videos, mode):
    env = recorded(tmp_path, CountingEnv([12]), recorder=mode, episode_trigger=lambda e: e == 0)
    play(env, 12, scripted=lambda t: t in {0, 4, 5, 11})
    env.close()
    assert videos()["saliency-episode-0"] == [(t, PLAIN if t in {0, 4, 5, 11} else t) for t in range(12)] + [(12, PLAIN)]


@pytest.mark.parametrize("mode", MODES)
def test_with_sparse_triggers_of_the_recorder_only_its_steps_are_drawn(tmp_path, videos, mode):
    env = recorded(tmp_path, CountingEnv([12]), recorder=mode | {"step_trigger": lambda s: s % 4 == 1}, episode_trigger=lambda e: e < 2)
    play(env, 24)
    env.close()
    expected = [(t, t if t % 4 == 1 else PLAIN) for t in range(12)] + [(12, PLAIN)]
    assert videos() == {"saliency-episode-0": expected, "saliency-episode-1": expected}


@pytest.mark.parametrize("mode", MODES)
def test_without_a_trigger_of_the_recorder_only_what_is_recorded_is_explained(tmp_path, videos, mode):
    method = Stamp()
    env = recorded(tmp_path, CountingEnv([4]), method, recorder=mode, episode_trigger=lambda e: e == 1)
    play(env, 12)
    env.close()
    assert method.explained == [0, 1, 2, 3]
    assert videos() == {"saliency-episode-1": episode(4)}


@pytest.mark.parametrize("mode", MODES)
def test_a_recording_begun_at_a_step_starts_with_the_frame_after_it(tmp_path, videos, mode):
    env = recorded(tmp_path, CountingEnv([10]), recorder=mode, step_trigger=lambda s: s in {3, 6})
    play(env, 10)
    env.close()
    assert videos() == {
        "saliency-step-3": [(4, 4), (5, 5), (6, 6)],
        "saliency-step-6": [(7, 7), (8, 8), (9, 9), (10, PLAIN)],
    }


def test_a_video_over_several_episodes_shows_the_end_of_one_and_the_start_of_the_next(tmp_path, videos):
    env = recorded(tmp_path, CountingEnv([2]), recorder={"mode": "deferred"}, episode_trigger=lambda e: e == 0, video_length=5)
    play(env, 6)
    assert videos() == {"saliency-episode-0": [*episode(2), *episode(2)]}
    env.close()


def test_a_training_pass_between_steps_is_not_drawn(tmp_path, videos):
    env = recorded(tmp_path, CountingEnv([6]))
    play(env, 3)
    env.agent((torch.full((8, 1, 4, 4), 0.15), torch.zeros(8, 1)))
    env.step(0)
    env.close()
    assert videos()["saliency-episode-0"] == [(0, 0), (1, 1), (2, 2), (3, PLAIN), (4, PLAIN)]


def test_an_environment_that_draws_into_one_buffer_is_recorded_frame_by_frame(tmp_path, videos):
    env = recorded(tmp_path, CountingEnv([6], reuse=True), recorder={"mode": "deferred"})
    play(env, 6)
    env.close()
    assert videos()["saliency-episode-0"] == episode(6)


def test_a_disabled_recorder_gives_plain_frames(tmp_path, videos):
    env = recorded(tmp_path)
    env.get_wrapper_attr("env").enabled = False
    play(env, 5)
    env.close()
    assert videos()["saliency-episode-0"] == [(t, PLAIN) for t in range(6)]


def test_two_videos_of_one_recorder_each_get_their_maps(tmp_path, videos):
    inner = recorded(tmp_path, name_prefix="inner", episode_trigger=lambda e: e == 0)
    outer = RecordSaliencyVideo(inner, tmp_path, lambda e: e == 1, name_prefix="outer", style="additive", scale=(0, 1), heads=("actor",))
    outer.agent = inner.agent
    play(outer, 10)
    outer.close()
    assert videos() == {"inner-episode-0": episode(5), "outer-episode-1": episode(5)}


# What RecordVideo claims


def test_folder_and_file_names(tmp_path):
    folder = tmp_path / "a" / "b"
    env = recorded(folder, name_prefix="mine", episode_trigger=lambda e: e in {1, 4}, step_trigger=lambda s: s in {0, 22})
    play(env, 30)
    env.close()
    assert names(folder) == {"mine-step-0.mp4", "mine-step-22.mp4", "mine-episode-1.mp4", "mine-episode-4.mp4"}


@pytest.mark.parametrize("trigger", [None, lambda e: e in {0, 3, 5, 10, 12}])
def test_episode_trigger(tmp_path, videos, trigger):
    env = recorded(tmp_path, episode_trigger=trigger)
    assert env.episode_trigger is (trigger or capped_cubic_video_schedule)
    play(env, 60)
    env.close()
    assert list(videos()) == [f"saliency-episode-{e}" for e in range(13) if env.episode_trigger(e)]


def test_step_trigger(tmp_path, videos):
    env = recorded(tmp_path, step_trigger=lambda s: s % 100 == 0)
    play(env, 199)
    env.close()
    assert list(videos()) == ["saliency-step-0", "saliency-step-100"]


def test_both_triggers(tmp_path, videos):
    env = recorded(tmp_path, step_trigger=lambda s: s == 33, episode_trigger=lambda e: e in {0, 3})
    play(env, 60)
    env.close()
    assert list(videos()) == ["saliency-episode-0", "saliency-episode-3", "saliency-step-33"]


def test_a_video_ends_when_it_has_more_frames_than_its_length(tmp_path, videos):
    env = recorded(tmp_path, CountingEnv([100]), step_trigger=lambda s: s == 0, video_length=10)
    play(env, 10)
    assert env.recording
    env.step(0)
    assert not env.recording
    env.close()
    assert len(videos()["saliency-step-0"]) == 11


def test_resetting_and_closing_alone_is_fine(tmp_path):
    env = recorded(tmp_path, step_trigger=lambda s: s % 100 == 0)
    observation, info = env.reset()
    env.close()
    assert env.observation_space.contains(observation)
    assert info == {}
    assert names(tmp_path) == set()


def test_frame_lists_are_recorded_and_their_history_is_left_for_the_user(tmp_path, videos):
    env = recorded(tmp_path, CountingEnv([20]), wrap=RenderCollection)
    play(env, 10)
    rendered = env.render()
    assert [round(frame.mean()) for frame in rendered] == [shade(t) for t in range(11)]
    assert env.render() == []
    env.close()
    assert videos()["saliency-episode-0"] == episode(10)


def test_a_frame_that_was_rendered_away_cannot_be_captured(tmp_path, videos):
    class Emptied(RenderCollection):
        def render(self):
            return super().render() if self.unwrapped.t != 2 else []

    env = recorded(tmp_path, CountingEnv([20]), wrap=Emptied)
    with pytest.warns(UserWarning, match="has just been called. The frame cannot be captured"):
        play(env, 4)
    env.close()
    assert videos()["saliency-episode-0"] == [(0, 0), (1, 1), (3, 3), (4, PLAIN)]


def test_a_frame_list_around_the_video_is_left_alone(tmp_path, videos):
    inner = recorded(tmp_path, CountingEnv([20]))
    env = RenderCollection(inner)
    env.agent = inner.agent
    play(env, 10)
    assert len(env.render()) == 11
    assert env.render() == []
    env.close()
    assert videos()["saliency-episode-0"] == episode(10)


def test_environments_of_a_vector_record_themselves(tmp_path, videos):
    envs = gym.vector.SyncVectorEnv([lambda i=i: recorded(tmp_path, CountingEnv([7]), name_prefix=f"env{i}") for i in range(2)])
    envs.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nobody acts here: the recorder says so
        for _ in range(10):
            envs.step(np.zeros(2, int))
    envs.close()
    assert set(videos()) == {f"env{i}-episode-{e}" for i in range(2) for e in range(2)}


class NotingVideo(RecordVideo):
    """Gymnasium's own, with its videos noted instead of encoded."""

    def stop_recording(self):
        if self.recorded_frames:
            self.noted[self._video_name] = [round(frame.mean() / 6) for frame in self.recorded_frames]
        self.recorded_frames = []
        super().stop_recording()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    episodes=st.none() | st.sets(st.integers(0, 6), max_size=4),
    starts=st.none() | st.sets(st.integers(0, 30), max_size=5),
    video_length=st.integers(0, 12),
    manual=st.sets(st.integers(0, 30), max_size=2),
    deferred=st.booleans(),
)
def test_recordings_start_stop_and_show_what_gymnasiums_do(tmp_path, videos, lengths, episodes, starts, video_length, manual, deferred):
    MemoryWriter.videos.clear()
    options = {
        "episode_trigger": None if episodes is None else lambda e: e in episodes,
        "step_trigger": None if starts is None else lambda s: s in starts,
        "video_length": video_length,
        "name_prefix": "v",
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an existing folder, and of videos without frames
        theirs = NotingVideo(CountingEnv(lengths), str(tmp_path), gc_trigger=None, **options)
        theirs.noted = {}
        ours = recorded(tmp_path, CountingEnv(lengths), recorder={"mode": "deferred" if deferred else "inline", "block": 4}, **options)
        for env in (theirs, ours):
            env.reset()
        for step in range(30):
            if step in manual:
                theirs.start_recording(f"manual-{step}")
                ours.start_recording(f"manual-{step}")
            theirs.step(0)
            over = ours.step(0)[2]
            assert (ours.recording, ours.step_id, ours.episode_id) == (theirs.recording, theirs.step_id, theirs.episode_id)
            if over:
                theirs.reset()
                ours.reset()
                assert ours.recording == theirs.recording
        theirs.close()
        ours.close()
    assert {name: [shown for shown, _ in read] for name, read in videos().items() if read} == theirs.noted


# Arguments


@pytest.mark.parametrize("render_mode", [None, "human", "ansi"])
def test_an_environment_without_images_is_refused(tmp_path, render_mode):
    with pytest.raises(ValueError, match=f"Render mode is {render_mode}, which is incompatible with RecordSaliencyVideo"):
        recorded(tmp_path, CountingEnv(render_mode=render_mode))


def test_without_a_recorder_beneath_the_right_order_is_shown(tmp_path):
    with pytest.raises(
        ValueError, match=r"(?s)Expected a SaliencyRecorder beneath.*TimeLimit.*RecordSaliencyVideo\(SaliencyRecorder\(env, hook\)"
    ):
        RecordSaliencyVideo(TimeLimit(CountingEnv(), 5), tmp_path / "videos")
    assert names(tmp_path) == set()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"style": "loud"}, ValueError, "Expected style to be one of"),
        ({"scale": "best"}, ValueError, "Expected scale to be"),
        ({"heads": ("both",)}, ValueError, "Expected heads to be"),
        ({"heads": ("actor", "critic"), "colormap": "jet"}, ValueError, "use panels=True, or one head"),
        ({"zoom": 0}, ValueError, "Expected zoom to be at least 1, got 0"),
        ({"zoom": 1.5}, TypeError, "Expected zoom to be an integer, got float"),
        ({"fps": 0}, ValueError, "Expected a positive number of frames per second"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_made(tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        recorded(tmp_path / "videos", **options)
    assert names(tmp_path) == set()


def test_existing_videos_of_the_same_prefix_are_warned_of_and_others_are_not(tmp_path):
    (tmp_path / "rl-video-episode-0.mp4").touch()
    recorded(tmp_path)
    (tmp_path / "saliency-episode-0.mp4").touch()
    with pytest.warns(UserWarning, match="Overwriting existing saliency videos in"):
        recorded(tmp_path)


def test_it_is_rebuilt_from_the_spec_around_the_same_live_hook(tmp_path):
    gym.register("Counting-v0", CountingEnv, disable_env_checker=True)
    env = recorded(tmp_path, gym.make("Counting-v0", render_mode="rgb_array"), name_prefix="spec", zoom=2)
    again = gym.make(env.spec)
    assert isinstance(again, RecordSaliencyVideo)
    assert (again.name_prefix, again.env.hook) == ("spec", env.env.hook)
    gym.registry.pop("Counting-v0")


def test_stopping_what_was_not_started_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="stop_recording was called, but no recording was started"):
        recorded(tmp_path).stop_recording()


def test_a_recording_without_frames_is_warned_of_and_leaves_no_file(tmp_path):
    env = recorded(tmp_path)
    env.start_recording("nothing")
    with pytest.warns(UserWarning, match="zero frames to save"):
        env.stop_recording()
    assert names(tmp_path) == set()


def test_a_name_with_a_folder_makes_the_folder(tmp_path):
    env = recorded(tmp_path, name_prefix="ALE/Breakout")
    play(env, 1)
    env.close()
    assert names(tmp_path / "ALE") == {"Breakout-episode-0.mp4"}


def test_the_logger_says_when_a_video_is_ready_and_garbage_is_collected_when_asked(tmp_path, videos, capsys, monkeypatch):
    asked = []
    env = recorded(tmp_path, disable_logger=False, gc_trigger=lambda e: asked.append(e))
    monkeypatch.setattr(gc, "collect", lambda: pytest.fail("not wanted"))
    play(env, 1)
    env.close()
    assert "saliency-episode-0.mp4" in capsys.readouterr().out
    assert asked == [0]


# Drawing


@pytest.mark.parametrize("options", [{"panels": True}, {"strip": True}, {"zoom": 3}, {"panels": True, "strip": True, "zoom": 2}])
def test_plain_and_drawn_frames_have_one_size_in_every_layout(tmp_path, videos, options):
    env = recorded(tmp_path, CountingEnv([6]), heads=("actor", "critic"), **options)
    play(env, 6, scripted=lambda t: t == 2)
    env.close()
    zoom, panels = options.get("zoom", 1), 3 if options.get("panels") else 1
    shape = (16 * zoom + (STRIP_HEIGHT if options.get("strip") else 0), 24 * zoom * panels, 3)
    assert [frame.shape for frame in MemoryWriter.videos["saliency-episode-0"]] == [shape] * 7


def test_zoom_repeats_pixels(tmp_path, videos):
    env = recorded(tmp_path, zoom=2)
    play(env, 5)
    env.close()
    assert videos()["saliency-episode-0"] == episode(5)


def test_the_strip_shows_numbers_even_where_maps_failed(tmp_path, videos):
    env = recorded(tmp_path, method=Stamp(fails=1), recorder={"on_error": "warn", "mode": "deferred", "block": 2}, strip=True)
    with pytest.warns(UserWarning, match="the perturber failed"):
        play(env, 5)
    env.close()
    frames = MemoryWriter.videos["saliency-episode-0"]
    assert [drawn for _, drawn in stamps(frame[:16] for frame in frames)] == [0, 1, PLAIN, PLAIN, 4, PLAIN]
    assert [bool((frame[16:] != frame[16, 0]).any()) for frame in frames] == [True] * 5 + [False]


def test_the_strip_names_actions_as_the_environment_does(tmp_path, videos):
    env = CountingEnv()
    env.get_action_meanings = lambda: ["NOOP", "FIRE", "UP"]
    first = StepSaliency(episode=0, step=0, action=0, logits=np.zeros(3, np.float32), value=0.0, maps=None)
    for one, action_names in ((env, ["NOOP", "FIRE", "UP"]), (CountingEnv(), None)):
        tower = recorded(tmp_path, one, strip=True, zoom=16)
        play(tower, 5)
        tower.close()
        strip = MemoryWriter.videos["saliency-episode-0"][0][-STRIP_HEIGHT:]
        np.testing.assert_array_equal(strip, draw_strip(24 * 16, first, action_names))


def test_the_strip_takes_actions_of_every_kind(tmp_path, videos):
    env = recorded(tmp_path, strip=True)
    observation, state = env.reset()[0], torch.zeros(1, 1)
    for action in ({"move": 1}, (1, 2), "left", None, 0.7):
        _, _, state = env.agent((torch.as_tensor(observation)[None], state))
        observation, *_ = env.step(action)
    env.close()
    assert len(MemoryWriter.videos["saliency-episode-0"]) == 6


def test_the_episode_scale_begins_anew_with_each_episode(tmp_path, videos):
    class Growing(Stamp):
        def __call__(self, adapter, decisions):
            self.calls += 1
            return [SaliencyMaps(np.float32([[0, self.calls]]), None)] if self.calls < 5 else [SaliencyMaps(np.float32([[0, 2]]), None)]

    env = recorded(tmp_path, CountingEnv([6]), Growing(), scale="episode", episode_trigger=lambda e: e < 2)
    play(env, 7)
    env.close()
    first, second = MemoryWriter.videos["saliency-episode-0"], MemoryWriter.videos["saliency-episode-1"]
    peaks = [int(frame[..., 2].max()) - int(frame[..., 1].max()) for frame in (*first[:6], second[0])]
    assert peaks == [255, 249, 243, 237, min(255, 24 + 128) - 24, min(255, 30 + 128) - 30, 255]


# What is held, and what survives


@pytest.mark.parametrize("scripted", [lambda t: False, lambda t: t != 5, lambda t: t % 7])
def test_no_more_frames_are_held_than_a_block_however_long_the_episode(tmp_path, videos, scripted):
    env = recorded(tmp_path, CountingEnv([200]), recorder={"mode": "deferred", "block": 8}, video_length=1000)
    held = []
    env.step, step = lambda action: (step(action), held.append(env._film.holding))[0], env.step
    play(env, 199, scripted)
    assert max(held) <= 8 + 2
    env.close()
    assert videos()["saliency-episode-0"] == [(t % 16, PLAIN if scripted(t) else t % 16) for t in range(199)] + [(199 % 16, PLAIN)]


def test_inline_nothing_is_held_but_the_present_frame(tmp_path, videos):
    env = recorded(tmp_path, CountingEnv([50]))
    play(env, 20)
    assert env._film.holding == 1
    assert len(MemoryWriter.videos["saliency-episode-0"]) == 20
    env.close()
    assert env._film.holding == 0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fails", ["step 4", "reset 1", "render 5"])
def test_a_failing_environment_leaves_a_finished_video_and_the_failure_propagates(tmp_path, mode, fails):
    env = recorded(tmp_path, CountingEnv([7], fails=fails), recorder=mode)
    with pytest.raises(OSError, match=f"the environment failed at {fails}"):
        play(env, 8)
    assert not env.recording
    expected = {"step 4": [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4)], "reset 1": episode(7), "render 5": [(t, t) for t in range(5)]}
    assert stamps(frames_of(tmp_path / "saliency-episode-0.mp4")) == expected[fails]


@pytest.mark.parametrize(("mode", "plain"), [(MODES[0], {2}), (MODES[1], {6, 7, 8})])
def test_a_failing_perturber_leaves_a_finished_video_and_the_failure_propagates(tmp_path, mode, plain):
    env = recorded(tmp_path, CountingEnv([12]), Stamp(fails=2), recorder=mode)
    with pytest.raises(ArithmeticError, match="the perturber failed"):
        play(env, 12)
    read = stamps(frames_of(tmp_path / "saliency-episode-0.mp4"))
    assert read == [(t, PLAIN if t in plain else t) for t in range(max(plain) + 1)]


def test_a_failure_while_the_last_maps_are_made_still_finishes_the_video_and_closes_the_environment(tmp_path):
    env = recorded(tmp_path, CountingEnv([12]), Stamp(fails=0), recorder={"mode": "deferred"})
    play(env, 4)
    with pytest.raises(ArithmeticError, match="the perturber failed"):
        env.close()
    assert stamps(frames_of(tmp_path / "saliency-episode-0.mp4")) == [(t, PLAIN) for t in range(5)]
    assert not env.env.hook.attached


def test_maps_that_cannot_be_drawn_cost_no_frame(tmp_path):
    class Broken(Stamp):
        def __call__(self, adapter, decisions):
            return [
                SaliencyMaps(maps.actor * np.float32(np.nan if self.explained[-1] == 2 else 1), None)
                for maps in super().__call__(adapter, decisions)
            ]

    env = recorded(tmp_path, CountingEnv([12]), Broken())
    with pytest.raises(ValueError, match="Expected a finite actor map"):
        play(env, 12)
    assert stamps(frames_of(tmp_path / "saliency-episode-0.mp4")) == [(0, 0), (1, 1), (2, PLAIN)]


class Undrawable(Stamp):
    """Maps that nobody can draw, in the first `bad` calls."""

    def __init__(self, bad):
        super().__init__()
        self.bad = bad

    def __call__(self, adapter, decisions):
        maps = super().__call__(adapter, decisions)
        return maps if self.calls > self.bad else [SaliencyMaps(one.actor[None, None], None) for one in maps]


@pytest.mark.parametrize("mode", MODES)
def test_with_on_error_warn_maps_that_cannot_be_drawn_end_the_video_and_not_the_training(tmp_path, videos, mode):
    env = recorded(tmp_path, CountingEnv([6]), Undrawable(1), recorder=mode | {"on_error": "warn"}, episode_trigger=lambda e: True)
    with pytest.warns(UserWarning, match=r"A saliency video ended early \(.*saliency-episode-0.mp4\): ValueError") as caught:
        play(env, 12)
    assert len(caught) == 1
    env.close()
    assert env.unwrapped.calls["step"] == 12
    assert videos()["saliency-episode-1"] == episode(6)
    shown = videos()["saliency-episode-0"]
    assert 0 < len(shown) <= 7
    assert [step for step, _ in shown] == list(range(len(shown)))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("when", ["write", "close"])
def test_with_on_error_warn_a_full_disk_ends_the_video_and_not_the_training(tmp_path, videos, monkeypatch, mode, when):
    class FullDisk(MemoryWriter):
        def write(self, frame):
            if when == "write":
                raise OSError("No space left on device")

        def close(self):
            raise OSError("No space left on device")

    monkeypatch.setattr(film, "StreamingWriter", FullDisk)
    env = recorded(tmp_path, CountingEnv([6]), recorder=mode | {"on_error": "warn"}, episode_trigger=lambda e: e in (0, 2))
    with pytest.warns(UserWarning, match=r"A saliency video ended early .*episode-0.mp4\): OSError: No space left on device") as caught:
        play(env, 8)
    assert len(caught) == 1
    assert not env.recording
    monkeypatch.setattr(film, "StreamingWriter", MemoryWriter)
    play(env, 6)
    env.close()
    assert env.unwrapped.calls["step"] == 14
    assert videos()["saliency-episode-2"] == episode(6)


def test_with_on_error_warn_a_video_that_cannot_be_finished_when_all_is_closed_is_a_warning(tmp_path, videos, monkeypatch):
    def full(writer):
        raise OSError("No space left on device")

    env = recorded(tmp_path, recorder={"on_error": "warn"})
    play(env, 3)
    monkeypatch.setattr(MemoryWriter, "close", full)
    with pytest.warns(UserWarning, match="A saliency video ended early .*No space left"):
        env.close()
    assert not env.env.hook.attached


def test_maps_that_fail_when_the_episode_ends_cost_no_frame_and_no_transition(tmp_path, videos):
    env = recorded(tmp_path, CountingEnv([4]), Stamp(fails=0), recorder={"mode": "deferred"}, episode_trigger=lambda e: True)
    with pytest.raises(ArithmeticError, match="the perturber failed"):
        play(env, 4)
    assert [env.unwrapped.calls[name] for name in ("step", "reset")] == [4, 1]
    assert videos()["saliency-episode-0"] == [(t, PLAIN) for t in range(5)]
    play(env, 4)
    env.close()
    assert videos()["saliency-episode-1"] == episode(4)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_that_exits_computes_nothing_and_leaves_the_video_to_its_parent(tmp_path):
    program = TWO_TOWERS + (
        "class Told(Stamp):\n    def __call__(self, adapter, decisions):\n"
        "        print(os.getpid() == parent, len(decisions), flush=True)\n        return super().__call__(adapter, decisions)\n"
        "parent = os.getpid()\n"
        "env = recorded(Path(sys.argv[1]), CountingEnv([9]), Told(), recorder={'mode': 'deferred'})\nplay(env, 5)\n"
        "if (child := os.fork()) == 0: sys.exit()\n"
        "os.waitpid(child, 0); env.close()"
    )
    said, errors = run(program, tmp_path).communicate(timeout=100)
    assert said == "True 5\n", errors
    assert "Traceback" not in errors
    assert stamps(frames_of(tmp_path / "saliency-episode-0.mp4")) == [*((t, t) for t in range(5)), (5, PLAIN)]


def test_ctrl_c_in_a_step_finishes_the_video_without_waiting_for_maps(tmp_path):
    class Interrupted(CountingEnv):
        def step(self, action):
            if self.t == 3:
                raise KeyboardInterrupt
            return super().step(action)

    method = Stamp()
    env = recorded(tmp_path, Interrupted([9]), method, recorder={"mode": "deferred"})
    with pytest.raises(KeyboardInterrupt):
        play(env, 9)
    assert method.explained == []
    assert stamps(frames_of(tmp_path / "saliency-episode-0.mp4")) == [(t, PLAIN) for t in range(4)]


def test_recording_goes_on_with_the_next_trigger_after_a_failure(tmp_path, videos):
    env = recorded(tmp_path, CountingEnv([3], fails="step 1"), episode_trigger=lambda e: True)
    with pytest.raises(OSError, match="step 1"):
        play(env, 3)
    env.unwrapped.fails = ""
    play(env, 3)
    env.close()
    assert videos() == {"saliency-episode-0": [(0, 0), (1, 1)], "saliency-episode-1": episode(3), "saliency-episode-2": [(0, PLAIN)]}


@pytest.mark.parametrize(
    ("shown", "error", "message"),
    [
        (np.zeros((16, 24, 3)), TypeError, "Expected a frame as an array .* of uint8, actual: an array of float64"),
        (np.zeros((16, 24), np.uint8), ValueError, r"Expected a frame of shape .* actual shape: \(16, 24\)"),
        (np.zeros((18, 24, 3), np.uint8), ValueError, r"Expected a frame of shape \(16, 24, 3\), actual shape: \(18, 24, 3\)"),
    ],
)
def test_a_wrong_frame_is_refused_before_it_goes_in(tmp_path, shown, error, message):
    env = recorded(tmp_path, CountingEnv(shown=shown))
    with pytest.raises(error, match=message):
        play(env, 5)
    assert stamps(frames_of(tmp_path / "saliency-episode-0.mp4")) == [(0, 0), (1, 1), (2, 2)]


def test_recording_stops_with_a_warning_where_render_gives_no_array(tmp_path):
    env = recorded(tmp_path, CountingEnv(shown="a picture"))
    with pytest.warns(UserWarning, match=r"Recording stopped: .*numpy array, got instead <class 'str'>"):
        play(env, 4)
    assert not env.recording
    assert stamps(frames_of(tmp_path / "saliency-episode-0.mp4")) == [(0, 0), (1, 1), (2, 2)]


def test_a_forgotten_environment_finishes_its_video(tmp_path):
    env = recorded(tmp_path, CountingEnv([9]), recorder={"mode": "deferred"})
    play(env, 5)
    del env
    gc.collect()
    assert stamps(frames_of(tmp_path / "saliency-episode-0.mp4")) == [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (5, PLAIN)]


TWO_TOWERS = f"""
import os, signal, sys, time
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_video import *
def tower(mode, agent, length):
    return recorded(Path(sys.argv[1], mode), CountingEnv([length]), agent=agent, recorder={{"mode": mode}})
"""


def videos_of_two(folder):
    return [stamps(frames_of(folder / mode / "saliency-episode-0.mp4")) for mode in ("inline", "deferred")]


def test_an_exception_in_the_agent_without_close_leaves_finished_videos(tmp_path):
    program = TWO_TOWERS + (
        "towers = [tower(mode, CountingAgent(fails=12), 15) for mode in ('inline', 'deferred')]\n"
        "try:\n    play(towers[0], 15)\nexcept ZeroDivisionError:\n    play(towers[1], 15)"
    )
    process = run(program, tmp_path)
    assert "ZeroDivisionError: the agent failed" in process.communicate(timeout=100)[1]
    assert process.returncode == 1
    assert videos_of_two(tmp_path) == [[(t, t) for t in range(12)] + [(12, PLAIN)]] * 2


def test_a_kill_of_the_process_group_leaves_all_but_the_last_frames(tmp_path):
    program = TWO_TOWERS + (
        "towers = [tower(mode, CountingAgent(), 10**6) for mode in ('inline', 'deferred')]\n"
        "for one in towers: play(one, 400)\nos.killpg(0, signal.SIGKILL)"
    )
    process = run(program, tmp_path)
    process.communicate(timeout=100)
    assert process.returncode == -signal.SIGKILL
    for read in videos_of_two(tmp_path):
        assert 401 - 120 <= len(read) < 401
        assert read == [(t % 16, t % 16) for t in range(len(read))]


def test_ctrl_c_of_the_whole_group_leaves_every_frame(tmp_path):
    program = TWO_TOWERS + (
        "towers = [tower(mode, CountingAgent(), 10**6) for mode in ('inline', 'deferred')]\n"
        "for one in towers: play(one, 20)\nprint('ready', flush=True)\ntime.sleep(60)"
    )
    process = run(program, tmp_path)
    process.stdout.readline()
    os.killpg(process.pid, signal.SIGINT)
    assert "KeyboardInterrupt" in process.communicate(timeout=100)[1]
    assert videos_of_two(tmp_path) == [[(t % 16, t % 16) for t in range(20)] + [(20 % 16, PLAIN)]] * 2


def test_without_a_preprocessor_the_whole_frame_is_assumed_and_that_is_said_once(tmp_path, videos, caplog):
    env = recorded(tmp_path, episode_trigger=lambda e: True)
    for _ in range(2):
        play(env, 2)
    env.close()
    assert [record.message for record in caplog.records if "maps are drawn over the whole frame" in record.message] == caplog.messages
    assert len(caplog.messages) == 1
