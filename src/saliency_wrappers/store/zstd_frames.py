"""Zstandard frames, as far as a chunk needs them (RFC 8878): the announced size of one, and a skippable one that names the chunk's place.

Any reader of Zstandard passes over a skippable frame, and so do Zarr and earlier versions; chunks of earlier versions have none.
"""

from __future__ import annotations

import hashlib

_MAGIC = b"\x28\xb5\x2f\xfd"
_SKIPPABLE = b"\x5a\x2a\x4d\x18"
_DIGEST = 8
_FRAME = _SKIPPABLE + _DIGEST.to_bytes(4, "little")


def content_size(packed: bytes) -> int | None:
    """Return how many bytes the first frame announces; None when it announces none, or is no frame."""
    if len(packed) < 6 or packed[:4] != _MAGIC:
        return None
    descriptor = packed[4]
    single, flag = descriptor >> 5 & 1, descriptor >> 6
    begin = 5 + (1 - single) + (0, 1, 2, 4)[descriptor & 3]
    size = (single, 2, 4, 8)[flag]
    if not size or len(packed) < begin + size:
        return None
    return int.from_bytes(packed[begin : begin + size], "little") + (256 if size == 2 else 0)


def place_frame(place: str, padding: int = 0) -> bytes:
    """Return a skippable frame that names a place, after another of so many bytes of zeros (none unless positive)."""
    frame = _FRAME + _digest(place)
    return _SKIPPABLE + padding.to_bytes(4, "little") + bytes(padding) + frame if padding > 0 else frame


def is_bound_to(packed: bytes, place: str) -> bool:
    """Whether what follows the data names this place, or names none, as earlier versions wrote it."""
    frame, digest = packed[-_DIGEST - len(_FRAME) : -_DIGEST], packed[-_DIGEST:]
    return frame != _FRAME or digest == _digest(place)


def _digest(place: str) -> bytes:
    return hashlib.blake2b(place.encode(), digest_size=_DIGEST).digest()
