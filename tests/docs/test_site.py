"""The documentation site: built strictly, complete, without a dead link, and usable in a browser that may ask nobody."""

from __future__ import annotations

import functools
import http.server
import os
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from browser import Browser, start_browser
from documentation import ROOT

import saliency_wrappers
import saliency_wrappers.testing

LOADS = {("script", "src"), ("img", "src"), ("video", "src"), ("source", "src"), ("iframe", "src"), ("link", "href")}
"""Attributes by which a page makes the browser fetch something."""


def build(target: Path, config: Path = ROOT / "mkdocs.yml") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(config), "--site-dir", str(target)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "site"
    built = build(folder)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


class Page(HTMLParser):
    """What a page refers to, and the anchors it has."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("id", "name") and value:
                self.anchors.add(value)
            elif value and (tag, name) in LOADS:
                self.loads.append(value)
            elif value and tag == "a" and name == "href":
                self.links.append(value)


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {file: Page(file) for file in site.rglob("*.html") if file.name not in ("404.html", "viewer.html") or file.parent == site}


def test_every_link_and_anchor_of_every_page_is_there(pages: dict[Path, Page], site: Path) -> None:
    dead = []
    for file, page in pages.items():
        for link in page.links + page.loads:
            if (parts := urllib.parse.urlsplit(link)).scheme or file.name == "404.html":
                continue
            target = (file.parent / urllib.parse.unquote(parts.path)).resolve() if parts.path else file
            known = pages.get(target)
            if not target.is_file() or (parts.fragment and known is not None and urllib.parse.unquote(parts.fragment) not in known.anchors):
                dead.append(f"{file.relative_to(site)}: {link}")
    assert dead == []


def test_no_page_loads_anything_from_elsewhere(pages: dict[Path, Page]) -> None:
    elsewhere = {load for page in pages.values() for load in page.loads if urllib.parse.urlsplit(load).scheme or load.startswith("//")}
    assert elsewhere == set()


def test_every_public_name_is_in_the_reference(pages: dict[Path, Page], site: Path) -> None:
    anchors = set().union(*(page.anchors for file, page in pages.items() if file.parent == site / "reference"))
    names = [f"saliency_wrappers.{name}" for name in saliency_wrappers.__all__]
    names += [f"saliency_wrappers.testing.{name}" for name in saliency_wrappers.testing.__all__]
    assert [name for name in names if name not in anchors] == []


@pytest.mark.parametrize(
    ("page", "complaint"),
    [("# Page\n\n[dead](nowhere.md)\n", "nowhere.md"), ("# Page\n\n::: saliency_wrappers.no_such_name\n", "no_such_name")],
)
def test_a_dead_link_or_a_name_that_is_none_fails_the_build(page: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(page)
    options = "plugins: [mkdocstrings: {handlers: {python: {paths: [%s]}}}]" % (ROOT / "src")
    (tmp_path / "mkdocs.yml").write_text(f"site_name: bad\nstrict: true\nplugins:\n  - mkdocstrings\n# {options}\n")
    built = build(tmp_path / "out", tmp_path / "mkdocs.yml")
    assert built.returncode != 0
    assert complaint in built.stdout + built.stderr


def test_a_docstring_that_names_a_parameter_that_is_none_fails_the_build(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "bad.py").write_text(
        'def f(x: int) -> int:\n    """Do it.\n\n    Args:\n        y: no such parameter.\n    """\n    return x\n'
    )
    (tmp_path / "docs" / "index.md").write_text("# Page\n\n::: bad.f\n")
    handlers = f"{{python: {{paths: ['{tmp_path}'], options: {{docstring_style: google}}}}}}"
    (tmp_path / "mkdocs.yml").write_text(f"site_name: bad\nstrict: true\nplugins:\n  - mkdocstrings: {{handlers: {handlers}}}\n")
    built = build(tmp_path / "out", tmp_path / "mkdocs.yml")
    assert built.returncode != 0
    assert "'y'" in built.stdout + built.stderr


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Says nothing of requests."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    browser = start_browser()
    yield browser
    browser.driver.quit()


def visit(browser: Browser, url: str) -> None:
    browser.complaints(), browser.requests()
    browser.driver.get(url)
    browser.until("document.readyState === 'complete'")


def check_quiet(browser: Browser, address: str) -> None:
    """Nothing was asked of anyone else, and the console is empty."""
    assert [url for url in browser.requests() if not url.startswith((address, "about:", "chrome"))] == []
    assert [text for text in browser.complaints() if "favicon" not in text] == []


def test_the_film_of_the_first_page_plays(browser: Browser, address: str) -> None:
    visit(browser, f"{address}/index.html")
    browser.run("const v = document.querySelector('video'); v.muted = true; v.play()")
    browser.until("document.querySelector('video').currentTime > 0.3")
    assert browser.run("return document.querySelector('video').videoWidth") >= 480
    check_quiet(browser, address)


def test_every_film_and_picture_of_the_gallery_is_shown(browser: Browser, address: str) -> None:
    visit(browser, f"{address}/gallery.html")
    browser.run("document.querySelectorAll('video').forEach((v) => { v.muted = true; v.play() })")
    browser.until("[...document.querySelectorAll('video')].every((v) => v.currentTime > 0.1)")
    assert browser.run("return document.querySelectorAll('video').length") >= 4
    assert browser.run("return [...document.querySelectorAll('article img')].filter((i) => !i.naturalWidth).map((i) => i.src)") == []
    check_quiet(browser, address)


@pytest.mark.parametrize("words", ["SaliencyVecEnv", "ReplayMismatchError", "change weighting"])
def test_the_search_finds(browser: Browser, address: str, words: str) -> None:
    visit(browser, f"{address}/index.html")
    browser.run("document.querySelector('[data-md-toggle=search]').click()")
    field = browser.driver.find_element("css selector", "input[data-md-component=search-query]")
    field.send_keys(words)
    browser.until("document.querySelectorAll('.md-search-result__item').length > 0")
    check_quiet(browser, address)


def test_formulas_are_shown_without_a_script(browser: Browser, address: str) -> None:
    visit(browser, f"{address}/methods.html")
    assert browser.run("return document.querySelectorAll('math').length") >= 10
    assert browser.run("return document.querySelector('math mfrac, math msub').getBoundingClientRect().height") > 5
    assert "$$" not in browser.run("return document.querySelector('article').innerText")
    check_quiet(browser, address)


@pytest.mark.parametrize("page", ["index", "gallery", "decision", "methods", "faithfulness", "performance", "reference/recording"])
def test_no_page_is_wider_than_a_telephone(browser: Browser, address: str, page: str) -> None:
    size = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        visit(browser, f"{address}/{page}.html")
        assert browser.run("return document.documentElement.scrollWidth") <= 390
    finally:
        browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
