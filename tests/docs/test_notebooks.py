"""The notebooks run from top to bottom in a kernel, with small budgets; they are committed without outputs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nbformat
import pytest
from documentation import ROOT

NOTEBOOKS = ROOT / "notebooks"
BUDGETS = {
    "published_application": "STEPS, FIRST, LAST, SHOW, MASKS = 8, 3, 5, 4, 8",
    "sb3_evaluation": "STEPS, EVERY, PLAY, UNITS = 128, 64, 4, 8",
    "which_map_to_trust": "STEPS, DECISIONS, RESAMPLES = 50, 3, 10",
    "cluster_and_viewer": "STEPS, WORKERS = 40, 1",
}


def test_every_notebook_has_a_budget() -> None:
    assert {file.stem for file in NOTEBOOKS.glob("*.ipynb")} == BUDGETS.keys()


@pytest.mark.parametrize("name", BUDGETS)
def test_notebooks_are_committed_without_outputs(name: str) -> None:
    for cell in nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")  # jupyter's own
@pytest.mark.parametrize("name", BUDGETS)
def test_a_notebook_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for variable in ("JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    parameters = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    parameters.source = BUDGETS[name]
    NotebookClient(notebook, timeout=500, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
