"""The package's shape: imports flow one way, importing it stays light, and its types ship with it."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest

import saliency_wrappers

PACKAGE = "saliency_wrappers"
SOURCE = Path(saliency_wrappers.__file__).parent

# A file imports only from files above it: from earlier rows, or from earlier in its row. A new module gets its place here.
FLOW = [
    ["records", "preprocessing", "models"],
    ["agents.base", "agents.watching", "agents.calls", "agents.observations", "agents.policies", "agents.*", "agents"],
    ["windows", "hooks", "replay"],
    ["perturbation", "perturbers"],
    [
        *(
            "incremental",
            "incremental.workspace",
            "incremental.threads",
            "incremental.vectors",
            "incremental.tiles",
            "incremental.compiling",
            "incremental.place_kernels",
            "incremental.product_kernels",
            "incremental.layer_kernels",
            "incremental.cell_kernels",
            "incremental.kernels",
            "incremental.compiled",
        ),
        *("incremental.masking", "incremental.places", "incremental.products", "incremental.layouts", "incremental.layers"),
        *("incremental.changes", "incremental.operators", "incremental.features", "incremental.batch"),
    ],
    ["passes", "evaluation", "scoring", "saliency", "overlay"],
    ["storage", "storage.locations", "storage.chunks", "storage.trees", "storage.headers", "storage.background", "storage.columns"],
    ["storage.map_layers", "storage.writing", "storage.episodes", "store"],
    ["fingerprints", "backends", "deferred"],
    ["wiring", "clocks", "triggers", "failures", "explaining", "capturing", "recording", "recorder", "vector", "vec_env"],
    ["streaming", "film", "camera", "observations", "vector_video", "video", "sb3"],
    ["faithfulness", "snapshots", "testing", "installation", "playing", "collecting", "terminal", "store_commands", "cli"],
    [PACKAGE],
]
ORDER = [module for row in FLOW for module in row]

OPTIONAL = {
    "cloudpickle",
    "dask",
    "distributed",
    "fsspec",
    "joblib",
    "matplotlib",
    "numcodecs",
    "ray",
    "sb3_contrib",
    "stable_baselines3",
    "tensorboard",
    "wandb",
    "zarr",
}
SLOW = {"moviepy"}


def place(module: str) -> int:
    """The module's rank in the flow; the families of `agents.*` share one, so none may import another."""
    names = (module, "agents.*") if module.startswith("agents.") else (module,)
    found = next((ORDER.index(name) for name in names if name in ORDER), None)
    assert found is not None, f"The module {module!r} has no place in the one-way flow: add it to FLOW in {Path(__file__).name}."
    return found


def module_name(file: Path, root: Path) -> str:
    """`agents/base.py` is `agents.base`, `agents/__init__.py` is `agents`, the root's `__init__.py` the package's own name."""
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__") or PACKAGE


def modules(root: Path) -> dict[str, Path]:
    return {module_name(file, root): file for file in sorted(root.rglob("*.py"))}


def imported_names(module: str, file: Path) -> Iterator[str]:
    """Every absolute dotted name that the file's import statements mention, those inside functions included."""
    package = [PACKAGE, *([] if module == PACKAGE else module.split("."))]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = node.level - (file.name == "__init__.py")
            parents = package[: len(package) - above] if node.level else []
            source = [*parents, *(node.module.split(".") if node.module else [])]
            yield from (".".join([*source, alias.name]) for alias in node.names)


def internal_imports(module: str, file: Path, known: dict[str, Path]) -> set[str]:
    """The package's own modules that the file imports: the longest known prefix of each name."""
    found: set[str] = set()
    for name in imported_names(module, file):
        root, *parts = name.split(".")
        if root == PACKAGE:
            prefixes = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
            found.add(next((prefix for prefix in prefixes if prefix in known), PACKAGE))
    return found


def violations(root: Path) -> list[str]:
    known = modules(root)
    places = {module: place(module) for module in known}
    return [
        f"{module} imports {other}, which is not above it"
        for module, file in known.items()
        for other in sorted(internal_imports(module, file, known) - {module})
        if places[other] >= places[module]
    ]


def test_a_file_imports_only_from_files_above_it() -> None:
    assert violations(SOURCE) == []


@pytest.mark.parametrize(
    ("file", "line", "complaint"),
    [
        ("records.py", "from saliency_wrappers.hooks import x", "records imports hooks"),
        ("records.py", "import saliency_wrappers.hooks", "records imports hooks"),
        ("records.py", "from . import hooks", "records imports hooks"),
        ("records.py", "from .hooks import x", "records imports hooks"),
        ("records.py", "def late():\n    from saliency_wrappers.hooks import x", "records imports hooks"),
        ("records.py", "from saliency_wrappers import public", "records imports saliency_wrappers"),
        ("records.py", "import saliency_wrappers", "records imports saliency_wrappers"),
        ("agents/atari.py", "from saliency_wrappers.agents.sb3 import x", "agents.atari imports agents.sb3"),
        ("agents/base.py", "from .atari import x", "agents.base imports agents.atari"),
        ("agents/base.py", "from ..hooks import x", "agents.base imports hooks"),
        ("agents/base.py", "from . import as_adapter", "agents.base imports agents"),
        ("agents/__init__.py", "from ..hooks import x", "agents imports hooks"),
    ],
)
def test_an_import_against_the_flow_is_found(tmp_path: Path, file: str, line: str, complaint: str) -> None:
    write_flow(tmp_path)
    (tmp_path / file).write_text(line, encoding="utf-8")
    assert violations(tmp_path) == [f"{complaint}, which is not above it"]


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("hooks.py", "from saliency_wrappers.agents import as_adapter"),
        ("hooks.py", "from .records import x\nfrom .agents.base import y"),
        ("agents/__init__.py", "from .base import x\nfrom . import sb3"),
        ("agents/sb3.py", "from ..records import x\nfrom .base import y"),
        ("__init__.py", "from .hooks import x\nfrom saliency_wrappers.cli import main"),
        ("records.py", "import numpy.typing\nfrom torch import nn"),
    ],
)
def test_an_import_along_the_flow_is_fine(tmp_path: Path, file: str, line: str) -> None:
    write_flow(tmp_path)
    (tmp_path / file).write_text(line, encoding="utf-8")
    assert violations(tmp_path) == []


def test_a_module_without_a_place_is_reported(tmp_path: Path) -> None:
    write_flow(tmp_path)
    (tmp_path / "utils.py").write_text("from .records import x", encoding="utf-8")
    with pytest.raises(AssertionError, match="'utils' has no place in the one-way flow"):
        violations(tmp_path)


def write_flow(root: Path) -> None:
    """An empty package with a few of the flow's modules."""
    (root / "agents").mkdir()
    for name in ("__init__", "records", "hooks", "cli", "agents/__init__", "agents/base", "agents/atari", "agents/sb3"):
        (root / f"{name}.py").touch()


def test_importing_the_package_loads_nothing_optional_or_slow() -> None:
    program = f"import json, sys, {PACKAGE}; print(json.dumps(sorted(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in json.loads(run.stdout)}
    assert PACKAGE in loaded
    assert loaded & (OPTIONAL | SLOW) == set()


def test_the_types_ship_with_the_package() -> None:
    assert resources.files(PACKAGE).joinpath("py.typed").is_file()
