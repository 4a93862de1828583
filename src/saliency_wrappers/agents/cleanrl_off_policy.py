"""CleanRL's agents with Q-functions: `ActorQAdapter` for SAC, TD3 and DDPG, of an actor and its critics; `C51Adapter` for C51."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from inspect import BoundArguments
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from saliency_wrappers.agents.base import ImageOptions, OnPass, PolicyForm, is_network_input, repeat_rows
from saliency_wrappers.agents.image_layout import ImageLayout
from saliency_wrappers.agents.method_hooks import observe_calls
from saliency_wrappers.agents.module_hooks import outputs_of, undisturbed
from saliency_wrappers.agents.taken_action import TakenAction, differs
from saliency_wrappers.decisions import AgentPass, numbers_of
from saliency_wrappers.states import StateTree, copy_tensor


class ActorQAdapter:
    """An actor and critics in the manner of CleanRL's `sac_continuous_action`, `td3_continuous_action` and `ddpg_continuous_action`.

    `RecurrentAgentHook(ActorQAdapter(actor, qf1, qf2))` hooks one. An actor with `get_action`, whose forward pass gives `(mean, log_std)`,
    acts by that method: these are the policy output, `(n, 2 * action_size)`. Any other acts by `actor(x)`, and its action is the output.
    The value is the smallest of the critics' for the action that the environment is given, noise included; the action travels as the
    decision's state.
    """

    takes_observations = True
    """Its input is the observation as the environment returned it: a pass on anything else is no decision."""

    def __init__(self, actor: nn.Module, *critics: nn.Module, input_range: tuple[float, float] = (0.0, 255.0)) -> None:
        """Adapt an actor.

        Args:
            actor: acts by `actor.get_action(x)`, or by `actor(x)`.
            critics: each called as `critic(x, action)`, with actions in the environment's bounds. Without any there is no value.
            input_range: the lowest and highest value of images; CleanRL's agents divide by 255 themselves.
        """
        self.module = nn.ModuleDict({"actor": actor, **{f"critic {i}": critic for i, critic in enumerate(critics)}})
        self.input_range = input_range
        self._actor, self._critics = actor, critics
        self._method = "get_action" if callable(getattr(actor, "get_action", None)) else "forward"
        self.form = f"actor.{self._method}(x), with images (n, C, h, w) or vectors (n, features)"

    @property
    def policy_form(self) -> PolicyForm:
        """`"gaussian"` for an actor with `get_action`, otherwise `"numbers"`."""
        return "gaussian" if self._method == "get_action" else "numbers"

    @property
    def layers(self) -> Mapping[str, nn.Module]:
        """The actor itself, which `get_action` calls."""
        return {"actor": self._actor} if self._method == "get_action" else {}

    def evaluate(self, inputs: Tensor, state: StateTree, episode_start: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Policy output `(n, outputs)`, and Q `(n, 1)` of the actions in `state`."""
        with self._undisturbed():
            return _side_by_side(self._actor(inputs)), self._q(inputs, cast("TakenAction", state).action)

    def attach(self, on_pass: OnPass) -> Callable[[], None]:
        """Call `on_pass` after every call by which the actor acts, until the function that is returned is called."""
        return observe_calls(self._actor, [self._method], self, on_pass)

    def initial_state(self, n: int) -> StateTree:
        """Actions of zeros."""
        scale: Any = getattr(self._actor, "action_scale", None)
        size = _action_size(self._actor) if scale is None or scale.ndim == 0 else scale.shape[-1]
        return TakenAction(torch.zeros(n, size, device=next(self._actor.parameters()).device))

    def repeat_state(self, state: StateTree, n: int) -> StateTree:
        """Each row's action n times in a row."""
        return repeat_rows(self, state, n)

    def entering(self, method: str, call: BoundArguments) -> AgentPass | None:
        """The observation, by reference."""
        observation: Any = next(iter(call.arguments.values()), None)
        return AgentPass(observation.detach(), None, None, None, copied=True) if is_network_input(observation) else None

    def leaving(self, method: str, incoming: AgentPass, output: Any, layers: Mapping[str, Any]) -> AgentPass | None:
        """What the actor gave, copied: TD3 adds noise to it in place."""
        told = layers.get("actor", output)
        action = output[0] if isinstance(output, tuple) else output
        incoming.state = TakenAction(copy_tensor(action))
        incoming.complete, incoming.on_actions = (self._complete, self._take) if self._critics else (None, None)
        return incoming.gave(copy_tensor(_side_by_side(told)), None)

    def _undisturbed(self) -> ExitStack:
        stack = ExitStack()
        for module in (self._actor, *self._critics):
            stack.enter_context(undisturbed(module))
        return stack

    def _q(self, inputs: Tensor, action: Tensor) -> Tensor | None:
        if not self._critics:
            return None
        judged = [critic(inputs, action).reshape(len(inputs), 1) for critic in self._critics]
        return torch.cat(judged, dim=1).min(dim=1, keepdim=True).values

    def _complete(self, incoming: AgentPass) -> None:
        with self._undisturbed():
            value = self._q(incoming.inputs.clone(), cast("TakenAction", incoming.state).action)
        incoming.gave(incoming.logits, None if value is None else copy_tensor(value))

    def _take(self, incoming: AgentPass, actions: Sequence[Any]) -> None:
        """The value of the actions that the environments are given, where these are others than the actor's."""
        chosen = cast("TakenAction", incoming.state).action
        taken = differs(chosen, lambda: np.asarray([np.asarray(action, np.float32) for action in actions], np.float32))
        if taken is not None:
            incoming.state = TakenAction(taken)
            self._complete(incoming)
            incoming.numbers = numbers_of(incoming.logits, incoming.value)


