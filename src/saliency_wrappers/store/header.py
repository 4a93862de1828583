"""What a store says of itself and of an episode: `EpisodeHeader` and the schema, as the attributes of Zarr groups."""

from __future__ import annotations

import hashlib
import importlib
import json
import operator
import re
import warnings
from dataclasses import dataclass, fields
from itertools import chain, islice
from typing import Any

from saliency_wrappers.preprocessing import FramePreprocessor
from saliency_wrappers.store.files import Location, StoreError
from saliency_wrappers.store.state_forms import MOST_FORMS, MOST_LEAVES
from saliency_wrappers.store.tree_schema import Structure, check_structure
from saliency_wrappers.store.zarr_array import read_json

SCHEMA = 1
"""The version of the layout that is written here; newer ones are refused."""
LARGEST_JSON = 2**24
LARGEST_ARRAY_JSON = 2**16
"""Bytes of an array's description, at most."""
LARGEST_BLOCK = 2**20
"""Decisions in a chunk, at most."""
LARGEST_SPEC = 2**22
"""Bytes of an environment's specification, at most; of a larger one the id is kept."""
MOST_NAMES = 4096
"""Names of actions, at most."""
GROUP = "zarr.json"

_OURS = "saliency_wrappers"
_DIGEST = "digest"
_MOST_LEAVES = 4 * MOST_LEAVES  # padded tensors come with their shapes
_LONGEST_NAME = 256
_CONSOLIDATED = "consolidated_metadata"
_HASH = re.compile(r"[0-9a-f]{16,64}")


@dataclass(frozen=True)
class EpisodeHeader:
    """Metadata of an episode, besides its decisions."""

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
    action_names: list[str] | None = None
    """A name for each action, in the order of the logits. None: not known."""
    first_action: int = 0
    """The action that the first logit stands for."""
    agent: str | None = None
    """The fingerprint of the agent that acted. None: not known."""
    learned: bool = False
    """Whether its weights changed during the episode: maps cannot be made any more."""
    preprocessor: dict[str, Any] | None = None
    complete: bool = False
    """Whether the episode ran to its end, and all of it was written."""
    decisions: int | None = None
    """How many decisions it has. None: it is being written, its writer was killed, or an earlier version wrote it."""
    name: str | None = None
    """The name under which it was written; its chunks carry it, so that a chunk of another episode is recognised, and a folder may be
    renamed. None: an earlier version wrote it, whose chunks carry their field and index at most."""

    @staticmethod
    def read(content: dict[str, Any], place: str) -> EpisodeHeader:
        """Return the header of attributes that `attributes` read.

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
        """Return the attributes that `write_group` writes."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def frame_preprocessor(self) -> FramePreprocessor | None:
        """The preprocessor of the frames. None: not known."""
        return None if self.preprocessor is None else _preprocessor(self.preprocessor)

    def _check(self, place: str) -> None:
        numbers = [self.episode, self.block, *(0 if number is None else number for number in (self.seed, self.decisions))]
        if not all(type(number) is int and number >= 0 for number in numbers) or not 0 < self.block <= LARGEST_BLOCK:
            raise StoreError(
                f"Expected whole numbers of episode, block (1 to {LARGEST_BLOCK}), seed and decisions in {place}, got {str(numbers)[:200]}."
            )
        if not all(type(flag) is bool for flag in (self.frames, self.learned, self.complete)):
            raise StoreError(f"Expected frames, learned and complete to be true or false in {place}.")
        if self.agent is not None and not (isinstance(self.agent, str) and _HASH.fullmatch(self.agent)):
            raise StoreError(f"Expected the agent's fingerprint in {place}, got {str(self.agent)[:80]!r}.")
        if self.name is not None and not (isinstance(self.name, str) and 0 < len(self.name) <= _LONGEST_NAME):
            raise StoreError(f"Expected the episode's name in {place}, got {str(self.name)[:80]!r}.")
        if not isinstance(self.env_spec, dict | None) or not isinstance(self.states, list) or not 1 <= len(self.states) <= MOST_FORMS:
            raise StoreError(f"Expected an environment's specification and 1 to {MOST_FORMS} forms of state in {place}.")
        self._check_actions(place)
        for name in ("inputs", "logits", "value", "episode_start"):
            dtype = getattr(self, name)
            if not isinstance(dtype, str) and (dtype is not None or name in ("inputs", "logits")):
                raise StoreError(f"Expected the name of a dtype for {name} in {place}, got {str(dtype)[:80]!r}.")
        structures = (self.inputs, self.logits, self.value, self.episode_start, self.action, *self.states)
        leaves = chain.from_iterable(check_structure(structure, place) for structure in structures)
        if sum(1 for _ in islice(leaves, _MOST_LEAVES + 1)) > _MOST_LEAVES:
            raise StoreError(f"Expected at most {_MOST_LEAVES} tensors in {place}.")
        if self.preprocessor is not None:
            _preprocessor(self.preprocessor, place)

    def _check_actions(self, place: str) -> None:
        if type(self.first_action) is not int or abs(self.first_action) >= 2**63:
            raise StoreError(f"Expected the first action as an integer in {place}, got {str(self.first_action)[:80]!r}.")
        names: Any = self.action_names
        if names is not None and not (isinstance(names, list) and len(names) <= MOST_NAMES and all(isinstance(one, str) for one in names)):
            raise StoreError(f"Expected at most {MOST_NAMES} names of actions in {place}, got {str(names)[:80]!r}.")


