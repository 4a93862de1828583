"""`FeatureGame`: what coalitions of features are worth to an agent's outputs; `Players`: which features stand together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saliency_wrappers.agents.base import AgentAdapter, PolicyForm, policy_form
from saliency_wrappers.decisions import Decision, floating_inputs
from saliency_wrappers.saliency.feature_fills import Floats
from saliency_wrappers.saliency.policy_scores import centred_logits, kl_divergence


@dataclass(frozen=True, eq=False)
class Players:
    """Features, or groups of them, that are left out together."""

    names: tuple[str, ...]
    members: NDArray[np.bool_]
    """`(n, features)`: which features each player stands for."""

    @staticmethod
    def of(features: int, names: Sequence[str] | None, groups: Mapping[str, Sequence[int | str]] | None) -> Players:
        """Return each feature for itself, or groups first and the features of none after them.

        Raises:
            ValueError: not as many names as features, or groups of unknown features, of none, or of features of two groups.
        """
        called = tuple(f"feature {i}" for i in range(features)) if names is None else tuple(names)
        if len(called) != features or len(set(called)) < features:
            raise ValueError(f"Expected {features} different names, one for each feature, got {len(called)}: {called}.")
        together = [(name, [_number(one, called) for one in members]) for name, members in (groups or {}).items()]
        taken = [member for _, members in together for member in members]
        if len(set(taken)) < len(taken) or not all(members for _, members in together):
            raise ValueError(f"Expected groups of at least one feature, each feature in one group at most, got {groups}.")
        together += [(called[i], [i]) for i in range(features) if i not in taken]
        matrix = np.zeros((len(together), features), bool)
        for player, (_, members) in enumerate(together):
            matrix[player, members] = True
        return Players(tuple(name for name, _ in together), matrix)


class FeatureGame:
    """A `Game` whose components are: the actor's worth, the critic's (where there is one), then, on request, each output's.

    With `by_row` the first two follow once more for every row of the fill by itself.
    """

    def __init__(
        self, adapter: AgentAdapter, decision: Decision, players: Players, fill: Floats, batch_size: int, *, outputs: bool, by_row: bool
    ) -> None:
        """Prepare a game of one decision.

        Args:
            adapter: the agent.
            decision: one row, of a vector.
            players: which features stand together.
            fill: `(rows, features)`: what features that are left out become; worths are means over the rows.
            batch_size: how many inputs are run at a time.
            outputs: whether the outputs themselves are components.
            by_row: whether there are components for each row.
        """
        self.heads = 1 if decision.value is None else 2
        """How many heads there are: the actor, and perhaps the critic."""
        self.rows = len(fill)
        self.outputs = decision.logits.shape[1] if outputs else 0
        self._adapter, self._decision, self._by_row = adapter, decision, by_row
        self._inputs = floating_inputs(decision.inputs)
        self._members = torch.as_tensor(players.members, device=self._inputs.device)
        self._fill = torch.as_tensor(fill).to(self._inputs)
        self._reference = _numbers(decision.logits)[0]
        self._together = max(1, batch_size // self.rows)

    def __call__(self, coalitions: NDArray[np.bool_]) -> Floats:
        """Return the worth of coalitions `(k, n)`: `(k, components)`."""
        return np.concatenate([self._worth(part) for part in torch.as_tensor(coalitions).split(self._together)])

    def _worth(self, coalitions: Tensor) -> Floats:
        shown = (coalitions.to(self._inputs.device).float() @ self._members.float()) > 0
        inputs = torch.where(shown[:, None], self._inputs, self._fill).flatten(0, 1)
        logits, values = self._run(inputs)
        by_row = np.stack([self._actor(logits), *([] if values is None else [values])]).reshape(self.heads, len(coalitions), self.rows)
        parts = [by_row.mean(axis=2).T]
        if self.outputs:
            read = centred_logits(logits) if policy_form(self._adapter) == "logits" else logits
            parts.append(read.reshape(len(coalitions), self.rows, -1).mean(axis=1))
        if self._by_row:
            parts.append(by_row.transpose(1, 0, 2).reshape(len(coalitions), -1))
        return np.concatenate(parts, axis=1)

    def _run(self, inputs: Tensor) -> tuple[Floats, Floats | None]:
        n, start, adapter = len(inputs), self._decision.episode_start, self._adapter
        logits, values = adapter.evaluate(inputs, adapter.repeat_state(self._decision.state, n), None if start is None else start.expand(n))
        if (values is None) != (self.heads == 1):
            raise ValueError(f"Expected {'no value' if self.heads == 1 else 'values'} from the agent, as when it decided.")
        rows, criticised = _numbers(logits), None if values is None else _numbers(values.reshape(n))
        finite = np.isfinite(rows[:, ~np.isneginf(self._reference)]).all() and (criticised is None or np.isfinite(criticised).all())
        if not finite:
            raise ValueError("The agent's output on a vector with replaced features is not finite.")
        return rows, criticised

    def _actor(self, logits: Floats) -> Floats:
        return -divergence(policy_form(self._adapter), self._reference, logits)


def divergence(form: PolicyForm, reference: Floats, others: Floats) -> Floats:
    """Return how far policy outputs `(n, outputs)` are from a reference `(outputs,)`: `(n,)` float64 `>= 0`.

    `KL(reference || other)` in nats for `"logits"` and `"gaussian"`, half the squared difference for `"numbers"`.
    """
    if form == "logits":
        return kl_divergence(reference, others)
    if form == "numbers":
        return 0.5 * ((others - reference) ** 2).sum(axis=-1)
    (mean, log_std), (other_mean, other_log_std) = np.split(reference, 2), np.split(others, 2, axis=-1)
    spread = np.exp(2 * (log_std - other_log_std)) + ((mean - other_mean) * np.exp(-other_log_std)) ** 2
    return np.maximum((other_log_std - log_std + 0.5 * (spread - 1)).sum(axis=-1), 0)


def _number(feature: int | str, names: Sequence[str]) -> int:
    number = names.index(feature) if isinstance(feature, str) and feature in names else feature
    if isinstance(number, str) or not 0 <= number < len(names):
        raise ValueError(f"Expected the number of a feature, 0 to {len(names) - 1}, or its name, one of {tuple(names)}, got {feature!r}.")
    return int(number)


def _numbers(tensor: Tensor) -> Floats:
    return tensor.detach().double().cpu().numpy()
