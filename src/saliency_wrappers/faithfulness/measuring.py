"""`Measurer`: runs decisions along the curves of methods' maps; `PartialResults` keeps what was measured in a file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saliency_wrappers.agents.base import AgentAdapter
from saliency_wrappers.decisions import Decision, SaliencyMaps
from saliency_wrappers.faithfulness.curves import CurveMaker, Curves, area, pixel_order
from saliency_wrappers.progress import Report
from saliency_wrappers.saliency.fingerprints import agent_fingerprint, method_description
from saliency_wrappers.saliency.masks import Fill
from saliency_wrappers.saliency.method import SaliencyMethod, maps_of

Floats = NDArray[np.float64]
Ratio = tuple[Floats, Floats]
"""Of each decision the area under a distance's curve, and the distance when everything is replaced, both `(n,)`."""


@dataclass(frozen=True, eq=False)
class Measured:
    """What was measured of one method."""

    ratios: dict[str, Ratio]
    """By metric."""
    curves: dict[str, list[float]]
    """By direction and fill, `"insertion blur"`: the mean total variation at `FRACTIONS`, 13 numbers."""


class PartialResults:
    """What was measured of methods, in a JSON file, for one set of decisions."""

    def __init__(self, path: str | os.PathLike[str] | None, key: str) -> None:
        """Read the file, if it is there and has the same key; None keeps nothing."""
        self._path = None if path is None else Path(path)
        self._content: dict[str, Any] = {"key": key, "methods": {}}
        if self._path is not None and self._path.exists():
            self._content = _content(self._path, self._content)

    def get(self, name: str, description: Any) -> Measured | None:
        """What was measured of a method; None where nothing was, or of another method by this name."""
        found = self._content["methods"].get(name)
        if found is None or found["description"] != description:
            return None
        return Measured({metric: (np.array(a), np.array(b)) for metric, (a, b) in found["ratios"].items()}, found["curves"])

    def put(self, name: str, description: Any, measured: Measured) -> None:
        """Write what was measured of a method; a process that dies leaves the file as it was, or with it."""
        if self._path is None:
            return
        ratios = {metric: [a.tolist(), b.tolist()] for metric, (a, b) in measured.ratios.items()}
        self._content["methods"][name] = {"description": description, "ratios": ratios, "curves": measured.curves}
        beside = self._path.with_name(f"{self._path.name}.{os.getpid()}.part")
        beside.write_text(json.dumps(self._content))
        beside.replace(self._path)


class Measurer:
    """Measures methods on the same decisions."""

    def __init__(self, adapter: AgentAdapter, rows: Sequence[Decision], fills: Mapping[str, Fill], seed: int, report: Report) -> None:
        """Take one-row decisions and named fills; `seed` breaks ties of maps, `report` is called with how many maps are measured."""
        self._adapter, self._rows, self._seed, self._report = adapter, rows, seed, report
        self._makers = [CurveMaker(adapter, row, fills) for row in rows]
        self.key = self._digest(fills)
        """What results depend on, besides the method: agent, decisions, fills and seed."""

    def __call__(self, methods: Mapping[str, SaliencyMethod], kept: PartialResults) -> dict[str, Measured]:
        """Measure each method, unless that was done before."""
        measured: dict[str, Measured] = {}
        for index, (name, method) in enumerate(methods.items()):
            description = json.loads(json.dumps(method_description(method, None)))
            found = kept.get(name, description)
            if found is None:
                found = self._measured(method, index, len(methods))
                kept.put(name, description, found)
            measured[name] = found
        return measured

    def _measured(self, method: SaliencyMethod, index: int, methods: int) -> Measured:
        rows = self._rows
        maps_of(method, self._adapter, rows[:1])  # masks are made and batch sizes chosen at the first decision
        started = perf_counter()
        maps = maps_of(method, self._adapter, rows)
        seconds = np.full(len(rows), (perf_counter() - started) / len(rows))
        random, areas, curves = np.random.default_rng(self._seed), [], []
        for maker, one in zip(self._makers, maps, strict=True):
            curves.append(maker.curves(pixel_order(one.actor, random)))
            areas.append(_areas(maker, one, curves[-1], random))
            self._report(index * len(rows) + len(areas), methods * len(rows))
        made = {metric: np.array([part[metric] for part in areas]).T for metric in areas[0]}
        ratios = {metric: (pair[0], pair[1]) for metric, pair in made.items()} | {"seconds": (seconds, np.ones(len(rows)))}
        means = {f"{way} {fill}": np.mean([one[fill, way].policy for one in curves], axis=0).tolist() for fill, way in curves[0]}
        return Measured(ratios, means)

    def _digest(self, fills: Mapping[str, Fill]) -> str:
        digest = hashlib.sha256(f"{agent_fingerprint(self._adapter)} {self._seed}".encode())
        for maker in self._makers:
            digest.update(maker.digest())
        return digest.hexdigest()


def _content(path: Path, otherwise: dict[str, Any]) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
        fits = content["key"] == otherwise["key"]
        content["methods"].keys()
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"Expected {path} to hold results of an earlier run, to resume it: {error!r}. Name another file.") from error
    return content if fits else otherwise


def _areas(
    maker: CurveMaker, maps: SaliencyMaps, curves: Mapping[tuple[str, str], Curves], random: np.random.Generator
) -> dict[str, tuple[float, float]]:
    """Of one decision every metric's area, and the whole that it is a part of; `curves` are those of the actor's map."""
    made: dict[str, tuple[float, float]] = {}
    for (fill, direction), one in curves.items():
        whole = _whole(one.policy, direction)
        for axis in ("lin", "log"):
            made[f"{direction} {fill} {axis}"] = float(area(one.policy, axis)), whole
        if direction == "insertion":
            made[f"action {fill}"] = float(area(one.action)), 1.0
    if maps.critic is not None and maker.value is not None:
        same = maps.critic is maps.actor
        made |= _critic_areas(curves if same else maker.curves(pixel_order(maps.critic, random)))
    return made


def _critic_areas(curves: Mapping[tuple[str, str], Curves]) -> dict[str, tuple[float, float]]:
    return {
        f"critic {direction} {fill} {axis}": (float(area(one.value, axis)), _whole(one.value, direction))
        for (fill, direction), one in curves.items()
        if one.value is not None
        for axis in ("lin", "log")
    }


def _whole(distances: Floats, direction: str) -> float:
    """The distance when everything is replaced: the first of an insertion, the last of a deletion."""
    return float(distances[0 if direction == "insertion" else -1])
