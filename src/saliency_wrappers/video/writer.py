"""`StreamingWriter`: frames to an H.264 file that plays while it grows, through moviepy's writer."""

from __future__ import annotations

import math
import os
import signal
import warnings
import weakref
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import numpy as np

from saliency_wrappers.video.file_claim import FileClaim, claim_free
from saliency_wrappers.video.overlay import Frame, check_frame

# One fragment for every 15 frames, each sent to the file as soon as it is encoded: what a kill leaves is playable.
_FLAGS = "frag_keyframe+empty_moov+default_base_moof"
_FRAGMENTED = ["-f", "mp4", "-g", "15", "-tune", "zerolatency", "-movflags", _FLAGS, "-flush_packets", "1"]
# What ffmpeg returns when a signal ended it (it finishes the file then), and what the system says when it had no time to.
_INTERRUPTED = (255, -signal.SIGINT, -signal.SIGTERM)


class StreamingWriter:
    """Streams frames to an H.264 file (yuv420p) that plays while it grows; no frame is kept.

        writer = StreamingWriter("episode.mp4", fps=30)
        writer.write(frame)
        writer.close()

    A kill of the whole process group leaves all but the last frames (at most 120). When the writer is forgotten or the interpreter
    exits, the file is finished.
    """

    def __init__(self, path: str | os.PathLike[str], fps: float) -> None:
        """Prepare a file; it is created with the first frame.

        Args:
            path: the file, replaced if it exists. Its folder must exist. While another writer, of this process or another one, writes that
                file, the video goes to a name with a number, `episode-1.mp4`, with a warning.
            fps: frames per second, above 0.

        Raises:
            FileNotFoundError: no such folder.
            TypeError, ValueError: `fps` is no number, or not above 0.
        """
        file = Path(path).absolute()
        if not file.parent.is_dir():
            raise FileNotFoundError(f"Expected an existing folder for the video {file.name}, got {file.parent}.")
        self._size: tuple[int, int] | None = None
        self._encoder = _Encoder(file, check_rate(fps))
        self._finalizer = weakref.finalize(self, self._encoder.close)

    @property
    def path(self) -> Path:
        """The video file: the requested one before the first frame, the one that is written from then on."""
        return self._encoder.path

    def write(self, frame: Frame) -> None:
        """Append a frame; an odd height or width is padded by a black row or column.

        Args:
            frame: `(H, W, 3)` uint8, RGB, of the first frame's size. It is not modified, and not kept.

        Raises:
            TypeError: not an array of uint8.
            ValueError: another shape, or another size than the first frame's.
            OSError: ffmpeg cannot write the file, in ffmpeg's words; or the file was deleted while it was written.
            RuntimeError: the writer is closed.
        """
        if not self._finalizer.alive:
            raise RuntimeError(f"The video {self.path} is closed: no frame can be written to it any more.")
        check_frame(frame, self._size)
        height, width = self._size = (frame.shape[0], frame.shape[1])
        try:
            self._encoder.write(np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0))))
        except BaseException:
            # Half a frame may be under way (Ctrl-C): nothing fits behind it.
            with suppress(OSError):
                self.close()
            raise

    def close(self) -> None:
        """Finish the file. More than once does no harm, nor does an ffmpeg that was ended by Ctrl-C.

        Raises:
            OSError: ffmpeg failed otherwise (a full disk), in ffmpeg's words; or the file was deleted while it was written.
        """
        self._finalizer()


def check_rate(fps: Any) -> float:
    """Return frames per second as given; `TypeError` if it is no number, `ValueError` if it is not above 0 (ffmpeg reads two decimals)."""
    if isinstance(fps, bool) or not isinstance(fps, (int, float, np.number)):
        raise TypeError(f"Expected a number of frames per second, got {type(fps).__name__}.")
    rate = float(cast("float", fps))
    if not (math.isfinite(rate) and round(rate, 2) > 0):
        raise ValueError(f"Expected a positive number of frames per second, got {rate}.")
    return rate