class C51Adapter:
    """A distributional Q-network in the manner of CleanRL's `c51`, that acts by `q_network.get_action(x)`.

    The policy output is the mean of each action's return distribution, `(n, num_actions)`, by the atoms' probabilities; there is no value.
    A call with an action is a training pass and never decides.
    """

    form = "q_network.get_action(x), with images (n, C, h, w) or vectors (n, features)"
    takes_observations = True
    """Its input is the observation as the environment returned it: a pass on anything else is no decision."""
    policy_form: PolicyForm = "numbers"

    def __init__(self, network: Any, input_range: tuple[float, float] = (0.0, 255.0), *, channels_last: bool | None = None) -> None:
        """Adapt a network with `atoms` `(n_atoms,)`, and `network`, whose output `(n, num_actions * n_atoms)` are the atoms' logits.

        Args:
            network: the Q-network.
            input_range: the lowest and highest value of images; CleanRL's agents divide by 255 themselves.
            channels_last: whether its images are `(n, h, w, C)`. None: as its first convolution tells, see `ImageLayout`.
        """
        self.module: nn.Module = network
        self.input_range = input_range
        self.layout = ImageLayout(network, channels_last)

    @property
    def layers(self) -> Mapping[str, nn.Module]:
        """What gives the atoms' logits."""
        network: Any = self.module
        return {"atoms": network.network}

    def evaluate(self, inputs: Tensor, state: StateTree, episode_start: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Means `(n, num_actions)`, and None."""
        network: Any = self.module
        with undisturbed(self.module), outputs_of(**self.layers) as layers:
            network.get_action(self.layout.as_given(inputs))
            return self._means(layers["atoms"]), None

    def attach(self, on_pass: OnPass) -> Callable[[], None]:
        """Call `on_pass` after every call of `get_action`, until the function that is returned is called."""
        return observe_calls(self.module, ["get_action"], self, on_pass)

    def initial_state(self, n: int) -> StateTree:
        """None: it has no memory."""
        return None

    def repeat_state(self, state: StateTree, n: int) -> StateTree:
        """The same None."""
        return state

    def entering(self, method: str, call: BoundArguments) -> AgentPass | None:
        """The observation, by reference."""
        observation: Any = next(iter(call.arguments.values()), None)
        if not is_network_input(observation):
            return None
        inputs = self.layout.channels_first(observation.detach())
        return AgentPass(inputs, None, None, None, scored_action=call.arguments.get("action") is not None, copied=True)

    def leaving(self, method: str, incoming: AgentPass, output: Any, layers: Mapping[str, Any]) -> AgentPass | None:
        """The means behind the action."""
        return incoming.gave(self._means(layers["atoms"]), None)

    def _means(self, logits: Tensor) -> Tensor:
        network: Any = self.module
        probabilities = logits.reshape(len(logits), -1, len(network.atoms)).softmax(dim=2)
        return (probabilities * network.atoms).sum(dim=2)


def adapt(agent: Any, options: ImageOptions) -> C51Adapter | None:
    """Return the adapter for a module with `get_action`, `atoms` and `network`; None for anything else."""
    if not isinstance(agent, nn.Module) or not callable(getattr(agent, "get_action", None)):
        return None
    if not isinstance(getattr(agent, "atoms", None), Tensor) or not hasattr(agent, "network"):
        return None
    return C51Adapter(agent, **options.without_image(agent))


def _side_by_side(output: Any) -> Tensor:
    return torch.cat([output[0], output[1]], dim=1) if isinstance(output, tuple) else output


def _action_size(actor: nn.Module) -> int:
    """The number of outputs of the actor's last linear layer."""
    layers = [layer for layer in actor.modules() if isinstance(layer, nn.Linear)]
    if not layers:
        raise TypeError(f"Expected {type(actor).__name__} to have action_scale or a linear layer, which tell the size of an action.")
    return layers[-1].out_features
