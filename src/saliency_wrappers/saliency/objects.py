"""Objects of a network input, and what the agent's decision owes to each: `ObjectShapley`, `LeaveOneOut`, `find_objects`.

An object is what differs from a background. A coalition of objects is an input that shows only these on the background.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, label
from torch import Tensor

from saliency_wrappers.agents.base import AgentAdapter, split_rows
from saliency_wrappers.decisions import Array, Decision, SaliencyMaps, floating_inputs
from saliency_wrappers.details import ObjectPart, parts_sentence
from saliency_wrappers.saliency.masks import Fill, filled
from saliency_wrappers.saliency.method import SaliencyMethod, maps_of
from saliency_wrappers.saliency.object_names import NameObjects, place_names
from saliency_wrappers.saliency.policy_scores import centred_logits, kl_divergence
from saliency_wrappers.saliency.shapley import Game, Shares, leave_one_out, shapley_values

Floats = NDArray[np.float64]
Segments = NDArray[np.int64]
"""`(h, w)`: 0 where no object is, i on the i-th object."""

FindObjects = Callable[[Array, Array], Segments]
"""From the input and the background, both `(C, h, w)` and relative to the input range, to segments."""


def find_objects(image: Array, background: Array, threshold: float = 0.03, grow: float = 1.5, most: int = 24) -> Segments:
    """8-connected components of `max over C of |x - b| > threshold`, each grown by at most `grow` pixels without overlap.

    Args:
        image: x, `(C, h, w)`, in units of the input range.
        background: b, of the same shape.
        threshold: differences above it belong to an object.
        grow: in pixels.
        most: the number of objects; smaller ones are merged with the nearest of the largest.

    Returns:
        Segments, the object with the largest `sum |x - b|` first.
    """
    change = np.abs(image - background).max(axis=0)
    parts, count = cast(tuple[Segments, int], label(change > threshold, structure=np.ones((3, 3))))
    if not count:
        return np.zeros(change.shape, np.int64)
    sizes = np.bincount(parts.ravel(), weights=change.ravel(), minlength=count + 1)[1:]
    rank = np.empty(count + 1, np.int64)
    rank[0], rank[1 + np.argsort(-sizes, kind="stable")] = 0, np.arange(1, count + 1)
    segments = _merged(rank[parts], most)
    distance, nearest = _nearest(segments)
    return np.where(distance <= grow, nearest, 0)


@dataclass(frozen=True, eq=False)
class ObjectExplanation:
    """What one head's output owes to the objects of one decision."""

    segments: Segments
    """`(h, w)`: 0 where no object is, i on the i-th object."""
    phi: Floats
    """`(n,)`: each object's part, in units of the game."""
    standard_error: Floats
    """`(n,)`: of phi; 0 where it is exact."""
    total: float
    """`v(all) - v(none)`, which the parts of `ObjectShapley` sum to."""
    passes: int
    """How many inputs the agent was run on."""
    labels: tuple[str, ...]
    """A name for each of the n objects."""

    @property
    def parts(self) -> tuple[ObjectPart, ...]:
        """The objects one by one, with their masks."""
        numbered = enumerate(zip(self.labels, self.phi.tolist(), self.standard_error.tolist(), strict=True), start=1)
        return tuple(ObjectPart(label, self.segments == i, phi, error) for i, (label, phi, error) in numbered)

    def sentence(self, names: Sequence[str] | None = None) -> str:
        """The objects that matter most, in per cent of all parts' absolute values: `"paddle 49 %, ball 36 %"`.

        Args:
            names: a name for each object. None: `labels`.
        """
        return parts_sentence(self.labels if names is None else names, self.phi.tolist())

    def map(self, inside: Array | None = None) -> Array:
        """`phi_i / |segment i|` on each object, or phi_i in proportion to another map `(h, w)` inside of it; 0 elsewhere."""
        weights = np.ones(self.segments.shape) if inside is None else np.abs(inside).astype(np.float64)
        n = len(self.phi) + 1
        sums = np.bincount(self.segments.ravel(), weights=weights.ravel(), minlength=n)
        even = (sums <= 0)[self.segments]
        counts = np.bincount(self.segments.ravel(), minlength=n)
        share = np.where(even, 1 / np.maximum(counts, 1)[self.segments], weights / np.where(sums > 0, sums, 1)[self.segments])
        return np.asarray(np.append(0.0, self.phi)[self.segments] * share, np.float32)


