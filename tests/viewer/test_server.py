"""The server's border: who may ask, what paths reach, what questions are understood. And the encodings that the page reads."""

from __future__ import annotations

import struct
import sys
import urllib.parse
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from asking import ask, post
from browser import COUNT, HOSTILE, write_store
from click.testing import CliRunner
from counting import CountingAgent, CountingEnv, play, recorded
from gymnasium.error import DependencyNotInstalled

from saliency_wrappers import EpisodeStore, PerturbationSaliency, SaliencyMaps, map_confidence, memory_share, view
from saliency_wrappers.cli import main
from saliency_wrappers.viewer.encoding import encode_image, encode_maps
from saliency_wrappers.viewer.questions import Interrogation, Question, RectangleMask, stored_decision
from saliency_wrappers.viewer.server import Viewer


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    path = tmp_path_factory.mktemp("server") / "store"
    return path, write_store(path)


@pytest.fixture(scope="module")
def served(filled: tuple[Path, Any]) -> Iterator[Viewer]:
    with view(filled[0], filled[1], browser=False) as viewer:
        yield viewer


@pytest.fixture(scope="module")
def live() -> Iterator[Viewer]:
    recorder = recorded(CountingEnv((5,)), agent := CountingAgent())
    with Viewer(recorder) as viewer:
        play(recorder, agent)
        yield viewer


@pytest.fixture(params=["served", "live"])
def guarded(request: pytest.FixtureRequest) -> Viewer:
    return request.getfixturevalue(request.param)


def test_the_address_is_of_this_machine_only_and_holds_a_token(guarded: Viewer) -> None:
    parts = urllib.parse.urlparse(guarded.url)
    assert parts.hostname == "127.0.0.1"
    assert len(parts.path.strip("/")) >= 32
    assert ask(guarded, "")[0] == 200


@pytest.mark.parametrize(
    "path", ["/", "/data/store", "/wrong/data/store", "/page.js", "//data/store", "*", "/data/news-0-0-0-0-0", "/data/episode-0"]
)
def test_without_the_token_there_is_nothing(guarded: Viewer, path: str) -> None:
    assert ask(guarded, path)[0] == 404


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1", "127.0.0.1:1"])
def test_another_host_name_is_refused(guarded: Viewer, host: str) -> None:
    assert ask(guarded, "data/store", Host=host)[0] == 403


@pytest.mark.parametrize(
    "headers", [{"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec_Fetch_Site": "cross-site"}, {"Sec_Fetch_Site": "same-site"}]
)
def test_another_origin_is_refused(guarded: Viewer, headers: dict[str, str]) -> None:
    assert ask(guarded, "data/store", **headers)[0] == 403


def test_a_question_needs_the_pages_own_origin_json_and_a_small_body(guarded: Viewer) -> None:
    own = f"http://127.0.0.1:{guarded.port}"
    body = {"episode": 0, "row": 0}
    assert ask(guarded, "ask", "POST", body, Content_Type="application/json")[0] == 403
    assert ask(guarded, "ask", "POST", body, Origin=own, Content_Type="text/plain")[0] == 403
    assert ask(guarded, "ask", "POST", "x" * 70_000, Origin=own, Content_Type="application/json")[0] == 413
    assert ask(guarded, "ask", "PUT", body, Origin=own)[0] == 405


@pytest.mark.parametrize(
    "path",
    [
        "../../../etc/passwd",
        "..%2f..%2fserver.py",
        "%2e%2e/%2e%2e/server.py",
        "data/../../server.py",
        "page.html",
        "__init__.py",
        "data/episode-0/../..",
        "data/episode-%2e%2e",
        "/etc/passwd",
        "data/frames-0-..%2f1",
        "page.js%00.css",
        f"data/episode-{'9' * 5000}",
        "data/news-0-0-0-0-..%2f",
        "data/news--1-0-0-0-0",
    ],
)
def test_paths_reach_no_other_file(guarded: Viewer, path: str) -> None:
    assert ask(guarded, path)[0] == 404


@pytest.mark.parametrize("path", ["data/episode-9", "data/frames-0-99", "data/maps-0-7-0", "data/maps-9-0-0"])
def test_what_the_store_does_not_have_is_an_error_in_words(served: Viewer, path: str) -> None:
    status, answer = ask(served, path)
    assert (status, b"Expected" in answer) == (400, True)


