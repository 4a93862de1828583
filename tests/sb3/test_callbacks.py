"""`SaliencyCallback`: films evaluations amid training, logs them, and training goes on as if nothing had happened."""

from __future__ import annotations

import random
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from counting import Blackout
from sb3_agents import Pictures, SmallCNN, learn, model
from sb3_contrib import RecurrentPPO
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize, VecTransposeImage
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from videos import frames_of

from saliency_wrappers import RecurrentAgentHook, SaliencyRecorder
from saliency_wrappers.sb3.callbacks import SaliencyCallback, _thinned

ROLLOUT: dict[str, Any] = {"n_steps": 32, "batch_size": 16, "n_epochs": 1}
CHEAP: dict[str, Any] = {"perturber": Blackout(), "fill": 0.0}
REPLAY: dict[str, Any] = {"buffer_size": 100, "learning_starts": 10, "batch_size": 4, "exploration_fraction": 1.0}


class Noisy(Pictures):
    """An environment that draws from everybody's random numbers."""

    def step(self, action: Any) -> Any:
        np.random.rand(), random.random(), torch.rand(1)  # noqa: NPY002
        return super().step(action)


def callback(folder: Path, env: Any = None, **options: Any) -> SaliencyCallback:
    return SaliencyCallback(env or Pictures(), folder, **{"recorder_kwargs": {**CHEAP, "on_error": "raise"}, **options})


class Keep(BaseCallback):
    """Keeps the infos of the training environment."""

    def __init__(self, infos: list[Any]) -> None:
        super().__init__()
        self.infos = infos

    def _on_step(self) -> bool:
        self.infos.append(self.locals["infos"][0])
        return True


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.glob("*.mp4"))


def test_every_so_many_steps_an_episode_is_filmed(tmp_path: Path) -> None:
    agent = model(PPO, Pictures(), **ROLLOUT)
    agent.learn(64, callback=callback(tmp_path, eval_freq=30))
    assert names(tmp_path) == ["saliency-30-steps-episode-0.mp4", "saliency-60-steps-episode-1.mp4"]
    assert [len(frames_of(tmp_path / name)) for name in names(tmp_path)] == [8, 8]  # an episode of 7 steps, and what it led to


def test_a_bound_on_steps_ends_the_film_too(tmp_path: Path) -> None:
    agent = model(PPO, Pictures(length=1000), **ROLLOUT)
    agent.learn(32, callback=callback(tmp_path, Pictures(length=1000), eval_freq=10, max_steps=4, video_kwargs={"name_prefix": "short"}))
    assert names(tmp_path) == [f"short-{n}-steps-episode-{i}.mp4" for i, n in enumerate((10, 20, 30))]
    assert {len(frames_of(tmp_path / name)) for name in names(tmp_path)} == {5}


def test_steps_are_counted_over_all_training_environments_in_names_and_by_calls_in_frequency(tmp_path: Path) -> None:
    agent = model(PPO, DummyVecEnv([Pictures, Pictures]), **ROLLOUT)
    agent.learn(64, callback=callback(tmp_path, eval_freq=20))
    assert names(tmp_path) == ["saliency-40-steps-episode-0.mp4"]


def test_tensorboard_gets_the_video_and_the_numbers_and_other_outputs_the_numbers(tmp_path: Path) -> None:
    agent = model(PPO, Pictures(), **ROLLOUT)
    agent.set_logger(configure(str(tmp_path / "logs"), ["tensorboard", "stdout", "csv", "json", "log"]))
    agent.learn(32, callback=callback(tmp_path, eval_freq=32, max_frames=5))
    agent.logger.close()
    events = EventAccumulator(str(tmp_path / "logs"), size_guidance={"images": 0})
    events.Reload()
    assert events.Tags()["images"] == ["saliency/video"]
    (image,) = events.Images("saliency/video")
    assert image.encoded_image_string.startswith(b"GIF8")
    assert (image.step, image.height, image.width) == (32, 12, 12)
    assert events.Scalars("saliency/episode_length")[0].value == 7
    assert events.Scalars("saliency/episode_return")[0].value > 0
    assert "saliency/episode_return" in (tmp_path / "logs/progress.csv").read_text()


