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
