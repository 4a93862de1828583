"""Code blocks of Markdown pages. `python docs/code_blocks.py PAGE FOLDER` runs the Python blocks of a page in a folder.

`make gallery` makes the films and pictures of docs/gallery.md this way; the tests run every page's blocks with small budgets.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[\w-]*)[^\n]*\n(?P<text>.*?)^(?P=indent)```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class CodeBlock:
    """A fenced block of a page."""

    page: Path
    line: int
    """Of the page, where the code begins; counted from 1."""
    language: str
    """What stands behind the fence; empty when nothing does."""
    text: str


def read_blocks(page: Path, language: str | None = None) -> list[CodeBlock]:
    """The fenced blocks of a Markdown page in order; of one language, or all when it is None."""
    content = page.read_text(encoding="utf-8")
    blocks = []
    for fence in _FENCE.finditer(content):
        text = re.sub(rf"^{fence['indent']}", "", fence["text"], flags=re.MULTILINE)
        line = content.count("\n", 0, fence.start("text")) + 1
        blocks.append(CodeBlock(page, line, fence["language"], text))
    return [block for block in blocks if language is None or block.language == language]


def run_block(block: CodeBlock, namespace: dict[str, Any]) -> None:
    """Run a Python block in a namespace that the page's blocks share; errors name the page and its line."""
    code = compile("\n" * (block.line - 1) + block.text, str(block.page), "exec")
    exec(code, namespace)


def main() -> None:
    """Run the Python blocks of a page, one after another, in a folder."""
    page, folder = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in read_blocks(page, "python"):
        started = perf_counter()
        run_block(block, namespace)
        sys.stdout.write(f"{page.name}:{block.line}: {perf_counter() - started:.0f} s\n")


if __name__ == "__main__":
    main()
