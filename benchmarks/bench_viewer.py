"""How fast the viewer's page is in a real browser: `python benchmarks/bench_viewer.py --store runs/breakout`.

The store needs frames and maps of one method, and an agent that ships with the package. A page is served by `saliency-wrappers view` in a
process of its own and opened in headless Chromium. Times are taken by the page itself, from the start of the navigation, the mouse's
events and the browser's animation frames. Beside them stands processor time (of the page's main thread, of the server), which other work on
the machine changes little.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import ale_py
import click
import gymnasium as gym
import numpy as np
from machine import facts, load
from reporting import FOLDER, markdown, say, write

from saliency_wrappers import EpisodeStore, RecurrentAgentHook, SaliencyRecorder, load_pretrained
from saliency_wrappers.viewer.export import export_page
from saliency_wrappers.viewer.live import LiveEpisodes

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from browser import Browser

SCRUB_SECONDS = 5
FIRST_FRAME = """
const seen = new MutationObserver(() => {
  if (document.body?.dataset.shown === undefined) return;
  seen.disconnect();
  requestAnimationFrame(() => (document.documentElement.dataset.first = performance.now()));
});
seen.observe(document, {subtree: true, childList: true, attributes: true});
"""
SCRUB = """
const [seconds, done] = arguments;
const [scrubber, drawn] = [document.getElementById('scrubber'), () => Number(document.body.dataset.frames)];
const [last, before, gaps] = [Number(scrubber.max), drawn(), []];
let [began, at] = [performance.now(), performance.now()];
const tick = (now) => {
  gaps.push(now - at);
  at = now;
  if (now - began > 1000 * seconds) return done([(drawn() - before) / seconds, Math.max(...gaps.slice(1)), gaps.length / seconds]);
  scrubber.value = Math.round(last * (0.5 - 0.5 * Math.cos((now - began) / 700)));
  scrubber.dispatchEvent(new Event('input'));
  requestAnimationFrame(tick);
};
requestAnimationFrame(tick);
"""
ANSWER = """
const answer = document.getElementById('answer');
let began = 0;
window.took = [];
addEventListener('pointerup', (event) => (began = event.timeStamp), true);
new MutationObserver(() => began && took.push(performance.now() - began)).observe(answer, {childList: true});
"""


@contextmanager
def served(store: Path) -> Iterator[tuple[str, int]]:
    """The address of a page of a store, and the number of the process that serves it."""
    command = [sys.executable, "-c", "from saliency_wrappers.cli import main; main()", "view", str(store), "--no-browser"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        line = next(line for line in process.stdout or () if line.startswith("page: "))
        yield line.removeprefix("page: ").strip(), process.pid
    finally:
        process.terminate()
        process.wait()


def first_frame(browser: Browser, url: str, times: int) -> list[float]:
    """Milliseconds from the start of the navigation to the first frame, each time."""
    taken: list[float] = []
    for _ in range(times):
        browser.driver.get("about:blank")
        browser.driver.get(url)
        browser.until("document.documentElement.dataset.first", seconds=300)
        taken.append(float(browser.run("return document.documentElement.dataset.first")))
    return taken


def whole_episode(browser: Browser) -> float:
    """Milliseconds from the start of the navigation until all blocks were read."""
    browser.until("document.body.dataset.read", seconds=600)
    return float(browser.run("return performance.now()"))


def scrub(browser: Browser) -> dict[str, float]:
    """Pictures a second, the longest time between two animation frames (ms), animation frames a second, processor time per picture (ms)."""
    browser.driver.set_script_timeout(120)
    before = _main_thread_seconds(browser)
    drawn, longest, asked = browser.driver.execute_async_script(SCRUB, SCRUB_SECONDS)
    work = 1000 * (_main_thread_seconds(browser) - before) / (drawn * SCRUB_SECONDS)
    return {"drawn": drawn, "longest": longest, "asked": asked, "work": work}


def _main_thread_seconds(browser: Browser) -> float:
    """Processor time that the page's main thread has used in its tasks."""
    metrics = browser.driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    return next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration")


