"""`RecordSaliencyVideo` films a `SaliencyVecEnv`, and `SaliencyCallback` takes a `VecEnv`, action masks and failing environments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from counting import Blackout
from sb3_agents import Pictures, model
from sb3_contrib import MaskablePPO
from sb3_contrib.common.wrappers import ActionMasker
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize, VecTransposeImage
from videos import frames_of

from saliency_wrappers import RecordSaliencyVideo, RecurrentAgentHook, SaliencyVecEnv
from saliency_wrappers.sb3 import RecordSaliencyVecVideo
from saliency_wrappers.sb3.callbacks import SaliencyCallback

CHEAP: dict[str, Any] = {"perturber": Blackout(), "fill": 0.0}
ROLLOUT: dict[str, Any] = {"n_steps": 16, "batch_size": 16, "n_epochs": 1}


class Silent(Pictures):
    render_mode = None  # type: ignore[assignment]


def callback(folder: Path, env: Any, **options: Any) -> SaliencyCallback:
    return SaliencyCallback(env, folder, **{"eval_freq": 16, "recorder_kwargs": {**CHEAP, "on_error": "raise"}, **options})


def lengths(folder: Path) -> dict[str, int]:
    return {file.name: len(frames_of(file)) for file in sorted(folder.glob("*.mp4"))}


@pytest.mark.parametrize("make", [Pictures, Silent])
@pytest.mark.parametrize("above", [lambda venv: venv, VecTransposeImage])
def test_each_episode_of_a_chosen_environment_is_filmed(make: Any, above: Any, tmp_path: Path) -> None:
    venv = SaliencyVecEnv(DummyVecEnv([make, make, make]), RecurrentAgentHook(), **CHEAP)
    filmed = RecordSaliencyVideo(above(venv), tmp_path, environments=[1], episode_trigger=lambda episode: episode < 2)  # type: ignore[arg-type]
    assert type(filmed) is RecordSaliencyVecVideo
    agent = model(PPO, filmed, **ROLLOUT)
    venv.hook.attach(agent)
    observations = filmed.reset()
    for _ in range(16):
        observations, *_ = filmed.step(agent.predict(observations)[0])
    filmed.close()
    assert lengths(tmp_path) == {"saliency-env-1-episode-0.mp4": 8, "saliency-env-1-episode-1.mp4": 8}


def test_a_vector_without_a_recorder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"RecordSaliencyVideo\(SaliencyVecEnv\(venv, hook\), video_folder\)"):
        RecordSaliencyVideo(DummyVecEnv([Pictures]), tmp_path)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Expected a SaliencyVecEnv beneath RecordSaliencyVecVideo"):
        RecordSaliencyVecVideo(DummyVecEnv([Pictures]), tmp_path)


@pytest.mark.parametrize("n", [1, 2])
def test_the_callback_takes_a_vector_and_films_its_first_environment(n: int, tmp_path: Path) -> None:
    agent = model(PPO, VecFrameStack(DummyVecEnv([Pictures]), 2), **ROLLOUT)
    film = callback(tmp_path, VecFrameStack(DummyVecEnv([Pictures] * n), 2))
    agent.learn(32, callback=film)
    assert list(lengths(tmp_path).values()) == [8, 8]
    assert all(name.startswith(("saliency-16-steps-env-0-episode-", "saliency-32-steps-env-0-episode-")) for name in lengths(tmp_path))


def test_a_normalised_vector_takes_the_statistics_of_the_training(tmp_path: Path) -> None:
    kwargs = {"normalize_images": False}
    agent = model(PPO, VecNormalize(VecTransposeImage(DummyVecEnv([Pictures]))), policy_kwargs=kwargs, **ROLLOUT)
    evaluated = VecNormalize(VecTransposeImage(DummyVecEnv([Pictures])), training=False)
    agent.learn(16, callback=callback(tmp_path, evaluated, recorder_kwargs={**CHEAP, "verify": "never"}))
    np.testing.assert_array_equal(evaluated.obs_rms.mean, agent.get_vec_normalize_env().obs_rms.mean)


class Forbidding(Pictures):
    def step(self, action: Any) -> Any:
        if int(action) == 1:
            raise RuntimeError("forbidden action 1 was taken")
        return super().step(action)


def masked() -> Any:
    return ActionMasker(Forbidding(), lambda env: np.array([True, False, True]))


@pytest.mark.parametrize("vector", [False, True])
def test_action_masks_are_passed_on(vector: bool, tmp_path: Path) -> None:
    agent = model(MaskablePPO, masked(), **ROLLOUT)
    agent.policy.action_net.bias.data[1] = 50.0
    agent.learn(16, callback=callback(tmp_path, DummyVecEnv([masked]) if vector else masked()))
    assert list(lengths(tmp_path).values()) == [8]


def test_a_failing_evaluation_does_not_end_the_training(tmp_path: Path) -> None:
    agent = model(PPO, Pictures(), **ROLLOUT)
    agent.policy.action_net.bias.data[1] = 50.0
    with pytest.warns(UserWarning, match="The evaluation after 16 steps failed, and training goes on: RuntimeError: forbidden action 1"):
        agent.learn(16, callback=callback(tmp_path, Forbidding(), recorder_kwargs=CHEAP))
    with pytest.raises(RuntimeError, match="forbidden action 1"):
        agent.learn(16, callback=callback(tmp_path, Forbidding()))
