"""`FunctionAdapter`: any other agent, by a function that runs it and two that read its calls."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from inspect import BoundArguments
from typing import Any, cast

from torch import Tensor, nn

from saliency_wrappers.agents.base import OnPass, PolicyForm, is_network_input, repeat_rows, without_lists
from saliency_wrappers.agents.dict_observation import DictObservation
from saliency_wrappers.agents.method_hooks import observe_calls
from saliency_wrappers.agents.module_hooks import undisturbed
from saliency_wrappers.agents.policy_outputs import policy_tensor, read_outputs
from saliency_wrappers.decisions import AgentPass
from saliency_wrappers.states import StateTree, copy_state, copy_tensor

Evaluate = Callable[[Any, Any, Tensor | None], tuple[Tensor, Tensor | None]]
"""`evaluate(observation, state, episode_start) -> (logits, value)`."""


def _observation_and_state(observation: Any, state: Any = None, *_: Any, **__: Any) -> tuple[Any, Any]:
    return observation, state


def _logits_and_value(output: Any) -> tuple[Any, Any]:
    output = policy_tensor(output)
    if isinstance(output, Mapping) and (read := read_outputs(output)) is not None:
        return read
    return (output, None) if isinstance(output, Tensor) else (policy_tensor(output[0]), output[1])


def _no_memory(n: int) -> None:
    """Return None, the initial state of an agent without memory."""


def _without_memory(state: Any, told: bool) -> None:
    """Return None for a second argument that is no state (a flag, a number) of an agent without `initial_state`.

    Raises:
        TypeError: it is a state, or `incoming` says so (`told`).
    """
    tensors = isinstance(state, Tensor) or (isinstance(state, tuple | list) and any(isinstance(part, Tensor) for part in state))
    tensors |= isinstance(state, Mapping) and any(isinstance(part, Tensor) for part in cast("Mapping[str, Any]", state).values())
    if tensors or (told and state is not None):
        raise TypeError(
            "got a state, but no initial_state: construct FunctionAdapter(..., initial_state=lambda n: ...) for an agent with memory, or "
            "with incoming=lambda x, *_: (x, None) where the second argument is none"
        )


class FunctionAdapter:
    """Adapter for any agent, described by functions.

        adapter = FunctionAdapter(
            agent,                                                        # whose calls are watched
            evaluate=lambda x, state, start: agent(x, state)[:2],         # logits (n, num_actions) and value (n,), or None for the value
            incoming=lambda x, state: (x, state),                         # the call's own arguments: observation and state
            outgoing=lambda output: (output[0], output[1]),               # what it returned: logits and value
            initial_state=lambda n: torch.zeros(n, 256),                  # how an episode begins
            input_range=(0.0, 255.0),
        )
        check_adapter(adapter, inputs, play)                              # saliency_wrappers.testing: is all of that right?
        hook = RecurrentAgentHook(adapter)

    For continuous actions the logits are whatever describes the policy: `torch.cat([mean, log_std], dim=1)` for a Gaussian one.
    """

    def __init__(
        self,
        module: Any,
        evaluate: Evaluate,
        *,
        method: str = "forward",
        incoming: Callable[..., tuple[Any, ...] | None] = _observation_and_state,
        outgoing: Callable[[Any], tuple[Any, Any]] = _logits_and_value,
        actor: nn.Module | None = None,
        critic: nn.Module | None = None,
        initial_state: Callable[[int], Any] = _no_memory,
        state_attribute: str | None = None,
        image: str | None = None,
        others: Mapping[str, Tensor] | None = None,
        channels_last: bool = False,
        input_range: tuple[float, float] = (0.0, 1.0),
        policy_form: PolicyForm = "logits",
    ) -> None:
        """Describe how an agent is called and evaluated.

        Args:
            module: the `nn.Module` that acts, or an object that holds modules as its attributes.
            evaluate: runs the agent on n rows and returns logits `(n, outputs)` and values `(n,)`, `(n, 1)` or None. It gets the
                observation as the call does, but perturbed images are floating-point numbers in `input_range`, even where the agent is
                given uint8: it must not turn them into integers. Gradients, training mode and hooks are off, and torch's random state is
                restored.
            method: the method by which the agent acts; `"forward"` when it is called itself.
            incoming: of the call's own arguments makes `(observation, state)` or `(observation, state, episode_start)` of tensors with a
                batch axis; None for a call that does not act. The default takes the first two arguments.
            outgoing: of what the call returns makes `(logits, value)`. The default takes a tensor or a distribution as the logits, or the
                first two parts, or a mapping's `"logits"` and `"value"`. With `actor`, what you give here still tells the value.
                Where a call gives no value and `evaluate` does, as when acting runs the actor only, `evaluate` computes the decision's.
            actor: the layer whose output are the logits, when the call does not return them.
            critic: the layer whose output is the value, when the call does not return it.
            initial_state: the state in which n episodes begin. It tells the batch axes, too. The default: no memory.
            state_attribute: where the module keeps its state itself, as an attribute. It is read before the call; while `evaluate` runs the
                attribute holds the state in question, and afterwards what it held before.
            image: the key of the image, when observations are dictionaries.
            others: all their other keys, each with an example of one row, `{"speed": torch.zeros(2)}`. They go with the decision, as part
                of its state, and are passed through.
            channels_last: whether the agent is given images `(n, h, w, C)`.
            input_range: the lowest and highest value of the images.
            policy_form: what the logits are, see `PolicyForm`: `"gaussian"` for `torch.cat([mean, log_std], dim=1)`.

        Raises:
            TypeError: the agent has no such method or attribute.
        """
        for name in (method, *([state_attribute] if state_attribute else [])):
            if not hasattr(module, name):
                raise TypeError(f"Expected {type(module).__name__} to have {name!r}, by which it acts or remembers.")
        self.module = module
        self.input_range = input_range
        self.policy_form: PolicyForm = policy_form
        self.form = f"{type(module).__name__}.{method} as incoming and outgoing read it"
        self._evaluate, self._method, self._incoming, self._outgoing = evaluate, method, incoming, outgoing
        self._layers = {name: layer for name, layer in (("actor", actor), ("critic", critic)) if layer is not None}
        self._initial_state, self._state_attribute = initial_state, state_attribute
        self.parts = None if image is None else DictObservation(image, dict(others or {}))
        self.channels_last = channels_last
        self._evaluates_value = True  # until it is seen that it does not

    @property
    def layers(self) -> Mapping[str, nn.Module]:
        """Return the layers whose outputs the call does not return, by name."""
        return self._layers

    def evaluate(self, inputs: Tensor, state: StateTree, episode_start: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return what the given `evaluate` returns for images `(n, C, h, w)` or vectors `(n, features)`."""
        images = inputs.permute(0, 2, 3, 1) if self.channels_last and inputs.ndim == 4 else inputs
        observation, memory = (images, state) if self.parts is None else self.parts.together(images, state)
        with ExitStack() as stack:
            for module in _modules_of(self.module):
                stack.enter_context(undisturbed(module))
            stack.enter_context(self._remembering(memory))
            return self._evaluate(observation, copy_state(memory), episode_start)

    def attach(self, on_pass: OnPass) -> Callable[[], None]:
        """Call `on_pass` after every call of the method, until the function that is returned is called."""
        return observe_calls(self.module, [self._method], self, on_pass)

    def initial_state(self, n: int) -> StateTree:
        """Return the agent's initial state; with dictionary observations, together with the example values repeated n times."""
        memory = without_lists(self._initial_state(n))
        return memory if self.parts is None else self.parts.initial(memory, n)

    def repeat_state(self, state: StateTree, n: int) -> StateTree:
        """Repeat each row n times along the axis in which initial states grow."""
        return repeat_rows(self, state, n)

    def entering(self, method: str, call: BoundArguments) -> AgentPass | None:
        """Return the pass before it runs, as the given `incoming` reads it."""
        read = self._incoming(*call.args, **call.kwargs)
        if read is None:
            return None
        observation, state, start = (*read, None)[:3]
        if self._state_attribute is not None:
            state = getattr(self.module, self._state_attribute)
        elif self._initial_state is _no_memory:
            state = _without_memory(state, told=self._incoming is not _observation_and_state)
        memory = copy_state(without_lists(state))
        images, whole = (observation, memory) if self.parts is None else self.parts.apart(observation, memory)
        if not is_network_input(images):
            what = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
            raise TypeError(f"expected images (n, C, h, w) or vectors (n, features) from incoming, got {what}")
        images = images.detach().permute(0, 3, 1, 2) if self.channels_last and images.ndim == 4 else images.detach()
        return AgentPass(images, whole, None, None, None if start is None else start.detach().bool(), copied=True)

    def leaving(self, method: str, incoming: AgentPass, output: Any, layers: Mapping[str, Any]) -> AgentPass | None:
        """Return the pass with its outputs, as the given `outgoing` or the layers give them."""
        logits, value = (layers.get(name) for name in ("actor", "critic"))
        if logits is None or (value is None and self._outgoing is not _logits_and_value):
            policy, returned = self._outgoing(output)
            logits = policy_tensor(policy) if logits is None else logits
            value = returned if value is None else value
        if value is None and self._evaluates_value:
            incoming.complete = self._complete
        return incoming.gave(logits, value)

    def _complete(self, incoming: AgentPass) -> None:
        """Add the value, by `evaluate`, to a pass that ran the actor only."""
        try:
            _, value = self.evaluate(incoming.inputs.clone(), incoming.state, incoming.episode_start)
        except Exception:  # the check by replay will show it to the user, not the agent's own call
            value = None
        self._evaluates_value = value is not None
        incoming.gave(incoming.logits, None if value is None else copy_tensor(value))

    @contextmanager
    def _remembering(self, memory: StateTree) -> Generator[None]:
        """Set the agent's state attribute within the block, and restore it afterwards."""
        if self._state_attribute is None:
            yield
            return
        before = getattr(self.module, self._state_attribute)
        setattr(self.module, self._state_attribute, copy_state(memory))
        try:
            yield
        finally:
            setattr(self.module, self._state_attribute, before)


def _modules_of(agent: Any) -> list[nn.Module]:
    return [agent] if isinstance(agent, nn.Module) else [part for part in vars(agent).values() if isinstance(part, nn.Module)]
