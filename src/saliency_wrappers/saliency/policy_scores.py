"""Scores of a policy's change: probabilities, divergences, the chosen action, SARFA; and of a value's change.

Which to take: `KLDivergence`, `TotalVariation` and squared differences say what the policy depends on, `ProbabilityDrop`, `LogitDrop` and
`SARFA` why this action. Every class is an xaitk `GenerateClassifierConfidenceSaliency` and works outside this library. Outputs are logits;
`-inf` is an action that is not allowed.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from saliency_wrappers.saliency.scoring import PerturbationScores

Floats = NDArray[np.float64]

_LOWEST = -745.0
"""The logarithm of the smallest float64: what stands for log 0."""


def log_policy(logits: NDArray[Any]) -> Floats:
    """`log softmax` along the last axis, float64; forbidden actions (`-inf`) get -745."""
    z = np.asarray(logits, np.float64)
    with np.errstate(invalid="ignore"):
        z = z - z.max(axis=-1, keepdims=True)
        logs = z - logsumexp(z, axis=-1, keepdims=True)
    return np.where(np.isneginf(logs), _LOWEST, logs)


def policy(logits: NDArray[Any]) -> Floats:
    """`softmax` along the last axis, float64."""
    return np.exp(log_policy(logits))


def kl_divergence(reference: NDArray[Any], perturbed: NDArray[Any]) -> Floats:
    """`KL(pi || pi_k)` of logits `(actions,)` and `(n, actions)`: `(n,)` float64 `>= 0`, in nats."""
    log_p, log_q = log_policy(reference), log_policy(perturbed)
    return np.maximum((np.exp(log_p) * (log_p - log_q)).sum(axis=-1), 0)


def total_variation(reference: NDArray[Any], perturbed: NDArray[Any]) -> Floats:
    """`1/2 sum |pi - pi_k|` of logits `(actions,)` and `(n, actions)`: `(n,)` float64 in [0, 1]."""
    return np.minimum(0.5 * np.abs(policy(perturbed) - policy(reference)).sum(axis=-1), 1)


class PolicyScores(PerturbationScores):
    """Scores that read outputs as logits."""

    reads_policy: ClassVar[bool] = True


class KLDivergence(PolicyScores):
    """`s_k = KL(pi || pi_k)`, in nats."""

    def scores(self, reference: NDArray[Any], perturbed: NDArray[Any]) -> Floats:
        """`(n,)` float64 `>= 0`."""
        _check(reference, perturbed)
        return kl_divergence(reference, perturbed)


class TotalVariation(PolicyScores):
    """`s_k = 1/2 sum |pi - pi_k|`, in [0, 1]: the largest change of the probability of any set of actions."""

    def scores(self, reference: NDArray[Any], perturbed: NDArray[Any]) -> Floats:
        """`(n,)` float64 in [0, 1]."""
        _check(reference, perturbed)
        return total_variation(reference, perturbed)


class SquaredProbabilityDifference(PolicyScores):
    """`s_k = 1/2 sum (pi - pi_k)²`, in [0, 1]."""

    def scores(self, reference: NDArray[Any], perturbed: NDArray[Any]) -> Floats:
        """`(n,)` float64 in [0, 1]."""
        _check(reference, perturbed)
        return 0.5 * ((policy(perturbed) - policy(reference)) ** 2).sum(axis=1)


class ActionScores(PolicyScores):
    """A score for each action, `(n, actions)`; those of one action when it is given."""

    def __init__(self, action: int | None = None) -> None:
        """Score one action.

        Args:
            action: its index. None: every action, and `PerturbationSaliency` takes the one that was chosen.
        """
        if action is not None and action < 0:
            raise ValueError(f"Expected an action of 0 or more, got {action}.")
        self.action = action

    def scores(self, reference: NDArray[Any], perturbed: NDArray[Any]) -> Floats:
        """`(n, actions)` float64, or `(n,)` of one action."""
        _check(reference, perturbed)
        every = self._every(np.asarray(reference, np.float64), np.asarray(perturbed, np.float64))
        if self.action is None:
            return every
        if self.action >= every.shape[1]:
            raise ValueError(f"Expected an action of 0 to {every.shape[1] - 1}, got {self.action}.")
        return every[:, self.action]

    @abstractmethod
    def _every(self, reference: Floats, perturbed: Floats) -> Floats:
        """Return the scores `(n, actions)` float64 of logits `(actions,)` and `(n, actions)`."""

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's argument."""
        return {"action": self.action}


