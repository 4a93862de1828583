"""`VectorSaliencyRecorder` on `AtariVectorEnv`, with an agent whose LSTM forgets where episodes begin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ale_py
import numpy as np
import pytest
import torch
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AutoresetMode
from memory_writer import MemoryWriter
from tiny_agents import seeded
from xaitk_saliency.impls.perturb_image.sliding_window import SlidingWindow

from saliency_wrappers import (
    Decision,
    PerturbationSaliency,
    RecordSaliencyVideo,
    RecurrentAgentHook,
    VectorSaliencyRecorder,
    as_adapter,
)
from saliency_wrappers.models.networks import AtariLSTM
from saliency_wrappers.video import film

ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
ENVIRONMENTS = 3


def make_games(mode: AutoresetMode, **options: Any) -> AtariVectorEnv:
    """Breakout as the agent sees it; episodes end with a life, or after 30 decisions."""
    settings: dict[str, Any] = {"stack_num": 1, "maxpool": False, "episodic_life": True, "max_num_frames_per_episode": 120}
    return AtariVectorEnv("breakout", ENVIRONMENTS, num_threads=1, autoreset_mode=mode, **(settings | options))


def coarse() -> PerturbationSaliency:
    return PerturbationSaliency(SlidingWindow((28, 28), (28, 28)))


class Played:
    """What was put in and came out at each step, and the numbers of episode and step that our own counting gives."""

    def __init__(self, envs: Any, agent: Any, steps: int, mode: AutoresetMode) -> None:
        self.steps: list[dict[str, Any]] = []
        frames, _ = envs.reset(seed=3)
        state = agent.initial_state(ENVIRONMENTS)
        episode, step, ignored = np.zeros(ENVIRONMENTS, int), np.zeros(ENVIRONMENTS, int), np.zeros(ENVIRONMENTS, bool)
        for _ in range(steps):
            begins = torch.as_tensor(step == 0).float()[:, None]
            state = tuple(part * (1 - begins) for part in state)
            inputs = torch.as_tensor(frames).float() / 255
            with torch.no_grad():
                value, logits, after = agent((inputs, state))
            actions = logits.argmax(1).numpy()
            actions[0] = 0  # the first player does nothing, and loses its lives
            frames, _, terminations, truncations, infos = envs.step(actions)
            self.steps.append(
                {"inputs": inputs, "state": state, "logits": logits, "value": value, "actions": actions, "infos": infos}
                | {"episode": episode.copy(), "step": step.copy(), "real": ~ignored}
            )
            state, ended = after, terminations | truncations
            self.steps[-1]["ended"] = ended
            begun = ignored if mode == AutoresetMode.NEXT_STEP else ended
            step = np.where(begun, 0, step + 1)
            episode = episode + begun
            ignored = ended if mode == AutoresetMode.NEXT_STEP else ignored


@pytest.fixture(scope="module")
def agent() -> Any:
    """Untrained, but what it does depends on what it sees and remembers: the games end at different steps."""
    model = seeded(AtariLSTM, 4)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.orthogonal_(parameter, 2.0, generator=generator)
    return model


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_every_row_is_what_the_agent_saw_and_said_for_that_game(mode: AutoresetMode, agent: Any) -> None:
    method, hook = coarse(), RecurrentAgentHook(agent)
    envs = VectorSaliencyRecorder(make_games(mode), hook, method, step_trigger=lambda step: step % 3 == 0, verify="always")
    played = Played(envs, agent, 61, mode)
    envs.close()
    explained = played.steps[::3]
    assert all("saliency" not in one["infos"] for i, one in enumerate(played.steps) if i % 3)
    assert len({tuple(one["episode"] - one["episode"][0]) for one in explained}) > 1  # the games end at different steps
    for one in explained:
        saliency, real = one["infos"]["saliency"], one["real"]
        assert one["infos"]["_saliency"].tolist() == real.tolist()
        for name, right in (("episode", "episode"), ("step", "step"), ("action", "actions")):
            assert saliency[name][real].tolist() == one[right][real].tolist()
        np.testing.assert_array_equal(saliency["logits"][real], one["logits"].numpy()[real])
        np.testing.assert_allclose(saliency["value"][real], one["value"].flatten().numpy()[real])
        assert not saliency["actor"][~real].any()
    assert not all(one["real"].all() for one in played.steps) or mode == AutoresetMode.SAME_STEP
    for one in (explained[0], explained[-1]):
        decision = Decision(one["inputs"], one["state"], one["logits"], one["value"])
        for i, maps in enumerate(coarse()(as_adapter(agent), [decision])):
            if one["real"][i]:
                np.testing.assert_allclose(one["infos"]["saliency"]["actor"][i], maps.actor, rtol=1e-3, atol=1e-6)
                np.testing.assert_allclose(one["infos"]["saliency"]["critic"][i], maps.critic, rtol=1e-3, atol=1e-6)


def test_the_recorder_changes_nothing_that_the_games_return(agent: Any) -> None:
    mode = AutoresetMode.SAME_STEP
    plain = Played(make_games(mode), agent, 40, mode)
    envs = VectorSaliencyRecorder(make_games(mode), RecurrentAgentHook(agent), coarse(), mode="deferred", environments=[1])
    for ours, theirs in zip(Played(envs, agent, 40, mode).steps, plain.steps, strict=True):
        assert torch.equal(ours["logits"], theirs["logits"])
        assert ours["infos"]["_saliency"].tolist() == [False, True, False]
        assert ours["infos"].keys() - {"saliency", "_saliency"} == theirs["infos"].keys()
        for name, value in theirs["infos"].items():
            said = theirs["ended"] if name == "final_obs" else slice(None)  # its other rows are left to chance
            np.testing.assert_array_equal(ours["infos"][name][said], value[said])
    assert any("final_obs" in one["infos"] for one in plain.steps)


def test_games_that_reset_in_another_way_and_were_made_later_do_not_matter() -> None:
    games = make_games(AutoresetMode.SAME_STEP)
    make_games(AutoresetMode.NEXT_STEP)  # all instances share their metadata
    assert VectorSaliencyRecorder(games, RecurrentAgentHook()).autoreset_mode == AutoresetMode.SAME_STEP


def test_games_that_are_not_stepped_all_at_once_are_refused() -> None:
    with pytest.raises(ValueError, match="Expected every step to step all 3 environments, got a batch_size of 2"):
        VectorSaliencyRecorder(make_games(AutoresetMode.NEXT_STEP, batch_size=2), RecurrentAgentHook())


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_a_game_that_cannot_render_is_filmed_as_it_is_observed_to_its_last_frame(
    mode: AutoresetMode, agent: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(film, "StreamingWriter", MemoryWriter)
    monkeypatch.setattr(MemoryWriter, "videos", {})
    envs = VectorSaliencyRecorder(make_games(mode), RecurrentAgentHook(agent, "atari84"), coarse(), mode="deferred")
    envs = RecordSaliencyVideo(envs, tmp_path, environments=[2], panels=True, episode_trigger=lambda episode: episode == 0)
    played = Played(envs, agent, 32, mode)
    envs.close()
    steps = [one for one in played.steps if one["episode"][2] == 0 and one["real"][2]]
    seen = [255 * one["inputs"][2, 0].numpy() for one in steps]
    after = played.steps[len(steps)]["inputs"][2, 0].numpy() * 255
    last = after if mode == AutoresetMode.NEXT_STEP else steps[-1]["infos"]["final_obs"][2, 0]
    frames = MemoryWriter.videos["saliency-env-2-episode-0"]
    assert len(frames) == len(steps) + 1
    for frame, observed in zip(frames, [*seen, last], strict=True):
        np.testing.assert_array_equal(frame[:, :84], observed.round()[..., None].repeat(3, 2))
    explained = [bool((frame[:, 84:168] != frame[:, :84]).any()) for frame in frames]
    assert explained == [True] * len(steps) + [False]


def test_the_strip_names_the_actions_of_the_game(agent: Any, tmp_path: Path) -> None:
    envs = VectorSaliencyRecorder(make_games(AutoresetMode.NEXT_STEP), RecurrentAgentHook(agent))
    video = RecordSaliencyVideo(envs, tmp_path, strip=True)
    assert video._cameras[0].film.painter.action_names == ["NOOP", "FIRE", "RIGHT", "LEFT"]
