"""Tiny recurrent agents and fixtures that several test files share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

torch.set_num_threads(1)  # sums in a fixed order, and no fight over cores


class TinyLSTM(nn.Module):
    """A user's agent in the published form, with nothing but an `nn.LSTMCell`: `(n, channels, 12, 12)` in, three actions out."""

    def __init__(self, num_actions: int = 3, channels: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3, stride=2, padding=1)
        self.lstm = nn.LSTMCell(4 * 6 * 6, 8)
        self.critic_linear = nn.Linear(8, 1)
        self.actor_linear = nn.Linear(8, num_actions)

    def forward(self, inputs: tuple[Tensor, Any]) -> tuple[Tensor, Tensor, Any]:
        x, state = inputs
        hx, cx = self.lstm(torch.tanh(self.conv(x)).flatten(1), state)
        return self.critic_linear(hx), self.actor_linear(hx), (hx, cx)


class TinyGRU(nn.Module):
    """The same with one `nn.GRUCell` and one state tensor."""

    def __init__(self, num_actions: int = 3, channels: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3, stride=2, padding=1)
        self.gru = nn.GRUCell(4 * 6 * 6, 8)
        self.critic_linear = nn.Linear(8, 1)
        self.actor_linear = nn.Linear(8, num_actions)

    def forward(self, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        x, state = inputs
        hx = self.gru(torch.tanh(self.conv(x)).flatten(1), state)
        return self.critic_linear(hx), self.actor_linear(hx), hx


def seeded(make: Any, *args: Any, **kwargs: Any) -> Any:
    """A network whose weights are the same in every run."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make(*args, **kwargs).eval()


def images(n: int = 1, channels: int = 1, size: int = 12, seed: int = 0) -> Tensor:
    """`(n, channels, size, size)` network inputs in [0, 1], the same in every run."""
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(seed))


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