class ProbabilityDrop(ActionScores):
    """`s_k = pi(a) - pi_k(a)`, in [-1, 1]: positive where the input speaks for the action."""

    def _every(self, reference: Floats, perturbed: Floats) -> Floats:
        return policy(reference) - policy(perturbed)


class LogitDrop(ActionScores):
    """The drop of a centred logit: `s_k = z(a) - z_k(a)` with `z = y - mean(y)` over the actions that are allowed."""

    def _every(self, reference: Floats, perturbed: Floats) -> Floats:
        return centred_logits(reference) - centred_logits(perturbed)


class SARFA(ActionScores):
    """Specific and relevant feature attribution (Puri et al. 2020), in [0, 1].

    `dP = pi(a) - pi_k(a)`, q the other actions' probabilities renormalised, `K = 1 / (1 + KL(q_k || q))`, `s_k = 2 dP K / (dP + K)`, and 0
    where `dP <= 0`.
    """

    def _every(self, reference: Floats, perturbed: Floats) -> Floats:
        drops = policy(reference) - policy(perturbed)
        return np.stack([_sarfa(drops[:, a], reference, perturbed, a) for a in range(len(reference))], axis=1)


class ValueDifference(PerturbationScores):
    """How the value changes: `V - V_k`, its absolute value, or half its square. Several outputs are summed."""

    def __init__(self, kind: Literal["signed", "absolute", "squared"] = "squared") -> None:
        """Choose what becomes of `V - V_k`: `"signed"`: positive where the input raises the value; `"absolute"`; or `"squared"`."""
        if kind not in ("signed", "absolute", "squared"):
            raise ValueError(f"Expected kind to be 'signed', 'absolute' or 'squared', got {kind!r}.")
        self.kind = kind

    def scores(self, reference: NDArray[Any], perturbed: NDArray[Any]) -> Floats:
        """`(n,)` float64."""
        _check(reference, perturbed)
        drop = np.asarray(reference, np.float64) - np.asarray(perturbed, np.float64)
        made = {"signed": lambda: drop, "absolute": lambda: np.abs(drop), "squared": lambda: 0.5 * drop**2}[self.kind]()
        return np.asarray(made.sum(axis=1))

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's argument."""
        return {"kind": self.kind}


def centred_logits(logits: NDArray[Any]) -> Floats:
    """`y - mean(y)` along the last axis over the actions that are allowed, float64; 0 for those that are not."""
    y = np.asarray(logits, np.float64)
    allowed = ~np.isneginf(y)
    total = np.where(allowed, y, 0).sum(axis=-1, keepdims=True)
    return np.where(allowed, y - total / np.maximum(allowed.sum(axis=-1, keepdims=True), 1), 0)


def _sarfa(drop: Floats, reference: Floats, perturbed: Floats, action: int) -> Floats:
    """Return the scores `(n,)` of one action."""
    others = np.delete(reference, action), np.delete(perturbed, action, axis=1)
    if not others[0].size or np.isneginf(others[0]).all() or np.isneginf(others[1]).all(axis=1).any():
        divergence = np.zeros(len(drop))
    else:
        log_q, log_q_k = (log_policy(part) for part in others)
        divergence = np.maximum((np.exp(log_q_k) * (log_q_k - log_q)).sum(axis=1), 0)
    specific = 1 / (1 + divergence)
    positive = np.maximum(drop, 0)
    return 2 * positive * specific / (positive + specific)


def _check(reference: NDArray[Any], perturbed: NDArray[Any]) -> None:
    if perturbed.ndim != 2 or reference.shape != perturbed.shape[1:]:
        raise ValueError(f"Expected reference (outputs,) and perturbed (n, outputs), got {reference.shape} and {perturbed.shape}.")
