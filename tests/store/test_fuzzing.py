"""Mutated stores and checkpoints give right data or a documented error, in bounded time and memory. `make torture` tries 10,000 of each."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzzing import fuzz


@pytest.mark.parametrize("what", ["store", "checkpoint"])
def test_200_mutations_give_right_data_or_a_documented_error(tmp_path: Path, what: str) -> None:
    outcomes = fuzz(what, tmp_path, 0, 200)
    assert outcomes.total() == 200
    assert outcomes["right"] >= 10  # a mutation that does not matter
    assert outcomes["StoreError"] + outcomes["CheckpointError"] >= 100
