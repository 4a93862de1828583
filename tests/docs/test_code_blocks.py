"""Every code block of README and documentation runs as it stands, with small budgets; every command exists; every quoted message is one."""

from __future__ import annotations

import re
import tomllib
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from code_blocks import CodeBlock, read_blocks, run_block
from documentation import COMMANDS, IMPORTS, PAGES, ROOT, commands, prelude, python_blocks, words_of_message, words_of_source
from tiny_agents import seeded

from saliency_wrappers.cli import main
from saliency_wrappers.models.networks import BabyA3CGRU
from saliency_wrappers.viewer.server import Viewer

WITH_PYTHON = [page for page in PAGES if python_blocks(page)]
WITH_COMMANDS = [page for page in PAGES if commands(page)]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to run in; no browser is opened, and torch's random state and the number of threads are put back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setattr(webbrowser, "open", lambda *_: True)
    monkeypatch.setattr(Viewer, "wait", lambda self: self.close())
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        yield tmp_path
    torch.set_num_threads(threads)


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.stem)
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore")  # what users see, too: budgets are too small for some libraries' taste
def test_the_code_of_a_page_runs(page: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    blocks = python_blocks(page)
    if any(prelude(block) for block in blocks):
        exec(IMPORTS, namespace)
    for block in blocks:
        exec(prelude(block), namespace)
        run_block(block, namespace)
        if page.name == "README.md":
            _close(namespace)


def _close(namespace: dict[str, Any]) -> None:
    """Fragments end where the reader goes on."""
    for name in ("env", "envs", "hook"):
        if hasattr(namespace.get(name), "close"):
            namespace.pop(name).close()


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: page.stem)
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore")
def test_the_commands_of_a_page_exist_and_ours_run(page: Path, folder: Path) -> None:
    for run in ("agents", "runs/train", "runs/film"):
        (folder / run).mkdir(parents=True)
        torch.save(seeded(BabyA3CGRU, 4).state_dict(), folder / run / "agent.1.pt")
    for words in commands(page):
        check = {"saliency-wrappers": _runs, "make": _is_target, "pip": _has_extras, "python": _is_script}[words[0]]
        check(words[1:])


def _runs(words: list[str]) -> None:
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, (words, done.output, done.exception)


def _is_target(words: list[str]) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert words[0] in targets


def _has_extras(words: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {extra for word in words for found in re.findall(r"\[([\w,]+)\]", word) for extra in found.split(",")}
    assert words[0] == "install"
    assert named <= extras.keys()


def _is_script(words: list[str]) -> None:
    text = (ROOT / words[0]).read_text(encoding="utf-8")
    for option in (word for word in words[1:] if word.startswith("--")):
        assert f'"{option}"' in text, f"{words[0]} knows no {option}"


def test_every_budget_of_a_command_is_used() -> None:
    written = "".join(block.text for page in PAGES for block in read_blocks(page) if block.language in ("console", "bash"))
    assert [command for command in COMMANDS if command not in written] == []


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_the_contents_of_info_are_those_that_are_shown(page: str) -> None:
    import ale_py
    import gymnasium as gym

    from saliency_wrappers import RecurrentAgentHook, SaliencyRecorder, load_pretrained

    gym.register_envs(ale_py)
    hook = RecurrentAgentHook(*load_pretrained("ALE/Breakout-v5"))
    with SaliencyRecorder(gym.make("ALE/Breakout-v5"), hook) as env:
        info = env.step(hook.act(env.reset(seed=0)[0]))[4]["saliency"]
    block = _block_with(ROOT / page, "ndarray float32 (h, w)")
    assert re.findall(r'^ +"(\w+)":', block.text, flags=re.MULTILINE) == list(info)
    shapes = dict(re.findall(r'"(\w+)": ndarray float32 (\(.*?\)),', block.text))
    assert {name: len(shape.strip("(),").split(",")) for name, shape in shapes.items()} == {
        name: value.ndim for name, value in info.items() if isinstance(value, np.ndarray) and value.dtype == np.float32
    }


def _block_with(page: Path, text: str) -> CodeBlock:
    return next(block for block in read_blocks(page, "python") if text in block.text)


@pytest.mark.parametrize("page", ["README.md", "docs/faq.md"])
def test_messages_in_headings_are_those_of_the_source(page: str) -> None:
    source = words_of_source()
    headings = re.findall(r"^##+ `(.*)`$", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert headings
    for heading in headings:
        parts = words_of_message(heading.removeprefix("ReplayMismatchError: "))
        assert parts
        assert [part for part in parts if part not in source] == [], heading
