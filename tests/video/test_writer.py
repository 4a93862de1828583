"""The streaming writer: what it writes plays, whatever happens to the process; what it refuses."""

from __future__ import annotations

import gc
import os
import re
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from videos import frames_of, gray, levels_of, run

from saliency_wrappers.video.writer import StreamingWriter


def written(path, frames, fps=30):
    writer = StreamingWriter(path, fps)
    for frame in frames:
        writer.write(frame)
    writer.close()
    return path


# What is written


def test_every_frame_comes_back_in_order(tmp_path):
    levels = [10 * i for i in range(20)]
    assert levels_of(written(tmp_path / "v.mp4", map(gray, levels))) == pytest.approx(levels, abs=3)


def test_one_frame_makes_a_video(tmp_path):
    assert len(frames_of(written(tmp_path / "v.mp4", [gray(100)]))) == 1


def test_colours_are_rgb(tmp_path):
    blue = np.zeros((16, 16, 3), np.uint8)
    blue[..., 2] = 255
    (frame,) = frames_of(written(tmp_path / "v.mp4", [blue]))
    np.testing.assert_allclose(frame.mean(axis=(0, 1)), [0, 0, 255], atol=6)


def test_it_is_fragmented_h264_that_browsers_play_at_the_given_rate(tmp_path):
    path = written(tmp_path / "v.mp4", [gray(i) for i in range(40)], fps=25)
    said = subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-i", path], capture_output=True, text=True).stderr
    assert re.search(r"Video: h264.*, yuv420p.*, 24x16.*, 25 fps", said)
    assert path.read_bytes().count(b"moof") >= 40 // 15


@pytest.mark.parametrize("shape", [(15, 24), (16, 23), (15, 23), (1, 1), (210, 160)])
def test_odd_sizes_are_padded_with_black_and_not_distorted(tmp_path, shape):
    (frame,) = frames_of(written(tmp_path / "v.mp4", [gray(200, shape)]))
    height, width = shape
    assert frame.shape == (height + height % 2, width + width % 2, 3)
    np.testing.assert_allclose(frame[:height, :width], 200, atol=12)
    assert not (frame[height:] > 40).any()
    assert not (frame[:, width:] > 40).any()


def test_a_frame_is_neither_kept_nor_modified(tmp_path):
    frame = gray(50)
    writer = StreamingWriter(tmp_path / "v.mp4", 30)
    writer.write(frame)
    assert (frame == 50).all()
    frame[:] = 250
    writer.close()
    assert levels_of(tmp_path / "v.mp4") == pytest.approx([50], abs=3)


def test_frames_may_be_views_of_any_layout(tmp_path):
    wide = np.zeros((16, 48, 3), np.uint8)
    wide[:, ::2] = 90
    (frame,) = frames_of(written(tmp_path / "v.mp4", [wide[:, ::2]]))
    np.testing.assert_allclose(frame, 90, atol=3)


def test_without_a_frame_there_is_no_file(tmp_path):
    written(tmp_path / "v.mp4", [])
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_replaced_and_its_name_may_be_anything(tmp_path):
    path = tmp_path / "ALE: 50% 'b'.video"
    written(path, [gray(0)] * 9)
    assert len(frames_of(written(path, [gray(0)] * 2))) == 2


# What is refused


@pytest.mark.parametrize(
    ("frame", "error", "message"),
    [
        (gray(0).astype(np.float64), TypeError, r"Expected a frame as an array \(H, W, 3\) of uint8, actual: an array of float64"),
        (None, TypeError, "actual: NoneType"),
        (np.zeros((16, 24), np.uint8), ValueError, r"actual shape: \(16, 24\)"),
        (np.zeros((16, 24, 4), np.uint8), ValueError, r"actual shape: \(16, 24, 4\)"),
    ],
)
def test_what_is_no_frame_is_refused_before_a_file_is_made(tmp_path, frame, error, message):
    with pytest.raises(error, match=message):
        StreamingWriter(tmp_path / "v.mp4", 30).write(frame)
    assert list(tmp_path.iterdir()) == []


def test_a_frame_of_another_size_is_refused_and_the_rest_is_kept(tmp_path):
    writer = StreamingWriter(tmp_path / "v.mp4", 30)
    writer.write(gray(10))
    with pytest.raises(ValueError, match=r"Expected a frame of shape \(16, 24, 3\), actual shape: \(16, 25, 3\)"):
        writer.write(gray(10, (16, 25)))
    writer.write(gray(20))
    writer.close()
    assert levels_of(tmp_path / "v.mp4") == pytest.approx([10, 20], abs=3)


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf"), 0.001])
def test_a_rate_that_is_not_positive_is_refused(tmp_path, fps):
    with pytest.raises(ValueError, match="Expected a positive number of frames per second"):
        StreamingWriter(tmp_path / "v.mp4", fps)


@pytest.mark.parametrize("fps", ["30", None, True])
def test_a_rate_that_is_no_number_is_refused(tmp_path, fps):
    with pytest.raises(TypeError, match="Expected a number of frames per second, got"):
        StreamingWriter(tmp_path / "v.mp4", fps)


