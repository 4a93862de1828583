"""`Camera`: films one environment, each recording to a file of its own; what the video wrappers for one and for many share."""

from __future__ import annotations

import gc
import logging
import os
import weakref
from collections.abc import Callable, Sequence
from glob import escape
from pathlib import Path

from gymnasium import logger

from saliency_wrappers.preprocessing import FramePreprocessor
from saliency_wrappers.video.film import Film
from saliency_wrappers.video.painter import Painter
from saliency_wrappers.video.source import SaliencySource
from saliency_wrappers.video.writer import check_rate

_logger = logging.getLogger(__name__)


class Camera:
    """Starts and stops the videos of one environment. The file is finished even if the camera is never closed."""

    def __init__(
        self,
        recording: SaliencySource,
        painter: Painter,
        fps: float,
        disable_logger: bool = True,
        gc_trigger: Callable[[int], bool] | None = None,
        environment: int = 0,
    ) -> None:
        """Film an environment of a recording; `fps`, `disable_logger` and `gc_trigger` are those of `RecordSaliencyVideo`."""
        self.fps = check_rate(fps)
        self.film = Film(recording, painter)
        self._recording = recording  # what is held can be explained as long as there is a camera
        self._disable_logger = disable_logger
        self._gc_trigger = gc_trigger
        recording.subscribe(self.film, environment)
        self._last_resort = weakref.finalize(self, self.film.rescue)

    @property
    def running(self) -> bool:
        """Whether a video is being recorded."""
        return self.film.running

    @property
    def maps_on_frame(self) -> bool:
        """Whether maps lie on the frame, and are no bars beside it."""
        return self.film.painter.bars is None

    def start(self, path: Path, preprocessor: FramePreprocessor | None) -> None:
        """Start a recording from the next frame on, on which maps lie as the preprocessor tells."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.film.start(path, self.fps, preprocessor)
        # Anew after the writer, for the interpreter's exit goes backwards: the film is finished while its file is open.
        self._last_resort.detach()
        self._last_resort = weakref.finalize(self, self.film.rescue)

    def stop(self, episode: int) -> None:
        """Compute pending maps, draw and write the frames, and finish the file; `RuntimeError` when nothing is being recorded."""
        if not self.running:
            raise RuntimeError("stop_recording was called, but no recording was started.")
        self._last_resort.detach()
        self.film.finish()
        if self.film.frames == 0:
            logger.warn("Ignored saving a video as there were zero frames to save.")
        elif not self._disable_logger:
            from proglog import default_bar_logger  # comes with moviepy, which says it through this

            default_bar_logger("bar")(message=f"Saliency video ready: {self.film.path}")
        if self._gc_trigger and self._gc_trigger(episode):
            gc.collect()


def default_schedule() -> Callable[[int], bool]:
    """Return Gymnasium's trigger of episodes 0, 1, 8, 27, ... and every thousandth."""
    from gymnasium.utils.save_video import capped_cubic_video_schedule  # brings moviepy, which is slow to import

    return capped_cubic_video_schedule


def tell_of_whole_frame() -> None:
    """Warn that the hook has no preprocessor, so maps are drawn over the whole frame."""
    _logger.warning("The hook has no preprocessor: maps are drawn over the whole frame. Name one if the agent sees a part of it.")


def prepared_folder(video_folder: str | os.PathLike[str], name_prefix: str, kinds: Sequence[str] = ("episode", "step")) -> str:
    """Create the folder, and warn of videos in it that will be overwritten."""
    folder = Path(video_folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    prefix = folder / name_prefix
    if any(any(prefix.parent.glob(f"{escape(prefix.name)}-{kind}-*.mp4")) for kind in kinds):
        logger.warn("Overwriting existing saliency videos in %s (give another video_folder or name_prefix to keep them).", folder)
    return str(folder)
