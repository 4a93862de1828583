"""Distil a trained recurrent Atari agent into a new one that plays with sticky actions (DAgger).

    python examples/distill_atari.py --game Breakout --teacher breakout-v4.model.80.tar --output runs/distil --minutes 60

The student is a `BabyA3CGRU` with random weights. It plays `ALE/<game>-v5` (sticky actions); the teacher watches the same frames
with its own recurrent state and says at each of them what it would do. The student learns

- the teacher's policy, by the divergence KL(teacher || student),
- its value, by the squared difference, and
- what the teacher's recurrent state and its convolutions hold, by the mean squared difference.

Games in which the teacher acts are mixed in at the beginning, so that the first frames are worth learning from; since then the student
learns on the states that it visits itself, which is what lets it recover from its own mistakes (Ross et al. 2011).
Frames and targets wait in a buffer. A part of the updates, all of them at first and none at the end, draws single decisions from it, into
which the teacher's state goes (teacher forcing); the others draw sequences, in which the student's own state runs on and gradients flow
through time.

The same command continues an interrupted run: the output folder holds `checkpoint.pt` and `agent.<decisions>.pt`, the weights on the way.
At the end `agent.safetensors` is written, in half precision. `examples/train_ppo_lstm.py --initial` trains on from it.
"""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import safetensors.torch
import torch
from atari_games import AtariGames
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from saliency_wrappers import load_checkpoint
from saliency_wrappers.models.networks import BabyA3CGRU

SEQUENCE = 32
"""Decisions in one sequence, through which gradients flow."""
BUFFER = 100
"""Rounds of `SEQUENCE` decisions in every game that the buffer holds."""
FORCED_BATCH, FREE_BATCH = 64, 4
"""Single decisions in an update with teacher forcing, sequences in one without."""
RECENT = 16
"""Rounds from which half of the sequences come."""
CHECKPOINT_EVERY = 20
"""Rounds between two checkpoints."""
LEARNING_RATE = 1e-3
LAST_LEARNING_RATE = 5e-5
VALUE_WEIGHT = 0.05
STATE_WEIGHT = 3.0
FEATURE_WEIGHT = 1.0
MAX_GRADIENT_NORM = 1.0


@dataclass(frozen=True)
class Options:
    """The options of the command line."""

    game: str
    teacher: Path
    output: Path
    decisions: int
    minutes: float
    environments: int
    updates: int
    sharpen: float
    warm_up: int
    seed: int
    keep_every: int
    max_decisions: int
    initial: Path | None


@dataclass(frozen=True)
class Batch:
    """Sequences of decisions with the teacher's targets; every tensor but `first_state` is `(length, n, ...)`."""

    frames: Tensor
    """uint8 `(..., 80, 80)`."""
    episode_starts: Tensor
    """float32, 1.0 where the frame is the first of an episode."""
    log_policies: Tensor
    """The teacher's log probabilities."""
    values: Tensor
    states: Tensor
    """The teacher's outgoing states, float16."""
    first_state: Tensor
    """`(n, 256)`: the student's incoming state at the first decision."""


@dataclass(frozen=True)
class Round(Batch):
    """`SEQUENCE` decisions of every game."""

    first_teacher_state: Tensor
    """`(environments, 256)`: the teacher's incoming state at the first decision."""


@dataclass
class Progress:
    """How far the training has come."""

    decisions: int = 0
    seconds: float = 0.0

    def fraction(self, decisions: int, minutes: float) -> float:
        """From 0 to 1: whichever budget, decisions or wall time, is further spent."""
        return min(1.0, max(self.decisions / decisions, self.seconds / (60 * minutes)))


