"""Frames and maps as the page reads them: `encode_frames` and `encode_maps` pack a block of decisions into bytes.

Frames are PNG or JPEG files behind a table of offsets. Maps are quantised to 8 bits between their own lowest and highest value,
stored as differences of neighbouring pixels, and compressed by zlib, which browsers decompress themselves.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from saliency_wrappers.decisions import SaliencyMaps

FEW_COLOURS = 256
"""A frame with at most so many colours is stored without loss (PNG), any other as JPEG."""
JPEG_QUALITY = 88
LARGEST_MAP = 2**22
"""The most pixels of one map that the page shows."""


def encode_image(frame: NDArray[np.uint8], *, small: bool) -> bytes:
    """Return a frame as a PNG or JPEG file.

    Args:
        frame: `(H, W, 3)` uint8, RGB.
        small: spend more time for fewer bytes (for the export).
    """
    bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
    packed = _packed(frame if small else frame[::2, ::2])
    colours = np.unique(packed)
    if len(colours) > FEW_COLOURS:
        return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
    return _palette_png(packed, colours) if small else cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


def encode_frames(frames: Sequence[NDArray[np.uint8]], *, small: bool = False) -> bytes:
    """Return images `(H, W, 3)` uint8 as: their number n, n + 1 offsets into what follows (little-endian uint32), the image files."""
    files = [encode_image(frame, small=small) for frame in frames]
    offsets = np.cumsum([0, *(len(file) for file in files)]).tolist()
    return struct.pack(f"<{len(files) + 2}I", len(files), *offsets) + b"".join(files)


def encode_maps(maps: Sequence[SaliencyMaps | None], *, small: bool = False) -> bytes:
    """Return the maps of n decisions, compressed by zlib.

    Uncompressed: n, h, w and the number of heads (little-endian uint32); lowest and highest value of each map (float32, `(n, heads, 2)`,
    NaN where a decision has no map); `(n, heads, h, w)` uint8, 0 for the lowest value and 255 for the highest, each pixel minus its left
    neighbour and then minus its upper one, modulo 256. Of maps per frame, `(k, h, w)`, the largest value at each pixel is taken. `small`
    spends more time for fewer bytes.
    """
    there = [one for one in maps if one is not None]
    if not there:
        return zlib.compress(struct.pack("<4I", len(maps), 0, 0, 0))
    heads = 1 if there[0].critic is None else 2
    height, width = there[0].actor.shape[-2:]
    if height * width > LARGEST_MAP:
        raise ValueError(f"Expected maps of at most {LARGEST_MAP} pixels, got {height}x{width}.")
    ranges = np.full((len(maps), heads, 2), np.nan, np.float32)
    levels = np.zeros((len(maps), heads, height, width), np.uint8)
    for row, one in enumerate(maps):
        for head, raw in enumerate([] if one is None else (one.actor, one.critic)[:heads]):
            if raw is not None:
                levels[row, head], ranges[row, head] = _quantised(raw)
    header = struct.pack("<4I", len(maps), height, width, heads)
    return zlib.compress(header + ranges.astype("<f4").tobytes() + _differences(levels).tobytes(), 6 if small else 1)


def _packed(frame: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """`(H, W)` uint32: each pixel's colour as one number."""
    red, green, blue = (frame[..., channel].astype(np.uint32) for channel in range(3))
    return (red << np.uint32(16)) | (green << np.uint32(8)) | blue


def _quantised(raw: NDArray[np.float32]) -> tuple[NDArray[np.uint8], tuple[float, float]]:
    flat = np.nan_to_num(raw if raw.ndim == 2 else raw.max(axis=0), nan=0.0, posinf=0.0, neginf=0.0).astype(np.float64)
    low, high = float(flat.min()), float(flat.max())
    scale = 255.0 / (high - low) if high > low else 0.0
    return np.rint((flat - low) * scale).astype(np.uint8), (low, high)


def _differences(levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    across = levels.copy()
    across[..., 1:] -= levels[..., :-1]
    down = across.copy()
    down[..., 1:, :] -= across[..., :-1, :]
    return down


def _palette_png(packed: NDArray[np.uint32], colours: NDArray[np.uint32]) -> bytes:
    """A PNG file with a palette, written directly: 1, 2, 4 or 8 bits a pixel."""
    bits = next(bits for bits in (1, 2, 4, 8) if len(colours) <= 2**bits)
    indices = np.searchsorted(colours, packed).astype(np.uint8)
    per_byte = 8 // bits
    padded = np.pad(indices, ((0, 0), (0, -indices.shape[1] % per_byte))).reshape(len(indices), -1, per_byte)
    shifts = np.arange(per_byte - 1, -1, -1, dtype=np.uint8) * np.uint8(bits)
    rows = np.bitwise_or.reduce(padded << shifts, axis=2).astype(np.uint8)
    scanlines = np.concatenate([np.zeros((len(rows), 1), np.uint8), rows], axis=1).tobytes()
    palette = np.stack([colours >> 16 & 255, colours >> 8 & 255, colours & 255], axis=1).astype(np.uint8).tobytes()
    header = struct.pack(">2I5B", packed.shape[1], packed.shape[0], bits, 3, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"PLTE", palette), (b"IDAT", zlib.compress(scanlines, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_png_chunk(name, content) for name, content in chunks)


def _png_chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
