"""`InputSaliency`: of agents with several inputs a map of every image, bars of every vector, and each input's share of the decision."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saliency_wrappers.agents.base import AgentAdapter, policy_form, split_rows
from saliency_wrappers.agents.dict_observation import DictObservation, ObservedState
from saliency_wrappers.agents.observation_parts import PartAdapter, parts_of
from saliency_wrappers.decisions import Decision, InputMaps, SaliencyMaps
from saliency_wrappers.saliency.feature_game import divergence
from saliency_wrappers.saliency.features import FeatureMethod, FeatureShapley
from saliency_wrappers.saliency.fills import stored_decisions
from saliency_wrappers.saliency.method import SaliencyMethod, maps_of
from saliency_wrappers.saliency.perturbation import PerturbationSaliency
from saliency_wrappers.saliency.shapley import shapley_values

Floats = NDArray[np.float64]
Observation = Mapping[str, Tensor]


class InputSaliency:
    """Explains an agent on a dictionary of inputs: cameras, and vectors of sensors.

    Each image has the map of a method for images, each vector that of a method for features, with all other inputs held. Shares are Shapley
    values of whole inputs: those that are left out take their values of other moments, all of one moment together. As with features, the
    actor's game is the divergence from its policy, the critic's is the value.
    """

    def __init__(
        self,
        image: SaliencyMethod | None = None,
        vector: FeatureMethod | None = None,
        *,
        moments: Any = None,
        rows: int = 16,
        last: int = 256,
        batch_size: int = 256,
    ) -> None:
        """Choose the parts.

        Args:
            image: makes the maps of images. None: `PerturbationSaliency()`.
            vector: makes the maps of vectors; each vector has a copy of its own. None: `FeatureShapley()`.
            moments: decisions, an episode or a store: where the values of inputs that are left out are taken from. None: the decisions that
                were explained so far, the present one included.
            rows: how many moments outputs are averaged over.
            last: how many of the latest decisions are kept, without `moments`.
            batch_size: how many inputs are run at a time, for shares.

        Raises:
            ValueError: numbers below 1, or no moments.
        """
        if min(rows, last, batch_size) < 1:
            raise ValueError(f"Expected rows, last and batch_size of 1 or more, got {rows}, {last} and {batch_size}.")
        self.image: SaliencyMethod = PerturbationSaliency() if image is None else image
        self.vector: FeatureMethod = FeatureShapley() if vector is None else vector
        self.rows, self.last, self.batch_size = rows, last, batch_size
        self._vectors: dict[str, FeatureMethod] = {}
        self._moments: deque[Decision] = deque(maxlen=last)
        self._fixed = moments is not None
        if moments is not None:
            self._moments.extend(_moments_of(moments, last))

    def __call__(self, adapter: AgentAdapter, decisions: Sequence[Decision]) -> list[SaliencyMaps]:
        """Compute the maps of each row of each decision: those of the adapter's own input, and of all inputs by their keys in `inputs`.

        Raises:
            TypeError: an agent with one input only.
        """
        parts = parts_of(adapter)
        if parts is None:
            raise TypeError(
                f"InputSaliency needs an agent on a dictionary of inputs, got {type(adapter).__name__} with one input: use "
                "PerturbationSaliency for an image, FeatureShapley for a vector."
            )
        rows = [row for decision in decisions for row in split_rows(adapter, decision)]
        if not self._fixed:
            self._moments.extend(row.copy() for row in rows)
        own = self._maps(parts.image, adapter, rows)
        others = {key: self._other(adapter, parts, key, rows) for key in parts.others}
        return [
            self._joined(adapter, parts, row, own[i], {key: None if made is None else made[i] for key, made in others.items()})
            for i, row in enumerate(rows)
        ]

    @property
    def running(self) -> bool:
        """Whether maps depend on the decisions that were explained before."""
        return not self._fixed

    def fixed(self, store: Any) -> Self:
        """Return the same method with the moments of a store, where it has none of its own."""
        if self._fixed:
            return self
        made = copy.copy(self)
        made._moments, made._fixed = deque(_moments_of(store, self.last), maxlen=self.last), True
        made._vectors = {}
        return made

    def get_config(self) -> dict[str, Any]:
        """Return what the maps depend on."""
        parts = {name: getattr(part, "get_config", dict)() for name, part in (("image", self.image), ("vector", self.vector))}
        kinds = {"image": type(self.image).__qualname__, "vector": type(self.vector).__qualname__}
        moments = [float(one.inputs.double().sum()) for one in self._moments] if self._fixed else self.last
        return {"parts": parts, "kinds": kinds, "rows": self.rows, "moments": moments}

    def _other(self, adapter: AgentAdapter, parts: DictObservation, key: str, rows: Sequence[Decision]) -> list[SaliencyMaps] | None:
        """The maps of an input besides the adapter's own. None for one that is neither an image nor a vector, or of no rows."""
        if not rows or parts.others[key].ndim not in (1, 3):
            return None
        part = PartAdapter(adapter, parts, key, rows[0].inputs[0])
        return self._maps(key, part, [part.decision(row) for row in rows])

    def _maps(self, key: str, adapter: AgentAdapter, rows: Sequence[Decision]) -> list[SaliencyMaps]:
        if not rows or rows[0].inputs.ndim == 4:
            return maps_of(self.image, adapter, rows)
        if key not in self._vectors:
            self._vectors[key] = copy.deepcopy(self.vector).fixed(self._values(key)) if self._fixed else copy.deepcopy(self.vector)
        return maps_of(self._vectors[key], adapter, rows)

    def _values(self, key: str) -> NDArray[Any]:
        """The values of a vector at all moments, `(n, features)`."""
        parts = [_rest(one).get(key, one.inputs) for one in self._moments]
        return torch.cat(parts).double().cpu().numpy()

    def _joined(
        self, adapter: AgentAdapter, parts: DictObservation, row: Decision, own: SaliencyMaps, others: Mapping[str, SaliencyMaps | None]
    ) -> SaliencyMaps:
        keys = [parts.image, *others]
        actor, critic = self._shares(adapter, parts, row, keys)
        by_key: dict[str, SaliencyMaps | None] = {parts.image: own, **others}
        inputs = {key: InputMaps(by_key[key], float(actor[i]), None if critic is None else float(critic[i])) for i, key in enumerate(keys)}
        return replace(own, inputs=inputs)

    def _shares(self, adapter: AgentAdapter, parts: DictObservation, row: Decision, keys: Sequence[str]) -> tuple[Floats, Floats | None]:
        """`|phi| / sum |phi|` of each input, for actor and critic."""
        chosen = np.unique(np.linspace(0, len(self._moments) - 1, min(self.rows, len(self._moments))).round().astype(int))
        moments = [_observation(parts, self._moments[i]) for i in chosen]
        own = _observation(parts, row)

        def game(coalitions: NDArray[np.bool_]) -> Floats:
            pairs = [(coalition, moment) for coalition in coalitions for moment in moments]
            mixed = [[own[key] if there else moment[key] for there, key in zip(one, keys, strict=True)] for one, moment in pairs]
            worth = np.concatenate([self._worth(adapter, parts, row, keys, mixed[i : i + size]) for i in range(0, len(mixed), size)])
            return worth.reshape(len(coalitions), len(moments), -1).mean(axis=1)

        size = self.batch_size
        with torch.inference_mode():
            phi = np.abs(shapley_values(game, len(keys), exact=12, pairs=32).phi)
        shares = np.divide(phi, phi.sum(axis=0), out=np.zeros_like(phi), where=phi.sum(axis=0) > 0)
        return shares[:, 0], shares[:, 1] if shares.shape[1] > 1 else None

    def _worth(
        self, adapter: AgentAdapter, parts: DictObservation, row: Decision, keys: Sequence[str], mixed: Sequence[Sequence[Tensor]]
    ) -> Floats:
        """`(n, heads)`: the worth to actor and critic of n observations, given as lists in the order of the keys."""
        n, start = len(mixed), row.episode_start
        joined = dict(zip(keys, (torch.cat(columns) for columns in zip(*mixed, strict=True)), strict=True))
        memory = cast("ObservedState", adapter.repeat_state(row.state, n)).memory
        state = ObservedState(memory, {key: joined[key] for key in parts.others})
        logits, values = adapter.evaluate(joined[parts.image], state, None if start is None else start.expand(n))
        reference = row.logits[0].double().cpu().numpy()
        worth = [-divergence(policy_form(adapter), reference, logits.double().cpu().numpy())]
        if values is not None:
            worth.append(values.reshape(n).double().cpu().numpy())
        if not np.isfinite(worth).all():
            raise ValueError("The agent's output is not finite when inputs are replaced by those of other moments.")
        return np.stack(worth, axis=1)


def _observation(parts: DictObservation, decision: Decision) -> Observation:
    """All inputs of a one-row decision by their keys."""
    return {parts.image: decision.inputs, **_rest(decision)}


def _rest(decision: Decision) -> Observation:
    """The inputs besides the adapter's own; the state of a stored decision is a tuple without names."""
    state: Any = decision.state
    return state[ObservedState._fields.index("observation")]


def _moments_of(moments: Any, at_most: int) -> list[Decision]:
    """At most so many decisions, evenly spaced, each of one row; `ValueError` for none."""
    if hasattr(moments, "episodes") or hasattr(moments, "block_at"):
        moments = stored_decisions(moments.episodes if hasattr(moments, "episodes") else [moments], at_most)
    found = [one if isinstance(one, Decision) else one.decision for one in moments]
    if not found or any(len(one) != 1 for one in found):
        raise ValueError(f"Expected at least one decision, each of one row, as moments, got {len(found)}.")
    return [found[i] for i in np.unique(np.linspace(0, len(found) - 1, min(at_most, len(found))).round().astype(int))]