class Classroom:
    """The games, with the states of student and teacher, who see the same frames."""

    def __init__(self, options: Options, seed: int, student: BabyA3CGRU, teacher: BabyA3CGRU) -> None:
        self.games = AtariGames(options.game, options.environments, seed, max_decisions=options.max_decisions)
        self.student, self.teacher = student, teacher
        self.student_state = student.initial_state(options.environments)
        self.teacher_state = teacher.initial_state(options.environments)
        self.greedy = torch.arange(options.environments) % 2 == 0

    @torch.no_grad()
    def collect(self, taught: float) -> Round:
        """Play `SEQUENCE` decisions in each game, the fraction `taught` of the games by the teacher."""
        first_states = self.student_state, self.teacher_state
        records: list[tuple[Tensor, ...]] = []
        by_teacher = torch.arange(len(self.greedy)) < round(taught * len(self.greedy))
        for _ in range(SEQUENCE):
            frames, starts = self.games.frames, self.games.episode_starts
            inputs, keep = to_input(frames), (1 - starts).unsqueeze(1)
            _, logits, self.student_state = self.student((inputs, self.student_state * keep))
            values, targets, self.teacher_state = self.teacher((inputs, self.teacher_state * keep))
            targets = targets.log_softmax(1)
            self.games.step(choose(torch.where(by_teacher.unsqueeze(1), targets, logits), self.greedy))
            records.append((frames, starts, targets, values.squeeze(1), self.teacher_state.half()))
        frames, starts, targets, values, features = (torch.stack(column) for column in zip(*records, strict=True))
        return Round(frames, starts, targets, values, features, *first_states)


def choose(logits: Tensor, greedy: Tensor) -> NDArray[np.int64]:
    """Actions for logits `(n, actions)`: the best where `greedy`, else drawn from the policy."""
    drawn = torch.distributions.Categorical(logits=logits).sample()
    return torch.where(greedy, logits.argmax(1), drawn).numpy()


def to_input(frames: Tensor) -> Tensor:
    """Frames `(n, 80, 80)` uint8 to the network input `(n, 1, 80, 80)` float32 in [0, 1], channels last."""
    return (frames.unsqueeze(1).float() / 255).contiguous(memory_format=torch.channels_last)


def build_student(num_actions: int) -> BabyA3CGRU:
    """The network with random weights."""
    model = BabyA3CGRU(num_actions)
    for layer in (model.conv1, model.conv2, model.conv3, model.conv4):
        nn.init.orthogonal_(layer.weight, 2**0.5)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    moved: Any = model  # torch's types do not know memory_format
    moved.to(memory_format=torch.channels_last)
    return model


@torch.no_grad()
def sharpen(model: BabyA3CGRU, factor: float) -> None:
    """Multiply the logits: the same greedy policy, but one whose drawn actions are closer to it."""
    for parameter in model.actor_linear.parameters():
        parameter.mul_(factor)


def draw_places(buffer: deque[Round], count: int, generator: np.random.Generator) -> list[tuple[Round, int]]:
    """Rounds and games in them, half of them from the last `RECENT` rounds, half from the whole buffer."""
    spans = np.where(np.arange(count) % 2 == 0, min(RECENT, len(buffer)), len(buffer))
    rounds = len(buffer) - 1 - generator.integers(spans)
    games = generator.integers(len(buffer[0].first_state), size=count)
    return [(buffer[index], game) for index, game in zip(rounds, games, strict=True)]


TIMED = ("frames", "episode_starts", "log_policies", "values", "states")


def draw_sequences(buffer: deque[Round], generator: np.random.Generator) -> Batch:
    """Sequences that begin with the student's own states."""
    places = draw_places(buffer, FREE_BATCH, generator)
    columns: list[Any] = [torch.stack([getattr(round_, name)[:, game] for round_, game in places], 1) for name in TIMED]
    return Batch(*[*columns, torch.stack([round_.first_state[game] for round_, game in places])])


def draw_decisions(buffer: deque[Round], generator: np.random.Generator) -> Batch:
    """Sequences of one decision, into which the teacher's state goes."""
    places = draw_places(buffer, FORCED_BATCH, generator)
    steps = generator.integers(SEQUENCE, size=FORCED_BATCH)
    chosen = [(round_, step, game) for (round_, game), step in zip(places, steps, strict=True)]
    columns: list[Any] = [torch.stack([getattr(round_, name)[step, game] for round_, step, game in chosen])[None] for name in TIMED]
    states = [round_.states[step - 1, game].float() if step else round_.first_teacher_state[game] for round_, step, game in chosen]
    return Batch(*[*columns, torch.stack(states)])


