"""`TinyAgent`: an untrained recurrent agent in the published form, for tests and examples."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LSTMState = tuple[Tensor, Tensor]


class TinyAgent(nn.Module):
    """`value, logits, state = agent((x, state))` with one convolution, one `nn.LSTMCell` and two heads.

    Inputs are `(n, channels, h, w)`, the state is `(hx, cx)` with `(n, 8)` each, logits are `(n, num_actions)` and values `(n, 1)`.
    """

    def __init__(self, num_actions: int = 3, channels: int = 1, size: tuple[int, int] = (12, 12), seed: int | None = None) -> None:
        """Build the network.

        Args:
            num_actions: the number of logits.
            channels: of the input.
            size: `(h, w)` of the input.
            seed: of the weights; torch's random state stays as it is. None: the weights are drawn from torch's random state.
        """
        super().__init__()
        with torch.random.fork_rng(devices=[], enabled=seed is not None):
            if seed is not None:
                torch.manual_seed(seed)
            self.conv = nn.Conv2d(channels, 4, 3, stride=2, padding=1)
            self.lstm = nn.LSTMCell(4 * -(-size[0] // 2) * -(-size[1] // 2), 8)
            self.critic_linear = nn.Linear(8, 1)
            self.actor_linear = nn.Linear(8, num_actions)

    def forward(self, inputs: tuple[Tensor, LSTMState | None]) -> tuple[Tensor, Tensor, LSTMState]:
        """Return value `(n, 1)`, logits `(n, num_actions)` and the next state; a state of None is zeros."""
        x, state = inputs
        hx, cx = self.lstm(torch.tanh(self.conv(x)).flatten(1), state)
        return self.critic_linear(hx), self.actor_linear(hx), (hx, cx)
