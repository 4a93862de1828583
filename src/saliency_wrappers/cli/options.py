"""What the commands share: failures in one line, values of options, text that is safe to print, progress, and how an agent is loaded."""

from __future__ import annotations

import ast
import math
import sys
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import gymnasium as gym
from torch import nn
from tqdm import tqdm
from xaitk_saliency.interfaces.perturb_image import PerturbImage

from saliency_wrappers.cli.perturbers import named_perturber
from saliency_wrappers.cli.player import load_agent
from saliency_wrappers.models.checkpoints import CheckpointError, pretrained_agents
from saliency_wrappers.preprocessing import FramePreprocessor
from saliency_wrappers.video.overlay import STYLES, Scale

INTERRUPTED = 130
LARGEST_SIDE = 16384
"""Pixels of a video's side, at most: H.264 has no larger frames."""
_LARGEST_NUMBER = 10**9
_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"


class Failed(click.ClickException):
    """An error of the command: one line on stderr, exit code 1."""

    exit_code = 1

    def __init__(self, reason: object) -> None:
        super().__init__(one_line(reason))


class Misused(Failed):
    """A wrong use of the command: one line on stderr, exit code 2."""

    exit_code = 2


def stored_agent_option(command: Any) -> Any:
    """Add `--checkpoint`, the agent that acted in a store."""
    return click.option(
        "--checkpoint",
        type=click.Path(exists=True, path_type=Path),
        help="The agent that acted: a file, or a folder.  [default: the agent for the store's game that ships with this package]",
    )(command)


def drawing_options(command: Any) -> Any:
    """Add the options of drawing that a command and `DrawingOptions` have in common: style, scale, panels, strip and zoom."""
    options = [
        click.option("--style", type=click.Choice(STYLES), default="xaitk", help="How maps are drawn."),
        click.option(
            "--scale", metavar="frame|episode|LOW,HIGH", default="frame", callback=scale_option, help="What a map's brightest place is."
        ),
        click.option("--panels/--no-panels", default=False, help="Frame, actor and critic side by side."),
        click.option("--strip/--no-strip", default=False, help="Value and action probabilities below the frame."),
        click.option("--zoom", type=click.IntRange(1, LARGEST_SIDE), default=1, help="Enlarge every pixel."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def scale_option(ctx: click.Context, param: click.Parameter, text: str) -> Scale:
    """Parse the value of `--scale`."""
    if text in ("frame", "episode"):
        return text
    numbers = _numbers(text)
    if not isinstance(numbers, tuple) or len(numbers) != 2 or not numbers[0] < numbers[1]:
        raise click.BadParameter(f"expected frame, episode or LOW,HIGH with LOW < HIGH, got {printable(text)!r}.", ctx, param)
    return numbers


def parameter_option(ctx: click.Context, param: click.Parameter, texts: tuple[str, ...]) -> dict[str, Any]:
    """Parse the values of `--perturber-option`."""
    pairs = [text.partition("=")[::2] for text in texts]
    return {key.strip(): None if value == "None" else _numbers(value) for key, value in pairs}


def _numbers(text: str) -> Any:
    """Parse a number, or a tuple of numbers from `5,5` or `(5, 5)`."""
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        value = text
    parts = value if isinstance(value, tuple) else (value,)
    if not all(isinstance(part, int | float) and abs(part) <= _LARGEST_NUMBER for part in parts):
        raise click.BadParameter(f"expected a number of at most {_LARGEST_NUMBER}, or several as in 5,5, got {printable(text)[:80]!r}.")
    return value


class FiniteRange(click.FloatRange):
    """A `FloatRange` that refuses NaN."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number; `BadParameter` for one outside the range."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number.", param, ctx)
        return number


@contextmanager
def failures(kind: type[Failed]) -> Generator[None]:
    """Turn every error into one line and an exit code. Unexpected kinds are named, and exit with 1."""
    try:
        yield
    except (BrokenPipeError, click.ClickException, click.exceptions.Exit, click.Abort):
        raise
    except CheckpointError as error:
        raise Failed(error) from error
    except (gym.error.Error, OSError, RuntimeError, TypeError, ValueError) as error:
        raise kind(error) from error
    except MemoryError as error:
        raise Failed(f"Not enough memory for what was asked for. {error}") from error
    except Exception as error:
        raise Failed(f"{type(error).__name__}: {error}") from error


@contextmanager
def warnings_in_one_line() -> Generator[None]:
    """Write warnings to stderr without their place in the code."""
    with warnings.catch_warnings():
        warnings.showwarning = _warn
        yield


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    tqdm.write(f"Warning: {one_line(message).removeprefix('WARN: ')}", file=sys.stderr)


def one_line(text: object) -> str:
    """Return a text without line breaks and colours, safe to print."""
    return printable(" ".join(click.unstyle(str(text)).split()))


def printable(text: object) -> str:
    """Escape control characters of a text: stored text is untrusted."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in str(text))


def agent_for(env_id: str, checkpoint: Path | None, preprocessor: str | None = None) -> tuple[nn.Module, FramePreprocessor | None]:
    """Return the agent of a checkpoint, or the bundled one, and its preprocessor; None for an agent on vectors."""
    if checkpoint is None and env_id not in pretrained_agents():
        agents = ", ".join(pretrained_agents()) or "none"
        raise Misused(f"No agent for {env_id} ships with this package (there are: {agents}). Give --checkpoint PATH.")
    return load_agent(env_id, checkpoint, preprocessor)


def perturber_for(name: str | None, parameters: dict[str, Any], size: tuple[int, int] | None, seed: int = 0) -> PerturbImage | None:
    """Return the perturber of the options. None: the method's own."""
    if parameters and name is None:
        raise Misused("--perturber-option needs --perturber.")
    if name is not None and size is None:
        raise Misused("--perturber is for images: agents on vectors have none.")
    return None if name is None or size is None else named_perturber(name, size, default_seed=seed, **parameters)


def progress_bar(total: int, wanted: bool, description: str, unit: str) -> tqdm[Any]:
    """Return a progress bar on stderr with rate and remaining time."""
    often = 0.1 if sys.stderr.isatty() else 10.0
    look: dict[str, Any] = {"desc": description, "unit": unit, "bar_format": _BAR, "mininterval": often}
    return tqdm(total=total, disable=not wanted, **look)


def advancing(bar: tqdm[Any]) -> Callable[[int, int], None]:
    """Return a function that sets a bar to how much is done, and how much there is to be done."""

    def advance(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return advance


def check_size(shape: tuple[int, ...], zoom: int, panels: bool) -> None:
    """Check that enlarged frames fit into a video; `Misused` when they do not.

    Args:
        shape: of a frame, `(H, W, 3)`.
        zoom: how many times each pixel is enlarged.
        panels: whether three frames are side by side.
    """
    height, width = shape[0] * zoom, shape[1] * zoom * (3 if panels else 1)
    if max(height, width) > LARGEST_SIDE:
        raise Misused(f"Expected video frames of at most {LARGEST_SIDE} pixels a side, got {width}x{height}: choose a smaller --zoom.")
