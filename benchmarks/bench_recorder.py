"""What a recorder costs a step of Breakout when it has nothing to explain: `python benchmarks/bench_recorder.py`.

Each way plays whole episodes in its own environment; they take turns by a few steps of the same episode, which comes out the same for all
of them, and are compared by the sums: what is done by the block counts in full. All ask the same agent, whose copies would differ by where
they lie in memory; a recorder sees it in its own turns. Videos are encoded by another process, which would disturb the others' turns: they
are timed by episodes one after another.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import gymnasium as gym
import numpy as np
import torch
from cases import BREAKOUT, PUBLISHED_GAME, Player, breakout_player
from machine import facts, load
from measuring import Lap, Spread, in_turns, ratios, seconds
from reporting import FOLDER, markdown, milliseconds, say, write
from torch import nn

from saliency_wrappers import Decision, FramePreprocessor, RecordSaliencyVideo, RecurrentAgentHook, SaliencyMaps, SaliencyRecorder
from saliency_wrappers.agents import AgentAdapter

ALONE = "without anything"
IDLE = "recorder, trigger off"
CAPTURE = "recorder, capture without maps"
INLINE = "recorder, inline, maps that cost nothing"
FILMED = "video of plain frames, per step of an episode"
UNFILMED = "without anything, per step of an episode"

Wrap = Callable[[gym.Env[Any, Any], nn.Module], gym.Env[Any, Any]]


@dataclass(frozen=True)
class Cost:
    """What a way adds to a step."""

    way: str
    seconds: Spread
    """Per step."""
    baseline: str
    added: Spread
    """As a share of the baseline's seconds, within each round."""
    rounds: int


class Playing:
    """An agent that plays an environment with given actions, as its user's own loop would."""

    def __init__(self, player: Player, wrap: Wrap) -> None:
        """Begin an episode with the player's agent, in an environment that `wrap` puts something around."""
        self._agent = player.agent
        self._actions = player.actions
        self._preprocessor = FramePreprocessor.named("greydanus2018")
        self.env = wrap(gym.make(BREAKOUT, render_mode="rgb_array", **PUBLISHED_GAME), self._agent)
        self._frame, _ = self.env.reset(seed=1)
        self._state: Any = self._agent.initial_state(1)
        self._step = 0
        self._watch(False)

    def advance(self, steps: int) -> float:
        """Take so many steps; what the agent said and earned in them, in one number."""
        total = 0.0
        self._watch(True)
        for action in self._actions[self._step : self._step + steps]:
            with torch.no_grad():
                inputs = torch.from_numpy(self._preprocessor(self._frame))[None]
                value, logits, self._state = self._agent((inputs, self._state))
            self._frame, reward, terminated, truncated, _ = self.env.step(int(action))
            total += float(value.sum() + logits.sum()) + float(reward)
            if terminated or truncated:
                self._frame, _ = self.env.reset()
                self._state = self._agent.initial_state(1)
        self._step += steps
        self._watch(False)
        return total

    def _watch(self, enabled: bool) -> None:
        if isinstance(self.env, SaliencyRecorder):
            self.env.enabled = enabled


@click.command()
@click.option("--rounds", default=8, show_default=True, type=click.IntRange(1), help="How often each way plays the episode.")
@click.option("--steps", default=16, show_default=True, type=click.IntRange(1), help="Of each turn.")
@click.option("--videos", default=8, show_default=True, type=click.IntRange(1), help="How many episodes with and without one.")
@click.option("--video-steps", default=200, show_default=True, type=click.IntRange(1), help="How long those are.")
@click.option("--output", default=FOLDER / "recorder.json", show_default=True, type=click.Path(path_type=Path), help="JSON file.")
def main(rounds: int, steps: int, videos: int, video_steps: int, output: Path) -> None:
    """Time steps with and without a recorder, on one thread."""
    player = breakout_player()
    setting: dict[str, Any] = {"agent": player.description, **facts(), "load before": load()}
    say(setting)
    results = costs(take_turns(player, rounds, steps), ALONE) + costs(film(player, videos, video_steps), UNFILMED)
    setting["load after"] = load()
    say({"load after": setting["load after"]})
    click.echo(f"\n{table(results)}")
    write({"setting": setting, "results": [asdict(result) for result in results]}, output)


