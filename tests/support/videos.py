"""What a video holds, and programs that write one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np


def gray(level, shape=(16, 24)):
    return np.full((*shape, 3), level, np.uint8)


def frames_of(path):
    """The decoded frames, RGB."""
    video = cv2.VideoCapture(str(path))
    frames = []
    while (read := video.read())[0]:
        frames.append(read[1][..., ::-1])
    video.release()
    return frames


def levels_of(path):
    """The mean brightness of each frame."""
    return [float(frame.mean()) for frame in frames_of(path)]


def run(program, *arguments, **options):
    """Run a program that can import these tests' helpers, as the leader of its own process group."""
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": path},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
