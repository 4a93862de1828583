"""The n-th operation on files fails: everything committed is readable and right, at most one block is lost, no hooks are left.

Here a sample, chosen at random with a seed; `make torture` lets every operation fail in every way.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from failing import torture


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("what", "most"), [("recording", 10), ("computing", 8), ("filming", 4)])
def test_a_failing_operation_loses_a_block_at_most(tmp_path: Path, what: str, most: int) -> None:
    failed, cases = torture(what, tmp_path, most)
    assert failed == most
    assert cases > 100
