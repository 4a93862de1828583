"""The script behind docs/differences.md: our maps equal those of captum, xaitk and the 2018 code."""

from __future__ import annotations

import pytest
from compare_with_sources import compare, displacement


def test_maps_equal_those_of_the_sources() -> None:
    rows = compare(2)  # a background of one input would be that input
    assert len(rows) == 7
    for row in rows:
        assert row.difference <= (1e-6 if "float64" in row.source else 1e-4), row


def test_the_grid_of_2018_moves_its_last_score_most() -> None:
    first, last = displacement()
    assert abs(first) < 1
    assert last == pytest.approx(4.4, abs=0.1)
