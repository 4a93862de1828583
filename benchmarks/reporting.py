"""What a benchmark leaves behind: Markdown tables on the screen and one JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from measuring import Spread

FOLDER = Path(__file__).resolve().parents[1] / "runs" / "bench"
"""Where the JSON files go."""


def markdown(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; columns of numbers are aligned to the right, the first one never."""
    numeric = [i > 0 and all(row[i].lstrip("+-")[:1].isdigit() or row[i] == "-" for row in rows) for i in range(len(titles))]
    lines = [titles, ["---:" if right else "---" for right in numeric], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def milliseconds(spread: Spread) -> list[str]:
    """Two cells: the median, and least..most."""
    return [f"{1000 * spread.median:.2f}", f"{1000 * spread.least:.2f}..{1000 * spread.most:.2f}"]


def times(spread: Spread | None) -> str:
    """One cell: a ratio's median, and its least..most in brackets; `-` where it was not measured."""
    return "-" if spread is None else f"{spread.median:.1f} ({spread.least:.1f}..{spread.most:.1f})"


def say(setting: Mapping[str, Any]) -> None:
    """Print facts, one a line."""
    click.echo("\n".join(f"{name}: {content}" for name, content in setting.items()))


def write(report: Mapping[str, Any], output: Path) -> None:
    """Write the JSON file and say where it is."""
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    click.echo(f"\nWritten to {output}")


def thread_counts(text: str) -> list[int]:
    """The numbers of threads in a comma-separated list."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise click.BadParameter(f"Expected numbers of threads such as 2,1, got {text!r}.")
    return [int(part) for part in parts]
