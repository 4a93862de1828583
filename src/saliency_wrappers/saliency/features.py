"""What a decision owes to each feature of a vector observation: `FeatureShapley`, `FeatureOcclusion`, `FeatureExplanation`.

A coalition of features is an input that has these features' own values, and those of a `FeatureFill` for all others.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import torch

from saliency_wrappers.agents.base import AgentAdapter, split_rows
from saliency_wrappers.decisions import Decision, SaliencyMaps
from saliency_wrappers.saliency.feature_fills import FeatureFill, Floats, Marginal, ObservedFill, check_feature_fill, fill_rows
from saliency_wrappers.saliency.feature_game import FeatureGame, Players
from saliency_wrappers.saliency.shapley import Game, Shares, leave_one_out, shapley_values

Groups = Mapping[str, Sequence[int | str]]
"""Features that are left out together, by the group's name: their numbers or their names."""


@dataclass(frozen=True, eq=False)
class FeatureExplanation:
    """What one output owes to the features of one decision."""

    names: tuple[str, ...]
    """Of the features, or groups, `n` of them."""
    phi: Floats
    """`(n,)`: each feature's part, in units of the output or divergence."""
    standard_error: Floats
    """`(n,)`: of phi, from sampling orders; 0 where every coalition was run."""
    fill_error: Floats
    """`(n,)`: of phi, from averaging over the rows of the fill: their standard deviation over the root of their number. NaN for one row."""
    total: float
    """`v(all) - v(none)`, which the parts of `FeatureShapley` sum to."""
    passes: int
    """How many coalitions were run, each with every row of the fill."""

    @property
    def fraction(self) -> Floats:
        """`(n,)`: `|phi| / sum |phi|`, in [0, 1]; zeros where all parts are 0."""
        size = np.abs(self.phi)
        return size / size.sum() if size.sum() > 0 else np.zeros_like(size)

    def sentence(self) -> str:
        """Return the features that matter most: `"pole angle 61 %, pole angular velocity 30 %, cart velocity 6 %"`."""
        fraction = self.fraction
        order = np.argsort(-fraction, kind="stable")[:3]
        return ", ".join(f"{self.names[i]} {100 * fraction[i]:.0f} %" for i in order if fraction[i] > 0) or "no feature matters"


@dataclass(frozen=True, eq=False)
class FeatureExplanations:
    """What a decision's outputs owe to the features."""

    actor: FeatureExplanation
    """Of the game that the method plays, for the actor's map."""
    critic: FeatureExplanation | None
    """Of the value. None without a value output."""
    outputs: list[FeatureExplanation]
    """Of each number of the policy output: logits minus their mean, means and logarithms of standard deviations, or plain numbers."""


