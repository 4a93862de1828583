"""What a store says of itself and of an episode: `EpisodeHeader` and the schema, as the attributes of Zarr groups."""

from __future__ import annotations

import importlib
import json
import re
from dataclasses import asdict, dataclass, fields
from typing import Any

from saliency_wrappers.preprocessing import FramePreprocessor
from saliency_wrappers.store.files import Location, StoreError
from saliency_wrappers.store.tree_schema import Structure, check_structure
from saliency_wrappers.store.zarr_array import read_json

SCHEMA = 1
"""The version of the layout that is written here; newer ones are refused."""
LARGEST_JSON = 2**24
GROUP = "zarr.json"

_OURS = "saliency_wrappers"
_HASH = re.compile(r"[0-9a-f]{16,64}")


@dataclass(frozen=True)
class EpisodeHeader:
    """What is known of an episode besides its decisions."""

    episode: int
    """Its number in the recording."""
    block: int
    """How many decisions are in one chunk."""
    inputs: str
    """The dtype of network inputs, and so on: PyTorch's names."""
    logits: str
    value: str | None
    """None when the agent has no value output."""
    episode_start: str | None
    """None when the agent is not told."""
    states: list[Structure]
    """The forms that the incoming state had; an agent that begins with None has two."""
    action: Structure
    frames: bool
    """Whether there are frames."""
    seed: int | None = None
    """Of the reset. None: not known."""
    env_spec: dict[str, Any] | None = None
    """Gymnasium's specification of the environment. None: not known."""
    agent: str | None = None
    """The fingerprint of the agent that acted. None: not known."""
    learned: bool = False
    """Whether its weights changed during the episode: maps cannot be made any more."""
    preprocessor: dict[str, Any] | None = None
    complete: bool = False
    """Whether the episode ran to its end, and all of it was written."""

    @staticmethod
    def read(content: dict[str, Any], place: str) -> EpisodeHeader:
        """A header from what `attributes` found.

        Raises:
            StoreError: something is missing, or not what it should be.
        """
        known = {field.name for field in fields(EpisodeHeader)}
        try:
            header = EpisodeHeader(**{key: value for key, value in content.items() if key in known})
        except TypeError as error:
            raise StoreError(f"Expected the header of an episode in {place}: {error}") from error
        header._check(place)
        return header

    def content(self) -> dict[str, Any]:
        """What `write_group` writes."""
        return asdict(self)

    @property
    def frame_preprocessor(self) -> FramePreprocessor | None:
        """How frames became network inputs. None: not known."""
        return None if self.preprocessor is None else _preprocessor(self.preprocessor)

    def _check(self, place: str) -> None:
        numbers = [self.episode, self.block, 0 if self.seed is None else self.seed]
        if not all(type(number) is int and number >= 0 for number in numbers) or not self.block:
            raise StoreError(f"Expected whole numbers of episode, block and seed in {place}, got {numbers}.")
        if not all(type(flag) is bool for flag in (self.frames, self.learned, self.complete)):
            raise StoreError(f"Expected frames, learned and complete to be true or false in {place}.")
        if self.agent is not None and not (isinstance(self.agent, str) and _HASH.fullmatch(self.agent)):
            raise StoreError(f"Expected the agent's fingerprint in {place}, got {str(self.agent)[:80]!r}.")
        if not isinstance(self.env_spec, dict | None) or not isinstance(self.states, list) or not 1 <= len(self.states) <= 16:
            raise StoreError(f"Expected an environment's specification and 1 to 16 forms of state in {place}.")
        for structure in (self.inputs, self.logits, self.value, self.episode_start, self.action, *self.states):
            list(check_structure(structure, place))
        if self.preprocessor is not None:
            _preprocessor(self.preprocessor, place)


def write_group(location: Location, key: str, content: dict[str, Any]) -> None:
    """A Zarr group whose attributes hold this, with the schema's version."""
    attributes = {"schema": SCHEMA, "library": importlib.import_module(_OURS).__version__, **content}
    group = {"zarr_format": 3, "node_type": "group", "attributes": {_OURS: attributes}}
    location.put(f"{key}/{GROUP}" if key else GROUP, json.dumps(group).encode())


def attributes(location: Location, key: str = "") -> dict[str, Any] | None:
    """What a group's attributes hold; None when there is no group.

    Raises:
        StoreError: another group, or one of a newer schema.
    """
    file = f"{key}/{GROUP}" if key else GROUP
    content = location.get(file, LARGEST_JSON)
    if content is None:
        return None
    group = read_json(content, file)
    found = group.get("attributes")
    ours = found.get(_OURS) if isinstance(found, dict) and group.get("node_type") == "group" else None
    if not isinstance(ours, dict) or type(ours.get("schema")) is not int:
        raise StoreError(f"Expected a store of saliency_wrappers, got another Zarr group: {file} in {location}.")
    if ours["schema"] > SCHEMA:
        raise StoreError(
            f"The store {location} was written by a newer version of saliency_wrappers (schema {ours['schema']}, this version reads up to "
            f"{SCHEMA}). Upgrade it: pip install -U saliency_wrappers."
        )
    return ours


def _preprocessor(content: Any, place: str = "the store") -> FramePreprocessor:
    try:
        lists: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}
        preprocessor = FramePreprocessor(**lists)
        pairs = [pair for pair in (preprocessor.size, preprocessor.rows, preprocessor.columns) if pair is not None]
        if not all(len(pair) == 2 and all(type(number) is int and 0 <= number < 2**16 for number in pair) for pair in pairs):
            raise ValueError(f"sizes {pairs}")
    except (AttributeError, TypeError, ValueError) as error:
        raise StoreError(f"Expected a FramePreprocessor's fields in {place}: {error}") from error
    return preprocessor