@pytest.mark.parametrize("fill", ["blur", "black", "background", "other"])
@pytest.mark.parametrize("state", ["own", "initial", 3])
def test_answers_are_the_engines_outputs(served: Viewer, filled: tuple[Path, Any], fill: str, state: Any) -> None:
    question = {"episode": 0, "row": 12, "region": [2, 3, 9, 8], "fill": fill, "other": 5, "state": state}
    status, answer = post(served, "ask", question)
    assert status == 200
    episode, asked = EpisodeStore.open(filled[0]).episodes[0], Interrogation(filled[1])
    decision = stored_decision(episode, 12).decision
    inputs = [stored_decision(episode, row).decision.inputs[0].numpy() for row in range(len(episode))]
    fills: dict[str, Any] = {"blur": None, "black": 0.0, "background": np.median(inputs, axis=0).astype(np.float32), "other": inputs[5]}
    states = {"own": decision.state, "initial": asked.adapter.initial_state(1), 3: stored_decision(episode, 3).decision.state}
    method = PerturbationSaliency(RectangleMask(2, 3, 9, 8), fill=fills[fill])
    right = method.outputs(asked.adapter, replace(decision, state=states[state]))
    assert right.values is not None
    np.testing.assert_allclose(answer["logits"], [decision.logits[0].tolist(), right.logits[1].tolist()], rtol=1e-5, atol=1e-6)
    assert answer["values"][1] == pytest.approx(float(right.values[1, 0]), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    "wrong",
    [
        {"row": -1},
        {"row": 10_000},
        {"row": "0"},
        {"row": True},
        {"region": [0, 0, 1]},
        {"region": "all"},
        {"fill": "paint"},
        {"state": "mine"},
        {"fill": "other", "other": 999},
        {"state": 999},
        {"episode": 7},
        {"episode": "0"},
        {"episode": -1},
    ],
)
def test_a_question_that_makes_no_sense_is_refused_in_words(served: Viewer, wrong: dict[str, Any]) -> None:
    status, answer = post(served, "ask", {"episode": 0, "row": 0, "region": [0, 0, 2, 2], **wrong})
    assert (status, "Expected" in answer) == (400, True)


def test_memory_share_and_confidence_are_those_of_the_functions(served: Viewer, filled: tuple[Path, Any]) -> None:
    status, answer = post(served, "trust", {"episode": 0, "row": 16})
    assert status == 200
    assert (len(answer["memory"]), len(answer["confidence"])) == (COUNT - 16, COUNT - 16)
    episode, asked = EpisodeStore.open(filled[0]).episodes[0], Interrogation(filled[1])
    decisions = [stored_decision(episode, row).decision for row in range(COUNT)]
    background = np.median([one.inputs[0].numpy() for one in decisions], axis=0).astype(np.float32)
    stored, maps = next(iter(episode.maps(17, 18, method=next(iter(episode.methods)))))
    assert answer["memory"][1] == pytest.approx(memory_share(asked.adapter, stored.decision, decisions).share, rel=1e-5)
    confidence = map_confidence(asked.adapter, stored.decision, maps.actor, background)
    assert answer["confidence"][1] == pytest.approx(confidence.value if confidence.explains else 0.0, rel=1e-5, abs=1e-6)
    assert post(served, "trust", {"episode": 0, "row": COUNT})[0] == 400
    assert post(served, "trust", {"episode": 0, "row": "all"})[0] == 400


def test_an_agent_that_did_not_act_is_told_apart(filled: tuple[Path, Any], tmp_path: Path) -> None:
    episode = EpisodeStore.open(filled[0]).episodes[0]
    header = replace(episode.header, agent="0" * 64)
    episode.__class__ = type("Pretender", (type(episode),), {"header": property(lambda self: header)})
    answer = Interrogation(filled[1]).ask(episode, Question(0, (0, 0, 2, 2)))
    assert answer.note is not None
    assert "not the agent that acted" in answer.note


def test_maps_survive_as_8_bits() -> None:
    rng = np.random.default_rng(0)
    maps = [
        SaliencyMaps(rng.random((5, 7), np.float32) * 9, rng.random((5, 7), np.float32)),
        None,
        SaliencyMaps(*np.zeros((2, 5, 7), np.float32)),
    ]
    raw = zlib.decompress(encode_maps(maps))
    assert struct.unpack("<4I", raw[:16]) == (3, 5, 7, 2)
    ranges = np.frombuffer(raw[16:64], "<f4").reshape(3, 2, 2)
    levels = np.frombuffer(raw[64:], np.uint8).reshape(3, 2, 5, 7).cumsum(axis=2, dtype=np.uint8).cumsum(axis=3, dtype=np.uint8)
    low, high = ranges[0, 0]
    np.testing.assert_allclose(low + levels[0, 0] / 255 * (high - low), maps[0].actor, atol=9 / 255)  # type: ignore[union-attr]
    assert np.isnan(ranges[1]).all()
    assert (ranges[2] == 0).all()
    assert (levels[2] == 0).all()


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("colours", [1, 2, 3, 16, 17, 256])
def test_frames_of_few_colours_are_kept_exactly(colours: int, small: bool) -> None:
    rng = np.random.default_rng(colours)
    frame = rng.integers(0, 256, (colours, 3), np.uint8)[np.arange(23 * 31).reshape(23, 31) % colours]
    decoded = cv2.imdecode(np.frombuffer(encode_image(frame, small=small), np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    np.testing.assert_array_equal(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), frame)


def test_the_command_exports_and_says_how_large(filled: tuple[Path, Any], tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = CliRunner().invoke(main, ["view", str(filled[0]), "--export", str(page), "--episode", "1"])
    assert (done.exit_code, "wrote" in done.output) == (0, True)
    assert "7,4" not in page.read_text()
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]


def test_notebook_tables_are_escaped(tmp_path: Path) -> None:
    write_store(tmp_path / "store", HOSTILE, episodes=(2,))
    store = EpisodeStore.open(tmp_path / "store")
    maps = next(maps for _, maps in store.episodes[0].maps(method=next(iter(store.episodes[0].methods))))
    for shown in (store, store.episodes[0]):
        assert "<img" not in shown._repr_html_()
        assert "&lt;img" in shown._repr_html_()
    assert maps._repr_html_().count("data:image/png") == 2


def test_without_the_extra_the_error_names_it(filled: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(DependencyNotInstalled, match=r"saliency_wrappers\[viewer\]"):
        view(filled[0], browser=False)