class ObjectMethod(ABC):
    """Base class of `ObjectShapley` and `LeaveOneOut`: objects, coalitions and maps."""

    def __init__(
        self,
        background: Fill,
        *,
        game: Literal["kl", "logit"] = "kl",
        objects: FindObjects | None = None,
        names: NameObjects | None = None,
        inside: SaliencyMethod | None = None,
        batch_size: int = 256,
    ) -> None:
        """Choose the game and the objects.

        Args:
            background: the scene without objects, such as `Background(episode)`. It fails where the camera scrolls or an object rests.
            game: what a coalition is worth to the actor: `"kl"`: `-KL(pi || pi_S)`; `"logit"`: the centred logit of the chosen action. The
                critic's game is the value.
            objects: finds segments, from RAM positions for example. None: `find_objects`.
            names: from segments to a name for each object. None: where each object is, `place_names`.
            inside: a method whose map distributes phi inside each object. None: evenly.
            batch_size: how many inputs are run at a time.

        Raises:
            ValueError: another game, or a batch size below 1.
        """
        if game not in ("kl", "logit") or batch_size < 1:
            raise ValueError(f"Expected game 'kl' or 'logit' and a batch_size of 1 or more, got {game!r} and {batch_size}.")
        self.background, self.game, self.inside, self.batch_size = background, game, inside, batch_size
        self.objects: FindObjects = find_objects if objects is None else objects
        self.names: NameObjects = place_names if names is None else names

    def __call__(self, adapter: AgentAdapter, decisions: Sequence[Decision]) -> list[SaliencyMaps]:
        """Maps `(h, w)` of each row of each decision: each object's part, painted on it."""
        rows = [row for decision in decisions for row in split_rows(adapter, decision)]
        details = [None] * len(rows) if self.inside is None else maps_of(self.inside, adapter, rows)
        return [self._maps(adapter, row, detail) for row, detail in zip(rows, details, strict=True)]

    def explain(
        self, adapter: AgentAdapter, decision: Decision, background: Fill | None = None
    ) -> tuple[ObjectExplanation, ObjectExplanation | None]:
        """What actor and critic owe to the objects of a one-row decision.

        Args:
            adapter: the agent.
            decision: one row.
            background: the scene of this decision. None: the method's own background.

        Returns:
            The actor's and the critic's; None for the critic without a value output.

        Raises:
            ValueError: segments of another size than the input, or names that are not one for each object.
        """
        image = decision.inputs[0].float().cpu().numpy()
        scene = filled(self.background if background is None else background, image, adapter.input_range)
        segments, labels = self._objects(image, scene, adapter.input_range)
        shares = self._shares(self._game(adapter, decision, segments, scene), len(labels))
        made = [
            ObjectExplanation(segments, shares.phi[:, i], shares.standard_error[:, i], float(shares.total[i]), shares.passes, labels)
            for i in range(shares.phi.shape[1])
        ]
        return made[0], made[1] if len(made) > 1 else None

    def _objects(self, image: Array, scene: Array, span: tuple[float, float]) -> tuple[Segments, tuple[str, ...]]:
        """Segments, and a name for each."""
        low, high = span
        relative = [((one - low) / (high - low)).astype(np.float32) for one in (image, scene)]
        segments = np.asarray(self.objects(*relative), np.int64)
        if segments.shape != image.shape[1:]:
            raise ValueError(f"Expected segments of the input's size {image.shape[1:]}, got {segments.shape}.")
        labels, n = tuple(self.names(segments)), int(segments.max(initial=0))
        if len(labels) != n:
            raise ValueError(f"Expected a name for each of {n} objects, got {len(labels)}: {labels}.")
        return segments, labels

    @abstractmethod
    def _shares(self, game: Game, n: int) -> Shares:
        """Return the part of each of n objects in the worth of all of them."""

    def _maps(self, adapter: AgentAdapter, decision: Decision, detail: SaliencyMaps | None) -> SaliencyMaps:
        actor, critic = self.explain(adapter, decision)
        inside = (None, None) if detail is None else (_flat(detail.actor), None if detail.critic is None else _flat(detail.critic))
        return SaliencyMaps(actor.map(inside[0]), None if critic is None else critic.map(inside[1]))

    def _game(self, adapter: AgentAdapter, decision: Decision, segments: Segments, background: Array) -> Game:
        inputs = floating_inputs(decision.inputs)
        places, scene = torch.as_tensor(segments, device=inputs.device), torch.as_tensor(background).to(inputs)
        action = int(decision.logits[0].argmax()) if decision.action is None else int(decision.action.flatten()[0])

        def game(coalitions: NDArray[np.bool_]) -> Floats:
            shown = torch.as_tensor(np.insert(coalitions, 0, False, axis=1), device=inputs.device)
            parts = [
                self._worth(adapter, decision, torch.where(part[:, places][:, None], inputs, scene), action)
                for part in shown.split(self.batch_size)
            ]
            return np.concatenate(parts)

        return game

    def _worth(self, adapter: AgentAdapter, decision: Decision, images: Tensor, action: int) -> Floats:
        """`(n, heads)`: the worth to actor and critic of images `(n, C, h, w)`."""
        n, start = len(images), decision.episode_start
        with torch.inference_mode():
            logits, values = adapter.evaluate(images, adapter.repeat_state(decision.state, n), None if start is None else start.expand(n))
        rows = logits.float().cpu().numpy()
        whole = decision.logits[0].float().cpu().numpy()
        actor = -kl_divergence(whole, rows) if self.game == "kl" else centred_logits(rows)[:, action]
        return np.stack([actor, *([] if values is None else [values.reshape(n).double().cpu().numpy()])], axis=1)