class FeatureMethod(ABC):
    """What `FeatureShapley` and `FeatureOcclusion` share: the features, the game and the maps."""

    def __init__(
        self,
        fill: FeatureFill | None = None,
        *,
        game: Literal["divergence", "output"] = "divergence",
        output: int | None = None,
        names: Sequence[str] | None = None,
        groups: Groups | None = None,
        batch_size: int = 16_384,
    ) -> None:
        """Choose the game, the fill and the features.

        Args:
            fill: what stands for features that are left out. None: `Marginal()`, values of other moments.
            game: what a coalition is worth to the actor. `"divergence"`: minus the divergence from the policy to the one on the coalition's
                input, averaged over the fill's rows: KL for categorical and Gaussian policies, in nats, half the squared difference for
                other outputs (see `PolicyForm`); parts say how much the policy depends on a feature. `"output"`: one output itself; parts
                are signed. The critic's game is the value.
            output: the index of that output. None: the action that was taken, of discrete actions.
            names: of the features. None: those that the environment is known to have, else numbers.
            groups: features that are left out together. Features of no group stand for themselves. None: each for itself.
            batch_size: how many inputs are run at a time.

        Raises:
            TypeError, ValueError: a parameter of the wrong kind or value.
        """
        if game not in ("divergence", "output") or batch_size < 1:
            raise ValueError(f"Expected game 'divergence' or 'output' and a batch_size of 1 or more, got {game!r} and {batch_size}.")
        if output is not None and (game != "output" or output < 0):
            raise ValueError(f"Expected output >= 0 with game='output' only, got output={output} with game={game!r}.")
        self.fill: FeatureFill = Marginal() if fill is None else fill
        check_feature_fill(self.fill)
        self.game, self.output, self.batch_size = game, output, batch_size
        self.names = None if names is None else tuple(map(str, names))
        self.groups = None if groups is None else {str(name): tuple(members) for name, members in groups.items()}

    def __call__(self, adapter: AgentAdapter, decisions: Sequence[Decision]) -> list[SaliencyMaps]:
        """Compute maps `(features,)` of each row of each decision, or `(groups,)`, with their names; signed."""
        rows = [row for decision in decisions for row in split_rows(adapter, decision)]
        for row in rows:
            self._observe(row)
        return [self._maps(adapter, row) for row in rows]

    def explain(self, adapter: AgentAdapter, decision: Decision) -> FeatureExplanations:
        """Return what the outputs of a one-row decision owe to the features, with errors."""
        if len(decision) != 1:
            raise ValueError(f"Expected a decision of one row, got {len(decision)}.")
        self._observe(decision)
        return self._explained(adapter, decision)

    def players(self, features: int) -> tuple[str, ...]:
        """Return the names of the entries of maps, for vectors of so many features."""
        return Players.of(features, self.names, self.groups).names

    def named(self, names: Sequence[str] | None) -> Self:
        """Return the same method with these names, where it has none of its own; it shares the fill."""
        if self.names is not None or names is None:
            return self
        made = copy.copy(self)
        made.names = tuple(names)
        return made

    @property
    def running(self) -> bool:
        """Whether maps depend on the decisions that were explained before."""
        return isinstance(self.fill, ObservedFill) and self.fill.values is None

    def fixed(self, values: Any) -> Self:
        """Return the same method with a fill of these values, see `ObservedFill`, where its fill has none of its own."""
        if not isinstance(self.fill, ObservedFill):
            return self
        made = copy.copy(self)
        made.fill = self.fill.fixed(values)
        return made

    def get_config(self) -> dict[str, Any]:
        """Return what the maps depend on."""
        fill: Any = self.fill
        config = fill.get_config() if hasattr(fill, "get_config") else {} if callable(fill) else {"values": np.asarray(fill).tolist()}
        made = {"class": getattr(fill, "__qualname__", type(fill).__qualname__), **config}
        return {"fill": made, "game": self.game, "output": self.output, "groups": self.groups}

    @abstractmethod
    def _shares(self, game: Game, n: int) -> Shares:
        """The parts of n players."""

    def _observe(self, decision: Decision) -> None:
        if isinstance(self.fill, ObservedFill):
            self.fill.observe(_vector(decision))

    def _explained(self, adapter: AgentAdapter, decision: Decision, *, maps_only: bool = False) -> FeatureExplanations:
        vector = _vector(decision)
        players = Players.of(len(vector), self.names, self.groups)
        needed = {"outputs": self.game == "output" or not maps_only, "by_row": not maps_only}
        with torch.inference_mode():
            game = FeatureGame(adapter, decision, players, fill_rows(self.fill, vector), self.batch_size, **needed)
            shares = self._shares(game, len(players.names))
        return _explanations(players.names, shares, game)

    def _maps(self, adapter: AgentAdapter, decision: Decision) -> SaliencyMaps:
        explained = self._explained(adapter, decision, maps_only=True)
        actor = explained.actor if self.game == "divergence" else explained.outputs[self._index(decision)]
        critic = None if explained.critic is None else np.asarray(explained.critic.phi, np.float32)
        return SaliencyMaps(np.asarray(actor.phi, np.float32), critic, features=actor.names)

    def _index(self, decision: Decision) -> int:
        """The output that the actor's map is of."""
        outputs = decision.logits.shape[1]
        index = int(decision.action.flatten()[0]) if self.output is None and decision.action is not None else self.output
        if index is None or not 0 <= index < outputs:
            raise ValueError(
                f"Expected output= as the index of one of {outputs} outputs, got {index}: with game='output' and no discrete action it "
                "tells which output the map is of."
            )
        return index