def test_what_tensorboard_gets_is_bounded_and_evenly_thinned(tmp_path: Path) -> None:
    agent = model(PPO, Pictures(), **ROLLOUT)
    agent.learn(32, callback=callback(tmp_path, Pictures(length=20), eval_freq=32))
    path = tmp_path / names(tmp_path)[0]
    whole, apart = _thinned(path, 100)
    assert (whole.shape, whole.dtype, apart) == ((1, 21, 3, 12, 12), torch.uint8, 1)
    few, apart = _thinned(path, 6)
    assert apart == 4
    assert torch.equal(few, whole[:, ::4])
    np.testing.assert_array_equal(whole[0, 3].permute(1, 2, 0), frames_of(path)[3])


@pytest.mark.filterwarnings("ignore:Episode 0 had no decision")  # true of DQN: it explores
@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("name", ["PPO", "DQN", "RecurrentPPO"])
def test_training_goes_on_as_if_nothing_had_happened(name: str, deterministic: bool, tmp_path: Path) -> None:
    def trained(watch: bool) -> list[torch.Tensor]:
        options: dict[str, Any] = REPLAY if name == "DQN" else ROLLOUT
        random.seed(0)  # which no algorithm does
        kind, policy = {"PPO": (PPO, "CnnPolicy"), "DQN": (DQN, "CnnPolicy"), "RecurrentPPO": (RecurrentPPO, "CnnLstmPolicy")}[name]
        agent = model(kind, Noisy(), policy=policy, **options)
        see = callback(tmp_path, Noisy(), eval_freq=16, deterministic=deterministic) if watch else None
        agent.learn(128, callback=see)
        drawn = [torch.rand(3), torch.as_tensor(np.random.rand(3)), torch.tensor(random.random())]  # noqa: NPY002
        return [*(weight.detach().clone() for weight in agent.policy.parameters()), *drawn]

    assert all(torch.equal(a, b) for a, b in zip(trained(False), trained(True), strict=True))
    assert len(names(tmp_path)) == 8


def test_training_flags_are_left_as_they_are(tmp_path: Path) -> None:
    agent = model(PPO, Pictures(), **ROLLOUT)
    film = callback(tmp_path, eval_freq=1)
    film.init_callback(agent)
    agent.set_logger(configure(None, []))
    agent.policy.set_training_mode(True)
    agent.policy.value_net.eval()
    film.on_step()
    assert agent.policy.training
    assert not agent.policy.value_net.training


@pytest.mark.filterwarnings("ignore:Episode 0 had no decision")  # true: it explores
def test_a_hook_on_the_training_environment_does_not_see_the_evaluation(tmp_path: Path) -> None:
    def decided(watch: bool) -> list[Any]:
        hook = RecurrentAgentHook()
        agent = model(DQN, SaliencyRecorder(Pictures(), hook, **CHEAP), **REPLAY)
        hook.attach(agent)
        infos: list[Any] = []
        see = callback(tmp_path, eval_freq=1, max_steps=1) if watch else None
        agent.learn(40, callback=CallbackList([one for one in (see, Keep(infos)) if one is not None]))
        return [info["saliency"]["logits"].tolist() if "saliency" in info else None for info in infos]

    without = decided(False)
    assert None in without[10:]
    assert any(logits is not None for logits in without)
    assert decided(True) == without


def test_the_memory_of_a_recurrent_agent_is_carried_through_the_film(tmp_path: Path) -> None:
    agent = model(RecurrentPPO, Pictures(), policy="CnnLstmPolicy", **ROLLOUT)
    film = callback(tmp_path, eval_freq=32, recorder_kwargs={**CHEAP, "on_error": "raise", "verify": "always", "require_decision": True})
    incoming: list[bool] = []
    predict = agent.predict
    agent.predict = lambda image, state, start, **options: (
        incoming.append(state is not None and not start[0]),
        predict(image, state, start, **options),
    )[1]
    agent.learn(64, callback=film)
    assert incoming == 2 * [False, *[True] * 6]
    assert len(names(tmp_path)) == 2


