"""Videos of vectors: every frame of every environment's every episode carries its own decision's map, however environments reset.

Frames encode environment, episode and step in their grey, and maps the grey of the input they were made from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from counting import SIZE, CountingAgent, CountingEnv
from counting_vector import DISABLED, NEXT_STEP, SAME_STEP, World, recorded_vector, vector_input
from gymnasium.vector import SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from memory_writer import MemoryWriter
from videos import frames_of

from saliency_wrappers import RecordSaliencyVideo, RecordVectorSaliencyVideo, RecurrentAgentHook, SaliencyMaps
from saliency_wrappers.preprocessing import FramePreprocessor
from saliency_wrappers.video import film
from saliency_wrappers.video.observation_images import newest_picture

PLAIN = None
LENGTHS = [(3, 5), (4, 1, 3), (6,)]
STEPS = 13
MODES = [NEXT_STEP, SAME_STEP, DISABLED]


class Stamp:
    """Maps that say which grey the input had, modulo 9, by which neighbouring steps, episodes and environments differ."""

    def __init__(self) -> None:
        self.explained = 0

    def __call__(self, adapter: Any, decisions: Any) -> list[SaliencyMaps]:
        self.explained += len(decisions)
        levels = [round(255 * float(decision.inputs.mean())) for decision in decisions]
        return [SaliencyMaps(np.full(SIZE, (20 + 8 * (level % 9)) / 255, np.float32), None) for level in levels]


def stamps(frames: Any) -> list[tuple[int, int | None]]:
    """The grey that each frame shows, and what its map says; None on a plain one."""
    means = [frame.reshape(-1, 3).mean(axis=0) for frame in frames]
    return [(round(red), PLAIN if blue - red < 15 else round((blue - red - 20) / 8)) for red, _, blue in means]


def episode(world: World, i: int, number: int, length: int) -> list[tuple[int, int | None]]:
    """The stamps of an episode of which so many steps were taken."""
    levels = [world.envs[i].level(number, t) for t in range(length + 1)]
    return [(level, level % 9) for level in levels[:-1]] + [(levels[-1], PLAIN)]


def episodes(world: World, i: int, steps: int) -> dict[int, int]:
    """How many steps of which episodes of an environment the vector's first steps were; the one that has just begun included."""
    moments = [moment.episode for moment in world.timeline(i, steps) if moment.episode is not None]
    counts = {number: moments.count(number) for number in moments}
    last = max(counts)
    ignored = world.timeline(i, steps)[-1].episode is None
    over = counts[last] == world.lengths[i][min(last, len(world.lengths[i]) - 1)]
    return counts | ({last + 1: 0} if ignored or (over and world.mode != NEXT_STEP) else {})