def test_a_missing_folder_is_refused_at_once(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Expected an existing folder for the video v.mp4, got .*nowhere"):
        StreamingWriter(tmp_path / "nowhere" / "v.mp4", 30)


def test_a_closed_writer_takes_no_frames(tmp_path):
    writer = StreamingWriter(tmp_path / "v.mp4", 30)
    writer.write(gray(1))
    writer.close()
    writer.close()
    with pytest.raises(RuntimeError, match=r"The video .*v.mp4 is closed"):
        writer.write(gray(1))


# When something fails


def write_until_it_fails(writer):
    for _ in range(500):
        writer.write(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    writer.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_an_error_in_ffmpegs_words_and_closing_again_is_fine(tmp_path):
    full = tmp_path / "v.mp4"
    full.symlink_to("/dev/full")
    writer = StreamingWriter(full, 30)
    with pytest.raises(OSError, match=r"(?s)ffmpeg .*v.mp4.*No space left on device"):
        write_until_it_fails(writer)
    writer.close()


def test_a_folder_that_vanished_is_an_error_in_ffmpegs_words_and_nothing_is_overwritten_later(tmp_path):
    folder = tmp_path / "gone"
    folder.mkdir()
    writer = StreamingWriter(folder / "v.mp4", 30)
    folder.rmdir()
    with pytest.raises(OSError, match=r"(?s)ffmpeg .*v.mp4.*No such file or directory"):
        write_until_it_fails(writer)
    with pytest.raises(RuntimeError, match="closed"):
        writer.write(gray(1))


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_closing_does_not_complain_of_an_ffmpeg_that_a_signal_ended(tmp_path, sent):
    writer = StreamingWriter(tmp_path / "v.mp4", 30)
    writer.write(gray(60))
    os.kill(writer._encoder._ffmpeg.proc.pid, sent)
    time.sleep(0.3)
    writer.close()
    writer.close()


def test_a_forgotten_writer_finishes_its_file(tmp_path):
    writer = StreamingWriter(tmp_path / "v.mp4", 30)
    for level in (10, 20, 30):
        writer.write(gray(level))
    del writer
    gc.collect()
    assert levels_of(tmp_path / "v.mp4") == pytest.approx([10, 20, 30], abs=3)


WRITE_AND = """
import os, signal, sys, time
from saliency_wrappers.video.writer import StreamingWriter
from videos import gray
writer = StreamingWriter(sys.argv[1], 30)
shape = (int(sys.argv[2]), int(sys.argv[2]))
"""


def test_an_exception_without_close_leaves_a_finished_file(tmp_path):
    process = run(WRITE_AND + "for i in range(50): writer.write(gray(i, shape))\n1 / 0", tmp_path / "v.mp4", 16)
    assert "ZeroDivisionError" in process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert len(frames_of(tmp_path / "v.mp4")) == 50


@pytest.mark.parametrize("size", [8, 210])
def test_a_kill_of_the_process_group_leaves_all_but_the_last_frames(tmp_path, size):
    program = WRITE_AND + "for i in range(400): writer.write(gray(i % 200, shape))\nos.killpg(0, signal.SIGKILL)"
    process = run(program, tmp_path / "v.mp4", size)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    levels = levels_of(tmp_path / "v.mp4")
    assert 400 - 120 <= len(levels) <= 400
    assert levels == pytest.approx([i % 200 for i in range(len(levels))], abs=3)


def test_ctrl_c_reaches_python_but_not_ffmpeg_so_that_nothing_is_lost(tmp_path):
    program = WRITE_AND + (
        "writer.write(gray(10, shape))\ntry:\n    print('ready', flush=True); time.sleep(60)\n"
        "except KeyboardInterrupt:\n    time.sleep(0.3); writer.write(gray(20, shape)); writer.close(); print('closed')"
    )
    process = run(program, tmp_path / "v.mp4", 16)
    process.stdout.readline()
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=60)[0] == "closed\n"
    assert levels_of(tmp_path / "v.mp4") == pytest.approx([10, 20], abs=3)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_neither_holds_the_file_open_nor_writes_to_it(tmp_path):
    program = WRITE_AND + (
        "writer.write(gray(10, shape))\nready, tell = os.pipe()\n"
        "if os.fork() == 0:\n    writer.write(gray(200, shape)); writer.close(); os.write(tell, b'written'); time.sleep(60); os._exit(0)\n"
        "os.close(tell); print(os.read(ready, 7).decode(), flush=True)\n"
        "writer.write(gray(20, shape)); writer.close(); print('closed', flush=True)\nos.killpg(0, signal.SIGKILL)"
    )
    process = run(program, tmp_path / "v.mp4", 16)
    try:
        assert process.communicate(timeout=30)[0] == "written\nclosed\n"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert levels_of(tmp_path / "v.mp4") == pytest.approx([10, 20], abs=3)