def write_group(location: Location, key: str, content: dict[str, Any]) -> None:
    """Write a Zarr group whose attributes hold this, with the schema's version and a digest of it all."""
    if key:
        _drop_consolidated(location)
    location.put(f"{key}/{GROUP}" if key else GROUP, _group_bytes(content))


def check_readable(header: EpisodeHeader, place: str) -> None:
    """Read a header's bytes as `attributes` and `EpisodeHeader.read` will, before they are written.

    Raises:
        StoreError: they would be refused.
        TypeError, ValueError: they are no JSON.
    """
    content = _group_bytes(header.content())
    if len(content) > LARGEST_JSON:
        raise StoreError(f"Expected a header of at most {LARGEST_JSON} bytes in {place}, got {len(content)}.")
    EpisodeHeader.read(_ours(content, GROUP, place), place)


def optional_fields(seed: Any, env_spec: Any) -> dict[str, Any]:
    """Return `seed` and `env_spec` as they can be stored: an int from any integer, JSON of at most `LARGEST_SPEC` bytes.

    What cannot be stored is left out with a warning; of a specification its id is kept.
    """
    number = _whole_number(seed)
    if seed is not None and number is None:
        warnings.warn(f"The seed {str(seed)[:80]} is no integer of 0 or more: it is not stored.", stacklevel=3)
    try:
        text = json.dumps(env_spec)
        if len(text) <= LARGEST_SPEC and isinstance(json.loads(text), dict | None):
            return {"seed": number, "env_spec": json.loads(text)}
        why = f"it takes {len(text)} bytes, expected a dictionary of at most {LARGEST_SPEC}"
    except (TypeError, ValueError, RecursionError) as error:
        why = str(error)[:200]
    name = env_spec.get("id") if isinstance(env_spec, dict) else None
    warnings.warn(f"Of the environment's specification only the id is stored, {str(name)[:80]!r}: {why}.", stacklevel=3)
    return {"seed": number, "env_spec": {"id": name[:1000]} if isinstance(name, str) else None}


def _whole_number(number: Any) -> int | None:
    try:
        found = operator.index(number)
    except TypeError:
        return None
    return found if 0 <= found < 2**256 else None


def _drop_consolidated(location: Location) -> None:
    """Drop consolidated metadata, which would hide newer groups from Zarr's readers."""
    content = location.get(GROUP, LARGEST_JSON)
    if content is not None and _CONSOLIDATED.encode() in content:
        group = read_json(content, GROUP)
        if group.pop(_CONSOLIDATED, None) is not None:
            location.put(GROUP, json.dumps(group).encode())


def _group_bytes(content: dict[str, Any]) -> bytes:
    ours = {"schema": SCHEMA, "library": importlib.import_module(_OURS).__version__, **content}
    ours[_DIGEST] = _digest(json.loads(json.dumps(ours)))
    return json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {_OURS: ours}}).encode()


def _digest(content: dict[str, Any]) -> str:
    rest = {key: value for key, value in content.items() if key != _DIGEST}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def attributes(location: Location, key: str = "", *, verify: bool = True) -> dict[str, Any] | None:
    """Return what a group's attributes hold; None when there is no group.

    Raises:
        StoreError: another group, one of a newer schema, or (unless `verify` is False) one that was changed since it was written.
    """
    file = f"{key}/{GROUP}" if key else GROUP
    content = location.get(file, LARGEST_JSON)
    return None if content is None else _ours(content, file, str(location), verify=verify)


def _ours(content: bytes, file: str, place: str, *, verify: bool = True) -> dict[str, Any]:
    group = read_json(content, file)
    found = group.get("attributes")
    ours = found.get(_OURS) if isinstance(found, dict) and group.get("node_type") == "group" else None
    if not isinstance(ours, dict) or type(ours.get("schema")) is not int:
        raise StoreError(f"Expected a store of saliency_wrappers, got another Zarr group: {file} in {place}.")
    if ours["schema"] > SCHEMA:
        raise StoreError(
            f"The store {place} was written by a newer version of saliency_wrappers (schema {ours['schema']}, this version reads up to "
            f"{SCHEMA}). Upgrade it: pip install -U saliency_wrappers."
        )
    try:
        changed = verify and _DIGEST in ours and ours[_DIGEST] != _digest(ours)  # earlier versions wrote none
    except RecursionError as error:
        raise StoreError(f"Expected JSON that is not nested so deeply in {file} of {place}.") from error
    if changed:
        raise StoreError(f"The header {file} in {place} is damaged or was changed: its digest is another one.")
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
