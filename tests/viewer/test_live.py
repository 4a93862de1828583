"""What a page is told of a recording that runs, and that an onlooker changes nothing of it."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import numpy as np
import pytest
from asking import ask, news
from click.testing import CliRunner
from counting import CountingAgent, CountingEnv, play, recorded
from counting_vector import NEXT_STEP, World, recorded_vector, vector_input

from saliency_wrappers import RecordSaliencyVideo, SaliencyMaps
from saliency_wrappers.cli import main
from saliency_wrappers.details import ObjectPart, SaliencyDetails
from saliency_wrappers.viewer import live as live_module
from saliency_wrappers.viewer.live import LiveEpisodes
from saliency_wrappers.viewer.server import Viewer


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that asked once is open for the whole test, however loaded the machine is."""
    monkeypatch.setattr(live_module, "WATCHED_SECONDS", 600.0)


class Named(CountingEnv):
    """Actions have names; counts how often it was rendered, but for the observations of `reset` and `step`."""

    rendered = 0

    def get_action_meanings(self) -> list[str]:
        return ["stay", "left", "right", "jump"]


class Following:
    """A recorder with a sink attached, without a server."""

    def __init__(self, env: Any, agent: Any = None, **options: Any) -> None:
        self.agent = agent or CountingAgent()
        self.recorder = recorded(env, self.agent, **options)
        self.live = LiveEpisodes(self.recorder.recording)
        self.recorder.recording.attach(self.live)

    def rows(self) -> list[tuple[int, float, bool]]:
        return [(row["decisions"], row["return"], row["complete"]) for row in self.live.rows()]


def frames_in(content: bytes) -> int:
    return int.from_bytes(content[:4], "little")


def test_the_page_is_told_what_info_says_of_several_episodes() -> None:
    env = Named((5, 3))
    recorder = recorded(env, agent := CountingAgent())
    with Viewer(recorder) as viewer:
        infos = play(recorder, agent, episodes=2)
        told = news(viewer)
        assert [(row["decisions"], row["return"], row["complete"]) for row in told["episodes"]] == [(5, 15.0, True), (3, 6.0, True)]
        assert (told["current"], told["ended"], told["error"]) == (1, False, None)
        numbers = json.loads(ask(viewer, "data/episode-0")[1])
        right = [info["saliency"] for info in infos[0][1:]]
        np.testing.assert_allclose(numbers["logits"], [one["logits"] for one in right], rtol=1e-6)
        assert numbers["values"] == pytest.approx([one["value"] for one in right])
        assert numbers["actions"] == [one["action"] for one in right]
        assert numbers["rewards"] == [1, 2, 3, 4, 5]
        assert numbers["action_names"] == ["stay", "left", "right", "jump"]
        assert (numbers["discrete"], numbers["show"], numbers["picture"]["input"]) == (True, 0, [8, 8])


def test_only_what_a_page_lacks_is_sent() -> None:
    recorder = recorded(CountingEnv((5,)), agent := CountingAgent())
    with Viewer(recorder) as viewer:
        play(recorder, agent)
        told = news(viewer, after=1, rows=3)
        assert told["episode"]["steps"] == [3, 4]
        again = news(viewer, after=1, rows=5, listed=told["listed"], stamp=told["stamp"])
        assert (again["episode"]["steps"], again["episodes"]) == ([], None)


def test_a_page_that_waits_hears_of_the_first_decision() -> None:
    recorder = recorded(CountingEnv((5,)), agent := CountingAgent())
    with Viewer(recorder) as viewer:
        assert news(viewer)["current"] is None  # waited for a second, and nothing came
        later = threading.Timer(0.2, lambda: play(recorder, agent))
        later.start()
        while news(viewer)["current"] != 0:
            pass
        later.join()


