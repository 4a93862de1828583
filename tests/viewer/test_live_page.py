"""The page in a real browser while a recording runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from browser import Browser, start_browser
from counting import CountingAgent, CountingEnv, network_input, recorded
from counting_vector import NEXT_STEP, World, recorded_vector

from saliency_wrappers.viewer import live
from saliency_wrappers.viewer.server import Viewer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    browser = start_browser()
    yield browser
    browser.driver.quit()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """An open page that a loaded machine lets wait for seconds still counts as open; every decision has a picture, however fast it came."""
    monkeypatch.setattr(live, "WATCHED_SECONDS", 600.0)
    monkeypatch.setattr(live, "PAUSE_FACTOR", 0.0)


class Run:
    """A recorded environment that steps when it is told to."""

    def __init__(self, lengths: tuple[int, ...], names: list[str] | None = None) -> None:
        self.agent = CountingAgent()
        env = CountingEnv(lengths)
        env.get_action_meanings = lambda: names  # type: ignore[attr-defined]
        self.env = recorded(env, self.agent)
        self.over = True

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            if self.over:
                self.observation, _ = self.env.reset()
                self.state = self.agent.initial_state(1)
            _, _, self.state = self.agent((network_input(self.observation), self.state))
            self.observation, _, self.over, _, _ = self.env.step(1)


def opened(browser: Browser, viewer: Viewer) -> Browser:
    browser.driver.get("about:blank")
    browser.complaints(), browser.requests()
    browser.driver.get(viewer.url)
    browser.until("document.getElementById('live-state') && document.getElementById('live-state').textContent")
    assert viewer._live is not None
    while not viewer._live.watched:
        time.sleep(0.02)
    return browser


def shown(browser: Browser, step: int, decisions: int) -> None:
    browser.until(f"document.getElementById('step').textContent === '{step}'")
    browser.until(f"document.getElementById('about').textContent.includes(' {decisions} decisions')")


def test_the_page_follows_pauses_and_goes_on_through_episodes(browser: Browser) -> None:
    run = Run((9, 4))
    with Viewer(run.env) as viewer:
        page = opened(browser, viewer)
        assert "Waiting for the first decision" in page.text("#about")
        run.step(3)
        shown(page, 2, 3)
        page.until("document.querySelectorAll('#curves canvas').length === 6")
        before, curves = page.picture(), page.curves()
        run.step()
        shown(page, 3, 4)
        page.until("document.body.dataset.shown === '3'")
        assert page.picture() != before
        assert page.curves() != curves
        page.press(" ")
        assert "Paused" in page.text("#live-state")
        run.step(2)
        page.until("document.getElementById('about').textContent.includes(' 6 decisions')")
        assert page.text("#step") == "3"
        page.press("ArrowLeft")
        assert page.text("#step") == "2"
        page.press(" ")
        shown(page, 5, 6)
        run.step(3 + 2)
        shown(page, 1, 2)
        page.until("document.querySelectorAll('#episodes tr').length === 2")
        page.run("document.querySelectorAll('#episodes button')[1].click()")
        shown(page, 0, 9)
        assert "Paused" in page.text("#live-state")
    page.until("document.getElementById('live-state').textContent.includes('has ended')")
    assert [url for url in page.requests() if not url.startswith(viewer.url)] == []
    assert page.complaints() == []
    run.step()


def test_a_closed_page_stops_nothing_and_one_that_comes_later_sees_what_was(browser: Browser) -> None:
    run = Run((50,))
    with Viewer(run.env) as viewer:
        run.step(5)
        page = opened(browser, viewer)
        shown(page, 0, 5)  # of which there is a picture: nobody watched
        page.run("document.getElementById('scrubber').dispatchEvent(new Event('input'))")
        page.press("End")
        page.until("document.body.dataset.shown === '4'")
        assert "no picture was kept" in page.text("figcaption")
        browser.driver.get("about:blank")
        run.step(20)
        page = opened(browser, viewer)
        page.until("document.getElementById('about').textContent.includes(' 25 decisions')")
        assert page.complaints() == []


def test_a_recording_that_steps_in_another_thread_is_followed(browser: Browser) -> None:
    run, stop = Run((30,)), threading.Event()

    def steps() -> None:
        while not stop.is_set():
            run.step()
            stop.wait(0.01)

    with Viewer(run.env) as viewer:
        thread = threading.Thread(target=steps)
        thread.start()
        page = opened(browser, viewer)
        page.until("document.querySelectorAll('#episodes tr').length >= 3")
        page.run("document.querySelector('#scrubber').focus()")
        page.until("+document.body.dataset.frames > 20")
        stop.set()
        thread.join()
    assert page.complaints() == []


def test_a_vector_says_what_it_shows_and_another_environment_can_be_chosen(browser: Browser) -> None:
    envs = recorded_vector(World([[9], [9]], NEXT_STEP).make(), agent := CountingAgent())
    with Viewer(envs) as viewer:
        page = opened(browser, viewer)
        assert "Environments 0, 1 of 2 are recorded; one is shown at a time" in page.text("#live-note")
        observations, _ = envs.reset(seed=0)
        state = agent.initial_state(2)

        def step() -> None:
            nonlocal observations, state
            images = network_input(observations[0]).new_tensor(observations[:, None, :, :, 0]) / 255
            _, _, state = agent((images, state))
            observations, *_ = envs.step([1, 1])

        step()
        shown(page, 0, 1)
        page.run("const it = document.getElementById('environment'); it.value = 1; it.dispatchEvent(new Event('input', {bubbles: true}))")
        page.until("document.querySelector('#episodes tr[aria-current] td:nth-child(2)')?.textContent === '1'")
        step()
        shown(page, 1, 2)
        assert page.complaints() == []
    envs.close()


def test_hostile_names_are_shown_as_text(browser: Browser) -> None:
    hostile = "<img src=x onerror=\"document.title='owned'\">"
    run = Run((9,), [hostile] * 4)
    with Viewer(run.env) as viewer:
        run.step(2)
        page = opened(browser, viewer)
        page.until("document.getElementById('facts').textContent.includes('img')")
        assert page.run("return [document.title, document.querySelectorAll('img').length]") == ["Recorded episodes", 0]
        assert page.complaints() == []