class FeatureShapley(FeatureMethod):
    """Shapley values of the features: exact for at most 12, else from antithetic pairs of random orders, with a standard error.

    The parts sum to `v(all) - v(none)`, exactly in both cases: for the actor to the mean divergence from the policy to those on the fill's
    rows, for the critic to the value minus its mean over these rows. Exact values take `2**n` coalitions, each with every row of the fill.
    """

    def __init__(self, fill: FeatureFill | None = None, *, exact: int = 12, pairs: int = 32, seed: int = 0, **options: Any) -> None:
        """Choose the game, the fill and the features.

        Args:
            fill: see `FeatureMethod`, as are `options`.
            exact: up to so many features or groups every coalition is run, `2**n`.
            pairs: of a random order and its reverse, for more of them.
            seed: of the orders.
            options: `game`, `output`, `names`, `groups`, `batch_size`.
        """
        super().__init__(fill, **options)
        if exact < 0 or exact > 16 or pairs < 1:
            raise ValueError(f"Expected exact of 0 to 16 and pairs of 1 or more, got {exact} and {pairs}.")
        self.exact, self.pairs, self.seed = exact, pairs, seed

    def get_config(self) -> dict[str, Any]:
        """Return what the maps depend on."""
        return {**super().get_config(), "exact": self.exact, "pairs": self.pairs, "seed": self.seed}

    def _shares(self, game: Game, n: int) -> Shares:
        return shapley_values(game, n, self.exact, self.pairs, self.seed)


class FeatureOcclusion(FeatureMethod):
    """What changes when one feature is left out: `v(all) - v(all but i)`. As many coalitions as features, and two; parts need not sum."""

    def _shares(self, game: Game, n: int) -> Shares:
        return leave_one_out(game, n)


FEATURE_METHODS: dict[str, Callable[[], FeatureMethod]] = {"features": FeatureShapley, "feature_occlusion": FeatureOcclusion}
"""Methods for vector observations by name."""


def _explanations(names: tuple[str, ...], shares: Shares, game: FeatureGame) -> FeatureExplanations:
    begin = game.heads + game.outputs
    by_row = shares.phi[:, begin:].reshape(len(names), -1, game.rows) if shares.phi.shape[1] > begin else None

    def of(component: int) -> FeatureExplanation:
        error = np.full(len(names), np.nan)
        if by_row is not None and component < game.heads and game.rows > 1:
            error = by_row[:, component].std(axis=1, ddof=1) / np.sqrt(game.rows)
        phi, standard_error = shares.phi[:, component], shares.standard_error[:, component]
        return FeatureExplanation(names, phi, standard_error, error, float(shares.total[component]), shares.passes)

    return FeatureExplanations(of(0), of(1) if game.heads == 2 else None, [of(game.heads + i) for i in range(game.outputs)])


def _vector(decision: Decision) -> Floats:
    """The input `(features,)` of a one-row decision; `ValueError` for an image, or numbers that are not finite."""
    inputs = decision.inputs
    if inputs.ndim != 2 or not inputs.shape[1]:
        raise ValueError(
            f"Expected a vector (1, features) as network input, got {tuple(inputs.shape)}. For images use method='xaitk' or another "
            "PerturbationSaliency."
        )
    vector = inputs[0].detach().double().cpu().numpy()
    if not np.isfinite(vector).all():
        raise ValueError(f"Expected a vector of finite numbers as network input, got {vector.tolist()}.")
    return vector
