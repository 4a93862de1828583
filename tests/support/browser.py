"""A headless Chromium, and a small store that a tiny agent really filled."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_agents import TinyGRU, images, seeded

from saliency_wrappers import Decision, EpisodeStore, compute_saliency

HOSTILE = "</script><img src=x onerror=\"document.title='owned'\">"
COUNT = 20


def write_store(path: Path, env_id: str = "Tiny-v0", episodes: tuple[int, ...] = (COUNT, 7)) -> TinyGRU:
    """Fill a store with frames `(24, 24, 3)`, and maps of two methods; return the agent that acted."""
    agent = seeded(TinyGRU)
    with EpisodeStore(path, frames=True, block=16) as store:
        for count in episodes:
            state = torch.zeros(1, 8)
            with store.new_episode(env_spec={"id": env_id}, seed=1) as episode, torch.no_grad():
                for t in range(count):
                    x = images(seed=t)
                    value, logits, after = agent((x, state))
                    frame = np.repeat((255 * x[0, 0].numpy()).astype(np.uint8).repeat(2, 0).repeat(2, 1)[..., None], 3, axis=2)
                    episode.append(Decision(x, state, logits, value), action=t % 3, reward=float(t % 5 == 0), frame=frame)
                    state = after
                episode.close(complete=True)
    for method in ("xaitk", "greydanus2018"):
        compute_saliency(path, agent, method=method)
    return agent


class Browser:
    """Drives Chromium with selenium."""

    def __init__(self, width: int = 1280, height: int = 900) -> None:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        for flag in (
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            f"--window-size={width},{height}",
        ):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        self.driver.execute_cdp_cmd("Network.enable", {})

    def run(self, script: str) -> Any:
        return self.driver.execute_script(script)

    def open(self, url: str, offline: bool = False) -> None:
        self.driver.get("about:blank")  # ends what the page before still reads in the background
        self.offline(offline)
        self.complaints(), self.requests()
        self.driver.get(url)
        self.until("document.body && document.body.dataset.shown === '0'")

    def until(self, condition: str, seconds: float = 60) -> Any:
        limit = time.monotonic() + seconds
        while not (result := self.run(f"return {condition}")):
            if time.monotonic() > limit:
                raise TimeoutError(f"{condition}: {self.run('return document.body.innerText')[:400]}")
            time.sleep(0.02)
        return result

    def change(self, name: str, value: object) -> None:
        """Set a control, and wait until what it changes was drawn."""
        frames = self.run("return document.body.dataset.frames")
        self.run(
            f"const it = document.getElementById({json.dumps(name)}); if (it.type === 'checkbox') it.click(); else {{"
            f"it.value = {json.dumps(str(value))}; it.dispatchEvent(new Event('input', {{bubbles: true}})); }}"
        )
        self.until(f"document.body.dataset.frames !== '{frames}'")

    def picture(self, which: int = 0) -> str:
        """What a picture shows, as the address of a PNG file."""
        return self.run(f"return document.querySelectorAll('#pictures canvas')[{which}].toDataURL()")

    def pixels(self, which: int = 0) -> list[int]:
        """RGBA of every pixel. Chromium warns when it is asked twice."""
        return self.run(
            f"const c = document.querySelectorAll('#pictures canvas')[{which}];"
            "return Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data)"
        )

    def curves(self) -> list[str]:
        return self.run("return [...document.querySelectorAll('#curves canvas')].map((c) => c.toDataURL())")

    def press(self, key: str) -> None:
        self.run(f"document.body.dispatchEvent(new KeyboardEvent('keydown', {{key: {json.dumps(key)}, bubbles: true}}))")

    def text(self, selector: str) -> str:
        return self.run(f"return document.querySelector({json.dumps(selector)}).textContent")

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """With the mouse over the first picture; places are fractions of it."""
        self.run("document.querySelector('#pictures canvas').scrollIntoView({block: 'center'})")
        box = self.run("const b = document.querySelector('#pictures canvas').getBoundingClientRect(); return [b.x, b.y, b.width, b.height]")
        side = min(box[2], box[3])
        left, top = box[0] + (box[2] - side) / 2, box[1] + (box[3] - side) / 2
        places = [(left + x * side, top + y * side) for x, y in (start, ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2), end)]
        kinds = ("mousePressed", "mouseMoved", "mouseReleased")
        for kind, (x, y) in zip(kinds, places, strict=True):
            event = {"type": kind, "x": x, "y": y, "button": "left", "buttons": int(kind != "mouseReleased"), "clickCount": 1}
            self.driver.execute_cdp_cmd("Input.dispatchMouseEvent", event)

    def offline(self, off: bool = True) -> None:
        self.driver.execute_cdp_cmd(
            "Network.emulateNetworkConditions", {"offline": off, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        )

    def complaints(self) -> list[str]:
        """Messages of the console."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Addresses that were asked for, but for those that leave no process (`data:`, `blob:`)."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        urls = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
        return [url for url in urls if not url.startswith(("data:", "blob:"))]


def start_browser() -> Browser:
    """A browser; without one tests are skipped, but fail in CI."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        missing = "needs chromium and chromedriver: apt-get install chromium chromium-driver"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return Browser()
