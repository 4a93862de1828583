"""Tiny recurrent agents and fixtures that several test files share."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from tiny_agents import TinyGRU, TinyLSTM, seeded

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as under nohup or in `make test &`; child processes would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

torch.set_num_threads(1)  # sums in a fixed order, and no fight over cores


@pytest.fixture(autouse=True)
def _no_timing_decides(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where both paths can be taken the incremental one counts as the faster, so that no test depends on a measurement."""
    if "measured" not in request.fixturenames:
        monkeypatch.setattr("saliency_wrappers.saliency.paths.Evaluation._measured", lambda *_: (0.0, 1.0))


@pytest.fixture
def measured() -> None:
    """Let the faster path be found by measurement."""


@pytest.fixture
def tiny_lstm() -> TinyLSTM:
    return seeded(TinyLSTM)


@pytest.fixture
def tiny_gru() -> TinyGRU:
    return seeded(TinyGRU)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of trained agents and reference maps, which is no part of the repository."""
    folder = Path(__file__).parents[2] / "shared"
    if not (folder / "reference").is_dir():
        pytest.skip(f"needs the trained agents and reference maps in {folder}, which are not part of the repository")
    return folder


SLOW = (
    "tests/examples/",
    "tests/benchmarks/",
    "tests/compute/",
    "tests/docs/",
    "tests/store/test_kills.py",
    "tests/store/test_memory.py",
    "tests/wrappers/test_memory.py",
)
SLOW += ("tests/saliency/incremental/", "tests/agents/test_sb3.py", "tests/agents/test_sb3_contrib.py", "tests/hooks/test_hook.py")
"""Folders and files whose tests are marked as slow: they start processes, train, or try many shapes."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    root = Path(__file__).parents[1]
    for item in items:
        if item.path.relative_to(root).as_posix().startswith(SLOW):
            item.add_marker(pytest.mark.slow)
