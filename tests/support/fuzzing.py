"""Mutated stores and checkpoints: read, each gives right data or a documented error, within bounds of time and memory.

`fuzz("store" | "checkpoint", folder, first, count)` tries mutations of the seeds `first` to `first + count` in a child process of limited
memory, and returns how many ended how; what is wrong raises there.
"""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import random
import resource
import shutil
import signal
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import numcodecs
import numpy as np
import safetensors.torch
import torch
from click.testing import CliRunner
from counting import Blackout, CountingAgent, CountingEnv, play, recorded
from peak import peak_memory
from tiny_agents import seeded

from saliency_wrappers import EpisodeStore, PerturbationSaliency, StoreError, compute_saliency
from saliency_wrappers.cli.store import inspect
from saliency_wrappers.models import AtariLSTM, CheckpointError, load_checkpoint
from saliency_wrappers.states import state_leaves

SECONDS = 10
"""A case may take so long at most."""
MEMORY = 3 * 2**29
"""Bytes that reading may take beyond what the process had."""

Outcome = str
"""`"right"`, the name of an error, or what is missing."""


class TooLongError(BaseException):
    """A case took more than `SECONDS`."""


def fuzz(what: str, folder: Path, first: int, count: int) -> Counter[Outcome]:
    """Try so many mutations; `AssertionError` says which seed went wrong, and how."""
    folder.mkdir(parents=True, exist_ok=True)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        code = 1
        try:
            with os.fdopen(writer, "wb") as pipe:
                pickle.dump(_fuzz_here(CASES[what], folder, first, count), pipe)
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    assert status == 0, f"the child died with status {status}"
    outcomes, problem = pickle.loads(answer)
    assert problem is None, problem
    return outcomes


def _fuzz_here(make: Callable[[Path], Cases], folder: Path, first: int, count: int) -> tuple[Counter[Outcome], str | None]:
    torch.set_num_threads(1)
    cases, outcomes, seed = make(folder), Counter[Outcome](), first
    before = peak_memory()
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if Path("/proc/self/statm").exists() else 0
    if taken:
        resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
    signal.signal(signal.SIGALRM, _too_long)
    try:
        for seed in range(first, first + count):
            signal.alarm(SECONDS)
            outcomes[cases.run(random.Random(seed))] += 1
            signal.alarm(0)
            assert peak_memory() - before < MEMORY, f"{(peak_memory() - before) >> 20} MiB taken"
    except BaseException:
        signal.alarm(0)
        return outcomes, f"seed {seed} ({cases.last}): {traceback.format_exc()[-3000:]}"
    return outcomes, None


def _too_long(*_: object) -> None:
    raise TooLongError


class Cases:
    """Valid files, and mutations of them."""

    last = ""
    """The last mutation, in words."""

    def run(self, rnd: random.Random) -> Outcome:
        """Mutate, read, check, and restore."""
        raise NotImplementedError


# Stores


class StoreCases(Cases):
    """A store of two episodes with maps."""

    def __init__(self, folder: Path) -> None:
        self._place = folder / "store"
        make_store(self._place)
        self._snapshot = {str(file.relative_to(self._place)): file.read_bytes() for file in self._place.rglob("*") if file.is_file()}
        self._right = read_store(self._place)
        assert check_store(self._right, self._right) == "right"

    def run(self, rnd: random.Random) -> Outcome:
        kind = rnd.choice(STORE_KINDS)
        self.last = kind.__name__
        touched = kind(rnd, self._place, sorted(self._snapshot))
        self.last += f" of {touched}"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                outcome = self._read()
                if rnd.random() < 0.2:
                    shown = CliRunner().invoke(inspect, [str(self._place)])
                    assert isinstance(shown.exception, SystemExit | None), repr(shown.exception)
        finally:
            self._restore(touched)
        return outcome

    def _read(self) -> Outcome:
        try:
            found = read_store(self._place)
        except (StoreError, FileNotFoundError) as error:
            return type(error).__name__
        if self.last.startswith("forged"):
            return "read, forged"
        return check_store(found, self._right)

    def _restore(self, touched: list[str]) -> None:
        for name in touched:
            path = self._place / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        for name, content in self._snapshot.items():
            if any(name == one or name.startswith(f"{one}/") for one in touched):
                file = self._place / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)


