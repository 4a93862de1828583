"""What a checkpoint may take: limits that are checked before PyTorch or safetensors read the file.

Memory and time are bounded by the size of the file and by the constants here; the known networks stay far below all of them.
"""

from __future__ import annotations

import io
import json
import pickletools
import zipfile
from pathlib import Path
from typing import Any

LARGEST_CHECKPOINT = 2**30
"""Bytes of a checkpoint file, at most; the largest known network takes 5 MB."""
MOST_TIMES = 2
"""How many times the file's size its content may take. PyTorch and safetensors write without compression."""
MOST_TENSORS = 4096
"""Tensors in a checkpoint, at most, an optimizer's included."""
MOST_DIMENSIONS = 8
"""Dimensions of a tensor, at most."""
MOST_OPERATIONS = 10**6
"""Operations of the pickle that says which tensors there are, at most."""

_LEGACY_PICKLES = 5
"""PyTorch's older format begins with so many pickles: magic number, protocol, system, content, keys of storages."""


class LimitError(ValueError):
    """A checkpoint exceeds a limit."""


class ForbiddenError(ValueError):
    """A pickle uses a global that PyTorch permits, but that weights do not need and that can allocate any amount of memory."""


def bounded_pickle(content: bytes) -> bytes:
    """Return the bytes of a PyTorch checkpoint in a form that cannot grow while it is read.

    A zip archive is written anew without compression, so that PyTorch reads exactly the entries that were measured here.

    Args:
        content: of the file, in either of PyTorch's formats.

    Raises:
        LimitError: more entries, operations or decompressed bytes than permitted.
        ForbiddenError: an object that does not belong to weights.
        zipfile.BadZipFile: a broken archive.
    """
    if not content.startswith(b"PK\x03\x04"):
        _check_pickles(content, _LEGACY_PICKLES)
        return content
    plain = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(plain, "w", zipfile.ZIP_STORED) as target:
        entries = source.infolist()
        taken = sum(entry.file_size for entry in entries)
        if taken > MOST_TIMES * len(content):
            raise LimitError(
                f"Expected a checkpoint of at most {MOST_TIMES} times its file's {len(content)} bytes when decompressed, got {taken}. "
                "Save it by torch.save, which does not compress."
            )
        if len(entries) > MOST_TENSORS:
            raise LimitError(f"Expected a checkpoint of at most {MOST_TENSORS} entries, got {len(entries)}.")
        for entry in entries:
            part = source.read(entry)
            if entry.filename.endswith(".pkl"):
                _check_pickles(part, 1)
            target.writestr(entry.filename, part)
    return plain.getvalue()


def check_safetensors(file: Path) -> None:
    """Validate the header of a safetensors file.

    Raises:
        LimitError: more tensors or dimensions than permitted.
        ValueError: no such header.
    """
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length > 2**20 * MOST_DIMENSIONS:
            return  # safetensors says what it expected
        found: Any = json.loads(opened.read(length))
    tensors = [entry for entry in found.values() if isinstance(entry, dict)]
    if len(tensors) > MOST_TENSORS:
        raise LimitError(f"Expected a checkpoint of at most {MOST_TENSORS} tensors, got {len(tensors)}.")
    for entry in tensors:
        shape = entry.get("shape")
        if isinstance(shape, list) and len(shape) > MOST_DIMENSIONS:
            raise LimitError(f"Expected tensors of at most {MOST_DIMENSIONS} dimensions, got {len(shape)}.")


def _check_pickles(content: bytes, count: int) -> None:
    """Count the operations of consecutive pickles. A broken pickle is left to PyTorch, which stops there too."""
    stream, operations = io.BytesIO(content), 0
    try:
        for _ in range(count):
            for _, argument, _ in pickletools.genops(stream):
                operations += 1
                if operations > MOST_OPERATIONS:
                    raise LimitError(f"Expected a checkpoint of at most {MOST_OPERATIONS} pickled operations, got more.")
                if isinstance(argument, str) and argument.endswith("bytearray"):
                    raise ForbiddenError("bytearray")
    except (LimitError, ForbiddenError):
        raise
    except Exception:
        return