def test_pictures_are_taken_while_a_page_is_open_only() -> None:
    following = Following(Named((6,)))
    play(following.recorder, following.agent)
    assert [frames_in(following.live.frame(0, row)) for row in range(6)] == [1, 0, 0, 0, 0, 0]
    following.live.news(0, None, 0, 0)
    following.live._next_picture = 0.0
    play(following.recorder, following.agent, between=lambda: setattr(following.live, "_next_picture", 0.0))
    assert [frames_in(following.live.frame(1, row)) for row in range(6)] == [1] * 6
    assert following.live.maps(1, 5) != following.live.maps(1, 6)


def test_pictures_take_a_fifth_of_the_time_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(np.arange(0.0, 100.0, 0.5))
    monkeypatch.setattr(live_module.time, "perf_counter", lambda: float(next(clock)))
    following = Following(CountingEnv((20,)))
    following.live.news(0, None, 0, 0)
    play(following.recorder, following.agent)
    taken = [row for row in range(20) if frames_in(following.live.frame(0, row))]
    assert taken[0] == 0
    # Each takes 0.5 s by this clock, which a question for the time advances by 0.5 s: the next is allowed 2 s, or four questions, later.
    assert set(np.diff(taken)) == {4}


def test_an_error_of_the_onlooker_stops_nothing_and_is_told() -> None:
    class Blind(CountingEnv):
        def render(self) -> Any:
            if getattr(self, "watched", False):
                raise RuntimeError("no display <b>")
            return super().render()

    following = Following(env := Blind((4,)), verify="never")
    following.live.news(0, None, 0, 0)
    append = following.live.append

    def watched(*given: Any) -> None:
        env.watched = True
        append(*given)
        env.watched = False

    following.live.append = watched  # type: ignore[method-assign]
    infos = play(following.recorder, following.agent)
    assert [info["saliency"]["step"] for info in infos[0][1:]] == [0, 1, 2, 3]
    assert following.live.news(0, None, 0, 0)["error"] == "RuntimeError: no display <b>"


def test_which_decisions_are_explained_does_not_change() -> None:
    following = Following(CountingEnv((5,)), step_trigger=lambda step: step == 2)
    infos = play(following.recorder, following.agent)
    assert ["saliency" in info for info in infos[0][1:]] == [False, False, True, False, False]
    assert following.rows() == [(5, 15.0, True)]
    assert following.live.numbers(0)["steps"] == [0, 1, 2, 3, 4]


def test_where_no_page_was_open_the_newest_decision_is_shown_without_a_picture() -> None:
    following = Following(CountingEnv((40,)))
    play(following.recorder, following.agent)
    assert following.live.numbers(0)["show"] == 39


def test_deferred_maps_come_with_their_block() -> None:
    following = Following(CountingEnv((7,)), mode="deferred", block=3)
    shown: list[int] = []
    following.live.news(0, None, 0, 0)

    def look() -> None:
        following.live._next_picture = 0.0
        shown.append(following.live.numbers(0)["show"])

    play(following.recorder, following.agent, between=look)
    assert shown[2:] == [2, 2, 2, 5, 6]  # and before the first block the newest picture


def test_details_of_maps_are_told_where_the_recorder_makes_them() -> None:
    class Detailed:
        def __call__(self, adapter: Any, decisions: Any) -> list[Any]:
            maps = []
            for number, decision in enumerate(decisions):
                mask = np.ones((8, 8), np.bool_)
                parts = (ObjectPart("ball <b>", mask, 0.8, 0.0), ObjectPart("paddle", mask, 0.2, 0.0))
                details = SaliencyDetails(memory=0.25, confidence=None if number else 0.5, objects=parts)
                maps.append(SaliencyMaps(np.ones((8, 8), np.float32), None, details))
                assert len(decision) == 1
            return maps

    following = Following(CountingEnv((2,)), method=Detailed(), perturber=None, fill=None)
    play(following.recorder, following.agent)
    numbers = following.live.numbers(0)
    assert numbers["told"] == ["confidence", "memory", "objects"]
    assert [numbers[name] for name in numbers["told"]] == [[0.5, 0.5], [0.25, 0.25], ["ball <b> 80 %, paddle 20 %"] * 2]


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "MOST_BYTES", 2_000)
    monkeypatch.setattr(live_module, "MOST_EPISODES", 3)
    following = Following(CountingEnv((20,)))
    following.live.news(0, None, 0, 0)
    play(following.recorder, following.agent, episodes=5, between=lambda: setattr(following.live, "_next_picture", 0.0))
    assert [row["episode"] for row in following.live.rows()] == [2, 3, 4]
    assert following.live._bytes <= 2_500
    assert frames_in(following.live.frame(4, 19)) == 1
    assert frames_in(following.live.frame(4, 0)) == 0
    with pytest.raises(ValueError, match="Expected an episode that is kept"):
        following.live.numbers(0)