def test_the_callback_may_serve_again_and_the_environment_stays_open(tmp_path: Path) -> None:
    class Closing(Pictures):
        closed = False

        def close(self) -> None:
            self.closed = True

    env = Closing()
    agent = model(PPO, Pictures(), **ROLLOUT)
    film = callback(tmp_path, env, eval_freq=32)
    for _ in range(2):
        agent.learn(32, callback=film, reset_num_timesteps=False)
        assert not {"forward", "get_distribution"} & vars(agent.policy).keys()
    assert names(tmp_path) == ["saliency-32-steps-episode-0.mp4", "saliency-64-steps-episode-1.mp4"]
    assert not env.closed


def test_between_evaluations_the_agent_is_not_watched(tmp_path: Path) -> None:
    agent = model(PPO, Pictures(), **ROLLOUT)
    watched: list[bool] = []

    class Look(BaseCallback):
        def _on_step(self) -> bool:
            watched.append("forward" in vars(agent.policy))
            return True

    agent.learn(32, callback=CallbackList([callback(tmp_path, eval_freq=5), Look()]))
    assert not any(watched)


class Broken(Blackout):
    def perturb(self, ref_image: Any) -> Any:
        raise ValueError("no masks today")


def test_a_failure_of_saliency_does_not_end_the_training(tmp_path: Path) -> None:
    agent = model(PPO, Pictures(), **ROLLOUT)
    with pytest.warns(UserWarning, match="no masks today"):
        agent.learn(32, callback=SaliencyCallback(Pictures(), tmp_path, eval_freq=32, recorder_kwargs={"perturber": Broken()}))
    assert agent.num_timesteps == 32


def test_what_cannot_be_filmed_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"Expected a gymnasium\.Env, got list"):
        SaliencyCallback([Pictures], tmp_path)  # type: ignore[arg-type]
    for options in ({"eval_freq": 0}, {"max_frames": 0}, {"max_steps": 0}):
        (name,) = options
        with pytest.raises(ValueError, match=f"Expected {name} to be at least 1, got 0"):
            SaliencyCallback(Pictures(), tmp_path, **options)
    blind = Pictures()
    blind.render_mode = None
    with pytest.raises(ValueError, match="Render mode is None"):
        SaliencyCallback(blind, tmp_path)


def test_without_stable_baselines3_the_extra_is_named() -> None:
    program = "import sys; sys.modules['stable_baselines3'] = None; import saliency_wrappers.sb3.callbacks"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "DependencyNotInstalled: SaliencyCallback needs stable-baselines3" in run.stderr
    assert "pip install 'saliency_wrappers[sb3]'" in run.stderr


def test_verbose_says_where_the_video_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    agent = model(PPO, Pictures(), features=SmallCNN, **ROLLOUT)
    agent.learn(32, callback=callback(tmp_path, eval_freq=32, verbose=1))
    assert f"Saliency video: {tmp_path / 'saliency-32-steps-episode-0.mp4'}" in capsys.readouterr().out
    assert len(learn(agent, 32)) == 32


class Floats(Pictures):
    """Pictures of floats in [0, 1], channels first."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = gym.spaces.Box(0, 1, (3, 12, 12), np.float32)

    def _next(self) -> Any:
        self.picture = self.np_random.integers(0, 256, (12, 12, 3), np.uint8)
        return (self.picture / 255).transpose(2, 0, 1).astype(np.float32)


@pytest.mark.parametrize("bytes_", [False, True])
def test_a_model_trained_under_vec_normalize_sees_normalised_observations(bytes_: bool, tmp_path: Path) -> None:
    make = Pictures if bytes_ else Floats
    vector: Any = DummyVecEnv([make])
    agent = model(PPO, VecNormalize(VecTransposeImage(vector) if bytes_ else vector), policy_kwargs={"normalize_images": False}, **ROLLOUT)
    shown: list[float] = []
    predict = agent.predict

    def watched(observation: Any, *args: Any, **kwargs: Any) -> Any:
        shown.append(float(np.min(observation)))
        return predict(observation, *args, **kwargs)

    agent.predict = watched
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the first decision is checked: its input lies in the range that VecNormalize clips to
        agent.learn(32, callback=callback(tmp_path, make(), eval_freq=32, recorder_kwargs=CHEAP))
    assert min(shown) < 0
