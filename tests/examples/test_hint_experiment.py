"""The experiment with hints runs as it stands, with a small budget; what it finds takes minutes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from programs import run


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_three_agents_are_trained_measured_and_saved(tmp_path: Path) -> None:
    small = ["--steps", 24, "--updates", 1, "--play", 24, "--decisions", 2]
    run("hint_experiment.py", *small, "--json", "hints.json", "--save", "agents", folder=tmp_path)
    table = json.loads((tmp_path / "hints.json").read_text())
    assert set(table) == {"follows", "follows late", "control"}
    for numbers in table.values():
        assert all(0 <= number <= 1 for number in numbers.values())
        assert numbers["area"] == pytest.approx(118 / 80**2)  # 4 rows of 30 columns, but for two dark corners
    assert sorted(path.name for path in (tmp_path / "agents").iterdir()) == ["control.pt", "follows-late.pt", "follows.pt"]