def make_store(place: Path) -> None:
    agent = CountingAgent()
    with torch.no_grad():
        store = EpisodeStore(place, frames=True, block=8)
        with recorded(CountingEnv((7, 5)), agent, mode="capture", store=store) as env:
            play(env, agent, episodes=2)
    compute_saliency(place, agent, method=PerturbationSaliency(Blackout(), fill=0.0, path="plain"), verify=False)


def read_store(place: Path) -> dict[str, Any]:
    """Everything that a store says, by episode, step and field."""
    found: dict[str, Any] = {}
    for episode in EpisodeStore.open(place).episodes:
        rows = {stored.step: _content(stored) for stored in episode.decisions()}
        maps = {method: {stored.step: maps for stored, maps in episode.maps(method=method)} for method in episode.methods}
        assert len(rows) == len(episode)
        found[episode.name] = {"header": episode.header.content(), "rows": rows, "maps": maps}
    return found


def _content(stored: Any) -> list[Any]:
    decision = stored.decision
    numbers = [decision.inputs, *state_leaves(decision.state), decision.logits, decision.value]
    return [stored.action, stored.reward, stored.frame, *(None if one is None else one.numpy() for one in numbers)]


def check_store(found: dict[str, Any], right: dict[str, Any]) -> Outcome:
    """What is there must be right; whole episodes and maps may be missing where their groups or marks are gone."""
    missing: list[str] = []
    assert found.keys() <= right.keys(), "an episode of another name"
    for name, expected in right.items():
        if name not in found:
            missing.append("an episode")
            continue
        episode = found[name]
        assert json.dumps(episode["header"]) == json.dumps(expected["header"]), "another header"
        assert episode["rows"].keys() == expected["rows"].keys(), "other decisions"
        for step, row in episode["rows"].items():
            assert all(np.array_equal(*pair) for pair in zip(row, expected["rows"][step], strict=True)), f"other numbers at step {step}"
        assert episode["maps"].keys() <= expected["maps"].keys(), "maps of another method"
        for method, maps in expected["maps"].items():
            if episode["maps"].get(method, {}).keys() != maps.keys():
                missing.append("maps")
            for step, one in episode["maps"].get(method, {}).items():
                assert np.array_equal(one.actor, maps[step].actor), f"another map at step {step}"
                assert np.array_equal(one.critic, maps[step].critic), f"another map of the critic at step {step}"
    return f"without {' and '.join(sorted(set(missing)))}" if missing else "right"


ODD: tuple[Any, ...] = (
    *(-1, 0, 1, 2, 7, 10**9, 2**31, 2**63, 10**400, 1.5, float("nan"), float("inf"), None, True, False, "", "x", "../..", "/etc/passwd"),
    *("a" * 100_000, "\ud800", "\0", "\x1b[31mred", [], {}, [[]], [None], ["float32"], {"tuple": []}, {"tuple": ["float32"] * 3}),
    *("float64", "int32", "object", "|O", "bfloat16", {"name": "gzip"}, {"a": {"b": 1}}),
)


def flip(rnd: random.Random, place: Path, files: list[str]) -> list[str]:
    name = rnd.choice(files)
    content = bytearray((place / name).read_bytes())
    for _ in range(rnd.choice([1, 1, 2, 8])):
        content[rnd.randrange(len(content))] ^= 1 << rnd.randrange(8)
    (place / name).write_bytes(content)
    return [name]


def cut(rnd: random.Random, place: Path, files: list[str]) -> list[str]:
    name = rnd.choice(files)
    content = (place / name).read_bytes()
    (place / name).write_bytes(content[: rnd.randrange(len(content))])
    return [name]


def extend(rnd: random.Random, place: Path, files: list[str]) -> list[str]:
    name = rnd.choice(files)
    with (place / name).open("ab") as file:
        file.write(rnd.randbytes(rnd.choice([1, 100, 10**6])))
    return [name]


def garbage(rnd: random.Random, place: Path, files: list[str]) -> list[str]:
    name = rnd.choice(files)
    (place / name).write_bytes(rnd.randbytes(rnd.choice([0, 5, 1000, 100_000])))
    return [name]


