"""Do the lowest versions work that pyproject.toml allows? `make lowest [TORCH=torch==2.4.0]`.

uv resolves the direct dependencies of the core and of the extras `store` and `viewer` to their lowest versions, in an environment of its
own, and the tests that take no time run in it. PyTorch stays at the version of constraints.txt unless one is named.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
UV = Path(sys.executable).with_name("uv")
TOOLS = ("pytest>=8.3", "pytest-timeout>=2.3", "hypothesis>=6.100", "selenium>=4.20", "matplotlib>=3.11")
TESTS = (
    "tests/agents tests/hooks tests/models tests/recording tests/saliency tests/states tests/store tests/video tests/wrappers"
    " tests/test_decisions.py tests/test_package.py tests/test_preprocessing.py tests/test_states.py"
)


def main() -> None:
    """Install and test."""
    torch = sys.argv[1] if len(sys.argv) > 1 else pinned("torch")
    known = {name: value for name, value in os.environ.items() if name not in ("PIP_CONSTRAINT", "PYTHONPATH", "VIRTUAL_ENV")}
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder, "venv", "bin", "python")
        subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, python.parents[1]], env=known, check=True)
        install = [UV, "pip", "install", "--python", python, "--resolution", "lowest-direct"]
        subprocess.run([*install, f"{ROOT}[store,viewer]", torch, *TOOLS], env=known, check=True)
        subprocess.run([UV, "pip", "list", "--python", python], env=known, check=True)
        tests = [test for test in TESTS.split() if (ROOT / test).exists()]
        command = [python, "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider", *tests, "--continue-on-collection-errors"]
        raise SystemExit(subprocess.run(command, cwd=ROOT, env=known, check=False).returncode)


def pinned(name: str) -> str:
    """What constraints.txt says of a package."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith(f"{name}=="))


if __name__ == "__main__":
    main()
