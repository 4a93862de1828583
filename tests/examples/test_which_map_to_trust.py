"""The example on faithfulness runs as it stands, with a small budget."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from programs import run


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_table_is_printed_and_written(tmp_path: Path) -> None:
    said = run("which_map_to_trust.py", "--steps", 60, "--decisions", 4, "--resamples", 20, "--json", "table.json", folder=tmp_path)
    assert "4 of 60 decisions" in said
    assert "|x - background|" in said
    assert "Spearman of confidence and fidelity" in said
    written = json.loads((tmp_path / "table.json").read_text())
    assert written["baseline"] == "default (xaitk)"
