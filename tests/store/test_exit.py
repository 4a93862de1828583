"""A script that ends without `close()`, its store at a URL: everything is written while the interpreter exits.

URLs are written by a thread of fsspec's and by executors, which refuse work once the interpreter has begun to exit. Both kinds of file
systems are tested: one whose calls block (as `sftp://`), one whose calls are coroutines (as `s3://`).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from counting import CountingEnv, always_acting, check_maps

from saliency_wrappers import EpisodeStore

FILE_SYSTEMS = """
import asyncio, os, sys, warnings
import fsspec
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.local import LocalFileSystem

class Blocking(LocalFileSystem):
    protocol = "blocking"
    local_file = False

    def __init__(self, **options):
        super().__init__(**{**options, "auto_mkdir": True})

    @classmethod
    def _strip_protocol(cls, path):
        return LocalFileSystem._strip_protocol(str(path).removeprefix("blocking:/"))

    def unstrip_protocol(self, name):
        return f"blocking:/{self._strip_protocol(name)}"

class Coroutines(AsyncFileSystem):
    protocol = "coroutines"
    cachable = False

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + str(path).removeprefix("coroutines://").strip("/")

    async def _pipe_file(self, path, value, mode="overwrite", **options):
        await asyncio.sleep(0.001)
        path = self._strip_protocol(path)
        await asyncio.to_thread(os.makedirs, os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(value)

    async def _cat_file(self, path, start=None, end=None, **options):
        await asyncio.sleep(0.001)
        try:
            with open(self._strip_protocol(path), "rb") as file:
                return file.read()[start:end]
        except IsADirectoryError:
            raise FileNotFoundError(path)

    async def _info(self, path, **options):
        path = self._strip_protocol(path)
        if not os.path.exists(path):
            raise FileNotFoundError(path)
        return {"name": path, "size": os.path.getsize(path), "type": "directory" if os.path.isdir(path) else "file"}

    async def _ls(self, path, detail=True, **options):
        path = self._strip_protocol(path)
        if not os.path.isdir(path):
            raise FileNotFoundError(path)
        found = [await self._info(f"{path}/{name}") for name in os.listdir(path)]
        return found if detail else [one["name"] for one in found]

fsspec.register_implementation("blocking", Blocking)
fsspec.register_implementation("coroutines", Coroutines)
"""

PROGRAM = """
from counting import CountingAgent, CountingEnv, network_input, recorded, scheduled_action
from saliency_wrappers import EpisodeStore
import torch

warnings.simplefilter("ignore")
protocol, folder, end, mode = sys.argv[1:]
agent = CountingAgent()
env = recorded(CountingEnv((100,)), agent, mode=mode, store=EpisodeStore(f"{protocol}://{folder}/store", block=8))
with torch.no_grad():
    observation, _ = env.reset(seed=0)
    state = agent.initial_state(1)
    for t in range(21):
        _, _, state = agent((network_input(observation), state))
        observation, *_ = env.step(scheduled_action(0, t))
if end == "exit":
    sys.exit(3)
if end == "error":
    raise KeyError("the script's own mistake")
"""


@pytest.mark.parametrize(("protocol", "end", "mode"), [("blocking", "error", "inline"), ("coroutines", "exit", "deferred")])
def test_what_was_recorded_at_a_url_is_written_at_exit(tmp_path: Path, protocol: str, end: str, mode: str) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", FILE_SYSTEMS + PROGRAM, protocol, str(tmp_path), end, mode]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == {"end": 0, "exit": 3, "error": 1}[end], ended.stderr
    assert ("the script's own mistake" in ended.stderr) == (end == "error")
    assert "Error" not in ended.stderr.replace("KeyError", ""), ended.stderr
    (episode,) = EpisodeStore.open(tmp_path / "store").episodes
    assert len(list(episode.decisions())) == 21, ended.stderr
    found = list(episode.maps()) if mode != "capture" else []
    assert len(found) == (0 if mode == "capture" else 21), ended.stderr
    for stored, maps in found:
        check_maps(maps, always_acting(CountingEnv((100,)), 0, stored.step))
