"""`BatchProbe`: whether the rows of a batch influence one another in an agent.

An agent is expected to treat each row by itself. Some do not: a dueling head that subtracts the mean over the whole batch, or batch
normalisation in training mode. In a batch of perturbed inputs their outputs are wrong.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from saliency_wrappers.agents.base import AgentAdapter
from saliency_wrappers.saliency.agent_memo import AgentMemo
from saliency_wrappers.saliency.dense_tuning import seconds_of
from saliency_wrappers.saliency.passes import Outputs, Perturbation, Segment, dense_pass, joined

FEW = 16
"""Decisions of so few rows are not probed on the dense path, where the untouched input is in the middle of the batch: it shows enough."""

_ROWS = 8
"""How many rows are run together and one by one."""


@dataclass(frozen=True)
class Probed:
    """What a few rows showed."""

    coupled: bool
    """Whether the outputs of a row depend on the other rows of its batch."""
    row_seconds: float
    """How long one row took on the dense path, in seconds."""


class BatchProbe:
    """Runs a few rows together and one by one at the first decision; compares each decision with its recorded outputs."""

    def __init__(self, batch_size: int | None, few: int = FEW) -> None:
        """Run at most `batch_size` rows together (None: no limit). Decisions of at most `few` rows are not probed."""
        self._batch_size, self._few = batch_size, few
        self._probed: AgentMemo[Probed] = AgentMemo()

    def __call__(self, adapter: AgentAdapter, perturbation: Perturbation) -> Probed:
        """Probe an agent once for each form of its inputs."""
        found = self._probed.get(adapter, _key(perturbation))
        if found is None and (len(perturbation.rows) <= self._few or self._batch_size == 1):
            return Probed(coupled=False, row_seconds=0.0)
        if found is None:
            found = self._find(adapter, perturbation)
            self._remember(adapter, perturbation, found)
        return found

    def check(self, adapter: AgentAdapter, perturbation: Perturbation, witnesses: Outputs) -> bool:
        """Whether the untouched input has its own outputs in every batch; where it has not, the agent counts as coupled from now on.

        Args:
            adapter: the agent's.
            perturbation: what was run.
            witnesses: the outputs of the untouched input in each batch, or in several of them, `(k, ...)`. They are compared with the
                recorded outputs first, which takes no pass; where they differ, the input is run by itself.
        """
        recorded = perturbation.recorded
        if recorded is not None and same_outputs(witnesses, recorded):
            return True
        if same_outputs(witnesses, dense_pass(adapter, Segment(perturbation, perturbation.rows[:1]))):
            return True
        self._remember(adapter, perturbation, Probed(True, self(adapter, perturbation).row_seconds))
        return False

    def _find(self, adapter: AgentAdapter, perturbation: Perturbation) -> Probed:
        rows = perturbation.rows
        picked = rows[torch.linspace(0, len(rows) - 1, min(_ROWS, self._batch_size or _ROWS)).long().unique()]
        together = dense_pass(adapter, Segment(perturbation, picked))
        seconds = seconds_of(lambda: dense_pass(adapter, Segment(perturbation, picked))) / len(picked)
        return Probed(not same_outputs(together, one_at_a_time(adapter, perturbation, picked)), seconds)

    def _remember(self, adapter: AgentAdapter, perturbation: Perturbation, found: Probed) -> None:
        self._probed.put(adapter, _key(perturbation), found)
        if found.coupled:
            agent = type(getattr(adapter, "module", adapter)).__name__
            warnings.warn(
                f"The outputs of {agent} for an input depend on the other inputs of its batch, as with a mean over the batch "
                "(`advantage.mean()` without `dim=1`) or batch normalisation in training mode. Expected independent rows: inputs are run "
                "one at a time, which is slow. Take means along `dim=1`, or call `agent.eval()`.",
                stacklevel=2,
            )


def one_at_a_time(adapter: AgentAdapter, perturbation: Perturbation, rows: Tensor | None = None) -> Outputs:
    """Run each of these rows by itself. None: all rows."""
    chosen = perturbation.rows if rows is None else rows
    return joined([dense_pass(adapter, Segment(perturbation, row)) for row in chosen.split(1)])


def _key(perturbation: Perturbation) -> tuple[object, ...]:
    return perturbation.inputs.shape, perturbation.inputs.dtype, perturbation.inputs.device


def same_outputs(outputs: Outputs, expected: Outputs) -> bool:
    """Whether outputs are equal up to rounding. Expected outputs of one row are compared with every row."""
    scales = [_scale(one) for one in expected if one is not None]
    for one, other in zip(outputs, expected, strict=True):
        if one is None or other is None:
            if one is not other:
                return False
            continue
        one, other = one.reshape(len(one), -1).float(), other.reshape(len(other), -1).to(one.device).float()
        other = other.expand(len(one), -1) if len(other) == 1 else other
        tolerance = _rounding(outputs[0]) * (_scale(other) + 0.1 * min(1.0, max(scales)))
        if one.shape != other.shape or not torch.allclose(one, other, rtol=0, atol=tolerance, equal_nan=True):
            return False
    return True


def _scale(output: Tensor) -> float:
    finite = output[output.isfinite()].abs()
    return float(finite.max()) if finite.numel() else 1.0


def _rounding(output: Tensor) -> float:
    """Return the tolerance relative to the scale of outputs: GPUs multiply float32 less exactly."""
    half = output.dtype in (torch.float16, torch.bfloat16)
    return 8 * torch.finfo(output.dtype).eps if half else 1e-4 if output.device.type == "cpu" else 5e-3