def _process_seconds(process: int) -> float:
    """Processor time that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def questions(browser: Browser, count: int) -> list[float]:
    """Milliseconds from mouse-up to the new probabilities, of `count` rectangles on as many decisions."""
    browser.run(ANSWER)
    last = int(browser.run("return document.getElementById('scrubber').max"))
    random = np.random.default_rng(0)
    for number in range(count):
        browser.change("scrubber", int(random.integers(1, last)))
        left, top = random.uniform(0.3, 0.6, 2)
        browser.drag((left, top), (left + 0.1, top + 0.15))
        browser.until(f"window.took.length > {number}")
    return [float(one) for one in browser.run("return window.took")]


class Timed(LiveEpisodes):
    """Adds up the processor time that following takes from the thread that steps the environment."""

    seconds = 0.0

    def _timed(self, call: Callable[..., None], *given: Any) -> None:
        began = time.thread_time()
        call(*given)
        self.seconds += time.thread_time() - began

    def decide(self, *given: Any) -> None:
        """Timed."""
        self._timed(super().decide, *given)

    def advance(self, *given: Any) -> None:
        """Timed."""
        self._timed(super().advance, *given)

    def explained(self, *given: Any) -> None:
        """Timed."""
        self._timed(super().explained, *given)


def live_cost(steps: int) -> dict[str, float]:
    """Processor time of the stepping thread in milliseconds a step of Breakout: in all, and for following with and without an open page."""
    gym.register_envs(ale_py)
    agent, preprocessor = load_pretrained("ALE/Breakout-v5")
    hook = RecurrentAgentHook(agent, preprocessor, seed=0)
    env = SaliencyRecorder(gym.make("ALE/Breakout-v5", render_mode="rgb_array"), hook)
    live = Timed(env.recording)
    env.recording.attach(live)
    observation, _ = env.reset(seed=0)
    cost: dict[str, float] = {}
    for way in ("no page", "page open"):
        live.seconds, began = 0.0, time.thread_time()
        for _ in range(steps):
            if way == "page open":
                live.news(0, None, 0, 0)
            observation, _, terminated, truncated, _ = env.step(hook.act(observation, greedy=True))
            if terminated or truncated:
                observation, _ = env.reset()
        cost[f"{way}, all of a step"] = 1000 * (time.thread_time() - began) / steps
        cost[f"{way}, following"] = 1000 * live.seconds / steps
    env.close()
    return cost


def lengthen(source: Path, target: Path, count: int) -> None:
    """Write an episode of `count` decisions: those of the first episode of a store, with their maps, again and again."""
    episode = EpisodeStore.open(source).episodes[0]
    (fingerprint, description), *_ = episode.methods.items()
    header, pairs = episode.header, list(episode.maps(method=fingerprint))
    known = {"env_spec": header.env_spec, "agent": header.agent, "preprocessor": header.preprocessor, "action_names": header.action_names}
    with EpisodeStore(target, frames=True) as store, store.new_episode(**known) as copy:
        for row in range(count):
            stored, maps = pairs[row % len(pairs)]
            copy.append(stored.decision, action=stored.action, reward=stored.reward, frame=stored.frame)
            copy.explain(row, maps, fingerprint, description)
        copy.close(complete=True)


def measured(browser: Browser, store: Path, times: int, count: int) -> dict[str, Any]:
    """What is measured of one store's page."""
    with served(store) as (url, process):
        result: dict[str, Any] = {"first frame": first_frame(browser, url, times)}
        result["whole episode"] = whole_episode(browser)
        result["scrubbing"] = scrub(browser)
        before = _process_seconds(process)
        result["questions"] = questions(browser, count)
        result["work of a question"] = 1000 * (_process_seconds(process) - before) / count
    return result


def row(name: str, result: dict[str, Any]) -> list[str]:
    """A row of the table."""
    asked = result.get("questions", [])
    scrubbing = result["scrubbing"]
    return [
        name,
        f"{median(result['first frame']) / 1000:.2f}",
        f"{scrubbing['drawn']:.0f} of {scrubbing['asked']:.0f}",
        f"{scrubbing['longest']:.0f}",
        f"{scrubbing['work']:.1f}",
        f"{median(asked):.0f} ({min(asked):.0f} to {max(asked):.0f})" if asked else "-",
        f"{result['work of a question']:.0f}" if asked else "-",
    ]


@click.command()
@click.option("--store", type=click.Path(exists=True, path_type=Path), required=True, help="Frames and maps of one method, first episode.")
@click.option("--long", "long", type=int, default=5000, help="Decisions of a longer episode that is made of it. 0: none.")
@click.option("--times", type=int, default=5, help="How often pages are opened.")
@click.option("--questions", "count", type=int, default=20, help="How many questions are asked.")
@click.option("--steps", type=int, default=200, help="Of a recording that is followed. 0: not measured.")
@click.option("--output", type=click.Path(path_type=Path), default=FOLDER / "viewer.json")
def main(store: Path, long: int, times: int, count: int, steps: int, output: Path) -> None:
    """Measure, print a table, and write a JSON file."""
    setting = {**facts(), "load": load()}
    browser = Browser(1280, 1000)
    browser.driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
    browser.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": FIRST_FRAME})
    report: dict[str, Any] = {"setting": setting}
    with tempfile.TemporaryDirectory() as folder:
        episode = EpisodeStore.open(store).episodes[0]
        names = {f"served, {len(episode)} decisions": store}
        if long:
            lengthen(store, Path(folder, "long"), long)
            names[f"served, {long} decisions"] = Path(folder, "long")
        report |= {name: measured(browser, place, times, count) for name, place in names.items()}
        began = time.perf_counter()
        size = export_page([episode], Path(folder, "page.html"))
        report["export"] = {"bytes": size, "seconds": time.perf_counter() - began}
        exported = {"first frame": first_frame(browser, Path(folder, "page.html").as_uri(), times)}
        exported["whole episode"] = whole_episode(browser)
        report["exported file"] = {**exported, "scrubbing": scrub(browser)}
    report["live"] = live_cost(steps) if steps else {}
    browser.driver.quit()
    setting["load after"] = load()
    say(setting)
    rows = [row(name, result) for name, result in report.items() if "scrubbing" in result]
    work = ["processor time a picture, ms", "mouse-up to answer, ms", "processor time an answer, ms"]
    click.echo(markdown(["page", "first frame, s", "pictures a second", "longest frame, ms", *work], rows))
    click.echo(f"export: {size / 1e6:.1f} MB, written in {report['export']['seconds']:.1f} s")
    for what, milliseconds in report["live"].items():
        click.echo(f"live, {what}: {milliseconds:.3f} ms of the stepping thread's processor time")
    write(report, output)


if __name__ == "__main__":
    main()