@pytest.fixture
def videos(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The stamps of the videos that were made, by name."""
    monkeypatch.setattr(film, "StreamingWriter", MemoryWriter)
    monkeypatch.setattr(MemoryWriter, "videos", {})
    monkeypatch.setattr(MemoryWriter, "closed", [])
    return lambda: {name: stamps(frames) for name, frames in MemoryWriter.videos.items()}


@pytest.fixture
def agent() -> CountingAgent:
    return CountingAgent()


def filmed(envs: Any, folder: Path, agent: Any, recorder: Any = None, method: Any = None, **options: Any) -> RecordVectorSaliencyVideo:
    """The whole tower, drawn so that `stamps` can read it."""
    envs = recorded_vector(envs, agent, method=method or Stamp(), perturber=None, fill=None, **(recorder or {}))
    drawn = {"style": "additive", "scale": (0, 1), "heads": ("actor",)}
    return RecordSaliencyVideo(envs, folder, **{"episode_trigger": lambda episode: True, **drawn, **options})


# Which map is drawn on which frame.


@pytest.mark.parametrize(("kind", "render_mode"), [("sync", "rgb_array"), ("sync", None), ("async", "rgb_array")])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("when", ["inline", "deferred"])
def test_every_episode_of_every_environment_has_a_video_of_its_decisions_and_its_last_frame(
    kind: str, render_mode: Any, mode: Any, when: str, agent: CountingAgent, tmp_path: Path, videos: Any
) -> None:
    world = World(LENGTHS, mode, render_mode)
    envs = filmed(world.make(kind), tmp_path, agent, {"mode": when, "block": 4}, environments=range(3))
    world.play(envs, agent, STEPS)
    envs.close()
    assert videos() == {
        f"saliency-env-{i}-episode-{number}": episode(world, i, number, length)
        for i in range(3)
        for number, length in episodes(world, i, STEPS).items()
    }


def test_the_files_are_playable_and_the_first_recorded_environment_is_filmed_by_default(agent: CountingAgent, tmp_path: Path) -> None:
    world = World([(3,), (5,), (9,)], NEXT_STEP)
    envs = filmed(world.make(), tmp_path, agent, {"environments": [2, 1]}, zoom=4)
    world.play(envs, agent, 9)
    envs.close()
    assert {path.name for path in tmp_path.iterdir()} == {"saliency-env-1-episode-0.mp4", "saliency-env-1-episode-1.mp4"}
    frames = frames_of(tmp_path / "saliency-env-1-episode-0.mp4")
    assert [drawn for _, drawn in stamps(frames)] == [drawn for _, drawn in episode(world, 1, 0, 5)]
    assert frames[0].shape == (32, 32, 3)


@pytest.mark.parametrize("when", ["inline", "deferred"])
def test_only_what_is_filmed_is_explained(when: str, agent: CountingAgent, tmp_path: Path, videos: Any) -> None:
    world, method = World(LENGTHS, SAME_STEP), Stamp()
    envs = filmed(world.make(), tmp_path, agent, {"mode": when}, method, environments=[1], episode_trigger=lambda episode: episode == 2)
    world.play(envs, agent, STEPS)
    envs.close()
    assert videos() == {"saliency-env-1-episode-2": episode(world, 1, 2, 3)}
    assert method.explained == 3


def test_with_a_trigger_of_the_recorder_only_its_steps_are_drawn(agent: CountingAgent, tmp_path: Path, videos: Any) -> None:
    world = World([(9,), (9,)], NEXT_STEP)
    envs = filmed(world.make(), tmp_path, agent, {"step_trigger": lambda step: step % 4 == 1}, environments=[1])
    world.play(envs, agent, 9)
    envs.close()
    drawn = [stamp for _, stamp in videos()["saliency-env-1-episode-0"]]
    assert [stamp is not PLAIN for stamp in drawn] == [step % 4 == 1 for step in range(9)] + [False]


def test_recordings_begin_at_steps_of_the_vector_and_end_at_their_length(agent: CountingAgent, tmp_path: Path, videos: Any) -> None:
    world = World([(9,), (4,)], SAME_STEP)
    options = {"step_trigger": lambda step: step == 2, "episode_trigger": None, "video_length": 3, "environments": [0, 1]}
    envs = filmed(world.make(), tmp_path, agent, **options)
    world.play(envs, agent, 8)
    level = [env.level for env in world.envs]
    first = [(level[0](0, t), level[0](0, t) % 9) for t in (3, 4, 5)]
    second = [(level[1](0, 3), level[1](0, 3) % 9), (level[1](0, 4), PLAIN), (level[1](1, 0), level[1](1, 0) % 9)]
    found = videos()
    assert found == {
        "saliency-env-0-step-2": [*first, (level[0](0, 6), PLAIN)],
        "saliency-env-1-step-2": [*second, (level[1](1, 1), PLAIN)],
    }
    assert not envs.recording
    envs.close()


def test_a_reset_by_mask_in_the_middle_leaves_the_other_films_alone(agent: CountingAgent, tmp_path: Path, videos: Any) -> None:
    world = World([(9,), (9,)], DISABLED)
    envs = filmed(world.make(), tmp_path, agent, environments=[0, 1])
    observations, _ = envs.reset(seed=0)
    for step in range(4):
        agent((vector_input(observations), agent.initial_state(2)))
        observations = envs.step(np.zeros(2, int))[0]
        if step == 1:
            observations, _ = envs.reset(options={"reset_mask": np.array([False, True])})
    envs.close()
    assert videos() == {
        "saliency-env-0-episode-0": episode(world, 0, 0, 4),
        "saliency-env-1-episode-0": episode(world, 1, 0, 2),
        "saliency-env-1-episode-1": episode(world, 1, 1, 2),
    }


def test_other_wrappers_may_come_between_the_recorder_and_the_video(agent: CountingAgent, tmp_path: Path, videos: Any) -> None:
    world = World([(3,)], NEXT_STEP)
    recorder = recorded_vector(world.make(), agent, method=Stamp(), perturber=None, fill=None)
    drawn: Any = {"style": "additive", "scale": (0, 1), "heads": ("actor",)}
    world.play(RecordSaliencyVideo(RecordEpisodeStatistics(recorder), tmp_path, **drawn), agent, 4)
    assert videos()["saliency-env-0-episode-0"] == episode(world, 0, 0, 3)


def test_a_reset_of_all_ends_every_video(agent: CountingAgent, tmp_path: Path, videos: Any) -> None:
    world = World([(9,), (9,)], NEXT_STEP)
    envs = filmed(world.make(), tmp_path, agent, environments=[0, 1])
    for _ in range(2):
        world.play(envs, agent, 2)
    envs.close()
    assert videos() == {f"saliency-env-{i}-episode-{e}": episode(world, i, e, 2) for i in range(2) for e in range(2)}


# The last frame under SAME_STEP.


class Observes(gym.ObservationWrapper[Any, Any, Any]):
    """What a function makes of the frame."""

    def __init__(self, env: CountingEnv, see: Any) -> None:
        super().__init__(env)
        self.see = see
        seen = see(env.frame(0, 0))
        self.observation_space = gym.spaces.Box(0, 255, seen.shape, seen.dtype)

    def observation(self, observation: Any) -> Any:
        return self.see(observation)


def watching(world: World, see: Any) -> Any:
    return SyncVectorEnv([lambda i=i: Observes(world._make(i), see) for i in range(world.n)], autoreset_mode=world.mode)


@pytest.mark.parametrize(
    ("see", "mode", "last"),
    [
        (lambda frame: frame[:4, :4, 0], SAME_STEP, True),
        (lambda frame: frame[None, :4, :4, 0].repeat(4, 0), SAME_STEP, True),
        (lambda frame: frame[:1, 0, 0].astype(np.float32), SAME_STEP, False),
        (lambda frame: frame[:1, 0, 0].astype(np.float32), NEXT_STEP, True),
    ],
)
def test_the_last_frame_is_the_final_observation_where_it_is_an_image(
    see: Any, mode: Any, last: bool, agent: CountingAgent, tmp_path: Path, videos: Any
) -> None:
    world = World([(3,), (4,)], mode)
    envs = filmed(watching(world, see), tmp_path, agent, {"verify": "never"}, environments=[0, 1])
    envs.reset(seed=0)
    for _ in range(5):
        rendered = np.stack(envs.render())
        agent((vector_input(rendered), agent.initial_state(2)))
        envs.step(np.zeros(2, int))
    envs.close()
    for i, length in ((0, 3), (1, 4)):
        assert videos()[f"saliency-env-{i}-episode-0"] == episode(world, i, 0, length)[: length + last]
    assert {frame.shape for frames in MemoryWriter.videos.values() for frame in frames} == {(*SIZE, 3)}


# Observations as pictures.


@pytest.mark.parametrize(
    ("shape", "newest"),
    [
        ((6, 5), lambda a: a[..., None].repeat(3, 2)),
        ((6, 5, 1), lambda a: a.repeat(3, 2)),
        ((1, 6, 5), lambda a: a[0][..., None].repeat(3, 2)),
        ((6, 5, 3), lambda a: a),
        ((4, 6, 5), lambda a: a[3][..., None].repeat(3, 2)),
        ((6, 5, 4), lambda a: a[..., 3:].repeat(3, 2)),
        ((2, 6, 5, 3), lambda a: a[1]),
    ],
)
def test_the_newest_frame_of_any_layout_is_shown(shape: tuple[int, ...], newest: Any) -> None:
    observation = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    picture = newest_picture(observation)
    assert picture is not None
    np.testing.assert_array_equal(picture, newest(observation))


@pytest.mark.parametrize("observation", [np.zeros((6, 5, 3), np.float32), np.zeros(4, np.uint8), {"image": 1}, 3])
def test_what_is_no_image_is_none(observation: Any) -> None:
    assert newest_picture(observation) is None


@pytest.mark.parametrize("whole", [True, False])
def test_on_an_observation_as_large_as_the_input_maps_lie_on_the_whole_picture(
    whole: bool, agent: CountingAgent, tmp_path: Path, videos: Any
) -> None:
    world = World([(3,)], NEXT_STEP, render_mode=None)
    see = (lambda frame: frame) if whole else (lambda frame: frame.repeat(2, 0).repeat(2, 1))
    envs = filmed(watching(world, see), tmp_path, agent, {"verify": "never"})
    crop = FramePreprocessor(size=SIZE, rows=(8, 16))
    envs._recorder.hook.preprocessor = crop
    observations, _ = envs.reset(seed=0)
    agent((vector_input(observations[:, :8, :8]), agent.initial_state(1)))
    envs.step(np.zeros(1, int))
    envs.close()
    frame = MemoryWriter.videos["saliency-env-0-episode-0"][0]
    blue = (frame[..., 2] > frame[..., 0]).all(axis=1)
    assert blue.tolist() == ([True] * 8 if whole else [False] * 8 + [True] * 8)


# What is refused, and what goes wrong.


def test_a_vector_needs_its_recorder_and_something_to_draw_on(agent: CountingAgent, tmp_path: Path) -> None:
    world = World([(3,), (4,)], NEXT_STEP)
    with pytest.raises(ValueError, match=r"RecordSaliencyVideo\(VectorSaliencyRecorder\(envs, hook\), video_folder\)"):
        RecordSaliencyVideo(world.make(), tmp_path)
    blind = watching(World([(3,)], NEXT_STEP, render_mode=None), lambda frame: frame[:1, 0, 0].astype(np.float32))
    with pytest.raises(ValueError, match=r"or observe images of uint8, got render_mode=None and observations of Box"):
        filmed(blind, tmp_path, agent)
    with pytest.raises(ValueError, match=r"Expected one of the environments that are recorded, \[1\], got 0"):
        filmed(world.make(), tmp_path, agent, {"environments": [1]}, environments=[0])
    assert not list(tmp_path.iterdir())


def test_the_class_for_one_makes_the_class_for_many_and_stays_itself(agent: CountingAgent, tmp_path: Path) -> None:
    world = World([(3,)], NEXT_STEP)
    assert type(filmed(world.make(), tmp_path, agent)) is RecordVectorSaliencyVideo

    class Mine(RecordSaliencyVideo):  # type: ignore[type-arg]
        pass

    with pytest.raises(TypeError, match="SyncVectorEnv"):
        Mine(world.make(), tmp_path)
    with pytest.raises(TypeError, match="environments"):
        RecordSaliencyVideo(CountingEnv(), tmp_path, environments=[0])


def test_a_failing_environment_leaves_finished_videos(agent: CountingAgent, tmp_path: Path, videos: Any) -> None:
    class Fails(CountingEnv):
        def step(self, action: Any) -> Any:
            if self.t == 2:
                raise OSError("the environment failed")
            return super().step(action)

    world = World([(9,), (9,)], NEXT_STEP)
    envs = filmed(SyncVectorEnv([lambda: CountingEnv((9,)), lambda: Fails((9,), first=13)]), tmp_path, agent, environments=[0, 1])
    with pytest.raises(OSError, match="the environment failed"):
        world.play(envs, agent, 5)
    assert sorted(MemoryWriter.closed) == ["saliency-env-0-episode-0", "saliency-env-1-episode-0"]
    assert videos()["saliency-env-1-episode-0"][:2] == episode(world, 1, 0, 2)[:2]


def test_with_on_error_warn_a_video_that_fails_ends_alone(
    agent: CountingAgent, tmp_path: Path, videos: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = MemoryWriter.write

    def full(self: Any, frame: Any) -> None:
        if self.name.startswith("saliency-env-0") and len(self.frames) == 2:
            raise OSError("no space left")
        write(self, frame)

    monkeypatch.setattr(MemoryWriter, "write", full)
    world = World([(9,), (9,)], NEXT_STEP)
    envs = filmed(world.make(), tmp_path, agent, {"on_error": "warn"}, environments=[0, 1])
    with pytest.warns(UserWarning, match="A saliency video ended early .*saliency-env-0-episode-0.*no space left"):
        played = world.play(envs, agent, 6)
    envs.close()
    assert len(played) == 6
    assert videos()["saliency-env-1-episode-0"] == episode(world, 1, 0, 6)
    assert len(videos()["saliency-env-0-episode-0"]) == 2


def test_a_trigger_that_fails_is_a_warning_where_errors_are(agent: CountingAgent, tmp_path: Path, videos: Any) -> None:
    def fails(number: int) -> bool:
        raise ZeroDivisionError("no trigger today")

    world = World([(9,), (9,)], NEXT_STEP)
    options = {"environments": [0, 1], "episode_trigger": fails, "step_trigger": fails}
    envs = filmed(world.make(), tmp_path, agent, {"on_error": "warn"}, **options)
    with pytest.warns(UserWarning, match="no trigger today"):
        assert len(world.play(envs, agent, 3)) == 3


@pytest.mark.parametrize("block", [1, 5])
def test_no_more_frames_are_held_than_a_block_for_each_video(block: int, agent: CountingAgent, tmp_path: Path, videos: Any) -> None:
    world = World([(30,), (30,)], NEXT_STEP)
    envs = filmed(world.make(), tmp_path, agent, {"mode": "deferred", "block": block}, environments=[0, 1])
    held: list[int] = []
    world.play(envs, agent, 29, between=lambda: held.extend(camera.film.holding for camera in envs._cameras.values()))
    envs.close()
    assert max(held) <= block + 1
    assert len(videos()["saliency-env-0-episode-0"]) == 30


def test_recordings_can_be_started_and_stopped_by_hand(agent: CountingAgent, tmp_path: Path, videos: Any) -> None:
    world = World([(9,), (9,)], NEXT_STEP)
    envs = filmed(world.make(), tmp_path, agent, environments=[1], episode_trigger=lambda episode: False)
    envs.reset(seed=0)
    envs.start_recording("mine", 1)
    envs.step(np.zeros(2, int))
    envs.stop_recording(1)
    assert [level for level, _ in videos()["mine"]] == [world.envs[1].level(0, 1)]
    with pytest.raises(RuntimeError, match="no recording was started"):
        envs.stop_recording(1)


def test_videos_that_will_be_overwritten_are_told_of_by_environment(agent: CountingAgent, tmp_path: Path) -> None:
    (tmp_path / "saliency-env-1-episode-0.mp4").touch()
    world = World([(9,), (9,)], NEXT_STEP)
    filmed(world.make(), tmp_path, agent, environments=[0])  # warnings are errors here
    with pytest.warns(UserWarning, match="Overwriting existing saliency videos"):
        filmed(world.make(), tmp_path, agent, environments=[1])


def test_without_a_hooked_preprocessor_rendered_frames_are_covered_whole(
    agent: CountingAgent, tmp_path: Path, caplog: pytest.LogCaptureFixture, videos: Any
) -> None:
    world = World([(2,)], NEXT_STEP)
    envs = filmed(world.make(), tmp_path, agent)
    envs._recorder.hook.preprocessor = None
    world.play(envs, agent, 6)
    assert [("maps are drawn over the whole frame" in message) for message in caplog.messages] == [True]
    assert isinstance(envs._recorder.hook, RecurrentAgentHook)


def test_three_planes_are_a_stack_of_grey_frames_unless_colours_come_first() -> None:
    observation = np.random.default_rng(0).integers(0, 256, (3, 6, 5), np.uint8)
    np.testing.assert_array_equal(newest_picture(observation), observation[2][..., None].repeat(3, 2))
    np.testing.assert_array_equal(newest_picture(observation, colour_first=True), observation.transpose(1, 2, 0))
