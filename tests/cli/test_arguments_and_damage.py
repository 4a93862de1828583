"""The command line never ends in a traceback: absurd arguments, damaged stores, and text from somebody else's store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from tiny_agents import seeded

from saliency_wrappers import Decision, EpisodeStore, as_adapter
from saliency_wrappers.cli import options
from saliency_wrappers.cli.record import main
from saliency_wrappers.models import GreydanusLSTM
from saliency_wrappers.saliency.fingerprints import agent_fingerprint

BREAKOUT = "ALE/Breakout-v5"
FEW_MASKS = ["--perturber", "sliding-window", "--perturber-option", "window_size=20", "--perturber-option", "stride=20,20"]


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def one_line(result: Result, code: int, *parts: str) -> None:
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    for part in parts:
        assert part in errors[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--zoom", "1000"], "at most 16384 pixels a side, got 160000x210000"),
        (["--zoom", "40", "--panels"], "at most 16384 pixels a side, got 19200x8400"),
        (["--zoom", 10**20], "not in the range"),
        (["--threads", 10**20], "not in the range"),
        (["--frameskip", 10**12], "not in the range"),
        (["--seed", 10**20], "not in the range"),
        (["--sticky", "nan"], "no finite number"),
        (["--scale", "-1e999,0"], "expected a number"),
        (["--scale", "(" * 5000], "expected a number"),
        (["--perturber", "rise", "--perturber-option", "n=1e300"], "expected a number"),
        (["--perturber", "rise", "--perturber-option", "n=" + "9" * 5000], "expected a number"),
    ],
)
def test_absurd_arguments_are_misuse(tmp_path: Path, arguments: list[Any], message: str) -> None:
    result = run("record", BREAKOUT, "--steps", 2, "--no-progress", "--no-raw", "--output", tmp_path, *arguments)
    one_line(result, 2, message)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyError("name"), 1, "KeyError: 'name'"),
        (AttributeError("no such thing"), 1, "AttributeError: no such thing"),
        (OverflowError("too large"), 1, "OverflowError: too large"),
        (MemoryError("of 90 GB"), 1, "Not enough memory for what was asked for. of 90 GB"),
        (ValueError("wrong"), 2, "wrong"),
    ],
)
def test_every_error_is_one_line(error: Exception, code: int, message: str) -> None:
    with pytest.raises(options.Failed) as caught, options.failures(options.Misused):
        raise error
    assert (caught.value.exit_code, caught.value.message) == (code, message)


@pytest.mark.parametrize("text", ["\x1b[31mred", "\x1b]0;title\x07", "\x9b31m", "a\nb\rc\x08", "\u202egnp.exe", "\ud800"])
def test_what_controls_a_terminal_is_escaped(text: str) -> None:
    shown = options.printable(text)
    assert shown.isprintable()
    assert shown.isascii()
    assert options.printable("Ünïcode, 漢字") == "Ünïcode, 漢字"


# Stores


@pytest.fixture
def agent() -> GreydanusLSTM:
    return seeded(GreydanusLSTM, 4)


@pytest.fixture
def checkpoint(tmp_path: Path, agent: GreydanusLSTM) -> Path:
    torch.save(agent.state_dict(), tmp_path / "agent.1.tar")
    return tmp_path / "agent.1.tar"


@pytest.fixture
def store(tmp_path: Path, agent: GreydanusLSTM) -> Path:
    """Three episodes of four decisions in two blocks."""
    adapter, place = as_adapter(agent), tmp_path / "store"
    for number in range(3):
        with EpisodeStore(place, block=4).new_episode(
            agent=agent_fingerprint(adapter), env_spec={"id": "Evil\x1b]0;owned\x07-v0"}
        ) as episode:
            state = adapter.initial_state(1)
            for step in range(4):
                inputs = torch.rand(1, 1, 80, 80, generator=torch.Generator().manual_seed(10 * number + step))
                logits, value = adapter.evaluate(inputs, state, None)
                episode.append(Decision(inputs, state, logits, value), 0, 1.0)
    return place


def damage(store: Path, array: str) -> str:
    """Damage the last chunk of an array of the second episode; the episode's name."""
    name = EpisodeStore.open(store).episodes[1].name
    chunks = sorted(file for file in (store / name / array).rglob("*") if file.is_file() and file.name != "zarr.json")
    chunks[-1].write_bytes(b"damaged")
    return name


def test_the_other_episodes_are_computed_and_the_damaged_one_is_reported(store: Path, checkpoint: Path) -> None:
    name = damage(store, "inputs")
    result = run("compute", store, "--checkpoint", checkpoint, *FEW_MASKS, "--no-progress")
    one_line(result, 1, name, "damaged")
    assert "explained: 8" in result.stdout
    assert [len(list(EpisodeStore.open(store).episodes[which].maps())) for which in (0, 2)] == [4, 4]


@pytest.mark.parametrize("as_json", [False, True])
def test_the_other_episodes_are_inspected_and_the_damaged_one_is_reported(store: Path, as_json: bool) -> None:
    name = damage(store, "reward")
    result = run("inspect", store, *(["--json"] if as_json else []))
    one_line(result, 1, name, "damaged")
    if as_json:
        facts = json.loads(result.stdout)
        assert len(facts["episodes"]) == 2
        assert [*facts["failed"]] == [name]
    else:
        assert result.stdout.count("4 decisions") == 2


def test_text_of_a_stranger_is_printed_safely(store: Path, checkpoint: Path) -> None:
    assert run("compute", store, "--checkpoint", checkpoint, *FEW_MASKS, "--no-progress").exit_code == 0
    for file in store.glob("*/maps/*/zarr.json"):
        group = json.loads(file.read_text())
        group["attributes"]["saliency_wrappers"]["method"] = {"kind": "\x1b[2J"}
        del group["attributes"]["saliency_wrappers"]["digest"]  # as whoever made the store can
        file.write_text(json.dumps(group))
    for arguments in ([], ["--json"]):
        result = run("inspect", store, *arguments)
        assert result.exit_code == 0
        assert not {"\x1b", "\x07"} & {*result.output}
    assert "Evil\\x1b]0;owned\\x07-v0" in run("inspect", store).stdout
    one_line(run("compute", store, "--no-progress"), 2, "No agent for Evil\\x1b]0;owned\\x07-v0 ships")
