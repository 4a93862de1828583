"""`Suitability`: whether an agent runs on the incremental path and gives the dense path's outputs there."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch
from torch import Tensor, nn

from saliency_wrappers.agents.base import AgentAdapter
from saliency_wrappers.saliency.agent_memo import AgentMemo
from saliency_wrappers.saliency.incremental.tensor import Step
from saliency_wrappers.saliency.passes import Perturbation, Segment, incremental_pass, witnessed_pass

_ROWS = 8
"""How many rows are run on both paths."""

_logger = logging.getLogger(__name__)


class Suitability:
    """Finds out, once for each agent and input shape, whether it can be run on the incremental path, by running both on a few rows."""

    def __init__(self, batch_size: int | None = None) -> None:
        """Run at most `batch_size` rows at a time. None: no limit."""
        self._rows = min(_ROWS, batch_size or _ROWS)
        self._known: AgentMemo[str] = AgentMemo()

    def __call__(self, adapter: AgentAdapter, perturbation: Perturbation) -> str:
        """Return why an agent is run on the dense path; empty when it can be run on the incremental one."""
        inputs = perturbation.inputs
        key = (inputs.shape, inputs.dtype, inputs.device)
        found = self._known.get(adapter, key)
        if found is None:
            found = self._find(adapter, perturbation)
            self._known.put(adapter, key, found)
            if found:
                _logger.info("%s is run on the dense path: %s.", type(adapter).__name__, found)
        return found

    def _find(self, adapter: AgentAdapter, perturbation: Perturbation) -> str:
        if reason := _opaque(getattr(adapter, "module", None)):
            return reason
        exact = (perturbation.replaced[:, 0] > 0) & perturbation.change.any(dim=0)
        perturbation = replace(perturbation, changed=exact)  # what the tolerance leaves out would tell them apart, too
        picked = perturbation.rows[torch.linspace(0, len(perturbation.rows) - 1, self._rows).long().unique()]
        segment = Segment(perturbation, picked)
        (expected, _), steps = witnessed_pass(adapter, segment), list[Step]()
        try:
            outputs = incremental_pass(adapter, [segment], steps)
        except Exception as error:
            return f"the agent does not run on what changes alone ({type(error).__name__}: {error})"
        if not any(step.incremental and step.operator == "conv2d" for step in steps):
            return "the agent has no convolution that is known"
        return "" if all(map(_agree, outputs, expected)) else "the agent's outputs would be others"


def _opaque(module: object) -> str:
    """Return why a module's operators cannot be intercepted; empty when they can."""
    for part in module.modules() if isinstance(module, nn.Module) else ():
        if isinstance(part, nn.DataParallel | torch.jit.ScriptModule) or type(part).__name__ == "OptimizedModule":
            return f"{type(part).__name__} runs as a whole"
        if getattr(part, "_compiled_call_impl", None) is not None:
            return f"{type(part).__name__} is compiled"
    return ""


def _agree(output: Tensor | None, expected: Tensor | None) -> bool:
    """Whether both are equal up to rounding."""
    if output is None or expected is None:
        return output is expected
    finite = expected[expected.isfinite()].abs()
    scale = float(finite.max()) if finite.numel() else 1.0
    return output.shape == expected.shape and torch.allclose(output, expected, rtol=0, atol=1e-3 * max(scale, 1e-6), equal_nan=True)
