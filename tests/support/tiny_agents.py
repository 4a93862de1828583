"""Tiny recurrent agents, and inputs for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from saliency_wrappers.testing import TinyAgent


class TinyLSTM(TinyAgent):
    """A user's agent in the published form, with nothing but an `nn.LSTMCell`: `(n, channels, 12, 12)` in, three actions out."""


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
