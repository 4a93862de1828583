"""A video in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar


class MemoryWriter:
    """Stands in for the streaming writer."""

    videos: ClassVar[dict[str, list[Any]]] = {}
    closed: ClassVar[list[str]] = []

    def __init__(self, path: Path, fps: float) -> None:
        self.name = path.stem
        self.frames = MemoryWriter.videos[path.stem] = []

    def write(self, frame: Any) -> None:
        self.frames.append(frame)

    def close(self) -> None:
        MemoryWriter.closed.append(self.name)
