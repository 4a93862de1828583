"""The page in a real browser: served and exported, it shows what the store holds, and answers as the agent does."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser import COUNT, HOSTILE, Browser, start_browser, write_store

from saliency_wrappers import EpisodeStore, GaussianBlur, PerturbationSaliency, as_adapter, show, view
from saliency_wrappers.viewer.export import export_page
from saliency_wrappers.viewer.questions import RectangleMask
from saliency_wrappers.viewer.server import Viewer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    browser = start_browser()
    yield browser
    browser.driver.quit()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    path = tmp_path_factory.mktemp("viewer") / "store"
    return path, write_store(path)


@pytest.fixture(scope="module")
def served(filled: tuple[Path, Any]) -> Iterator[Viewer]:
    with view(filled[0], filled[1], browser=False) as viewer:
        yield viewer


@pytest.fixture(scope="module")
def exported(filled: tuple[Path, Any]) -> str:
    file = filled[0].parent / "page.html"
    assert export_page(EpisodeStore.open(filled[0]).episodes, file) == file.stat().st_size
    return file.as_uri()


@pytest.fixture(params=["served", "exported"])
def page(request: pytest.FixtureRequest, browser: Browser) -> Iterator[Browser]:
    target = request.getfixturevalue(request.param)
    browser.open(target if isinstance(target, str) else target.url, offline=request.param == "exported")
    yield browser
    allowed = "file:" if isinstance(target, str) else target.url
    assert [url for url in browser.requests() if not url.startswith(allowed)] == []
    assert browser.complaints() == []


def test_scrubbing_changes_the_frame_the_numbers_and_the_cursor_of_every_curve(page: Browser) -> None:
    before, curves = page.picture(), page.curves()
    page.change("scrubber", 17)  # in another block
    assert page.text("#step") == "17"
    assert page.picture() != before
    assert all(one != other for one, other in zip(curves, page.curves(), strict=True))
    assert "action 2" in page.text("#facts")


def test_the_picture_is_the_stored_frame_when_overlays_are_off(page: Browser, filled: tuple[Path, Any]) -> None:
    page.change("scrubber", 5)
    page.change("actor", None)
    page.change("critic", None)
    frame = next(iter(EpisodeStore.open(filled[0]).episodes[0].decisions(5, 6))).frame
    assert frame is not None
    pixels = np.array(page.pixels()).reshape(432, 432, 4)[9::18, 9::18, :3]
    np.testing.assert_array_equal(pixels, frame)


def test_each_switch_of_the_overlay_changes_pixels(page: Browser) -> None:
    page.change("scrubber", 3)
    page.until("document.getElementById('about').textContent.indexOf('Reading') < 0")
    switches = (("opacity", 30), ("scale", "episode"), ("palette", "bright"), ("layer", 1), ("actor", None), ("critic", None))
    for control, value in switches:
        before = page.picture()
        page.change(control, value)
        assert page.picture() != before, control


def test_two_methods_are_shown_side_by_side_and_as_a_difference(page: Browser) -> None:
    page.change("compare", 1)
    page.until("document.querySelectorAll('#pictures canvas').length === 2")
    assert page.picture(0) != page.picture(1)
    beside = page.picture(0)
    page.change("mode", "difference")
    assert page.run("return document.querySelectorAll('#pictures canvas').length") == 1
    assert page.picture() != beside
    assert "minus" in page.text("figcaption")


def test_keys_step_play_toggle_and_bookmark(page: Browser) -> None:
    for key, step in (("ArrowRight", 1), ("End", COUNT - 1), ("ArrowLeft", COUNT - 2), ("Home", 0)):
        page.press(key)
        page.until(f"document.body.dataset.shown === '{step}'")
    page.press("a")
    assert page.run("return document.getElementById('actor').checked") is False
    page.press("b")
    assert "0 yours" in page.text("#bookmarks")
    page.press(" ")
    page.until(f"document.body.dataset.shown === '{COUNT - 1}' && document.getElementById('play').textContent === 'Play'")


def test_a_click_on_a_curve_and_a_bookmark_jump(page: Browser) -> None:
    page.run(
        "const c = document.querySelector('#curves canvas'), b = c.getBoundingClientRect();"
        "c.setPointerCapture = () => {};"
        "c.dispatchEvent(new PointerEvent('pointerdown', {clientX: b.right - 2, clientY: b.top + 9, pointerId: 1}))"
    )
    page.until(f"document.body.dataset.shown === '{COUNT - 1}'")
    page.run("document.querySelector('#bookmarks button').click()")
    page.until("document.body.dataset.shown === document.querySelector('#bookmarks button').textContent.split(' ')[0]")


def test_the_list_sorts_and_opens_another_episode(page: Browser) -> None:
    numbers = "[...document.querySelectorAll('#episodes td:nth-child(2)')].map((cell) => cell.textContent).join()"
    assert page.run(f"return {numbers}") == f"{COUNT},7"
    page.run("document.querySelectorAll('#columns button')[1].click()")
    assert page.run(f"return {numbers}") == f"7,{COUNT}"
    page.run("document.querySelector('#episodes button').click()")
    page.until("document.body.dataset.ready === '1' && document.getElementById('scrubber').max === '6'")


def test_curves_hold_the_return_and_the_advantage(page: Browser, filled: tuple[Path, Any]) -> None:
    """GAE in the recursive form, against the sum of its definition (Schulman et al., 2016, eq. 16)."""
    page.change("scrubber", 4)
    stored = list(EpisodeStore.open(filled[0]).episodes[0].decisions())
    values = np.array([float(one.decision.value.flatten()[0]) for one in stored] + [0.0])  # type: ignore[union-attr]
    rewards = np.array([one.reward for one in stored])
    delta = rewards + 0.99 * values[1:] - values[:-1]
    right = sum((0.99 * 0.95) ** k * delta[4 + k] for k in range(COUNT - 4))
    shown = page.run("return [...document.querySelectorAll('#curves span')].find((s) => s.textContent.startsWith('advantage')).textContent")
    assert float(shown.split()[1]) == pytest.approx(right, rel=1e-3)


def test_without_an_agent_the_page_says_what_is_missing(browser: Browser, exported: str) -> None:
    browser.open(exported)
    assert "No agent is loaded" in browser.text("#no-agent")
    assert browser.run("return document.getElementById('question').hidden") is True


def test_a_drag_changes_the_probabilities_as_the_engine_says(browser: Browser, served: Viewer, filled: tuple[Path, Any]) -> None:
    browser.open(served.url)
    browser.change("scrubber", 18)
    browser.drag((0.26, 0.09), (0.74, 0.66))
    browser.until("document.getElementById('answer').dataset.after")
    region = [int(browser.run(f"return document.getElementById('{name}').value")) for name in ("top", "left", "bottom", "right")]
    assert region == [1, 3, 8, 9]
    adapter = as_adapter(filled[1])
    decision = next(iter(EpisodeStore.open(filled[0]).episodes[0].decisions(18, 19))).decision
    right = PerturbationSaliency(RectangleMask(*region), fill=GaussianBlur(3)).outputs(adapter, decision)
    shown = json.loads(browser.run("return document.getElementById('answer').dataset.after"))
    np.testing.assert_allclose(shown, torch.softmax(torch.tensor(right.logits[1]), 0), atol=1e-6)
    assert right.values is not None
    assert float(browser.run("return document.getElementById('answer').dataset.value")) == pytest.approx(
        float(right.values[1, 0]), abs=1e-6
    )
    assert not np.allclose(right.logits[0], right.logits[1])
    assert browser.complaints() == []


def test_a_decision_is_explained_anew_by_another_method(browser: Browser, served: Viewer) -> None:
    browser.open(served.url)
    browser.change("layer", "")
    plain = browser.picture()
    browser.run("document.getElementById('explain').click()")
    browser.until("document.querySelector('figcaption').textContent.includes('just computed')")
    assert browser.picture() != plain


def test_memory_share_and_confidence_get_curves_and_bookmarks(browser: Browser, served: Viewer) -> None:
    browser.open(served.url)
    curves = browser.run("return document.querySelectorAll('#curves canvas').length")
    browser.run("document.getElementById('measure').click()")
    browser.until("document.getElementById('measure').hidden")
    assert browser.run("return document.querySelectorAll('#curves canvas').length") == curves + 1
    shown = browser.run("return [...document.querySelectorAll('#curves span')].map((span) => span.textContent)")
    assert 0 <= float(next(text for text in shown if text.startswith("memory share ")).split()[-1]) <= 1
    assert 0 <= float(next(text for text in shown if text.startswith("confidence of the map ")).split()[-1]) <= 1
    assert "least trusted" in browser.text("#bookmarks")
    assert browser.complaints() == []


def test_a_hostile_store_is_shown_as_text(browser: Browser, tmp_path: Path) -> None:
    write_store(tmp_path / "store", HOSTILE, episodes=(2,))
    for file in (tmp_path / "store").glob("*/maps/*/zarr.json"):
        content = json.loads(file.read_text())
        content["attributes"]["saliency_wrappers"]["method"]["name"] = HOSTILE
        del content["attributes"]["saliency_wrappers"]["digest"]  # as whoever made the store can
        file.write_text(json.dumps(content))
    export_page(EpisodeStore.open(tmp_path / "store").episodes, tmp_path / "page.html")
    with view(tmp_path / "store", browser=False) as viewer:
        for url in ((tmp_path / "page.html").as_uri(), viewer.url):
            browser.open(url)
            assert HOSTILE in browser.text("#about")
            assert HOSTILE in browser.text("#layer")
            assert browser.run("return [document.title, document.querySelectorAll('img').length]") == ["Recorded episodes", 0]


def test_another_origin_can_neither_read_nor_ask(browser: Browser, served: Viewer, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger.html"
    stranger.write_text("<!doctype html><title>stranger</title><body data-shown=0>")
    browser.open(stranger.as_uri())
    script = """
        const done = arguments[arguments.length - 1];
        const ask = (mode) => fetch(URL + 'ask', {mode, method: 'POST', body: '{}'});
        const tries = ['no-cors', 'cors'].flatMap((mode) => [fetch(URL + 'data/store', {mode}), ask(mode)]);
        const told = (one) => (one.status === 'fulfilled' ? one.value.type + one.value.status : 'refused');
        Promise.allSettled(tries).then((all) => done(all.map(told)));
    """.replace("URL", json.dumps(served.url))
    answers = browser.driver.execute_async_script(script)
    assert set(answers) <= {"refused", "opaque0"}
    browser.complaints()


def test_the_page_fits_a_telephone_and_every_control_has_a_name(page: Browser) -> None:
    size = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        assert page.run("return document.documentElement.scrollWidth") == 390
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    nameless = page.run(
        "return [...document.querySelectorAll('button, input, select, canvas')].filter((it) => !(it.textContent.trim() || "
        "it.getAttribute('aria-label') || it.labels?.length)).map((it) => it.outerHTML)"
    )
    assert nameless == []


def test_a_notebook_shows_an_episode_in_a_frame_of_its_own(filled: tuple[Path, Any], browser: Browser, tmp_path: Path) -> None:
    store = EpisodeStore.open(filled[0])
    (tmp_path / "notebook.html").write_text(f"<!doctype html><body data-shown=0>{show(store.episodes[1])._repr_html_()}")
    browser.open((tmp_path / "notebook.html").as_uri())
    browser.driver.switch_to.frame(0)
    browser.until("document.body.dataset.shown === '0'")
    assert "7 decisions" in browser.text("#about")
    browser.driver.switch_to.default_content()
    assert urllib.parse.urlparse(browser.run("return location.href")).scheme == "file"
