"""Maps from an agent's gradients, through Captum: `Gradient`, `SmoothGrad`, `IntegratedGradients`.

The actor's map is of the chosen action's centred logit, the critic's of the value. The incoming state is held.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from saliency_wrappers.agents.base import AgentAdapter, split_rows
from saliency_wrappers.agents.module_hooks import with_gradients
from saliency_wrappers.decisions import Array, Decision, SaliencyMaps
from saliency_wrappers.saliency.masks import Fill, filled
from saliency_wrappers.states import map_state

Head = Callable[[Tensor], Tensor]
"""From inputs `(n, C, h, w)` to one number each, `(n,)`."""


class GradientSaliency:
    """What gradient methods share: a head's attribution of each pixel, summed over channels by absolute value, `(h, w)` `>= 0`."""

    def __init__(self, *, signed: bool = False) -> None:
        """Choose how channels are joined.

        Args:
            signed: add the attributions of a pixel's channels instead of their absolute values; the map may be negative.
        """
        self.signed = signed

    def __call__(self, adapter: AgentAdapter, decisions: Sequence[Decision]) -> list[SaliencyMaps]:
        """Compute the maps of each row of each decision.

        Raises:
            ValueError: outputs that do not depend on the input in a way that torch can differentiate.
            DependencyNotInstalled: Captum is missing.
        """
        return [self._maps(adapter, row) for decision in decisions for row in split_rows(adapter, decision)]

    @abstractmethod
    def attribute(self, head: Head, inputs: Tensor, adapter: AgentAdapter) -> Tensor:
        """Return the attribution `(1, C, h, w)` of each number of an input of that shape."""

    def _maps(self, adapter: AgentAdapter, decision: Decision) -> SaliencyMaps:
        inputs = ordinary(decision.inputs).float()
        action = int(decision.logits[0].argmax()) if decision.action is None else int(decision.action.flatten()[0])
        actor = self._map(lambda images: _chosen_logit(_outputs(adapter, decision, images)[0], action), inputs, adapter)
        if decision.value is None:
            return SaliencyMaps(actor, None)
        return SaliencyMaps(actor, self._map(lambda images: _value(_outputs(adapter, decision, images)[1]), inputs, adapter))

    def _map(self, head: Head, inputs: Tensor, adapter: AgentAdapter) -> Array:
        with with_gradients():
            attributed = self.attribute(head, ordinary(inputs).requires_grad_(), adapter)[0].detach()
        joined = attributed.sum(dim=0) if self.signed else attributed.abs().sum(dim=0)
        return joined.float().cpu().numpy()


class Gradient(GradientSaliency):
    """The gradient itself (Simonyan et al. 2013)."""

    def attribute(self, head: Head, inputs: Tensor, adapter: AgentAdapter) -> Tensor:
        """Return the attribution `(1, C, h, w)` of an input of that shape, from one forward and backward pass."""
        return _captum().Saliency(head).attribute(inputs, abs=False)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"signed": self.signed}


class SmoothGrad(GradientSaliency):
    """The mean gradient over noisy copies of the input (Smilkov et al. 2017)."""

    def __init__(self, samples: int = 16, noise: float = 0.1, seed: int = 0, *, signed: bool = False) -> None:
        """Choose the noise.

        Args:
            samples: how many noisy copies.
            noise: standard deviation of the noise, relative to the input range.
            seed: of the noise.
            signed: as in `GradientSaliency`.

        Raises:
            ValueError: fewer samples than 1, or negative noise.
        """
        super().__init__(signed=signed)
        if samples < 1 or not noise >= 0:
            raise ValueError(f"Expected samples of 1 or more and noise >= 0, got samples={samples} and noise={noise}.")
        self.samples, self.noise, self.seed = samples, noise, seed

    def attribute(self, head: Head, inputs: Tensor, adapter: AgentAdapter) -> Tensor:
        """Return the attribution `(1, C, h, w)` of an input of that shape, from one forward and backward pass over all copies."""
        low, high = adapter.input_range
        tunnel = _captum().NoiseTunnel(_captum().Saliency(head))
        devices = [inputs.device.index or 0] if inputs.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(self.seed)
            return tunnel.attribute(inputs, nt_type="smoothgrad", nt_samples=self.samples, stdevs=self.noise * (high - low), abs=False)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"samples": self.samples, "noise": self.noise, "seed": self.seed, "signed": self.signed}


class IntegratedGradients(GradientSaliency):
    """Gradients integrated along the line from a baseline to the input (Sundararajan et al. 2017).

    Signed, the map sums to the head's output on the input minus that on the baseline, up to the error of the integration.
    """

    def __init__(self, baseline: Fill = 0.0, steps: int = 32, *, signed: bool = False) -> None:
        """Choose the line.

        Args:
            baseline: where it begins, such as `Background(episode)`, `GaussianBlur(3)` or a constant.
            steps: how many gradients are taken (Gauss-Legendre quadrature).
            signed: as in `GradientSaliency`.

        Raises:
            ValueError: fewer steps than 1.
        """
        super().__init__(signed=signed)
        if steps < 1:
            raise ValueError(f"Expected steps of 1 or more, got {steps}.")
        self.baseline, self.steps = baseline, steps

    def attribute(self, head: Head, inputs: Tensor, adapter: AgentAdapter) -> Tensor:
        """Return the attribution `(1, C, h, w)` of an input of that shape, from one forward and backward pass over all steps."""
        start = torch.as_tensor(filled(self.baseline, inputs[0].detach().cpu().numpy(), adapter.input_range)).to(inputs)[None]
        return _captum().IntegratedGradients(head).attribute(inputs, baselines=start.expand_as(inputs), n_steps=self.steps)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"baseline": getattr(self.baseline, "get_config", lambda: str(self.baseline))(), "steps": self.steps, "signed": self.signed}


def ordinary(tensor: Tensor) -> Tensor:
    """A copy that may take part in differentiation, also of an inference tensor."""
    with torch.inference_mode(False):
        return tensor.detach().clone()


def _outputs(adapter: AgentAdapter, decision: Decision, images: Tensor) -> tuple[Tensor, Tensor | None]:
    n, start = len(images), decision.episode_start
    state = adapter.repeat_state(map_state(ordinary, decision.state), n)
    given = images.clone()  # an agent may change its input in place, which a leaf of the graph forbids
    logits, values = adapter.evaluate(given, state, None if start is None else start.expand(n))
    for output in (logits, values):
        if output is not None and images.requires_grad and not output.requires_grad:
            raise ValueError(
                f"Expected outputs of {type(adapter).__name__} that can be differentiated by the input. An agent that runs under "
                "torch.no_grad() or through NumPy has no gradients: use a perturbation method."
            )
    return logits, values


def _chosen_logit(logits: Tensor, action: int) -> Tensor:
    """The centred logit of an action; actions that are not allowed (`-inf`) do not count."""
    allowed = ~torch.isneginf(logits)
    total = torch.where(allowed, logits, torch.zeros_like(logits)).sum(dim=1)
    return logits[:, action] - total / allowed.sum(dim=1)


def _value(values: Tensor | None) -> Tensor:
    if values is None:
        raise ValueError("Expected a value output, as when the decision was recorded, got None.")
    return values.reshape(len(values), -1).sum(dim=1)


def _captum() -> Any:
    try:
        from captum import attr
    except ImportError as error:
        from gymnasium.error import DependencyNotInstalled

        raise DependencyNotInstalled('Gradient methods need Captum: pip install "saliency_wrappers[captum]".') from error
    return attr
