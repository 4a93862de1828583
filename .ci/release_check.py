"""Is what would be published good? `make release-check`.

Builds sdist and wheel into dist/, runs `twine check --strict`, and installs the wheel into two bare environments, by pip and by uv, without
any constraints; in each it runs `pip check`, `saliency-wrappers info` and README's first program, literally.

pip's own configuration counts. uv reads none of it: use UV_FIND_LINKS, UV_INDEX_URL and so on where the machine needs them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
DIST = ROOT / "dist"
LARGEST_WHEEL = 8_000_000
CONSTRAINTS = ("PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT")
sys.path.insert(0, str(ROOT / "docs"))

from code_blocks import read_blocks  # noqa: E402


def say(what: str) -> None:
    """Print a heading at once."""
    sys.stdout.write(f"== {what}\n")
    sys.stdout.flush()


def run(*words: str | Path, cwd: Path = ROOT, **environment: str) -> None:
    """Run a program; an error ends the check."""
    known = {name: value for name, value in os.environ.items() if name not in (*CONSTRAINTS, "PYTHONPATH", "VIRTUAL_ENV")}
    subprocess.run([str(word) for word in words], cwd=cwd, env=known | environment, check=True)


def build() -> Path:
    """Build sdist and wheel, the wheel from the sdist; the wheel."""
    say("build, in an isolated environment")
    shutil.rmtree(DIST, ignore_errors=True)
    pins = {name: str(ROOT / "constraints.txt") for name in CONSTRAINTS}
    run(sys.executable, "-m", "build", "--outdir", DIST, **pins)
    say("twine check")
    run(sys.executable, "-m", "twine", "check", "--strict", *sorted(DIST.iterdir()))
    (wheel,) = DIST.glob("*.whl")
    check_contents(wheel)
    return wheel


def check_contents(wheel: Path) -> None:
    """Types, agents and licence are in the wheel, tests are not; the sdist can be tested.

    Raises:
        SystemExit: something is missing, or there is too much.
    """
    names = zipfile.ZipFile(wheel).namelist()
    (sdist,) = DIST.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        sources = ["/".join(name.split("/")[1:]) for name in archive.getnames()]
    wanted = ("py.typed", "data/breakout.safetensors", "data/pong.safetensors", "licenses/LICENSE", "viewer/page/page.js")
    missing = [name for name in wanted if not any(one.endswith(name) for one in names)]
    missing += [name for name in ("tests/conftest.py", "docs/index.md", "Makefile", "mkdocs.yml") if name not in sources]
    stray = [name for name in names if not name.startswith("saliency_wrappers") or name.endswith((".pyc", ".nbc", ".nbi"))]
    size = wheel.stat().st_size
    say(f"wheel: {size / 1e6:.1f} MB, {len(names)} files; sdist: {sdist.stat().st_size / 1e6:.1f} MB, {len(sources)} files")
    if missing or stray or size > LARGEST_WHEEL:
        raise SystemExit(f"Expected a wheel of at most {LARGEST_WHEEL} bytes with everything needed; missing: {missing}, stray: {stray}.")


def try_out(python: Path, folder: Path) -> None:
    """What a new user does: the command, and README's first program as it stands."""
    program = folder / "readme.py"
    program.write_text(read_blocks(ROOT / "README.md", "python")[0].text, encoding="utf-8")
    run(python.with_name("saliency-wrappers"), "info", cwd=folder)
    run(python, program, cwd=folder)
    films = list((folder / "videos").glob("*.mp4"))
    if not films or min(film.stat().st_size for film in films) < 10_000:
        raise SystemExit(f"Expected README's program to film an episode, got {films}.")
    say(f"README's program wrote {films[0].name}, {films[0].stat().st_size} bytes")


def main() -> None:
    """Build, check, install twice, try out."""
    wheel = build()
    with tempfile.TemporaryDirectory() as parent:
        say("pip, bare environment, no constraints")
        folder = Path(parent, "pip")
        run(sys.executable, "-m", "venv", folder)
        python = folder / "bin" / "python"
        run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel)
        run(python, "-m", "pip", "check")
        try_out(python, folder)
        shutil.rmtree(folder)
        say("uv, bare environment, no constraints")
        folder = Path(parent, "uv")
        run(BIN / "uv", "venv", "--quiet", "--python", sys.executable, folder)
        python = folder / "bin" / "python"
        run(BIN / "uv", "pip", "install", "--quiet", "--python", python, wheel)
        run(BIN / "uv", "pip", "check", "--python", python)
        try_out(python, folder)
    say("everything passed")


if __name__ == "__main__":
    main()