def convolve(model: BabyA3CGRU, frames: Tensor) -> list[Tensor]:
    """The activations of the four convolutions for frames `(n, 80, 80)`."""
    activations = [to_input(frames)]
    for conv in (model.conv1, model.conv2, model.conv3, model.conv4):
        activations.append(functional.elu(conv(activations[-1])))
    return activations[1:]


def remember(student: BabyA3CGRU, features: Tensor, batch: Batch) -> Tensor:
    """The student's states `(length, n, 256)`."""
    state, states = batch.first_state, []
    for step, starts in enumerate(batch.episode_starts):
        state = student.gru(features[step], state * (1 - starts).unsqueeze(1))
        states.append(state)
    return torch.stack(states)


def compute_losses(student: BabyA3CGRU, teacher: BabyA3CGRU, batch: Batch) -> dict[str, Tensor]:
    """How far the student is from the teacher, in each of the four things it learns."""
    frames = batch.frames.flatten(0, 1)
    with torch.no_grad():
        targets = convolve(teacher, frames)
    activations = convolve(student, frames)
    hidden = remember(student, activations[-1].flatten(1).unflatten(0, batch.frames.shape[:2]), batch)
    log_policies = student.actor_linear(hidden).log_softmax(2)
    return {
        "policy": functional.kl_div(log_policies, batch.log_policies, log_target=True, reduction="none").sum(2).mean(),
        "value": functional.mse_loss(student.critic_linear(hidden).squeeze(2), batch.values),
        "state": functional.mse_loss(hidden, batch.states.float()),
        "features": torch.stack([functional.mse_loss(a, t) / t.var() for a, t in zip(activations, targets, strict=True)]).sum(),
    }


def update(student: BabyA3CGRU, optimizer: torch.optim.Optimizer, losses: dict[str, Tensor]) -> None:
    """One gradient step."""
    total = losses["policy"] + VALUE_WEIGHT * losses["value"] + STATE_WEIGHT * losses["state"] + FEATURE_WEIGHT * losses["features"]
    optimizer.zero_grad()
    total.backward()
    nn.utils.clip_grad_norm_(student.parameters(), MAX_GRADIENT_NORM)
    optimizer.step()


def save(path: Path, contents: dict[str, Any]) -> None:
    """Write a file that is either complete or not there, whenever the process is stopped."""
    temporary = path.with_suffix(".temporary")
    torch.save(contents, temporary)
    temporary.replace(path)


