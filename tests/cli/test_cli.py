"""The command line: what it writes and says, and the one line and exit code of everything that can go wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import gymnasium as gym
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from tiny_agents import seeded
from videos import frames_of
from xaitk_saliency.impls.perturb_image.rise import RISEGrid

from saliency_wrappers import FramePreprocessor, __version__, pretrained_agents
from saliency_wrappers.cli.installation import EXTRAS
from saliency_wrappers.cli.perturbers import named_perturber
from saliency_wrappers.cli.record import PREPROCESSORS, main
from saliency_wrappers.models.networks import AtariLSTM, GreydanusLSTM
from saliency_wrappers.saliency.masks import depends_on_shape_only

FEW_MASKS = ["--perturber", "sliding-window", "--perturber-option", "window_size=20", "--perturber-option", "stride=20,20"]
BREAKOUT = "ALE/Breakout-v5"


class ClockEnv(gym.Env[np.ndarray, int]):
    """Frames whose rows above the crop have the grey 8 (t + 1); something moves within the crop. Ends after `length` steps."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012

    def __init__(self, length: int = 12, actions: int = 4, breaks: Any = None, render_mode: str | None = None) -> None:
        self.observation_space = gym.spaces.Box(0, 255, (210, 160, 3), np.uint8)
        self.action_space = gym.spaces.Discrete(actions)
        self.render_mode = render_mode
        self.length = length
        self.breaks = breaks

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        self.texture = self.np_random.integers(0, 255, (16, 16, 1), np.uint8).repeat(10, 0).repeat(10, 1)
        return self.render(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.t += 1
        if self.breaks is not None and self.t == 4:
            self.breaks()
        return self.render(), float(action == 0), self.t >= self.length, False, {}

    def render(self) -> np.ndarray:
        frame = np.full((210, 160, 3), 8 * (self.t + 1), np.uint8)
        frame[35:195] = np.roll(self.texture, 10 * self.t, axis=1)
        return frame


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def fail() -> None:
    raise RuntimeError("the emulator\nis on fire")


GAMES: dict[str, dict[str, Any]] = {
    "Clock-v0": {},
    "ShortClock-v0": {"length": 5},
    "FiveActions-v0": {"actions": 5},
    "Interrupted-v0": {"breaks": interrupt},
    "Broken-v0": {"breaks": fail},
}


@pytest.fixture(autouse=True, scope="module")
def games() -> Iterator[None]:
    for env_id, settings in GAMES.items():
        gym.register(env_id, ClockEnv, kwargs=settings)
    yield
    for env_id in GAMES:
        del gym.registry[env_id]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an untrained agent of the published architecture."""
    folder = tmp_path_factory.mktemp("agents")
    torch.save(seeded(GreydanusLSTM, 4).state_dict(), folder / "tiny.1.tar")
    return folder


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def record(env_id: str, *arguments: Any) -> Result:
    return run("record", env_id, "--no-progress", *arguments)


def succeeded(result: Result) -> dict[str, str]:
    """What was printed, by name; the paths under their own names."""
    assert result.exception is None or result.exit_code == 0, result.output
    assert result.exit_code == 0
    lines = [line.split(": ", 1) for line in result.stdout.splitlines()]
    return {Path(value).name if name == "wrote" else name: value for name, value in lines}


def failed(result: Result, exit_code: int, message: str) -> None:
    """One line on stderr, no traceback, this exit code."""
    assert isinstance(result.exception, SystemExit)
    assert result.exit_code == exit_code
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    assert re.search(message, errors[0])
    assert "Traceback" not in result.output


def clock(frame: np.ndarray) -> int:
    """The step that a frame shows, read from above the crop."""
    return round(float(frame[4:28].mean()) / 8) - 1


def is_drawn_on(saliency: np.ndarray, raw: np.ndarray) -> bool:
    return bool(np.abs(saliency[40:190].astype(float) - raw[40:190]).mean() > 10)


# What is recorded


def test_an_episode_of_t_steps_gives_two_videos_of_t_plus_1_frames(tmp_path: Path, checkpoint: Path) -> None:
    said = succeeded(record("ShortClock-v0", "--checkpoint", checkpoint, *FEW_MASKS, "--output", tmp_path / "out"))
    assert said["decisions"] == said["explained maps"] == "5"
    assert float(said["decisions per second"]) > 0
    assert {*said} >= {"return", "saliency-episode-0.mp4", "raw-episode-0.mp4"}
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["raw-episode-0.mp4", "saliency-episode-0.mp4"]
    for kind in ("raw", "saliency"):
        assert [clock(frame) for frame in frames_of(tmp_path / f"out/{kind}-episode-0.mp4")] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("mode", ["inline", "deferred"])
@pytest.mark.parametrize(("start", "end"), [(0, 3), (1, 3), (4, 8), (11, 99)])
def test_only_decisions_from_start_until_before_end_are_explained_and_filmed(
    tmp_path: Path, checkpoint: Path, start: int, end: int, mode: str
) -> None:
    said = succeeded(
        record("Clock-v0", "--checkpoint", checkpoint, *FEW_MASKS, "--start", start, "--end", end, "--mode", mode, "--output", tmp_path)
    )
    last = min(end, 12)
    assert said["decisions"] == "12"
    assert said["explained maps"] == str(last - start)
    raw, saliency = frames_of(tmp_path / "raw-episode-0.mp4"), frames_of(tmp_path / "saliency-episode-0.mp4")
    assert [clock(frame) for frame in raw] == list(range(13))
    assert [clock(frame) for frame in saliency] == list(range(start, last + 1))
    drawn = [is_drawn_on(frame, raw[clock(frame)]) for frame in saliency]
    assert drawn == [True] * (last - start) + [False]  # what the last action led to is plain


@pytest.mark.parametrize("mode", ["inline", "deferred"])
def test_a_picture_shows_the_frame_the_actor_and_the_critic_of_one_decision(tmp_path: Path, checkpoint: Path, mode: str) -> None:
    arguments = ["--png", 7, "--png", 2, "--end", 4, "--no-raw", "--zoom", 2, "--mode", mode, "--output", tmp_path]
    said = succeeded(record("Clock-v0", "--checkpoint", checkpoint, *FEW_MASKS, *arguments))
    assert said["explained maps"] == "5"  # four for the video, and decision 7
    assert "raw-episode-0.mp4" not in said
    for step in (2, 7):
        picture = cv2.imread(str(tmp_path / f"decision-{step}-episode-0.png"))[..., ::-1]
        assert picture.shape == (2 * 210, 2 * 3 * 160, 3)
        plain, actor, critic = np.split(picture, 3, axis=1)
        assert clock(plain[::2]) == step
        assert (plain[390:] == 8 * (step + 1)).all()
        for panel in (actor, critic):
            np.testing.assert_array_equal(panel[:70], plain[:70])
            np.testing.assert_array_equal(panel[390:], plain[390:])
        added_to_actor, added_to_critic = (panel[70:390].astype(float) - 0.4 * plain[70:390] for panel in (actor, critic))
        assert added_to_actor[..., 2].max() > 100 > 1 > added_to_actor[..., :2].max()  # blue, and nothing else
        assert added_to_critic[..., 0].max() > 100 > 1 > added_to_critic[..., 1:].max()  # red


def test_inline_and_deferred_give_the_same_picture(tmp_path: Path, checkpoint: Path) -> None:
    for mode in ("inline", "deferred"):
        arguments = ["--png", 3, "--no-raw", "--mode", mode, "--output", tmp_path / mode]
        succeeded(record("ShortClock-v0", "--checkpoint", checkpoint, *FEW_MASKS, *arguments))
    inline, deferred = (cv2.imread(str(tmp_path / mode / "decision-3-episode-0.png")) for mode in ("inline", "deferred"))
    assert np.abs(inline.astype(int) - deferred).max() <= 1


def test_every_episode_has_its_own_seed_and_files(tmp_path: Path, checkpoint: Path) -> None:
    arguments = ["--checkpoint", checkpoint, *FEW_MASKS, "--end", 1, "--sample"]
    said = succeeded(record("ShortClock-v0", *arguments, "--seed", 3, "--episodes", 2, "--png", 1, "--output", tmp_path / "both"))
    assert re.fullmatch(r"\d+, \d+ \(mean [\d.]+\)", said["return"])
    assert said["decisions"] == "10"
    names = {f"{kind}-episode-{episode}.mp4" for kind in ("raw", "saliency") for episode in (0, 1)}
    assert {*said} >= names | {"decision-1-episode-0.png", "decision-1-episode-1.png"}
    succeeded(record("ShortClock-v0", *arguments, "--seed", 4, "--output", tmp_path / "second"))
    second = frames_of(tmp_path / "both/raw-episode-1.mp4")[0]
    np.testing.assert_array_equal(second, frames_of(tmp_path / "second/raw-episode-0.mp4")[0])


def test_the_same_seed_plays_the_same_game(tmp_path: Path, checkpoint: Path) -> None:
    def play(folder: str, seed: int) -> tuple[str, list[np.ndarray]]:
        arguments = ["--sample", "--seed", seed, "--steps", 40, "--end", 1, "--output", tmp_path / folder]
        said = succeeded(record(BREAKOUT, "--checkpoint", checkpoint, *FEW_MASKS, *arguments))
        return said["return"], frames_of(tmp_path / folder / "raw-episode-0.mp4")

    (first, frames), (again, same), (_, others) = play("first", 1), play("again", 1), play("other", 2)
    assert first == again
    np.testing.assert_array_equal(frames, same)
    assert not np.array_equal(frames, others)


def test_drawing_options_reach_the_video(tmp_path: Path, checkpoint: Path) -> None:
    arguments = ["--panels", "--strip", "--zoom", 2, "--style", "additive", "--scale", "episode", "--output", tmp_path]
    succeeded(record("ShortClock-v0", "--checkpoint", checkpoint, *FEW_MASKS, *arguments))
    height, width, _ = frames_of(tmp_path / "saliency-episode-0.mp4")[0].shape
    assert (height, width) == (2 * 210 + 56, 2 * 3 * 160)


def test_a_scale_in_numbers_is_absolute(tmp_path: Path, checkpoint: Path) -> None:
    arguments = ["--scale", "0,1e9", "--style", "additive", "--png", 2, "--output", tmp_path]
    succeeded(record("ShortClock-v0", "--checkpoint", checkpoint, *FEW_MASKS, *arguments))
    plain, actor, critic = np.split(cv2.imread(str(tmp_path / "decision-2-episode-0.png")), 3, axis=1)
    np.testing.assert_array_equal(actor, plain)
    np.testing.assert_array_equal(critic, plain)


@pytest.mark.parametrize(
    ("perturber", "settings"),
    [
        ("sliding-radial", ["radius=2", "stride=(40,40)", "sigma=None"]),
        ("sliding-window", ["window_size=40,20", "stride=40"]),
        ("rise", ["n=4", "s=4", "p1=0.5"]),
        ("random-grid", ["n=4", "s=20,20", "seed=7"]),
    ],
)
def test_every_perturber_takes_its_parameters(tmp_path: Path, checkpoint: Path, perturber: str, settings: list[str]) -> None:
    options = [part for setting in settings for part in ("--perturber-option", setting)]
    said = succeeded(
        record("ShortClock-v0", "--checkpoint", checkpoint, "--perturber", perturber, *options, "--end", 2, "--output", tmp_path)
    )
    assert said["explained maps"] == "2"


def test_methods_and_threads_can_be_chosen(tmp_path: Path, checkpoint: Path) -> None:
    arguments = ["--method", "greydanus2018", "--threads", 1, "--end", 1, "--output", tmp_path]
    assert succeeded(record("ShortClock-v0", "--checkpoint", checkpoint, *arguments))["explained maps"] == "1"
    assert torch.get_num_threads() == 1


def test_an_agent_of_the_bundled_kind_gets_its_own_preprocessing(tmp_path: Path) -> None:
    torch.save(seeded(AtariLSTM, 4).state_dict(), tmp_path / "agent.pt")
    said = succeeded(record("ShortClock-v0", "--checkpoint", tmp_path / "agent.pt", *FEW_MASKS, "--end", 1, "--output", tmp_path / "out"))
    assert said["explained maps"] == "1"


def test_the_reference_agent_plays_its_reference_game(tmp_path: Path, shared: Path) -> None:
    rewards = np.load(shared / "reference/breakout.npz")["rewards"][:150]
    arguments = ["--seed", 1, "--frameskip", 4, "--sticky", 0, "--steps", 150, "--start", 149, "--no-raw", "--output", tmp_path]
    said = succeeded(record(BREAKOUT, "--checkpoint", shared / "agents/breakout-v4.model.80.tar", *FEW_MASKS, *arguments))
    assert float(said["return"]) == rewards.sum() > 0
    assert said["explained maps"] == "1"


def test_the_bundled_agent_needs_no_checkpoint(tmp_path: Path) -> None:
    said = succeeded(record(BREAKOUT, *FEW_MASKS, "--steps", 3, "--output", tmp_path))
    assert said["explained maps"] == "3"


# What goes wrong


@pytest.mark.parametrize(
    ("env_id", "arguments", "message"),
    [
        ("NoSuchGame-v0", [], "Cannot make NoSuchGame-v0: .*doesn't exist"),
        ("ALE/NoSuchGame-v5", [], "Cannot make ALE/NoSuchGame-v5"),
        ("Clock-v0", ["--frameskip", "4"], "Cannot make Clock-v0 with {'frameskip': 4}: .*frameskip"),
        ("FrozenLake-v1", [], r"Expected an environment whose observations are RGB frames \(H, W, 3\) of uint8 or vectors, got Discrete"),
        ("CartPole-v1", [], r"The agent takes images, but CartPole-v1 gives vectors: .*"),
        ("FiveActions-v0", [], r"The agent chooses among 4 actions, but FiveActions-v0 expects Discrete\(5\)"),
        ("ALE/Pong-v5", [], r"The agent chooses among 4 actions, but ALE/Pong-v5 expects Discrete\(6\)"),
        ("Clock-v0", ["--preprocessor", "atari84"], r"does not take inputs of shape \(1, 84, 84\)"),
        ("Clock-v0", ["--start", "5", "--end", "5"], "Expected --start below --end, got 5 and 5"),
        ("Clock-v0", ["--start", "20", "--steps", "20"], "Expected --start below --steps, got 20 and 20"),
        ("Clock-v0", ["--png", "20", "--steps", "20"], "Expected --png below --steps, got 20 and 20"),
        ("Clock-v0", ["--perturber-option", "n=4"], "--perturber-option needs --perturber"),
        (
            "Clock-v0",
            ["--perturber", "rise", "--perturber-option", "masks=4"],
            "RISEGrid has no parameter 'masks': expected some of n, s, p1",
        ),
        ("Clock-v0", ["--perturber", "sliding-window", "--perturber-option", "seed=4"], "SlidingWindow has no parameter 'seed'"),
        ("Clock-v0", ["--perturber", "rise", "--perturber-option", "n=4,4"], r"Expected one number as n, got \(4, 4\)"),
        ("Clock-v0", ["--perturber", "sliding-radial", "--perturber-option", "radius=1,2,3"], "Expected one number or 2 as radius"),
        (
            "Clock-v0",
            ["--perturber", "sliding-window", "--perturber-option", "stride=0"],
            r"SlidingWindow\(.*stride=\(0, 0\)\) makes no masks",
        ),
        ("Clock-v0", ["--perturber", "sliding-window", "--perturber-option", "stride=-5"], "makes no masks"),
        ("Clock-v0", ["--perturber", "rise", "--perturber-option", "p1=2"], "makes no masks .*p1 value of 2"),
        ("Clock-v0", ["--perturber", "rise", "--perturber-option", "n=many"], "Invalid value for '--perturber-option': expected a number"),
        ("Clock-v0", ["--perturber", "rise", "--perturber-option", "n"], "Invalid value for '--perturber-option'"),
        ("Clock-v0", ["--scale", "2,1"], "Invalid value for '--scale': expected frame, episode or LOW,HIGH"),
        ("Clock-v0", ["--scale", "bright"], "Invalid value for '--scale'"),
        ("Clock-v0", ["--zoom", "0"], "Invalid value for '--zoom'"),
        ("Clock-v0", ["--sticky", "1.5"], "Invalid value for '--sticky'"),
        ("Clock-v0", ["--checkpoint", "no/such/agent.tar"], "Invalid value for '--checkpoint': .*'no/such/agent.tar' does not exist"),
        ("Clock-v0", ["--no-such-option"], "No such option"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(tmp_path: Path, checkpoint: Path, env_id: str, arguments: list[str], message: str) -> None:
    failed(record(env_id, "--checkpoint", checkpoint, "--output", tmp_path / "out", *arguments), 2, message)
    assert not (tmp_path / "out").exists()


def test_a_game_without_a_bundled_agent_needs_a_checkpoint(tmp_path: Path) -> None:
    failed(record("Clock-v0", "--output", tmp_path), 2, "No agent for Clock-v0 ships with this package .*Give --checkpoint PATH")


def test_a_folder_without_checkpoints_is_wrong_usage(tmp_path: Path) -> None:
    failed(record("Clock-v0", "--checkpoint", tmp_path), 2, "Expected checkpoints named like strong.40.tar")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_a_corrupt_checkpoint_is_a_failure(tmp_path: Path, checkpoint: Path, content: bytes | None) -> None:
    whole = (checkpoint / "tiny.1.tar").read_bytes()
    (tmp_path / "agent.2.tar").write_bytes(whole[: len(whole) // 2] if content is None else content)
    failed(record("Clock-v0", "--checkpoint", tmp_path), 1, "agent.2.tar .*is corrupt")


def test_an_output_folder_that_cannot_be_made_is_a_failure(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "file").touch()
    failed(record("Clock-v0", "--checkpoint", checkpoint, "--output", tmp_path / "file/out"), 1, "file")


def test_a_failure_while_playing_is_one_line_and_leaves_what_was_recorded(tmp_path: Path, checkpoint: Path) -> None:
    result = record("Broken-v0", "--checkpoint", checkpoint, *FEW_MASKS, "--output", tmp_path)
    failed(result, 1, "^Error: the emulator is on fire$")
    assert "decisions: 3" in result.stdout
    for kind in ("raw", "saliency"):
        assert [clock(frame) for frame in frames_of(tmp_path / f"{kind}-episode-0.mp4")] == [0, 1, 2, 3]


@pytest.mark.parametrize("mode", ["inline", "deferred"])
def test_an_interrupt_finishes_the_videos_and_exits_with_130(tmp_path: Path, checkpoint: Path, mode: str) -> None:
    result = record("Interrupted-v0", "--checkpoint", checkpoint, *FEW_MASKS, "--mode", mode, "--output", tmp_path)
    assert result.exit_code == 130
    assert result.stderr == "Interrupted; what was recorded is finished.\n"
    assert "decisions: 3" in result.stdout
    for kind in ("raw", "saliency"):
        assert [clock(frame) for frame in frames_of(tmp_path / f"{kind}-episode-0.mp4")] == [0, 1, 2, 3]


@pytest.mark.filterwarnings("default")
def test_what_an_episode_is_too_short_for_is_missing_even_if_an_older_file_has_its_name(tmp_path: Path, checkpoint: Path) -> None:
    arguments = ["--checkpoint", checkpoint, *FEW_MASKS, "--output", tmp_path]
    succeeded(record("Clock-v0", *arguments, "--png", 8))
    result = record("ShortClock-v0", *arguments, "--png", 8, "--start", 7)
    failed(result, 1, r"Missing: saliency-episode-0.mp4, decision-8-episode-0.png\.")
    assert result.stderr.startswith("Warning: Overwriting existing saliency videos")
    assert "wrote" in result.stdout
    assert "saliency-episode-0.mp4" not in result.stdout
    assert [file.name for file in tmp_path.iterdir()] == ["raw-episode-0.mp4"]


# What is said


def test_as_a_program_it_prints_facts_to_stdout_and_progress_to_stderr(tmp_path: Path, checkpoint: Path) -> None:
    arguments = ["record", BREAKOUT, "--checkpoint", checkpoint, *FEW_MASKS, "--steps", "4", "--threads", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "saliency_wrappers.cli", *map(str, arguments)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    names = [line.partition(": ")[0] for line in done.stdout.splitlines()]
    assert names == ["return", "decisions", "decisions per second", "explained maps", "wrote", "wrote"]
    assert re.search(r"episode 0: +100%.* 4/4 .*[\d.]+ steps/s, return=0", done.stderr)
    assert len(frames_of(tmp_path / "videos/saliency-episode-0.mp4")) == 5


def test_info_says_what_is_installed() -> None:
    said = succeeded(run("info"))
    assert said["saliency_wrappers"] == __version__
    assert said["gymnasium"] == gym.__version__
    assert "cpu" in said["devices"]
    assert Path(said["ffmpeg"]).exists()
    assert said["bundled agents"] == (", ".join(pretrained_agents()) or "none")


def test_info_for_programs_is_json() -> None:
    result = run("info", "--json")
    facts = json.loads(result.stdout)
    assert facts["torch"] == torch.__version__
    assert facts["bundled agents"] == pretrained_agents()
    assert sorted(facts["extras installed"] + facts["extras missing"]) == sorted(EXTRAS)


def test_info_knows_the_extras_of_the_package() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {name: needs for name, needs in project["optional-dependencies"].items() if name not in ("dev", "docs", "release")}
    assert {name: tuple(re.match(r"[\w-]+", need)[0] for need in needs) for name, needs in extras.items()} == EXTRAS


def test_the_version_is_the_package_s() -> None:
    assert run("--version").stdout == f"saliency-wrappers, version {__version__}\n"


@pytest.mark.parametrize("name", PREPROCESSORS)
def test_the_preprocessors_on_offer_exist(name: str) -> None:
    assert isinstance(FramePreprocessor.named(name), FramePreprocessor)


# Perturbers by name


def test_random_masks_are_xaitk_s_and_are_made_once() -> None:
    perturber = named_perturber("rise", (40, 40), default_seed=5, n=6)
    image = np.zeros((40, 40), np.float32)
    np.testing.assert_array_equal(perturber.perturb(image), RISEGrid(n=6, s=8, p1=0.5, seed=5, threads=0).perturb(image))
    np.testing.assert_array_equal(perturber.perturb(image), perturber.perturb(image))
    assert depends_on_shape_only(perturber)


@pytest.mark.parametrize("parameters", [{"seed": None}, {"threads": 2}])
def test_random_masks_that_differ_each_time_are_made_anew(parameters: dict[str, Any]) -> None:
    assert not depends_on_shape_only(named_perturber("random-grid", (40, 40), n=6, **parameters))


def test_an_unknown_perturber_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Expected the name of a perturber, one of .*'rise'.* got 'occlusion'"):
        named_perturber("occlusion", (40, 40))


# Stores


@pytest.fixture
def store(tmp_path: Path, checkpoint: Path) -> Path:
    """A store with two episodes of 12 decisions, and frames."""
    said = succeeded(
        record("Clock-v0", "--checkpoint", checkpoint, "--store", tmp_path / "store", "--episodes", 2, "--output", tmp_path / "out")
    )
    assert said["decisions"] == "24"
    assert said["store"] == str(tmp_path / "store")
    assert not (tmp_path / "out").exists()  # nothing is filmed
    return tmp_path / "store"


def computed(store: Path, checkpoint: Path, *arguments: Any) -> dict[str, str]:
    return succeeded(run("compute", store, "--checkpoint", checkpoint, "--no-progress", *FEW_MASKS, *arguments))


def test_maps_are_computed_from_a_store_once(store: Path, checkpoint: Path) -> None:
    first = computed(store, checkpoint, "--start", 3, "--end", 8)
    assert (first["explained"], first["had maps already"]) == ("10", "0")
    second = computed(store, checkpoint, "--episode", 0)
    assert (second["explained"], second["had maps already"]) == ("7", "5")
    assert first["method"] == second["method"]


def test_a_store_is_inspected(store: Path, checkpoint: Path) -> None:
    method = computed(store, checkpoint, "--episode", 1, "--end", 5)["method"]
    facts = json.loads(run("inspect", store, "--json").stdout)
    assert [one["decisions"] for one in facts["episodes"]] == [12, 12]
    assert all(one["complete"] and one["frames"] and one["environment"] == "Clock-v0" for one in facts["episodes"])
    assert facts["episodes"][0]["methods"] == {}
    assert facts["episodes"][1]["methods"][method]["explained"] == 5
    assert facts["bytes"] == sum(file.stat().st_size for file in store.rglob("*") if file.is_file())
    text = run("inspect", store).stdout
    assert "episodes: 2" in text
    assert re.search(rf"episode 1: Clock-v0, 12 decisions, return .*, with frames, complete\n  maps {method}: SlidingWindow", text)


def test_a_video_is_rendered_from_a_store(store: Path, checkpoint: Path, tmp_path: Path) -> None:
    computed(store, checkpoint)
    options = ["--start", 4, "--end", 9, "--style", "additive", "--scale", "episode", "--output", tmp_path / "new/cut.mp4", "--no-progress"]
    said = succeeded(run("render", store, "--episode", -1, *options))
    assert said["frames"] == "5"
    shown = frames_of(tmp_path / "new/cut.mp4")
    assert [clock(frame) for frame in shown] == [4, 5, 6, 7, 8]


@pytest.mark.filterwarnings("ignore:Not read, being no episodes")
def test_all_episodes_are_rendered_and_those_that_cannot_be_are_named(store: Path, checkpoint: Path, tmp_path: Path) -> None:
    computed(store, checkpoint, "--end", 3)
    damaged = sorted(folder for folder in store.iterdir() if folder.is_dir())[0]
    for chunk in (damaged / "logits").rglob("*"):
        if chunk.is_file() and chunk.name != "zarr.json":
            chunk.write_bytes(b"damaged")
    (store / "notes").mkdir()
    (store / "notes" / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    result = run("render", store, "--all", "--no-progress", "--output", tmp_path / "out.mp4")
    failed(result, 1, f"Expected 1 more episodes that can be drawn; the others are. Failed: {damaged.name}: .*damaged")
    assert f"frames: 3\nwrote: {tmp_path / 'out-episode-1.mp4'}\n" in result.stdout
    assert len(frames_of(tmp_path / "out-episode-1.mp4")) == 3
    failed(run("render", store, "--no-progress", "--output", tmp_path / "one.mp4"), 1, "damaged")
    assert succeeded(run("render", store, "--episode", 1, "--no-progress", "--output", tmp_path / "one.mp4"))["frames"] == "3"


def test_what_cannot_be_done_with_a_store_is_said_in_one_line(store: Path, checkpoint: Path, tmp_path: Path) -> None:
    failed(run("inspect", tmp_path / "nothing"), 1, "found none")
    failed(run("render", store, "--no-progress", "--output", tmp_path / "x.mp4"), 1, "there are: none")
    failed(run("compute", store, "--no-progress"), 2, "No agent for Clock-v0 ships")
    other = tmp_path / "other.tar"
    torch.save(GreydanusLSTM(4).state_dict(), other)
    failed(run("compute", store, "--checkpoint", other, "--no-progress"), 1, "Expected the agent that acted")
    computed(store, checkpoint, "--end", 2)
    failed(run("render", store, "--start", 7, "--no-progress", "--output", tmp_path / "x.mp4"), 1, "run compute first")
    failed(run("render", store, "--episode", 7), 1, "which has 2")


def test_progress_tells_the_rate_and_the_time_left(store: Path, checkpoint: Path) -> None:
    result = run("compute", store, "--checkpoint", checkpoint, *FEW_MASKS, "--end", 2)
    assert re.search(r"4/4 \[\d\d:\d\d<\d\d:\d\d, .* decisions/s\]", result.stderr)