class ObjectShapley(ObjectMethod):
    """Shapley values of the objects: exact for at most 7, else from antithetic pairs of random orders, with a standard error.

    The parts sum to `v(all) - v(none)`, exactly in both cases. A few hundred passes for scenes of many objects.
    """

    def __init__(self, background: Fill, *, exact: int = 7, pairs: int = 8, seed: int = 0, **options: object) -> None:
        """Choose the game and the objects.

        Args:
            background: see `ObjectMethod`, as are `options`.
            exact: up to so many objects every coalition is run, `2**n`.
            pairs: of a random order and its reverse, for more objects.
            seed: of the orders.
            options: `game`, `objects`, `inside`, `batch_size`.
        """
        super().__init__(background, **options)  # type: ignore[arg-type]
        if exact < 0 or exact > 16 or pairs < 1:
            raise ValueError(f"Expected exact of 0 to 16 and pairs of 1 or more, got {exact} and {pairs}.")
        self.exact, self.pairs, self.seed = exact, pairs, seed

    def _shares(self, game: Game, n: int) -> Shares:
        return shapley_values(game, n, self.exact, self.pairs, self.seed)


class LeaveOneOut(ObjectMethod):
    """What changes when one object is missing: `v(all) - v(all but i)`. As many passes as objects, and two. Its parts need not sum."""

    def _shares(self, game: Game, n: int) -> Shares:
        return leave_one_out(game, n)


def _merged(segments: Segments, most: int) -> Segments:
    """Merge objects beyond the first `most` with the nearest of those."""
    if segments.max() <= most:
        return segments
    kept = np.where(segments <= most, segments, 0)
    _, target = _nearest(kept)
    merged = kept.copy()
    for number in range(most + 1, int(segments.max()) + 1):
        there = segments == number
        merged[there] = np.bincount(target[there]).argmax()
    return merged


def _nearest(segments: Segments) -> tuple[Floats, Segments]:
    """Return each pixel's distance to the nearest object, and that object's number."""
    distance, place = cast(tuple[Floats, Segments], distance_transform_edt(segments == 0, return_indices=True))
    return distance, segments[tuple(place)]


def _flat(saliency: Array) -> Array:
    return saliency if saliency.ndim == 2 else saliency.sum(axis=0)
