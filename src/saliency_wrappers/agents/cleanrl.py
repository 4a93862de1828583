"""CleanRL: `CleanRLAdapter` for agents with `get_action_and_value`, `QNetworkAdapter` for modules called as `q_network(x)`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from saliency_wrappers.agents.base import ImageOptions, OnPass, PolicyForm, is_network_input, zero_state
from saliency_wrappers.agents.image_layout import ImageLayout
from saliency_wrappers.agents.method_hooks import observe_calls
from saliency_wrappers.agents.module_hooks import observe, outputs_of, undisturbed
from saliency_wrappers.decisions import AgentPass
from saliency_wrappers.states import StateTree, copy_state, map_state


def adapt(agent: Any, options: ImageOptions) -> CleanRLAdapter | None:
    """Return the adapter for a module with `get_action_and_value`; None for anything else."""
    if not isinstance(agent, nn.Module):
        return None
    agent = getattr(agent, "_orig_mod", agent)  # torch.compile compiles `forward` only, and hands on every other method
    if not callable(getattr(agent, "get_action_and_value", None)):
        return None
    return CleanRLAdapter(agent, **options.without_image(agent))


class CleanRLAdapter:
    """Adapter for agents like CleanRL's PPO: `get_action_and_value(x, action=None)`, or `(x, lstm_state, done, action=None)` with memory.

    What the call returns has no logits: they are the output of the agent's layer `actor` during the call. A Gaussian agent has
    `actor_mean` and a parameter `actor_logstd` instead: then the mean and the logarithm of the standard deviation, `(n, 2 * action_size)`,
    take the logits' place. The value is the call's own. A call with an action is a training pass and never decides, nor does `get_value`.
    The state is `lstm_state`, `(layers, n, hidden)` twice, as it went in; the agent resets it itself where `done`, the decision's
    `episode_start`, is 1.
    """

    form = (
        "agent.get_action_and_value(x) or agent.get_action_and_value(x, lstm_state, done), with images (n, C, h, w) or vectors "
        "(n, features)"
    )
    takes_observations = True
    """Its input is the observation as the environment returned it: a pass on anything else is no decision."""
    methods = ("get_action_and_value", "get_value")

    def __init__(
        self,
        agent: nn.Module,
        input_range: tuple[float, float] = (0.0, 255.0),
        actor: nn.Module | None = None,
        *,
        channels_last: bool | None = None,
    ) -> None:
        """Adapt an agent.

        Args:
            agent: the agent.
            input_range: the lowest and highest value of the images it is given; CleanRL's agents divide by 255 themselves.
            actor: the layer whose output are the logits. None: `agent.actor` or `agent.actor_mean`.
            channels_last: whether its images are `(n, h, w, C)`. None: as its first convolution tells, see `ImageLayout`.

        Raises:
            TypeError: no such layer, or `get_action_and_value` with other parameters.
        """
        self.module = agent
        self.input_range = input_range
        self.layout = ImageLayout(agent, channels_last)
        self._actor = _actor_of(agent) if actor is None else actor
        self._form = _CallForm.of(agent)
        self.methods = tuple(name for name in self.methods if callable(getattr(agent, name, None)))

    @property
    def layers(self) -> Mapping[str, nn.Module]:
        """Return the layer of the actor, by name."""
        return {"actor": self._actor}

    @property
    def policy_form(self) -> PolicyForm:
        """`"gaussian"` for an agent with `actor_logstd`, otherwise `"logits"`."""
        return "gaussian" if isinstance(getattr(self.module, "actor_logstd", None), Tensor) else "logits"

    def evaluate(self, inputs: Tensor, state: StateTree, episode_start: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return logits `(n, outputs)` and values `(n, 1)` for images `(n, C, h, w)` in `input_range`; the sampled action is ignored."""
        with undisturbed(self.module):
            logits, output = self._run(inputs, map_state(Tensor.contiguous, state), episode_start)
            return logits, output[3]

    def act(self, inputs: Tensor, state: StateTree) -> tuple[Tensor, StateTree]:
        """Run one acting pass without gradients and return logits and the next state; the sampled action is ignored."""
        with torch.no_grad():
            logits, output = self._run(inputs, state, None)
        return logits, None if self._form.state is None else output[4]

    def attach(self, on_pass: OnPass) -> Callable[[], None]:
        """Call `on_pass` after every call, until the function that is returned is called."""
        return observe_calls(self.module, self.methods, self, on_pass)

    def initial_state(self, n: int) -> StateTree:
        """Return zeros for n episodes; None for an agent without memory."""
        return None if self._form.state is None else zero_state(self.module, n)

    def repeat_state(self, state: StateTree, n: int) -> StateTree:
        """Repeat each environment's state n times along the second axis."""
        return map_state(lambda leaf: leaf.repeat_interleave(n, dim=1), state)

    def entering(self, method: str, call: inspect.BoundArguments) -> AgentPass | None:
        """Return the pass before it runs: images by reference, the state copied."""
        arguments, form = call.arguments, self._form
        images = next(iter(arguments.values()), None)
        if not is_network_input(images):
            return None
        images = self.layout.channels_first(images)
        if method == "get_value":
            return AgentPass(images.detach(), None, None, None, copied=True)
        state = None if form.state is None else copy_state(arguments[form.state])
        start = None if form.done is None else arguments[form.done].detach().bool()
        return AgentPass(images.detach(), state, None, None, start, scored_action=arguments.get("action") is not None, copied=True)

    def leaving(self, method: str, incoming: AgentPass, output: Any, layers: Mapping[str, Any]) -> AgentPass | None:
        """Return the pass with logits from the actor's layer and the value from the call's output."""
        if method == "get_value":
            return incoming
        if not isinstance(output, tuple) or len(output) < 4:
            return None
        return incoming.gave(self._logits(layers["actor"]), output[3])

    def _run(self, inputs: Tensor, state: StateTree, episode_start: Tensor | None) -> tuple[Tensor, tuple[Any, ...]]:
        agent: Any = self.module
        arguments: dict[str, Any] = {self._form.inputs: self.layout.as_given(inputs)}
        if self._form.state is not None:
            arguments[self._form.state] = state
        if self._form.done is not None:
            start = torch.zeros(len(inputs), device=inputs.device) if episode_start is None else episode_start
            arguments[self._form.done] = start.float()
        with outputs_of(**self.layers) as heads:
            output = agent.get_action_and_value(**arguments)
        return self._logits(heads["actor"]), output

    def _logits(self, head: Tensor) -> Tensor:
        spread = getattr(self.module, "actor_logstd", None)
        return torch.cat([head, spread.detach().expand_as(head)], dim=1) if isinstance(spread, Tensor) else head