def take_turns(player: Player, rounds: int, steps: int) -> list[Lap]:
    """The laps of the ways without video, one for each episode; `ValueError` where they played different games."""
    ways: dict[str, Wrap] = {ALONE: lambda env, agent: env, IDLE: idle, CAPTURE: capturing, INLINE: explaining}
    laps: list[Lap] = []
    for number in range(-1, rounds):  # the first is to warm up
        playing = {name: Playing(player, wrap) for name, wrap in ways.items()}
        turns: list[Lap] = []
        for start in range(0, min(len(player.actions), 10 * steps if number < 0 else len(player.actions)), steps):
            units = min(steps, len(player.actions) - start)
            own, totals = in_turns({name: partial(one.advance, units) for name, one in playing.items()}, number + start // steps, units, 1)
            check_same(totals)
            turns += own
        for one in playing.values():
            one.env.close()
        laps += summed(turns, number) if number >= 0 else []
    return laps


def summed(turns: Sequence[Lap], number: int) -> list[Lap]:
    """The turns of a round, one lap for each way."""
    laps: list[Lap] = []
    for way in dict.fromkeys(turn.way for turn in turns):
        own = [turn for turn in turns if turn.way == way]
        units = sum(turn.units for turn in own)
        laps.append(Lap(way, number, units, sum(turn.seconds * turn.units for turn in own) / units))
    return laps


def film(player: Player, videos: int, steps: int) -> list[Lap]:
    """The laps of whole episodes, from making the environment until the video is written."""
    laps: list[Lap] = []
    with tempfile.TemporaryDirectory() as folder:
        ways: dict[str, Wrap] = {UNFILMED: lambda env, agent: env, FILMED: partial(filming, folder)}
        for episode in range(-1, videos):
            whole = {name: partial(whole_episode, player, wrap, steps) for name, wrap in ways.items()}
            own, totals = in_turns(whole, episode, steps, threads=1)
            check_same(totals)
            laps += own if episode >= 0 else []
        if not any(file.stat().st_size for file in Path(folder).rglob("*.mp4")):
            raise ValueError(f"Expected videos to be written, got none in {folder}.")
    return laps


def whole_episode(player: Player, wrap: Wrap, steps: int) -> float:
    """Play from the beginning and close everything."""
    playing = Playing(player, wrap)
    total = playing.advance(steps)
    playing.env.close()
    return total


def idle(env: gym.Env[Any, Any], agent: nn.Module) -> gym.Env[Any, Any]:
    """A recorder that is attached, and wants no step."""
    return SaliencyRecorder(env, RecurrentAgentHook(agent, "greydanus2018"), step_trigger=lambda _: False, verify="never")


def capturing(env: gym.Env[Any, Any], agent: nn.Module) -> gym.Env[Any, Any]:
    """A recorder that copies each decision, puts it into `info`, and holds it for maps, which come by the block and cost nothing."""
    return SaliencyRecorder(env, RecurrentAgentHook(agent, "greydanus2018"), method=zero_maps, mode="deferred", verify="never")


def explaining(env: gym.Env[Any, Any], agent: nn.Module) -> gym.Env[Any, Any]:
    """A recorder that copies each decision and puts it into `info` with two maps, whose making costs nothing."""
    return SaliencyRecorder(env, RecurrentAgentHook(agent, "greydanus2018"), method=zero_maps, verify="never")


def filming(folder: str, env: gym.Env[Any, Any], agent: nn.Module) -> gym.Env[Any, Any]:
    """A video of every episode, of plain frames: the recorder beneath wants no step."""
    return RecordSaliencyVideo(idle(env, agent), tempfile.mkdtemp(dir=folder), episode_trigger=lambda _: True)


def zero_maps(adapter: AgentAdapter, decisions: Sequence[Decision]) -> list[SaliencyMaps]:
    """A saliency method that computes nothing."""
    zeros = [np.zeros(decision.inputs.shape[2:], np.float32) for decision in decisions]
    return [SaliencyMaps(saliency, saliency) for saliency in zeros]


def check_same(totals: dict[str, float]) -> None:
    """`ValueError` unless all ways played the same."""
    if len(set(totals.values())) != 1:
        raise ValueError(f"Expected the same game with and without a recorder, got {totals}.")


def costs(laps: Sequence[Lap], baseline: str) -> list[Cost]:
    """What each way adds to the baseline, which comes first."""
    result: list[Cost] = []
    for way in dict.fromkeys([baseline, *(lap.way for lap in laps)]):
        spread, own = ratios(laps, way, baseline), [lap for lap in laps if lap.way == way]
        if spread is None:
            raise ValueError(f"Expected turns of both {way} and {baseline}, got none.")
        result.append(Cost(way, seconds(laps, way), baseline, Spread(spread.median - 1, spread.least - 1, spread.most - 1), len(own)))
    return result


def table(results: Sequence[Cost]) -> str:
    """The results as a Markdown table."""
    rows = []
    for one in results:
        added = f"{one.added.median:+.1%} ({one.added.least:+.1%}..{one.added.most:+.1%})" if one.way != one.baseline else "-"
        rows.append([one.way, *milliseconds(one.seconds), added, str(one.rounds)])
    return markdown(["", "ms per step", "least..most", "added", "rounds"], rows)


if __name__ == "__main__":
    main()
