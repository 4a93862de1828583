"""A video that is being written is never written by another writer, and one that is deleted meanwhile is told of."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from saliency_wrappers.video.writer import StreamingWriter

FRAME = np.full((32, 48, 3), 90, np.uint8)


def count_frames(path: Path) -> int:
    video, count = cv2.VideoCapture(str(path)), 0
    while video.read()[0]:
        count += 1
    video.release()
    return count


def test_writers_of_one_name_write_files_of_their_own(tmp_path: Path) -> None:
    writers = [StreamingWriter(tmp_path / "v.mp4", 30) for _ in range(3)]
    writers[0].write(FRAME)
    with pytest.warns(UserWarning, match=r"is being written by another recording: this one goes to v-1\.mp4"):
        writers[1].write(FRAME)
    with pytest.warns(UserWarning, match=r"this one goes to v-2\.mp4"):
        writers[2].write(FRAME)
    for more, writer in enumerate(writers, 4):
        for _ in range(more):
            writer.write(FRAME)
    for writer in writers:
        writer.close()
    assert [writer.path.name for writer in writers] == ["v.mp4", "v-1.mp4", "v-2.mp4"]
    assert [count_frames(writer.path) for writer in writers] == [5, 6, 7]


def test_a_finished_file_is_replaced(tmp_path: Path) -> None:
    for _ in range(2):
        writer = StreamingWriter(tmp_path / "v.mp4", 30)
        writer.write(FRAME)
        writer.close()
    assert [file.name for file in tmp_path.iterdir()] == ["v.mp4"]


def test_a_link_to_a_file_that_is_being_written_is_the_same_file(tmp_path: Path) -> None:
    first = StreamingWriter(tmp_path / "v.mp4", 30)
    first.write(FRAME)
    (tmp_path / "link.mp4").symlink_to(tmp_path / "v.mp4")
    second = StreamingWriter(tmp_path / "link.mp4", 30)
    with pytest.warns(UserWarning, match=r"goes to link-1\.mp4"):
        second.write(FRAME)
    first.close()
    second.close()
    assert count_frames(tmp_path / "v.mp4") == count_frames(tmp_path / "link-1.mp4") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="file locks between processes are POSIX's")
def test_another_process_does_not_write_the_file(tmp_path: Path) -> None:
    first = StreamingWriter(tmp_path / "v.mp4", 30)
    first.write(FRAME)
    code = f"""
from pathlib import Path
from saliency_wrappers.video.file_claim import claim_free
print(claim_free(Path({str(tmp_path / "v.mp4")!r}))[0].name)
"""
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first.close()
    assert other.stdout.strip() == "v-1.mp4"


def test_a_file_that_is_deleted_while_it_is_written_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    at_write, at_close = StreamingWriter(folder / "a.mp4", 30), StreamingWriter(folder / "b.mp4", 30)
    at_write.write(FRAME)
    at_close.write(FRAME)
    shutil.rmtree(folder)
    with pytest.raises(OSError, match=r"a\.mp4"):
        at_write.write(FRAME)
    with pytest.raises(OSError, match=r"b\.mp4"):
        at_close.close()
