"""Networks on vector observations: `StableBaselinesMLP`, the `MlpPolicy` of PPO and A2C, and `CleanRLMLP`, the agent of CleanRL's `ppo`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise

from torch import Tensor, nn

Weights = Mapping[str, Tensor]


class VectorActorCritic(nn.Module):
    """An actor-critic of fully connected layers, called as `value, logits, state = model((x, None))`; it has no memory, the state is None.

    Input: `(n, features)` float32. Weights have the names of the agent that was trained, so that both have the same fingerprint.
    """

    features: int
    num_actions: int

    def forward(self, inputs: tuple[Tensor, None]) -> tuple[Tensor, Tensor, None]:
        """Act once: value `(n, 1)`, logits `(n, num_actions)`, and None."""
        raise NotImplementedError

    def initial_state(self, n: int) -> None:
        """Return None: there is no memory."""


class StableBaselinesMLP(VectorActorCritic):
    """The `MlpPolicy` of PPO and A2C of Stable-Baselines3, for discrete actions."""

    def __init__(self, weights: Weights, activation: type[nn.Module] = nn.Tanh) -> None:
        """Make the layers that these weights are of; they are not loaded."""
        super().__init__()
        self.mlp_extractor = nn.ModuleDict(
            {name: _layers(weights, f"mlp_extractor.{name}", activation, last=True) for name in ("policy_net", "value_net")}
        )
        (self.num_actions, hidden), (_, criticised) = weights["action_net.weight"].shape, weights["value_net.weight"].shape
        self.action_net, self.value_net = nn.Linear(hidden, self.num_actions), nn.Linear(criticised, 1)
        self.features = next((len(layer.weight[0]) for layer in self.modules() if isinstance(layer, nn.Linear)), hidden)

    def forward(self, inputs: tuple[Tensor, None]) -> tuple[Tensor, Tensor, None]:
        """Act once: value `(n, 1)`, logits `(n, num_actions)`, and None."""
        x, _ = inputs
        actor, critic = self.mlp_extractor["policy_net"](x), self.mlp_extractor["value_net"](x)
        return self.value_net(critic), self.action_net(actor), None


class CleanRLMLP(VectorActorCritic):
    """The agent of CleanRL's `ppo.py`: `actor` and `critic`, layers with `tanh` between them."""

    def __init__(self, weights: Weights) -> None:
        """Make the layers that these weights are of; they are not loaded."""
        super().__init__()
        self.actor, self.critic = (_layers(weights, name, nn.Tanh, last=False) for name in ("actor", "critic"))
        layers = [layer for layer in self.actor if isinstance(layer, nn.Linear)]
        self.features, self.num_actions = layers[0].in_features, layers[-1].out_features

    def forward(self, inputs: tuple[Tensor, None]) -> tuple[Tensor, Tensor, None]:
        """Act once: value `(n, 1)`, logits `(n, num_actions)`, and None."""
        x, _ = inputs
        return self.critic(x), self.actor(x), None


def vector_network(weights: Weights, activation: type[nn.Module] | None = None) -> VectorActorCritic | None:
    """Return the network on vectors that these weights are of, without them; None where there is none.

    Args:
        weights: by their names.
        activation: of a `StableBaselinesMLP`. None: `Tanh`, which is `MlpPolicy`'s own.
    """
    if not all(isinstance(name, str) for name in weights):
        return None
    heads = {"action_net.weight", "action_net.bias", "value_net.weight", "value_net.bias"}
    layers = re.compile(r"mlp_extractor\.(policy|value)_net\.\d+\.(weight|bias)")
    if heads <= weights.keys() and all(name in heads or layers.fullmatch(name) for name in weights):
        return StableBaselinesMLP(weights, activation or nn.Tanh)
    if {"actor.0.weight", "critic.0.weight"} <= weights.keys() and weights["actor.0.weight"].ndim == 2:
        return CleanRLMLP(weights) if all(re.fullmatch(r"(actor|critic)\.\d+\.(weight|bias)", name) for name in weights) else None
    return None


def _layers(weights: Weights, prefix: str, activation: type[nn.Module], *, last: bool) -> nn.Sequential:
    """Linear layers by the shapes of `{prefix}.{i}.weight`, an activation after each, after the last one only if `last`.

    Raises:
        ValueError: layers that do not follow one another.
    """
    numbers = sorted(int(name.split(".")[-2]) for name in weights if name.startswith(f"{prefix}.") and name.endswith(".weight"))
    shapes = [tuple(weights[f"{prefix}.{number}.weight"].shape) for number in numbers]
    fitting = all(len(shape) == 2 for shape in shapes) and all(one[0] == other[1] for one, other in pairwise(shapes))
    if numbers != list(range(0, 2 * len(numbers), 2)) or not fitting:
        raise ValueError(f"Expected linear layers {prefix}.0, {prefix}.2, ... that follow one another, got shapes {shapes} of {numbers}.")
    made: list[nn.Module] = []
    for outputs, inputs in shapes:
        made += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*(made if last else made[:-1]))
