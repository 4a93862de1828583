"""`read_outputs`: logits and value in the forms in which agents without memory return them; `form_of_output`: what the logits are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from saliency_wrappers.agents.base import PolicyForm

_LOGITS = ("logits", "policy_logits", "action_logits", "policy", "q_values", "q", "pi", "actor")
_VALUE = ("value", "values", "state_value", "state_values", "baseline", "vf", "critic")


def read_outputs(output: Any) -> tuple[Tensor, Tensor | None] | None:
    """Return logits `(n, k)`, k > 1, and value `(n,)`, `(n, 1)` or None, of an output that can be read in one way only; else None.

    That is: a tensor `(n, k)`; a distribution, categorical or Gaussian; a pair of one of these and a value, in any order; a mapping with
    such entries under the usual names. None: of another form.
    """
    if isinstance(output, Mapping):
        named = cast("Mapping[str, Any]", output)
        found = [next((named[name] for name in names if name in named), None) for names in (_LOGITS, _VALUE)]
        return _pair(found[0], found[1])
    if isinstance(output, tuple | list) and len(parts := cast("tuple[Any, ...]", output)) == 2:
        return _pair(parts[0], parts[1], value_needed=True) or _pair(parts[1], parts[0], value_needed=True)
    return _pair(output, None)


def policy_tensor(output: Any) -> Any:
    """Return the policy's tensor: the logits of a categorical distribution, `(mean, log_std)` of a Gaussian, or the output itself."""
    if not isinstance(output, torch.distributions.Distribution):
        return output
    base = output.base_dist if isinstance(output, torch.distributions.Independent) else output
    if isinstance(base, torch.distributions.Categorical):
        return base.logits
    if isinstance(base, torch.distributions.Normal):
        return torch.cat([base.mean, base.stddev.log()], dim=-1)
    return cast("Any", output)


def form_of_output(output: Any) -> PolicyForm:
    """Return `"gaussian"` for an output that `read_outputs` reads whose policy is a normal distribution, otherwise `"logits"`."""
    parts: Any = output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple | list) else (output,)
    bases = [part.base_dist if isinstance(part, torch.distributions.Independent) else part for part in parts]
    return "gaussian" if any(isinstance(base, torch.distributions.Normal) for base in bases) else "logits"


def _pair(policy: Any, value: Any, value_needed: bool = False) -> tuple[Tensor, Tensor | None] | None:
    logits = policy_tensor(policy)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] < 2 or not logits.is_floating_point():
        return None
    if value is None:
        return None if value_needed else (logits, None)
    n = logits.shape[0]
    return (logits, value) if isinstance(value, Tensor) and tuple(value.shape) in ((n,), (n, 1)) else None