class QNetworkAdapter:
    """Adapter for Q-networks and any other module without memory called as `module(x)` that returns `(n, num_actions)`.

    Q-values stand for the logits, and there is no value. A random action of an epsilon-greedy policy is made without the network and has
    no decision. A training batch after the step is none either, for its size; where it has as many rows as there are environments, train
    within `with hook.paused():`.
    """

    form = "q_network(x) -> Q-values (n, num_actions), with images (n, C, h, w) or vectors (n, features)"
    policy_form: PolicyForm = "numbers"
    takes_observations = True
    """Its input is the observation as the environment returned it: a pass on anything else is no decision."""

    def __init__(self, module: nn.Module, input_range: tuple[float, float] = (0.0, 255.0), *, channels_last: bool | None = None) -> None:
        """Adapt a network.

        Args:
            module: the network.
            input_range: the lowest and highest value of its images; CleanRL's divide by 255 themselves.
            channels_last: whether its images are `(n, h, w, C)`. None: as its first convolution tells, see `ImageLayout`.
        """
        self.module = module
        self.input_range = input_range
        self.layout = ImageLayout(module, channels_last)

    def evaluate(self, inputs: Tensor, state: StateTree, episode_start: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return Q-values `(n, num_actions)` for images `(n, C, h, w)` in `input_range`, and None for the value."""
        with undisturbed(self.module):
            return self.module(self.layout.as_given(inputs)), None

    def act(self, inputs: Tensor, state: StateTree) -> tuple[Tensor, StateTree]:
        """Run one acting pass without gradients and return Q-values and None."""
        with torch.no_grad():
            return self.module(self.layout.as_given(inputs)), None

    def attach(self, on_pass: OnPass) -> Callable[[], None]:
        """Call `on_pass` after every pass, until the function that is returned is called."""
        return observe(self.module, self, on_pass)

    def initial_state(self, n: int) -> StateTree:
        """Return None: the network has no memory."""
        return None

    def repeat_state(self, state: StateTree, n: int) -> StateTree:
        """Return None: the network has no memory."""
        return state

    def incoming(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> AgentPass | None:
        """Return the pass before it runs: images by reference."""
        images = args[0] if len(args) == 1 and not kwargs else None
        if not is_network_input(images):
            return None
        return AgentPass(self.layout.channels_first(images.detach()), None, None, None, copied=True)

    def outgoing(self, incoming: AgentPass, output: Any) -> AgentPass | None:
        """Return the pass with its Q-values."""
        return incoming.gave(output, None) if isinstance(output, Tensor) and output.ndim == 2 else None


class _CallForm(NamedTuple):
    """Names of the parameters of an agent's `get_action_and_value`."""

    inputs: str
    state: str | None
    done: str | None

    @staticmethod
    def of(agent: Any) -> _CallForm:
        names = [name for name in inspect.signature(agent.get_action_and_value).parameters if name != "action"]
        if len(names) == 1:
            return _CallForm(names[0], None, None)
        if len(names) == 3:
            return _CallForm(*names)
        raise TypeError(
            "Expected get_action_and_value(x, action=None) or get_action_and_value(x, lstm_state, done, action=None), got parameters "
            f"{tuple(names)}. Write a FunctionAdapter."
        )


def _actor_of(agent: nn.Module) -> nn.Module:
    for name in ("actor", "actor_mean"):
        layer = getattr(agent, name, None)
        if isinstance(layer, nn.Module):
            return layer
    raise TypeError(
        f"Expected {type(agent).__name__} to have a layer `actor` (or `actor_mean`) that gives the logits, which "
        "get_action_and_value does not return. Name it: CleanRLAdapter(agent, actor=agent.policy_head)."
    )
