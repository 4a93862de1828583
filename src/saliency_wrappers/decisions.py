"""What travels between stages: `AgentPass`, a forward pass while it is live, `Decision`, the tensors that methods get, `SaliencyMaps`.

The third form, one record for each step, is `StepSaliency` in `step_saliency.py`.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saliency_wrappers.details import SaliencyDetails
from saliency_wrappers.states import StateTree, copy_state, copy_tensor

Numbers = tuple[Any, Any]
"""Logits and value as lists of their numbers, in lists as deep as the tensors have axes; None for what there is not."""

Dtypes = tuple[torch.dtype, torch.dtype | None]
"""Of logits and value; None for a value that there is not."""

Array = NDArray[np.float32]
_OUTPUT = (Tensor, type(None))  # a union would be made anew at every pass


@dataclass(eq=False)
class AgentPass:
    """One forward pass of the agent, as its adapter saw it. Tensors are references; the state is a copy made before the pass."""

    inputs: Tensor
    """What the network consumed: images `(n, C, h, w)` or vectors `(n, features)`."""
    state: StateTree
    """The incoming state. None for an agent without memory."""
    logits: Tensor | None
    """The policy output, `(n, num_actions)`. None when the pass gave no policy output (a value-only call), or none yet."""
    value: Tensor | None
    """The state value, `(n,)` or `(n, 1)`. None when the agent has no value output."""
    episode_start: Tensor | None = None
    """`(n,)` bool, True where an episode begins. None when the agent is not told."""
    scored_action: bool = False
    """True when the pass was given an action to score (`evaluate_actions`): never a decision."""
    copied: bool = False
    """True when the state is a copy already, so that it need not be copied again."""
    numbers: Numbers | None = None
    """The outputs as they came out, of a pass that may be a decision: who has the tensors may change them. None: not looked at."""
    call: Any = None
    """What the recorders of one agent share of a call that they all see. None while only one recorder watches."""
    complete: Callable[[AgentPass], None] | None = None
    """Adds the value, of a pass that may decide, when acting did not compute it. None: there is nothing to add."""
    on_actions: Callable[[AgentPass, Sequence[Any]], None] | None = None
    """Is told the actions that the environments are given, where the value is one of actions. None: the value does not depend on them."""
    given: Tensor | None = None
    """The tensor that the agent was given, while `inputs` is a copy of it. None: `inputs` is that tensor itself."""

    @property
    def batch(self) -> int:
        """The number of rows, n."""
        return self.inputs.shape[0]  # len() of a tensor takes five times as long

    def judged(self, actions: Sequence[Any]) -> AgentPass:
        """Return the pass itself, once it was told the actions that the environments are given, if any."""
        if self.on_actions is not None and len(actions):
            self.on_actions(self, actions)
        return self

    def gave(self, logits: Tensor | None, value: Tensor | None) -> AgentPass:
        """Set the outputs, detached from the graph, and return the pass; `TypeError` for anything but tensors."""
        if not isinstance(value, _OUTPUT):
            raise TypeError(f"Expected value as a tensor or None, got {type(value).__name__}.")
        if not isinstance(logits, _OUTPUT):
            raise TypeError(f"Expected logits as a tensor or None, got {type(logits).__name__}.")
        self.logits = logits.detach() if logits is not None and logits.requires_grad else logits
        self.value = value.detach() if value is not None and value.requires_grad else value
        return self


@dataclass(frozen=True, eq=False, init=False)
class Decision:
    """One acting forward pass: inputs, incoming state and outputs, all batched `(n, ...)`."""

    inputs: Tensor
    """What the network consumed: images `(n, C, h, w)`, in the adapter's `input_range`, or vectors `(n, features)`."""
    state: StateTree
    """The state that went in. None for an agent without memory."""
    logits: Tensor
    """The policy output, `(n, num_actions)`."""
    value: Tensor | None
    """The state value, `(n,)` or `(n, 1)`. None when the agent has no value output."""
    episode_start: Tensor | None = None
    """`(n,)` bool, True where an episode begins. None when the agent is not told."""
    action: Tensor | None = None
    """`(n,)` integers, the actions that were taken. None when unknown; then a map per action gives the greedy action's."""

    def __init__(
        self,
        inputs: Tensor,
        state: StateTree,
        logits: Tensor,
        value: Tensor | None,
        episode_start: Tensor | None = None,
        action: Tensor | None = None,
    ) -> None:
        n = inputs.shape[0]
        for name, tensor in (("logits", logits), ("value", value), ("episode_start", episode_start), ("action", action)):
            if tensor is not None and ((shape := tensor.shape)[:1] != (n,)):
                raise ValueError(f"Expected {name} with {n} rows, as many as inputs {tuple(inputs.shape)}, got {tuple(shape)}.")
        self.__dict__.update(inputs=inputs, state=state, logits=logits, value=value, episode_start=episode_start, action=action)

    def __len__(self) -> int:
        return self.inputs.shape[0]

    @property
    def copied(self) -> bool:
        """False: the tensors may be shared, unlike those of some `AgentPass`."""
        return False

    @property
    def numbers(self) -> Numbers:
        """The current outputs, as `AgentPass.numbers`."""
        return numbers_of(self.logits, self.value)

    @staticmethod
    def of(seen: AgentPass | Decision, action: Tensor | None = None) -> Decision:
        """Return an independent copy of a pass, with this action: ordinary tensors, detached from the graph."""
        start = seen.episode_start
        return _from_pass(seen, copy_tensor(seen.inputs), None if start is None else copy_tensor(start), action)

    @staticmethod
    def by_reference(seen: AgentPass) -> Decision:
        """Return the pass itself, detached from the graph: its inputs may change when the agent runs again."""
        return _from_pass(seen, seen.inputs.detach(), seen.episode_start, None)

    def copy(self) -> Decision:
        """Return an independent copy: ordinary tensors, detached from the graph and from the caller's buffers."""
        return Decision.of(self, None if self.action is None else copy_tensor(self.action))


