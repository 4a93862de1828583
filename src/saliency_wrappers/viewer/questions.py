"""What if: `Question` is one change to what an agent saw or remembered, `Interrogation` puts it to the agent.

The numbers are those of `PerturbationSaliency.outputs` with one mask: 0 inside the region, 1 outside.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from xaitk_saliency.interfaces.perturb_image import PerturbImage

from saliency_wrappers.agents import as_adapter
from saliency_wrappers.decisions import Array, Decision, SaliencyMaps
from saliency_wrappers.saliency.fingerprints import agent_fingerprint
from saliency_wrappers.saliency.masks import Fill, GaussianBlur
from saliency_wrappers.saliency.method import maps_of
from saliency_wrappers.saliency.perturbation import PerturbationSaliency
from saliency_wrappers.saliency.presets import PRESETS, saliency_method
from saliency_wrappers.states import StateTree
from saliency_wrappers.store.reader import StoredBlock, StoredDecision, StoredEpisode
from saliency_wrappers.store.tree_schema import dressed
from saliency_wrappers.viewer.trust import Trust

FILLS = ("blur", "background", "black", "other")
BACKGROUND_FRAMES = 64
"""The background is the median of at most so many inputs, evenly spaced over the episode."""

KEPT = 8
"""Blocks of decisions, and fills, that stay in memory between questions."""

Kept = TypeVar("Kept")


class RectangleMask(PerturbImage):
    """One mask that replaces a rectangle of the image, given in pixels of the network input."""

    depends_on_shape_only = True

    def __init__(self, top: int, left: int, bottom: int, right: int) -> None:
        """Replace the rows `top` to `bottom` and the columns `left` to `right`, both exclusive at the end."""
        self.box = top, left, bottom, right

    def perturb(self, ref_image: NDArray[Any]) -> Array:
        """Return `(1, h, w)` float32: 0 inside the rectangle, 1 outside."""
        top, left, bottom, right = self.box
        mask = np.ones((1, *ref_image.shape[:2]), np.float32)
        mask[0, top:bottom, left:right] = 0
        return mask

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return dict(zip(("top", "left", "bottom", "right"), self.box, strict=True))


class _MovableRectangle(RectangleMask):
    """A rectangle that lies elsewhere at each question, so that one method answers them all: what it measures of the agent is kept."""

    depends_on_shape_only = False


@dataclass(frozen=True)
class Question:
    """A change to one decision."""

    row: int
    """Which decision of the episode, counted from 0."""
    region: tuple[int, int, int, int]
    """Top, left, bottom, right in pixels of the network input, exclusive at the end. An empty region replaces nothing."""
    fill: str = "blur"
    """What replaces it: `"blur"` (sigma 3), `"background"` (the episode's median), `"black"`, or `"other"`: what another decision saw."""
    other: int = 0
    """That other decision."""
    state: str | int = "own"
    """The incoming state: `"own"`, `"initial"`, or the one of another decision."""

    @staticmethod
    def parse(content: dict[str, Any]) -> Question:
        """Return a question from what a page sent; `ValueError` for anything else."""
        region = content.get("region", (0, 0, 0, 0))
        if not isinstance(region, list | tuple) or len(region) != 4 or not all(map(_is_count, region)):
            raise ValueError(f"Expected a region as four whole numbers from 0 on, got {region!r}.")
        row, other, state, fill = (
            content.get(key, default) for key, default in (("row", 0), ("other", 0), ("state", "own"), ("fill", "blur"))
        )
        if not _is_count(row) or not _is_count(other):
            raise ValueError(f"Expected decisions as whole numbers from 0 on, got {row!r} and {other!r}.")
        if fill not in FILLS:
            raise ValueError(f"Expected a fill, one of {FILLS}, got {fill!r}.")
        if state not in ("own", "initial") and not _is_count(state):
            raise ValueError(f'Expected a state as "own", "initial" or a decision, got {state!r}.')
        return Question(row, (region[0], region[1], region[2], region[3]), fill, other, state)


@dataclass(frozen=True)
class Answer:
    """What the agent decided, and what it would have decided."""

    logits: tuple[list[float], list[float]]
    """Before and after the change, `(num_actions,)` each."""
    values: tuple[float, float] | None
    """Before and after the change. None when the agent has no value output."""
    milliseconds: float
    """How long the agent and the store took."""
    note: str | None
    """A warning to show. None when this is the agent that acted."""


class Interrogation:
    """Puts questions about recorded decisions to an agent, one at a time."""

    def __init__(self, agent: Any) -> None:
        """Take an agent: an `nn.Module`, or whatever `as_adapter` takes."""
        self.adapter = as_adapter(agent)
        self._fingerprint = agent_fingerprint(self.adapter)
        self._backgrounds: dict[str, Array] = {}
        self._rectangle = _MovableRectangle(0, 0, 0, 0)
        self._methods: OrderedDict[tuple[str, str, int], PerturbationSaliency] = OrderedDict()
        self._blocks: OrderedDict[tuple[str, int], StoredBlock] = OrderedDict()
        self._lock = threading.Lock()
        self._trust = Trust(self.adapter, self._decision, self._background)

    def warm_up(self, episode: StoredEpisode) -> None:
        """Answer one question in advance: the first one compiles and measures, which takes about a second."""
        if len(episode):
            self.ask(episode, Question(0, (0, 0, 1, 1)))

    def ask(self, episode: StoredEpisode, question: Question) -> Answer:
        """Answer a question.

        Raises:
            ValueError: a decision that the episode does not have, a state or an input of another shape.
        """
        began = time.perf_counter()
        with self._lock:
            decision = self._decision(episode, question.row)
            changed = replace(decision, state=self._state(episode, question, decision))
            self._rectangle.box = question.region
            outputs = self._method(episode, question).outputs(self.adapter, changed)
            logits, value = decision.numbers
        values = None if outputs.values is None else (_first_number(value), float(outputs.values[1, 0]))
        took = 1000 * (time.perf_counter() - began)
        return Answer(((logits or [[]])[0], outputs.logits[1].tolist()), values, took, self._note(episode))

    def maps(self, episode: StoredEpisode, row: int, method: str) -> SaliencyMaps:
        """Return the maps of one decision by a method of `PRESETS`; `ValueError` for another name or no such decision."""
        if method not in PRESETS:
            raise ValueError(f"Expected a method, one of {sorted(PRESETS)}, got {method!r}.")
        with self._lock:
            return maps_of(saliency_method(method), self.adapter, [self._decision(episode, row)])[0]

    def trust(self, episode: StoredEpisode, first: int) -> dict[str, Any]:
        """Return memory share and confidence of some decisions, see `Trust.measure`."""
        with self._lock:
            return self._trust.measure(episode, first)

    def _method(self, episode: StoredEpisode, question: Question) -> PerturbationSaliency:
        """Whole images are run: to find out whether less would do takes longer than one of them."""
        own = question.fill in ("background", "other")
        key = question.fill, episode.name if own else "", question.other if question.fill == "other" else 0
        if key not in self._methods:
            self._methods[key] = PerturbationSaliency(self._rectangle, fill=self._fill(episode, question), path="plain")
        return _used(self._methods, key)

    def _decision(self, episode: StoredEpisode, row: int) -> Decision:
        stored = stored_decision(episode, row)
        key = episode.name, stored.block.index
        if key not in self._blocks or self._blocks[key].rows < stored.block.rows:
            self._blocks[key] = stored.block
        decision = _used(self._blocks, key).decision(stored.row)
        return replace(decision, state=dressed(decision.state, self._initial()))

    def _state(self, episode: StoredEpisode, question: Question, decision: Decision) -> StateTree:
        if question.state == "own":
            return decision.state
        if question.state == "initial":
            return self._initial()
        return self._decision(episode, int(question.state)).state

    def _initial(self) -> StateTree:
        try:
            return self.adapter.initial_state(1)
        except TypeError:  # the agent cannot tell
            return None

    def _fill(self, episode: StoredEpisode, question: Question) -> Fill:
        if question.fill == "black":
            return 0.0
        if question.fill == "other":
            return stored_decision(episode, question.other).decision.inputs[0].float().numpy()
        return self._background(episode) if question.fill == "background" else GaussianBlur(sigma=3)

    def _background(self, episode: StoredEpisode) -> Array:
        if episode.name not in self._backgrounds:
            rows = np.unique(np.linspace(0, len(episode) - 1, BACKGROUND_FRAMES).astype(int)).tolist()
            inputs = [stored_decision(episode, row).decision.inputs[0].float().numpy() for row in rows]
            self._backgrounds[episode.name] = np.median(np.stack(inputs), axis=0).astype(np.float32)
        return self._backgrounds[episode.name]

    def _note(self, episode: StoredEpisode) -> str | None:
        acted = episode.header.agent
        if acted is None or self._fingerprint is None or acted == self._fingerprint:
            return None
        return "This is not the agent that acted: its weights differ."


def stored_decision(episode: StoredEpisode, row: int) -> StoredDecision:
    """Return the row-th decision of an episode; `ValueError` when it has fewer."""
    if not 0 <= row < len(episode):
        raise ValueError(f"Expected a decision from 0 to {len(episode) - 1}, got {row}.")
    index, within = divmod(row, episode.block)
    return StoredDecision(episode.block_at(index), within)


def _used(cache: OrderedDict[Any, Kept], key: Any) -> Kept:
    """What is kept under a key; the latest `KEPT` keys stay."""
    cache.move_to_end(key)
    while len(cache) > KEPT:
        cache.popitem(last=False)
    return cache[key]


def _is_count(number: Any) -> bool:
    return type(number) is int and 0 <= number < 2**31


def _first_number(value: Any) -> float:
    while isinstance(value, list):
        value = value[0]
    return float(value)