class _Encoder:
    """One ffmpeg process, from the first frame to `close`. Separate from the writer, so that it can outlive a deleted writer."""

    def __init__(self, path: Path, fps: float) -> None:
        self.path = path
        self._fps = fps
        self._ffmpeg: Any = None
        self._claim: FileClaim | None = None
        _encoders.add(self)

    def write(self, frame: Frame) -> None:
        if self._ffmpeg is None:
            self._claim_file()
            self._ffmpeg = self._opened(frame)
        if self._claim is not None and self._claim.deleted:
            raise OSError(self._deleted)
        try:
            self._ffmpeg.write_frame(frame)
            self._ffmpeg.proc.stdin.flush()
        except OSError as error:
            process, self._ffmpeg = self._ffmpeg.proc, None
            said = _ended(process) or str(error)
            self._release()
            raise OSError(f"ffmpeg stopped while writing the video {self.path}: {said}") from error

    def close(self) -> None:
        try:
            self._finish()
        finally:
            self._release()

    def let_go(self) -> None:
        """Close the pipe in a forked child, so that ffmpeg sees its end when the parent closes it."""
        self._release()
        if self._ffmpeg is not None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            for pipe in (self._ffmpeg.proc.stdin, self._ffmpeg.proc.stderr):
                os.dup2(nowhere, pipe.fileno())
            os.close(nowhere)

    @property
    def _deleted(self) -> str:
        return f"The video {self.path} was deleted while it was written: its frames are lost. Keep the folder until the video is closed."

    def _finish(self) -> None:
        if self._ffmpeg is None:
            return
        process, self._ffmpeg = self._ffmpeg.proc, None
        try:
            said = _ended(process)
        except BaseException:  # Ctrl-C while it finishes the file: at the end of its input it does so by itself
            with suppress(OSError, ValueError):
                process.stdin.close()
            raise
        if process.returncode not in (0, *_INTERRUPTED):
            raise OSError(f"ffmpeg could not finish the video {self.path} (exit code {process.returncode}): {said}")
        if self._claim is not None and self._claim.deleted:
            raise OSError(self._deleted)

    def _claim_file(self) -> None:
        asked = self.path
        self.path, self._claim = claim_free(asked)
        if self.path != asked:
            warnings.warn(f"The video {asked} is being written by another recording: this one goes to {self.path.name}.", stacklevel=2)

    def _release(self) -> None:
        claim, self._claim = self._claim, None
        if claim is not None:
            claim.release()

    def _opened(self, frame: Frame) -> Any:
        from moviepy.video.io.ffmpeg_writer import FFMPEG_VideoWriter  # slow to import

        height, width = frame.shape[:2]
        with _interrupts_kept_away():
            ffmpeg: Any = FFMPEG_VideoWriter(
                str(self.path), (width, height), self._fps, codec="libx264", preset="veryfast", ffmpeg_params=_FRAGMENTED
            )
        _shorten_pipe(ffmpeg.proc.stdin.fileno(), 4 * frame.nbytes)
        return ffmpeg


_encoders: weakref.WeakSet[_Encoder] = weakref.WeakSet()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: [encoder.let_go() for encoder in _encoders])


def _ended(process: Any) -> str:
    """Wait for ffmpeg's end; what it complained about."""
    with suppress(OSError, ValueError):
        process.stdin.close()
    said = b"" if process.stderr.closed else process.stderr.read()
    process.stderr.close()
    process.wait()
    return said.decode(errors="replace").strip()


@contextmanager
def _interrupts_kept_away() -> Generator[None]:
    """Start processes within the block with SIGINT ignored: terminals send Ctrl-C to the whole group, and ffmpeg must outlive it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _shorten_pipe(pipe: int, size: int) -> None:
    """Shorten the pipe where the system can: many small frames would wait in 64 KB and be lost by a kill."""
    with suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, min(max(size, 4096), 65536))