def save_checkpoint(output: Path, student: BabyA3CGRU, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    """Write what a later run needs to continue, all but the buffer."""
    contents = {"model": student.state_dict(), "optimizer": optimizer.state_dict(), **asdict(progress)}
    save(output / "checkpoint.pt", contents)


def restore(output: Path, student: BabyA3CGRU, optimizer: torch.optim.Optimizer) -> Progress:
    """Continue where the folder's checkpoint left off, or begin at the beginning."""
    path = output / "checkpoint.pt"
    if not path.exists():
        return Progress()
    checkpoint = torch.load(path, weights_only=True)
    student.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    return Progress(checkpoint["decisions"], checkpoint["seconds"])


def save_half(path: Path, model: nn.Module) -> None:
    """Write the weights in half precision, as the package ships them."""
    safetensors.torch.save_file({name: weight.half().contiguous() for name, weight in model.state_dict().items()}, path)


def learning_rate(spent: float) -> float:
    """From the first learning rate to the last one along a cosine, as `spent` goes from 0 to 1."""
    return LAST_LEARNING_RATE + (LEARNING_RATE - LAST_LEARNING_RATE) * 0.5 * (1 + math.cos(math.pi * spent))


def report(progress: Progress, classroom: Classroom, losses: dict[str, Tensor]) -> None:
    """One line on the console."""
    scores = [score for score, _ in classroom.games.finished]
    told = "  ".join(f"{name} {loss.item():.4f}" for name, loss in losses.items())
    mean = float(np.mean(scores)) if scores else float("nan")
    click.echo(f"{progress.decisions:>8} decisions  {progress.seconds / 60:6.1f} min  return {mean:6.1f} ({len(scores)} episodes)  {told}")


def distil(options: Options) -> None:
    """Alternate between playing and learning until the time is spent."""
    teacher: Any = load_checkpoint(options.teacher)
    teacher.to(memory_format=torch.channels_last)
    if not isinstance(teacher, BabyA3CGRU):
        raise click.UsageError(f"Expected a teacher with the weights of BabyA3CGRU, got {type(teacher).__name__}.")
    sharpen(teacher, options.sharpen)
    student = build_student(teacher.actor_linear.out_features)
    if options.initial is not None:
        student.load_state_dict(load_checkpoint(options.initial).state_dict())
    optimizer = torch.optim.Adam(student.parameters(), LEARNING_RATE, eps=1e-5)
    progress = restore(options.output, student, optimizer)
    seed = options.seed + progress.decisions  # A continued run plays other games than the ones it has seen.
    classroom, generator = Classroom(options, seed, student, teacher), np.random.default_rng(seed)
    buffer: deque[Round] = deque(maxlen=BUFFER)
    rounds, losses = 0, {}
    while (spent := progress.fraction(options.decisions, options.minutes)) < 1:
        began = time.monotonic()
        taught = 0.5 * max(0.0, 1 - progress.decisions / options.warm_up)
        buffer.append(classroom.collect(taught))
        optimizer.param_groups[0]["lr"] = learning_rate(spent)
        for _ in range(options.updates):
            forced = bool(generator.random() < 1 - 1.5 * spent)
            losses = compute_losses(student, teacher, draw_decisions(buffer, generator) if forced else draw_sequences(buffer, generator))
            update(student, optimizer, losses)
        rounds += 1
        before = progress.decisions // options.keep_every
        progress.decisions += SEQUENCE * options.environments
        progress.seconds += time.monotonic() - began
        if progress.decisions // options.keep_every > before:
            save(options.output / f"agent.{progress.decisions}.pt", student.state_dict())
        if rounds % 10 == 0:
            report(progress, classroom, losses)
        if rounds % CHECKPOINT_EVERY == 0:
            save_checkpoint(options.output, student, optimizer, progress)
            save_half(options.output / "agent.safetensors", student)
    save_checkpoint(options.output, student, optimizer, progress)
    save_half(options.output / "agent.safetensors", student)


@click.command(help="Distil a trained recurrent Atari agent into a new one.")
@click.option("--game", default="Breakout", show_default=True, help="As in ALE/<game>-v5.")
@click.option("--teacher", type=click.Path(exists=True, path_type=Path), required=True, help="A checkpoint of baby-a3c.")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder of checkpoints.")
@click.option("--decisions", default=1_000_000, show_default=True, help="Stop after this many decisions over all games.")
@click.option("--minutes", default=60.0, show_default=True, help="Stop after this much wall time.")
@click.option("--environments", default=32, show_default=True, help="How many games to play side by side.")
@click.option("--updates", default=40, show_default=True, help="Gradient steps for each round of decisions.")
@click.option("--sharpen", default=1.0, show_default=True, help="Multiply the teacher's logits: its likeliest action counts.")
@click.option("--warm-up", default=60_000, show_default=True, help="Decisions after which the teacher acts in no game.")
@click.option("--seed", default=0, show_default=True)
@click.option("--keep-every", default=50_000, show_default=True, help="Keep the weights after each so many decisions.")
@click.option("--max-decisions", default=4500, show_default=True, help="End an episode after so many.")
@click.option("--initial", type=click.Path(exists=True, path_type=Path), help="Begin a new run with these weights.")
def main(**options: Any) -> None:
    """Seed everything, then distil."""
    settings = Options(**options)
    torch.set_num_threads(1)
    torch.manual_seed(settings.seed)
    settings.output.mkdir(parents=True, exist_ok=True)
    distil(settings)


if __name__ == "__main__":
    main()
