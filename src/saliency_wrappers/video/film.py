"""`Film`: the frames of a video on their way from `render` to the file, waiting for their maps."""

from __future__ import annotations

import os
import weakref
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gymnasium import logger

from saliency_wrappers.preprocessing import FramePreprocessor
from saliency_wrappers.step_saliency import StepSaliency
from saliency_wrappers.video.overlay import Frame, check_frame
from saliency_wrappers.video.painter import Painter
from saliency_wrappers.video.source import SaliencySource
from saliency_wrappers.video.writer import StreamingWriter


@dataclass(frozen=True, eq=False)
class _Held:
    frame: Frame
    saliency: StepSaliency | None
    """None: nothing was decided on this frame."""
    waiting: bool = False
    """Whether maps are still to come."""
    view: Frame | None = None
    """What the agent sees, drawn beside the frame. None: the frame shows it."""


class Film:
    """Writes one video at a time. A frame is held until the maps of its decision are computed, then drawn, written and dropped.

    A `SaliencyConsumer`: it hears of decisions from a `Recording`, of which it holds at most one block, and wants what it can draw.
    """

    def __init__(self, recording: SaliencySource, painter: Painter) -> None:
        # Weak: a video that is open keeps its film alive, but not the agent, nor the environment that the agent may know.
        self._recording = weakref.ref(recording)
        self._process = os.getpid()
        self.painter = painter
        self._preprocessor: FramePreprocessor | None = None
        self._writer: StreamingWriter | None = None
        self._size: tuple[int, int] | None = None
        self._current: Frame | None = None
        self._view: Frame | None = None
        self._held: deque[_Held] = deque()
        self._path: Path | None = None
        self.frames = 0
        """How many frames it was given."""

    @property
    def running(self) -> bool:
        """Whether a video is being recorded."""
        return self._writer is not None

    @property
    def path(self) -> Path | None:
        """The current video file, or the last one. None before the first."""
        return getattr(self._writer, "path", self._path)  # the writer may have moved to a free name

    @property
    def holding(self) -> int:
        """The number of frames that are held."""
        return len(self._held) + (self._current is not None)

    def start(self, path: Path, fps: float, preprocessor: FramePreprocessor | None) -> None:
        """Start a video; nothing is written before its second frame, or its end."""
        self._writer = StreamingWriter(path, fps)
        self._path = path
        self._preprocessor = preprocessor
        self._size = None
        self.frames = 0

    def add(self, frame: Any, view: Frame | None = None) -> None:
        """Take what is shown now, before the agent's next decision; `view`, `(h, w, 3)` uint8, as in `Painter.paint`.

        Raises:
            TypeError, ValueError: no frame of `(H, W, 3)` uint8, or of another size than the video's first.
        """
        check_frame(frame, self._size)
        self._size = (frame.shape[0], frame.shape[1])
        self._current, self._view = frame.copy(), view
        self.frames += 1

    def turn(self) -> None:
        """Close the current frame after a step or reset: no decision can follow on it. Frames that need no maps are written."""
        if self._current is not None:
            self._hold(None)
        self._write_explained()
        recording = self._recording()
        if recording is not None and len(self._held) > recording.block:
            self._explain()
            self._write_explained()

    def wants_step(self) -> bool:
        """Whether there is a frame to draw on."""
        return self._current is not None

    def decided(self, saliency: StepSaliency) -> None:
        """Attach a decision to the current frame. A second one, or one without a frame, is ignored."""
        if self._current is not None:
            self._hold(saliency)

    def explained(self, saliency: StepSaliency) -> None:
        """Attach maps to the frame that waits for them."""
        place = (saliency.episode, saliency.step)
        for index, held in enumerate(self._held):
            if held.waiting and held.saliency is not None and (held.saliency.episode, held.saliency.step) == place:
                self._held[index] = _Held(held.frame, saliency, view=held.view)
                return

    def finish(self) -> None:
        """Finish the video: compute pending maps, draw and write the frames, close the file. The file is closed even if that fails."""
        writer = self._writer
        if writer is None:
            return
        try:
            self._explain()
        finally:
            try:
                self._write_all()
            finally:
                self._path, self._writer = self.path, None
                writer.close()

    def rescue(self) -> None:
        """Finish the video after a failure elsewhere: frames without maps are plain, and nothing is raised.

        Does nothing in a forked child, which has the film, too, when it exits: the video is its parent's.
        """
        if os.getpid() != self._process:
            return
        try:
            self._salvage()
        except Exception as error:
            logger.warn("The saliency video %s misses frames, or their maps: %s", self.path, error)

    @contextmanager
    def rescued(self) -> Generator[None]:
        """Finish the video when the block raises, and re-raise."""
        try:
            yield
        except BaseException as failure:
            if not isinstance(failure, Exception):
                self._stop_waiting()  # Ctrl-C: now, not after a block of maps
            self.rescue()
            raise

    @contextmanager
    def filming(self) -> Generator[None]:
        """Handle errors of filming: an exception ends the video, and the recorder's error policy raises it or warns."""
        recording = self._recording()
        handled = nullcontext() if recording is None else recording.failures.handled("A saliency video ended early", f"({self.path})")
        with handled:
            try:
                yield
            except Exception:
                with suppress(Exception):  # the first failure says why
                    self._salvage()
                raise

    @contextmanager
    def filming_step(self) -> Generator[None]:
        """As `filming`, after the environment has stepped: an error is raised by the next call, so that the transition is not lost."""
        recording = self._recording()
        with nullcontext() if recording is None else recording.failures.postponed(), self.filming():
            yield

    def _salvage(self) -> None:
        with suppress(Exception):
            self._explain()
        self.finish()

    def _hold(self, saliency: StepSaliency | None) -> None:
        if self._current is not None:
            waiting = saliency is not None and saliency.maps is None
            self._held.append(_Held(self._current, saliency, waiting, self._view))
            self._current = self._view = None

    def _explain(self) -> None:
        recording = self._recording()
        try:
            if recording is not None and any(held.waiting for held in self._held):
                recording.flush()
        finally:
            self._stop_waiting()

    def _stop_waiting(self) -> None:
        self._held = deque(replace(held, waiting=False) for held in self._held)

    def _write_explained(self) -> None:
        while self._held and not self._held[0].waiting:
            self._write_first()

    def _write_all(self) -> None:
        """Write all frames. Those that cannot be drawn are written without maps, and the first exception is raised at the end."""
        self._hold(None)
        failures: list[Exception] = []
        while self._held:
            try:
                self._write_first()
            except Exception as error:
                failures.append(error)
        if failures:
            raise failures[0]

    def _write_first(self) -> None:
        held = self._held.popleft()
        if self._writer is None:
            return
        try:
            picture = self.painter.paint(held.frame, held.saliency, self._preprocessor, held.view)
        except Exception:
            self._writer.write(self.painter.paint(held.frame, None, None, held.view))
            raise
        self._writer.write(picture)
