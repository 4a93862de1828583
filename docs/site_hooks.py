"""What the site's build does beyond Markdown: pages from files outside docs/, notebooks as pages, formulas as MathML.

MkDocs calls the functions named `on_*`. `GENERATED` says which files become pages; links to them from docs/ are rewritten, so that the same
Markdown works in the repository and on the site.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
GENERATED = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CODE_OF_CONDUCT.md": "code-of-conduct.md",
    "src/saliency_wrappers/data/breakout.md": "model-cards/breakout.md",
    "src/saliency_wrappers/data/pong.md": "model-cards/pong.md",
}
"""Pages of the site by the files of the repository that they show."""

_GROWTH = re.compile(r"<!-- bench_store.py -->(.*?)<!-- end -->", re.DOTALL)
_BACKEND = re.compile(r"^\| (loky|dask|ray) \| (\d+) \| [\d.]+ \| ([\d.]+) \|$", re.MULTILINE)
_LINK = re.compile(r"\]\((?P<up>(?:\.\./)+)(?P<path>[^)#\s]+)")
_MATH = re.compile(r'<(?P<tag>span|div) class="arithmatex">(?P<tex>.*?)</(?P=tag)>', re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made of other files, and the notebooks."""
    for source, target in GENERATED.items():
        if (ROOT / source).is_file():
            content = _within_site((ROOT / source).read_text(encoding="utf-8"), source)
            files.append(File.generated(config, target, content=content))
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        files.append(File.generated(config, f"notebooks/{notebook.stem}.md", content=_notebook_markdown(notebook)))
    files.append(File.generated(config, "images/growth.svg", content=growth_figure()))
    return files


def growth_figure() -> str:
    """The speed-up of each backend by the number of workers, drawn from the table in docs/performance.md, as SVG.

    Raises:
        ValueError: there is no such table.
    """
    found = _GROWTH.search((ROOT / "docs" / "performance.md").read_text(encoding="utf-8"))
    rows = [] if found is None else [(backend, int(workers), float(speed)) for backend, workers, speed in _BACKEND.findall(found[1])]
    if not rows:
        raise ValueError("Expected a table of backends between the comments of bench_store.py in docs/performance.md, found none.")
    most = max(2.0, *(workers for _, workers, _ in rows), *(speed for *_, speed in rows))
    bars = [_bar(i, backend, workers, speed, most) for i, (backend, workers, speed) in enumerate(rows)]
    height = 34 * len(rows) + 44
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 {height}" font-family="system-ui, sans-serif" font-size="14">'
        f'<rect width="720" height="{height}" rx="8" fill="#fff"/><text x="16" y="24" fill="#111">Speed-up over one worker of the same '
        f"backend (light: as many times as there are workers)</text>{''.join(bars)}</svg>"
    )


def _bar(index: int, backend: str, workers: int, speed: float, most: float) -> str:
    top, scale = 40 + 34 * index, 440 / most
    label = f"{backend}, {workers} worker{'s' if workers > 1 else ''}"
    return (
        f'<text x="16" y="{top + 17}" fill="#111">{label}</text><rect x="160" y="{top}" width="{workers * scale:.0f}" height="24" '
        f'fill="#dfe6f5"/><rect x="160" y="{top}" width="{speed * scale:.0f}" height="24" fill="#3f51b5"/>'
        f'<text x="{170 + max(workers, speed) * scale:.0f}" y="{top + 17}" fill="#111">{speed:.2f}</text>'
    )


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Point links that leave docs/ at the pages made of those files."""
    depth = page.file.src_uri.count("/")

    def rewrite(link: re.Match[str]) -> str:
        source = link["path"]
        if link["up"].count("../") != depth + 1:
            return link[0]
        target = GENERATED.get(source) or _notebook_page(source)
        return link[0] if target is None else f"]({'../' * depth}{target}"

    return _LINK.sub(rewrite, markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Make MathML of formulas: browsers show it without a script."""
    return _MATH.sub(_mathml, html)


def _mathml(found: re.Match[str]) -> str:
    tex = found["tex"].strip().removeprefix(r"\(").removesuffix(r"\)").removeprefix(r"\[").removesuffix(r"\]")
    tex = tex.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    return convert(tex, display="block" if found["tag"] == "div" else "inline")


def _notebook_page(source: str) -> str | None:
    path = Path(source)
    return f"notebooks/{path.stem}.md" if path.suffix == ".ipynb" and path.parts[0] == "notebooks" else None


def _within_site(text: str, source: str) -> str:
    """Links of a file at the root of the repository, as links of a page."""
    depth = GENERATED[source].count("/")
    up = "../" * depth
    text = re.sub(r"\]\(docs/", f"]({up}", text)
    return re.sub(r"\]\(((?:src/|[A-Z_]+\.md)[^)#\s]*)", lambda link: f"]({up}{GENERATED.get(link[1], link[1])}", text)


def _notebook_markdown(notebook: Path) -> str:
    """A notebook as a page: its text, and its code."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    parts = []
    for cell in cells:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
    parts.append(f"*This page is the notebook `notebooks/{notebook.name}` of the repository, without its outputs.*")
    return "\n\n".join(parts) + "\n"