def test_an_episode_without_end_is_listed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "MOST_EPISODES", 2)
    monkeypatch.setattr(live_module, "MOST_ROWS", 10)
    following = Following(CountingEnv((4, 100)))
    play(following.recorder, following.agent, episodes=2)
    assert sum(row["decisions"] for row in following.live.rows()) <= 110
    assert following.live.rows()[-1]["complete"]


def test_of_a_vector_the_chosen_environment_is_shown() -> None:
    world = World([[4], [3]], NEXT_STEP)
    envs = recorded_vector(world.make(), agent := CountingAgent())
    with Viewer(envs) as viewer:
        about = json.loads(ask(viewer, "data/store")[1])["live"]
        assert (about["environments"], about["num_envs"]) == ([0, 1], 2)
        news(viewer, environment=1)
        observations, _ = envs.reset(seed=0)
        state = agent.initial_state(2)
        for _ in range(4):
            _, _, state = agent((vector_input(observations), state))
            observations, *_ = envs.step(np.array([1, 2]))
        rows = news(viewer, environment=1)["episodes"]
        assert [(row["slot"], row["episode"], row["decisions"], row["complete"]) for row in rows] == [(0, 0, 4, True), (1, 0, 3, True)]
        pictures = [sum(frames_in(ask(viewer, f"data/frames-{i}-{row}")[1]) for row in range(4)) for i in (0, 1)]
        assert pictures[0] == 1  # the first decision of all tells the size
        assert pictures[1] >= 1
        assert ask(viewer, "data/news-2-0-0-0-0") == (400, b"Expected an environment that is recorded, one of [0, 1], got 2.")
    envs.close()


def test_a_wrapper_around_a_recorder_is_followed_and_what_is_none_is_refused(tmp_path: Any) -> None:
    recorder = recorded(CountingEnv((5,)), CountingAgent())
    with Viewer(RecordSaliencyVideo(recorder, tmp_path)) as viewer:
        assert ask(viewer, "data/store")[0] == 200
    with pytest.raises(TypeError, match="Expected a store, its path, or a recorder"):
        Viewer(CountingEnv())
    with pytest.raises(ValueError, match="Expected no agent with a recorder"):
        Viewer(recorder, CountingAgent())


def test_after_close_the_recorder_goes_on_unwatched() -> None:
    recorder = recorded(CountingEnv((5,)), agent := CountingAgent())
    viewer = Viewer(recorder)
    began = time.monotonic()
    viewer.close()
    viewer.close()
    assert time.monotonic() - began < 60
    assert [info["saliency"]["step"] for info in play(recorder, agent)[0][1:]] == [0, 1, 2, 3, 4]
    assert viewer._live is not None
    assert viewer._live.rows() == []


def test_the_command_serves_a_page_while_it_records(tmp_path: Any) -> None:
    arguments = ["--live", "--no-browser", "--no-progress", "--steps", "3", "--store", str(tmp_path / "store")]
    done = CliRunner().invoke(main, ["record", "ALE/Breakout-v5", *arguments])
    assert (done.exit_code, "page: http://127.0.0.1:" in done.output, "decisions: 3" in done.output) == (0, True, True), done.output
