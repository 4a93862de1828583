"""`ArrayField`: one Zarr v3 array of a store, one row a decision, one chunk a block of rows, and its chunks as bytes.

Any Zarr v3 reads what is written here. Its own assignment takes a millisecond of Python for each chunk, for which the agent's thread
would wait; its own reading makes zeros of a chunk that is not there, and decompresses without a bound.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from saliency_wrappers.store import zstd_frames as frames
from saliency_wrappers.store.files import StoreError

LARGEST_CHUNK = 2**30
"""Bytes of a chunk, decompressed, at most."""
SMALL_CHUNK = 2**26
"""Bytes of a chunk, decompressed, that are read whatever the size of its file."""
LARGEST_RATIO = 2**11
"""How many times larger than its file a larger chunk may be: what is read is bounded by what is there. Files are padded to it."""
LARGEST_LENGTH = 2**32
"""Rows of an array, at most."""

_DTYPES = ("bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)), *(f"float{bits}" for bits in (16, 32, 64)))
_ZSTD_LEVEL = 3
_CHECKSUM = 4


@dataclass(frozen=True)
class ArrayField:
    """An array `(rows, *shape)`, in chunks of `block` rows; compressed without loss, and each chunk with its checksum."""

    name: str
    shape: tuple[int, ...]
    """Of one row."""
    dtype: str
    """NumPy's name of it."""
    block: int
    separator: str | None = None
    """What is between the numbers in a chunk's name, `"/"` or `"."`. None: a dot where there are several, so that a chunk needs no folders
    of its own; stores of earlier versions have slashes."""

    def __post_init__(self) -> None:
        if self.dtype not in _DTYPES:
            raise StoreError(f"Expected {self.name} of a dtype among {', '.join(_DTYPES)}, got {self.dtype!r}.")
        if any(size < 1 for size in self.shape):
            raise StoreError(f"Expected {self.name} with numbers in it, got an empty array of shape {self.shape}.")
        if self.block < 1 or self.nbytes > LARGEST_CHUNK:
            text = f"{self.block} rows {self.shape} of {self.dtype}"
            raise StoreError(f"Expected a block of {self.name} of at most {LARGEST_CHUNK} bytes, got {text}. Choose a smaller block.")

    @property
    def nbytes(self) -> int:
        """The bytes of one chunk, decompressed."""
        return self.block * math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def empty(self) -> NDArray[Any]:
        """Return a chunk of zeros, `(block, *shape)`."""
        return np.zeros((self.block, *self.shape), self.dtype)

    def key(self, block: int) -> str:
        """Return the file of a chunk, beneath the array's group."""
        return f"{self.name}/{self._between.join(['c', str(block), *('0' for _ in self.shape)])}"

    @property
    def _between(self) -> str:
        return self.separator or ("." if self.shape else "/")

    def encode(self, rows: NDArray[Any], block: int, owner: str = "") -> bytes:
        """Return the chunk of a block as bytes, bound to its place; fewer rows than a block are filled up with zeros.

        Args:
            rows: `(n, *shape)`, at most `block` rows.
            block: the chunk's index.
            owner: the name of the episode or map layer whose field it is. Empty: the chunk is bound to its field and index only.
        """
        if len(rows) < self.block:
            whole = self.empty()
            whole[: len(rows)] = rows
            rows = whole
        packed = bytes(_zstd().encode(np.ascontiguousarray(rows, _on_disk(self.dtype))))
        packed += frames.place_frame(self._bound_place(block, owner), padding=self.nbytes // LARGEST_RATIO - len(packed))
        return packed + _checksum(packed)

    @property
    def most_bytes(self) -> int:
        """The largest size of a compressed chunk in bytes: incompressible data grows a little."""
        return self.nbytes + self.nbytes // 128 + 1024

    def decode(self, content: bytes | None, place: str, block: int | None = None, owner: str = "") -> NDArray[Any]:
        """Return the chunk `(block, *shape)` from its bytes.

        Args:
            content: the file. None when there is none.
            place: where it was found, for errors.
            block: the index that a chunk bound to its place must carry. None: the place is not checked.
            owner: the name of the episode or map layer that it must carry, as given to `encode`.

        Raises:
            StoreError: no bytes, damaged ones, another place's, not exactly as many as the shape says, or more than `LARGEST_RATIO`
                allows.
        """
        if content is None:
            raise StoreError(f"A chunk is missing: {place}.")
        packed, checksum = content[:-_CHECKSUM], content[-_CHECKSUM:]
        if len(content) <= _CHECKSUM or checksum != _checksum(packed):
            raise StoreError(f"A chunk is damaged, its checksum is wrong: {place}.")
        if frames.content_size(packed) != self.nbytes:
            raise StoreError(f"A chunk is damaged: expected {self.nbytes} bytes, decompressed, got {frames.content_size(packed)}: {place}.")
        if self.nbytes > max(SMALL_CHUNK, LARGEST_RATIO * len(content)):
            raise StoreError(
                f"Expected a chunk of at most {LARGEST_RATIO} times its file's {len(content)} bytes (or {SMALL_CHUNK} bytes), unpacked, "
                f"got one of {self.nbytes}: {place}."
            )
        if block is not None and not frames.is_bound_to(packed, self._bound_place(block, owner)):
            raise StoreError(f"Expected the chunk of this place, got another one's: {place}.")
        rows = np.empty((self.block, *self.shape), _on_disk(self.dtype))
        try:
            _zstd().decode(packed, out=rows)
        except (RuntimeError, ValueError) as error:
            raise StoreError(f"A chunk is damaged: {place}: {error}") from error
        return rows.astype(self.dtype, copy=False)

    def _bound_place(self, block: int, owner: str) -> str:
        return f"{owner}/{self.name}/{block}" if owner else f"{self.name}/{block}"

    def metadata(self, rows: int) -> bytes:
        """Return the array's `zarr.json` for this number of rows."""
        return json.dumps(_metadata([rows, *self.shape], [self.block, *self.shape], self.dtype, self._between)).encode()


def read_metadata(name: str, content: bytes, place: str) -> tuple[ArrayField, int]:
    """Return an array's field and number of rows from its `zarr.json`, which must be as it is written here.

    Raises:
        StoreError: it says something else: another codec, another dtype, an absurd shape.
    """
    found = read_json(content, place)
    shape, dtype = found.get("shape"), found.get("data_type")
    chunk = _at(found, "chunk_grid", "configuration", "chunk_shape")
    if not (_sizes(shape) and _sizes(chunk) and len(shape) == len(chunk) >= 1 and shape[1:] == chunk[1:] and len(shape) <= 8):
        raise StoreError(f"Expected one chunk for each block of rows in {place}, got the shape {shape!r} in chunks of {chunk!r}.")
    if shape[0] > LARGEST_LENGTH:
        raise StoreError(f"Expected at most {LARGEST_LENGTH} rows in {place}, got {shape[0]}.")
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise StoreError(f"Expected a data type among {', '.join(_DTYPES)} in {place}, got {dtype!r}.")
    separator = _at(found, "chunk_key_encoding", "configuration", "separator")
    if separator not in ("/", "."):
        raise StoreError(f"Expected a slash or a dot between the numbers of chunks in {place}, got {separator!r}.")
    for key, value in _metadata(shape, chunk, dtype, separator).items():
        if found.get(key) != value:
            raise StoreError(f"Expected {key} {json.dumps(value)} in {place}, got {json.dumps(found.get(key))}.")
    return ArrayField(name, tuple(shape[1:]), dtype, chunk[0], separator), shape[0]


def read_json(content: bytes, place: str) -> dict[str, Any]:
    """Parse a JSON object; `StoreError` for anything else."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"Expected JSON in {place}: {error}") from error
    if not isinstance(found, dict):
        raise StoreError(f"Expected an object of JSON in {place}, got {type(found).__name__}.")
    return found


def _metadata(shape: list[int], chunk: list[int], dtype: str, separator: str) -> dict[str, Any]:
    fill: Any = False if dtype == "bool" else 0.0 if dtype.startswith("float") else 0
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": separator}},
        "fill_value": fill,
        "codecs": [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "zstd", "configuration": {"level": _ZSTD_LEVEL, "checksum": False}},
            {"name": "crc32c"},
        ],
        "attributes": {},
        "storage_transformers": [],
    }


def _at(tree: Any, *keys: str) -> Any:
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def _sizes(shape: Any) -> TypeGuard[list[int]]:
    return isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)


@cache
def _on_disk(dtype: str) -> np.dtype[Any]:
    return np.dtype(dtype).newbyteorder("<")


@cache
def _zstd() -> Any:
    from numcodecs import Zstd

    return Zstd(_ZSTD_LEVEL)


def _checksum(content: bytes) -> bytes:
    import google_crc32c

    return int(google_crc32c.value(content)).to_bytes(_CHECKSUM, "little")