def delete(rnd: random.Random, place: Path, files: list[str]) -> list[str]:
    name = rnd.choice(files)
    (place / name).unlink()
    return [name]


def delete_folder(rnd: random.Random, place: Path, files: list[str]) -> list[str]:
    folders = sorted({str(parent) for name in files for parent in Path(name).parents} - {"."})
    name = rnd.choice(folders)
    shutil.rmtree(place / name)
    return [name]


def swap(rnd: random.Random, place: Path, files: list[str]) -> list[str]:
    """Of chunks whose data may be of one size, mostly: any other is refused anyway."""
    chunks = [name for name in files if not name.endswith(".json")]
    one = rnd.choice(chunks)
    field = [name for name in chunks if name.split("/")[-2:-1] == one.split("/")[-2:-1] and name != one]
    other = rnd.choice(field if field and rnd.random() < 0.8 else [name for name in chunks if name != one])
    a, b = (place / one).read_bytes(), (place / other).read_bytes()
    (place / one).write_bytes(b)
    if rnd.random() < 0.5:
        (place / other).write_bytes(a)
    return [one, other]


def copied(rnd: random.Random, place: Path, files: list[str]) -> list[str]:
    one, other = rnd.sample(files, 2)
    (place / one).write_bytes((place / other).read_bytes())
    return [one]


def inflated(rnd: random.Random, place: Path, files: list[str]) -> list[str]:
    """A chunk, with a right checksum, that decompresses to another size than it should."""
    name = rnd.choice([name for name in files if not name.endswith(".json")])
    size = rnd.choice([0, 1, 7, 10**6, 10**8, 2**28])
    (place / name).write_bytes(sealed(bytes(numcodecs.Zstd(3).encode(np.zeros(size, np.uint8)))))
    return [name]


def forged(rnd: random.Random, place: Path, files: list[str]) -> list[str]:
    """A chunk with changed bytes and a right checksum, as only somebody who means it writes it."""
    name = rnd.choice([name for name in files if not name.endswith(".json")])
    content = bytearray((place / name).read_bytes()[:-4])
    for _ in range(rnd.choice([1, 2, 8])):
        content[rnd.randrange(min(len(content), rnd.choice([12, len(content)])))] = rnd.randrange(256)
    (place / name).write_bytes(sealed(bytes(content)))
    return [name]


def other_kind(rnd: random.Random, place: Path, files: list[str]) -> list[str]:
    """A folder, a link or a FIFO in place of a file."""
    name = rnd.choice(files)
    file = place / name
    file.unlink()
    how = rnd.randrange(3)
    if how == 0:
        file.mkdir()
    elif how == 1:
        file.symlink_to(rnd.choice(["/etc/passwd", "/dev/zero", "/nonexistent", str(file)]))
    else:
        os.mkfifo(file)
    return [name]


def letter(rnd: random.Random, place: Path, files: list[str]) -> list[str]:
    name = rnd.choice([name for name in files if name.endswith(".json")])
    text = (place / name).read_text()
    at = rnd.randrange(len(text))
    (place / name).write_text(text[:at] + rnd.choice('0123456789{}[]",:-.eE\\nul \0') + text[at + 1 :])
    return [name]


def edited(rnd: random.Random, place: Path, files: list[str]) -> list[str]:
    """One value of a JSON file replaced, removed, added, or buried deeply."""
    name = rnd.choice([name for name in files if name.endswith(".json")])
    tree = json.loads((place / name).read_text())
    holder, key = rnd.choice([*_branches(tree)])
    how = rnd.randrange(8)
    deep = "[" * 900 + "]" * 900 if rnd.random() < 0.5 else "[" * 100_000
    if how == 0:
        del holder[key]
    elif how == 1 and isinstance(holder, dict):
        holder[rnd.choice(["x", "schema", "block", "__class__", "name"])] = rnd.choice(ODD)
    elif how == 2:
        holder[key] = "@@"
    elif isinstance(holder[key], int) and rnd.random() < 0.5:
        holder[key] += rnd.choice([-1, 1, 2, 8, 100])
    else:
        holder[key] = copy.deepcopy(rnd.choice(ODD))
    (place / name).write_text(json.dumps(tree).replace('"@@"', deep))
    return [name]