def _from_pass(seen: AgentPass | Decision, inputs: Tensor, episode_start: Tensor | None, action: Tensor | None) -> Decision:
    if seen.logits is None:
        raise ValueError("Expected a pass with policy output, got one without logits.")
    numbers, value_dtype = seen.numbers or numbers_of(seen.logits, seen.value), None if seen.value is None else seen.value.dtype
    logits, value = output_tensors(numbers, (seen.logits.dtype, value_dtype), inputs.device)
    return Decision(inputs, seen.state if seen.copied else copy_state(seen.state), logits, value, episode_start, action)


@dataclass(frozen=True, eq=False)
class InputMaps:
    """What one of several inputs is to a decision."""

    maps: SaliencyMaps | None
    """Its maps, with all other inputs held. None for an input that is neither an image nor a vector."""
    share: float
    """Of the actor, in [0, 1]: `|phi| / sum |phi|` over the inputs."""
    value_share: float | None
    """Of the critic. None when the agent has no value output."""

    def info(self) -> dict[str, Any]:
        """The dictionary that goes under the input's key in `info["saliency"]["inputs"]`."""
        maps = {"actor": None, "critic": None} if self.maps is None else self.maps.info()
        return {**maps, "share": self.share, "value_share": self.value_share}


@dataclass(frozen=True, eq=False)
class SaliencyMaps:
    """Maps of one decision on a raw scale: magnitudes compare across frames and episodes."""

    actor: Array
    """`(h, w)` float32 at network-input resolution, `>= 0` for squared differences; 0: perturbing this place changes no logit. Of vector
    observations `(features,)`."""
    critic: Array | None
    """Of the actor map's shape, for the state value. None when the agent has no value output."""
    details: SaliencyDetails | None = None
    """What was asked for besides the maps. None: nothing."""
    features: tuple[str, ...] | None = None
    """The names of the entries of maps `(features,)`. None for maps of images."""
    inputs: Mapping[str, InputMaps] | None = None
    """Of agents with several inputs all of them by their keys, where the method explains them; the maps are those of one of them. None: no
    other input was explained."""

    @property
    def doubtful(self) -> bool:
        """Whether a confidence was asked for and says that there is nothing to explain."""
        return self.details is not None and self.details.doubtful

    def info(self) -> dict[str, Any]:
        """Return their entries of `info["saliency"]` as new arrays."""
        content: dict[str, Any] = {"actor": self.actor.copy(), "critic": None if self.critic is None else self.critic.copy()}
        if self.features is not None:
            content["features"] = self.features
        if self.inputs is not None:
            content["inputs"] = {key: one.info() for key, one in self.inputs.items()}
        return content

    def _repr_html_(self) -> str:
        """Return both maps as grey images, each from its own lowest to its highest value, for notebooks."""
        if self.features is not None:
            return _table(self.features, self.actor, self.critic)
        figures = ""
        for head, raw in (("actor", self.actor), ("critic", self.critic)):
            if raw is not None and raw.ndim in (2, 3):
                low, high = float(raw.min()), float(raw.max())
                image = f'<img alt="{head} map" width="240" style="image-rendering:pixelated" src="data:image/png;base64,{_grey_png(raw)}">'
                figures += f'<figure style="display:inline-block">{image}<figcaption>{head}, {low:.3g} to {high:.3g}</figcaption></figure>'
        return figures


