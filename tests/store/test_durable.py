"""`EpisodeStore(durable=True)`: each file is on the disk before it gets its name, and its name before the next file is written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from counting import Blackout, CountingAgent, CountingEnv, play, recorded

from saliency_wrappers import EpisodeStore, PerturbationSaliency, compute_saliency


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of files that were synced or renamed, in order."""
    found: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        found.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        fsync(descriptor)

    def renamed(source: str, target: str) -> None:
        if Path(target).is_relative_to(tmp_path):  # Numba keeps what it compiles elsewhere
            found.append(f"rename {Path(source).name} to {Path(target).parent.name}/{Path(target).name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    return found


def record(store: EpisodeStore) -> None:
    agent = CountingAgent()
    with torch.no_grad(), recorded(CountingEnv((6,)), agent, mode="capture", store=store) as env:
        play(env, agent)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc to name descriptors")
def test_every_file_is_synced_before_it_has_its_name_and_its_folder_after(tmp_path: Path, calls: list[str]) -> None:
    store = EpisodeStore(tmp_path / "new" / "store", block=4, durable=True)
    record(store)
    compute_saliency(store, CountingAgent(), method=PerturbationSaliency(Blackout(), fill=0.0))
    renames = [at for at, call in enumerate(calls) if call.startswith("rename")]
    assert len(renames) > 40
    for at in renames:
        _, partial, _, target = calls[at].split()
        assert calls[at - 1] == f"sync {partial}"
        assert calls[at + 1] == f"sync {target.split('/')[0]}"
    assert {f"sync {name}" for name in (tmp_path.name, "new", "store", "maps")} <= set(calls)  # folders of new folders
    assert any("/actor/" in call or call.endswith("done/zarr.json") for call in calls)


def test_otherwise_nothing_is_synced(tmp_path: Path, calls: list[str]) -> None:
    record(EpisodeStore(tmp_path / "store", block=4))
    assert not [call for call in calls if call.startswith("sync")]


def test_a_url_cannot_be_durable() -> None:
    with pytest.raises(ValueError, match=r"Expected a local folder for durable=True, got the URL memory://x: fsync needs a file"):
        EpisodeStore("memory://x", durable=True)
