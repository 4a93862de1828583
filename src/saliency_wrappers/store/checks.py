"""Checks of what is read: `check_field` of an array against the header, `ReadBudget` of memory against the size of files."""

from __future__ import annotations

from saliency_wrappers.store.columns import STATE_FORM
from saliency_wrappers.store.files import StoreError
from saliency_wrappers.store.header import EpisodeHeader
from saliency_wrappers.store.zarr_array import LARGEST_RATIO, ArrayField

SMALL_BLOCK = 2**28
"""Bytes of a block, decompressed, that are read whatever the size of its files."""

_NUMBERS = {"step": "int64", "reward": "float64", STATE_FORM: "uint8"}


class ReadBudget:
    """Bounds the memory of one block: `SMALL_BLOCK` bytes, or `LARGEST_RATIO` times its files' size where that is more."""

    def __init__(self) -> None:
        self._taken = self._files = 0

    def take(self, nbytes: int, file: int, place: str) -> None:
        """Count a chunk of `nbytes` bytes in a file of `file` bytes; `StoreError` when it is too much."""
        self._taken += nbytes
        self._files += file
        if self._taken > max(SMALL_BLOCK, LARGEST_RATIO * self._files):
            raise StoreError(
                f"Expected a block of at most {LARGEST_RATIO} times its files' {self._files} bytes (or {SMALL_BLOCK} bytes), decompressed, "
                f"got {self._taken} with {place}."
            )


def check_field(field: ArrayField, header: EpisodeHeader, place: str) -> None:
    """Check that an array of an episode has the dtype and axes of its header; `StoreError` otherwise."""
    dtype = _NUMBERS.get(field.name)
    if dtype is not None and (field.dtype, field.shape) != (dtype, ()):
        raise StoreError(f"Expected one {dtype} for each decision in {place}, got rows {field.shape} of {field.dtype}.")
    if field.name == "frames" and (field.dtype != "uint8" or len(field.shape) != 3 or field.shape[2] != 3):
        raise StoreError(f"Expected frames (H, W, 3) of uint8 in {place}, got {field.shape} of {field.dtype}.")
    if field.name in ("inputs", "logits", "value", "episode_start"):
        named = getattr(header, field.name)
        if field.dtype != ("float32" if named == "bfloat16" else named):
            raise StoreError(f"Expected {field.name} of {named} in {place}, got {field.dtype}.")