def _grey_png(raw: Array) -> str:
    """Return a map as a PNG file in base64; of maps per frame, the largest value at each pixel."""
    flat = np.nan_to_num(raw if raw.ndim == 2 else raw.max(axis=0)).astype(np.float64)
    span = float(flat.max() - flat.min()) or 1.0
    grey = np.rint((flat - flat.min()) * (255 / span)).astype(np.uint8)
    return base64.b64encode(cv2.imencode(".png", grey)[1].tobytes()).decode()


def _table(features: Sequence[str], actor: Array, critic: Array | None) -> str:
    """A table of features with bars, for notebooks."""
    heads = {"actor": (actor, "#6e96ff"), **({} if critic is None else {"critic": (critic, "#ff6464")})}
    rows = ""
    for index, name in enumerate(features):
        cells = ""
        for raw, colour in heads.values():
            width = 100 * abs(float(raw[index])) / (float(np.abs(raw).max()) or 1.0)
            bar = f'<div style="background:{colour};height:0.7em;width:{width:.0f}px"></div>'
            cells += f"<td>{float(raw[index]):.3g}</td><td>{bar}</td>"
        rows += f"<tr><th>{escape(name)}</th>{cells}</tr>"
    return f"<table><tr><th></th>{''.join(f'<th colspan=2>{head}</th>' for head in heads)}</tr>{rows}</table>"


def numbers_of(logits: Tensor | None, value: Tensor | None) -> Numbers:
    """Return logits and value as nested lists of numbers."""
    return None if logits is None else logits.tolist(), None if value is None else value.tolist()


def output_tensors(numbers: Numbers, dtypes: Dtypes, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Return logits and value as tensors made of their numbers: ordinary ones, also in inference mode."""
    if torch.is_inference_mode_enabled():
        with torch.inference_mode(False):
            return output_tensors(numbers, dtypes, device)
    logits, value = numbers
    made = torch.tensor(logits, dtype=dtypes[0], device=device)
    return made, None if value is None else torch.tensor(value, dtype=dtypes[1], device=device)


def floating_inputs(inputs: Tensor) -> Tensor:
    """Return inputs that can be perturbed: floating-point ones as they are, in the agent's own precision; others as float32."""
    return inputs if inputs.is_floating_point() else inputs.float()


def array_of(tensor: Tensor) -> NDArray[Any]:
    """Return a tensor's values as an array, not copied where possible."""
    try:
        return tensor.numpy()
    except (RuntimeError, TypeError):  # with gradient history, or on another device; NumPy has no bfloat16
        tensor = tensor.detach().cpu()
        return (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy()
