"""`render_episode`: the video of a recorded episode whose maps were computed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saliency_wrappers.progress import Progress, reporting
from saliency_wrappers.video.overlay import Frame, Scale
from saliency_wrappers.video.painter import DrawingOptions
from saliency_wrappers.video.writer import StreamingWriter

if TYPE_CHECKING:
    from collections.abc import Callable

    from saliency_wrappers.store.reader import StoredEpisode


def render_episode(
    episode: StoredEpisode,
    output: str | os.PathLike[str],
    *,
    start: int = 0,
    end: int | None = None,
    method: str | None = None,
    fps: float = 30.0,
    style: str = "xaitk",
    scale: Scale = "frame",
    panels: bool = False,
    strip: bool = False,
    zoom: int = 1,
    action_names: Sequence[str] | None = None,
    progress: Progress = None,
    check: Callable[[Frame], None] | None = None,
) -> int:
    """Draw the maps of a recorded episode on its frames, as a video with one frame for each decision that has maps.

    Args:
        episode: of a store with frames, `EpisodeStore.open(path).episode(0)`.
        output: the video file; its folder is made.
        start: the first step.
        end: the end of the range, exclusive. None: all.
        method: the fingerprint of the maps, or its beginning. None: the only ones there are.
        fps: frames per second.
        style: as in `draw`.
        scale: as in `draw`; or `"episode"`: by the peak of the episode so far.
        panels: as in `draw`.
        strip: shows value and action probabilities below the frame.
        zoom: enlarges every pixel to `zoom` x `zoom`.
        action_names: for the strip, in the order of the logits. None: those that were recorded, or numbers.
        progress: True shows a bar on stderr. A function is called with how many frames are drawn, and how many decisions there are. None:
            no progress is shown.
        check: is called with each frame `(H, W, 3)` uint8 before it is drawn, and may raise. None: nothing is checked.

    Returns:
        How many frames the video has; with 0 no file is written.

    Raises:
        StoreError: the episode cannot be read.
        ValueError: an episode without frames, no such maps, or a wrong drawing option.
    """
    header = episode.header
    if not header.frames:
        raise ValueError(f"Expected an episode with frames to draw on, got {episode.name} without: record with EpisodeStore(frames=True).")
    names = header.action_names if action_names is None else action_names
    explained = episode.maps(start, end, method)
    first = next(explained, None)
    beside: dict[str, Any] = {} if first is None else {"features": first[1].features, "inputs": first[1].inputs is not None}
    drawing = DrawingOptions(style, scale, panels=panels, strip=strip, zoom=zoom)
    painter = drawing.painter(names, header.first_action, **beside)
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    frames, total = 0, max(0, min(len(episode), len(episode) if end is None else end) - start)
    with closing(StreamingWriter(output, fps)) as writer, reporting(progress, "frames", "frames") as report:
        for stored, maps in chain([] if first is None else [first], explained):
            frame = stored.frame
            if frame is None:
                continue
            if check is not None:
                check(frame)
            writer.write(painter.paint(frame, stored.record.with_maps(maps), episode.preprocessor))
            frames += 1
            report(frames, total)
    return frames
