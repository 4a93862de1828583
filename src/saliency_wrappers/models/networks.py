"""Recurrent actor-critic networks.

`GreydanusLSTM` is the published Atari agent, `BabyA3CGRU` its GRU variant and the network of the bundled agents, `AtariLSTM` a smaller one.
All three act the same way: `value, logits, state = model((x, state))`.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from torch.nn import functional

LSTMState = tuple[Tensor, Tensor]


class _ConvTrunk(nn.Module):
    """Four 3x3 convolutions of stride 2 with ELU, `(n, 1, 80, 80)` to `(n, 800)`."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 32, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(32, 32, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(32, 32, 3, stride=2, padding=1)
        self.conv4 = nn.Conv2d(32, 32, 3, stride=2, padding=1)

    def features(self, x: Tensor) -> Tensor:
        """Return the flattened activations of the last convolution, `(n, 800)` float32."""
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = functional.elu(conv(x))
        return x.flatten(1)


class GreydanusLSTM(_ConvTrunk):
    """The LSTM actor-critic of Greydanus et al. (2018), `visualize_atari`.

    Input: `(n, 1, 80, 80)` float32 in [0, 1] and the state `(hx, cx)`, each `(n, 256)` float32.
    """

    state_size = 256

    def __init__(self, num_actions: int, channels: int = 1) -> None:
        super().__init__(channels)
        self.lstm = nn.LSTMCell(800, self.state_size)
        self.critic_linear = nn.Linear(self.state_size, 1)
        self.actor_linear = nn.Linear(self.state_size, num_actions)

    def forward(self, inputs: tuple[Tensor, LSTMState]) -> tuple[Tensor, Tensor, LSTMState]:
        """Return value `(n, 1)`, logits `(n, num_actions)` and the next state."""
        x, state = inputs
        hx, cx = self.lstm(self.features(x), state)
        return self.critic_linear(hx), self.actor_linear(hx), (hx, cx)

    def initial_state(self, n: int) -> LSTMState:
        """Return the zero state of n episodes."""
        zeros = self.critic_linear.weight.new_zeros(n, self.state_size)
        return zeros, zeros.clone()


class BabyA3CGRU(_ConvTrunk):
    """The GRU actor-critic of baby-a3c, which the bundled agents use: one state tensor, `(n, 256)` float32.

    Input: `(n, 1, 80, 80)` float32 in [0, 1] and the state.
    """

    state_size = 256

    def __init__(self, num_actions: int, channels: int = 1) -> None:
        super().__init__(channels)
        self.gru = nn.GRUCell(800, self.state_size)
        self.critic_linear = nn.Linear(self.state_size, 1)
        self.actor_linear = nn.Linear(self.state_size, num_actions)

    def forward(self, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return value `(n, 1)`, logits `(n, num_actions)` and the next state."""
        x, state = inputs
        hx = self.gru(self.features(x), state)
        return self.critic_linear(hx), self.actor_linear(hx), hx

    def initial_state(self, n: int) -> Tensor:
        """Return the zero state of n episodes."""
        return self.critic_linear.weight.new_zeros(n, self.state_size)


class AtariLSTM(nn.Module):
    """The network of `examples/train_ppo_lstm.py`: two convolutions, a linear layer, an LSTM cell and two heads.

    Input: `(n, 1, 84, 84)` float32 in [0, 1] and the state `(hx, cx)`, each `(n, 128)` float32.
    Small on purpose: it learns Breakout on two CPU cores and weighs less than 5 MB.
    """

    state_size = 128

    def __init__(self, num_actions: int, channels: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 8, stride=4)
        self.conv2 = nn.Conv2d(16, 32, 4, stride=2)
        self.linear = nn.Linear(32 * 9 * 9, 256)
        self.lstm = nn.LSTMCell(256, self.state_size)
        self.critic_linear = nn.Linear(self.state_size, 1)
        self.actor_linear = nn.Linear(self.state_size, num_actions)

    def features(self, x: Tensor) -> Tensor:
        """Return the input of the LSTM cell, `(n, 256)` float32."""
        x = functional.relu(self.conv1(x))
        x = functional.relu(self.conv2(x))
        return functional.relu(self.linear(x.flatten(1)))

    def forward(self, inputs: tuple[Tensor, LSTMState]) -> tuple[Tensor, Tensor, LSTMState]:
        """Return value `(n, 1)`, logits `(n, num_actions)` and the next state."""
        x, state = inputs
        hx, cx = cast(LSTMState, self.lstm(self.features(x), state))
        return self.critic_linear(hx), self.actor_linear(hx), (hx, cx)

    def initial_state(self, n: int) -> LSTMState:
        """Return the zero state of n episodes."""
        zeros = self.critic_linear.weight.new_zeros(n, self.state_size)
        return zeros, zeros.clone()