STORE_KINDS: tuple[Callable[[random.Random, Path, list[str]], list[str]], ...] = (
    *(flip, flip, flip, flip, cut, cut, extend, garbage, delete, delete, delete_folder, swap, swap, swap, copied, copied),
    *(inflated, inflated, forged, forged, other_kind, letter, letter, edited, edited, edited, edited, edited),
)


def _branches(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every container and key beneath a tree of JSON."""
    for key in [*tree] if isinstance(tree, dict) else range(len(tree)):
        yield tree, key
        if isinstance(tree[key], dict | list):
            yield from _branches(tree[key])


def sealed(content: bytes) -> bytes:
    """A chunk's bytes, with their checksum."""
    return content + int(google_crc32c.value(content)).to_bytes(4, "little")


# Checkpoints


class CheckpointCases(Cases):
    """Weights of one network in three formats: PyTorch's archive, its older format, safetensors."""

    def __init__(self, folder: Path) -> None:
        weights = {name: weight.half() for name, weight in seeded(AtariLSTM, 4).state_dict().items()}
        archive, older = io.BytesIO(), io.BytesIO()
        torch.save(weights, archive)
        torch.save(weights, older, _use_new_zipfile_serialization=False)
        self._files = {"archive.pt": archive.getvalue(), "older.pt": older.getvalue(), "agent.safetensors": safetensors.torch.save(weights)}
        self._right = {name: weight.float() for name, weight in weights.items()}
        self._folder = folder
        for name, content in self._files.items():
            (folder / name).write_bytes(content)
            assert self._load(folder / name) == "right"
            (folder / name).unlink()

    def run(self, rnd: random.Random) -> Outcome:
        name = rnd.choice(["archive.pt", "archive.pt", "older.pt", "agent.safetensors"])
        content = bytearray(self._files[name])
        self.last = f"{name}: {_mutate_bytes(rnd, content, self._spot(rnd, name))}"
        file = self._folder / name
        file.write_bytes(content)
        try:
            outcome = self._load(file)
        finally:
            file.unlink()
        assert outcome != "other weights" or name != "archive.pt", "damage that the archive's checksums must show"
        return outcome

    def _spot(self, rnd: random.Random, name: str) -> int:
        """Where to change the file: mostly where it says what it holds."""
        content = self._files[name]
        if rnd.random() < 0.2:
            return rnd.randrange(len(content))
        if name == "archive.pt":
            pickled = content.find(b"data.pkl")
            return rnd.choice([rnd.randrange(pickled, pickled + 1800), rnd.randrange(len(content) - 2000, len(content))])
        return rnd.randrange(1200 if name == "agent.safetensors" else 2500)

    def _load(self, file: Path) -> Outcome:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = load_checkpoint(file)
        except (CheckpointError, FileNotFoundError) as error:
            return type(error).__name__
        found = model.state_dict()
        assert found.keys() == self._right.keys()
        same = all(torch.equal(found[name], weight) for name, weight in self._right.items())
        return "right" if same else "other weights"


def _mutate_bytes(rnd: random.Random, content: bytearray, spot: int) -> str:
    """Change bytes at a place; how, in words."""
    how = rnd.choice(["flip", "byte", "byte", "bytes", "cut", "insert", "ones", "digit"])
    if how == "flip":
        content[spot] ^= 1 << rnd.randrange(8)
    elif how == "byte":
        content[spot] = rnd.randrange(256)
    elif how == "bytes":
        for at in range(spot, min(spot + 4, len(content))):
            content[at] = rnd.randrange(256)
    elif how == "cut":
        del content[spot:]
    elif how == "insert":
        content[spot:spot] = rnd.randbytes(rnd.choice([1, 8]))
    elif how == "ones":
        content[spot : spot + 8] = b"\xff" * 8
    else:
        digits = [at for at in range(spot, min(spot + 200, len(content))) if chr(content[at]).isdigit()]
        for at in digits[:1]:
            content[at] = rnd.choice(b"0123456789-")
    return f"{how} at {spot}"


CASES: dict[str, Callable[[Path], Cases]] = {"store": StoreCases, "checkpoint": CheckpointCases}
