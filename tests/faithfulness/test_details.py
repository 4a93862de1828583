"""Details of maps: shares of memory, confidences and objects in `info`, in vectors, blocks, stores and films."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
from tiny_agents import TinyLSTM, seeded

from saliency_wrappers import (
    DetailedSaliency,
    EpisodeStore,
    PerturbationSaliency,
    RecordSaliencyVideo,
    RecurrentAgentHook,
    SaliencyDetails,
    SaliencyMaps,
    SaliencyRecorder,
    VectorSaliencyRecorder,
)
from saliency_wrappers.details import ObjectPart
from saliency_wrappers.saliency.object_names import place_names
from saliency_wrappers.video.details import DETAILS_HEIGHT, draw_details
from saliency_wrappers.video.overlay import draw

EVERY = ("memory", "confidence", "objects")


class Squares(gym.Env[Any, Any]):
    """A bright square that moves over a dark scene of 12x12 pixels, 6 steps an episode."""

    observation_space = gym.spaces.Box(0, 1, (1, 12, 12), np.float32)
    action_space = gym.spaces.Discrete(3)
    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode, self.time = render_mode, 0

    def _shown(self) -> np.ndarray:
        picture = np.full((1, 12, 12), 0.1, np.float32)
        picture[0, 8:10, self.time : self.time + 2] = 1.0
        picture[0, self.time, 9] = 0.8
        return picture

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.time = 0
        return self._shown(), {}

    def step(self, action: Any) -> Any:
        self.time += 1
        return self._shown(), 1.0, self.time == 6, False, {}

    def render(self) -> Any:
        return np.repeat(np.repeat((255 * self._shown()[0]).astype(np.uint8), 30, 0), 30, 1)[..., None].repeat(3, 2)


class Loud(TinyLSTM):
    """Depends strongly on its input."""

    def forward(self, inputs: Any) -> Any:
        value, logits, state = super().forward(inputs)
        return value, 30 * logits, state


def play(env: Any, agent: Any, steps: int = 6) -> list[dict[str, Any]]:
    observation, _ = env.reset(seed=0)
    state, infos = (torch.zeros(1, 8), torch.zeros(1, 8)), []
    for _ in range(steps):
        with torch.no_grad():
            _, logits, state = agent((torch.as_tensor(observation)[None], state))
        observation, *_, info = env.step(int(logits.argmax()))
        infos.append(info["saliency"])
    return infos


def test_details_are_in_info_where_they_are_asked_for():
    agent = seeded(Loud)
    env = SaliencyRecorder(Squares(), RecurrentAgentHook(agent), details=EVERY)
    first, *infos = play(env, agent)
    assert math.isnan(first["memory"])
    assert first["objects"] == []  # the running background is the first input itself
    assert first["sentence"] == "no object matters"
    for info in infos:
        assert 0 <= info["memory"] <= 1
        assert 0 <= info["confidence"] <= 1
    found = infos[-1]["objects"]
    assert [set(one) for one in found] == [{"label", "mask", "phi", "standard_error"}] * len(found)
    assert len(found) == 2
    assert any(one["mask"][8, 7] and one["mask"].shape == (12, 12) and one["mask"].dtype == bool for one in found)
    assert " %" in infos[-1]["sentence"]


def test_without_details_info_is_what_it_was():
    agent = seeded(Loud)
    (info, *_) = play(SaliencyRecorder(Squares(), RecurrentAgentHook(agent)), agent)
    assert set(info) == {"episode", "step", "action", "actor", "critic", "logits", "value"}


def test_only_what_is_asked_for_is_there_and_maps_are_the_same():
    agent = seeded(Loud)
    plain = play(SaliencyRecorder(Squares(), RecurrentAgentHook(agent)), agent)
    detailed = play(SaliencyRecorder(Squares(), RecurrentAgentHook(agent), details=["memory"]), agent)
    for one, other in zip(plain, detailed, strict=True):
        assert set(other) == set(one) | {"memory"}
        assert np.array_equal(one["actor"], other["actor"])


def test_blocks_have_the_details_of_steps_but_for_the_moments_to_come():
    agent = seeded(Loud)
    now = SaliencyRecorder(Squares(), RecurrentAgentHook(agent), details=["confidence", "objects"])
    infos = play(now, agent)
    later = SaliencyRecorder(Squares(), RecurrentAgentHook(agent), details=EVERY, mode="deferred", keep=True)
    assert all(info.keys() >= {"pending"} and "memory" not in info for info in play(later, agent))
    for info, maps in zip(infos, later.maps(0), strict=True):
        assert maps.details.confidence == pytest.approx(info["confidence"])
        assert [one.phi for one in maps.details.objects] == pytest.approx([one["phi"] for one in info["objects"]])
        assert 0 <= maps.details.memory <= 1  # also at the first step: the block knows other moments


def test_rows_of_a_vector_have_details_of_their_own():
    agent = seeded(Loud)
    envs = VectorSaliencyRecorder(gym.vector.SyncVectorEnv([Squares, Squares]), RecurrentAgentHook(agent), details=EVERY)
    observations, _ = envs.reset(seed=0)
    state = (torch.zeros(2, 8), torch.zeros(2, 8))
    for _ in range(3):
        with torch.no_grad():
            _, logits, state = agent((torch.as_tensor(observations), state))
        observations, *_, infos = envs.step(logits.argmax(dim=1).numpy())
    saliency = infos["saliency"]
    assert saliency["memory"].dtype == saliency["confidence"].dtype == np.float64
    assert saliency["memory"].shape == (2,)
    assert len(saliency["objects"][0]) == len(saliency["objects"][1]) > 0
    assert isinstance(saliency["sentence"][1], str)


def test_a_store_keeps_maps_under_the_name_of_the_method_that_made_them(tmp_path: Path):
    pytest.importorskip("zarr")
    agent = seeded(Loud)
    for name, details in (("plain", ()), ("detailed", ["memory"])):
        play(SaliencyRecorder(Squares(), RecurrentAgentHook(agent), store=tmp_path / name, details=details), agent)
    layers = [list(EpisodeStore.open(tmp_path / name).episode(0).methods) for name in ("plain", "detailed")]
    assert layers[0] == layers[1] != []


def test_an_agent_without_memory_has_a_share_of_zero():
    from saliency_wrappers import FunctionAdapter

    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(144, 2))
    adapter: Any = FunctionAdapter(network, lambda images, _state, _start: (network(images), None))
    from saliency_wrappers import Decision

    inputs = torch.rand(2, 1, 12, 12)
    maps = DetailedSaliency(PerturbationSaliency(), ["memory"])(adapter, [Decision(inputs, None, network(inputs).detach(), None)])
    assert [one.details.memory for one in maps if one.details is not None] == [0.0, 0.0]


@pytest.mark.parametrize(("details", "kind"), [("memory", TypeError), (["taste"], ValueError), (3, TypeError)])
def test_unknown_details_are_refused_before_anything_happens(details: Any, kind: Any):
    with pytest.raises(kind, match="Expected details"):
        SaliencyRecorder(Squares(), RecurrentAgentHook(seeded(Loud)), details=details)


def test_objects_are_named_by_their_place():
    segments = np.zeros((9, 9), np.int64)
    for number, (row, column) in enumerate([(0, 0), (8, 4), (4, 4), (1, 1)], start=1):
        segments[row, column] = number
    assert place_names(segments) == ["top left", "bottom", "centre", "top left 2"]


def part(label: str, phi: float) -> ObjectPart:
    return ObjectPart(label, np.zeros((4, 4), bool), phi, 0.0)


def test_the_sentence_names_the_largest_parts():
    assert SaliencyDetails().sentence is None
    parts = (part("ball", -0.36), part("wall", 0.15), part("paddle", 0.49), part("score", 0.0))
    assert SaliencyDetails(objects=parts).sentence == "paddle 49 %, ball 36 %, wall 15 %"


def test_a_map_with_nothing_to_explain_is_grey():
    frame = np.zeros((8, 8, 3), np.uint8)
    saliency = np.arange(64, dtype=np.float32).reshape(8, 8)
    sure = draw(frame, SaliencyMaps(saliency, None, SaliencyDetails(confidence=0.4)))
    doubtful = draw(frame, SaliencyMaps(saliency, None, SaliencyDetails(confidence=0.0)))
    assert sure[..., 2].any()
    assert not sure[..., 0].any()
    assert doubtful.any()
    assert np.ptp(doubtful, axis=2).max() == 0


def test_the_bar_is_as_long_as_the_share():
    bars = [(draw_details(400, SaliencyDetails(memory=share))[4:13] == (255, 205, 60)).all(axis=2).sum() for share in (0.0, 0.5, 1.0)]
    assert bars[0] == 0
    assert bars[2] == 2 * bars[1] > 0
    assert draw_details(400, SaliencyDetails(memory=math.nan)).shape == (DETAILS_HEIGHT, 400, 3)
    with pytest.raises(ValueError, match="at least 1 pixel"):
        draw_details(0, None)


def test_a_film_has_room_for_details(tmp_path: Path):
    from videos import frames_of

    sizes = {}
    for name, details in (("plain", ()), ("detailed", EVERY)):
        agent = seeded(Loud)
        recorder = SaliencyRecorder(Squares("rgb_array"), RecurrentAgentHook(agent), details=details)
        env = RecordSaliencyVideo(recorder, tmp_path / name, episode_trigger=lambda _: True, strip=True)
        play(env, agent)
        env.close()
        (video,) = (tmp_path / name).glob("*.mp4")
        sizes[name] = np.stack(frames_of(video)).shape
    assert sizes["detailed"][1] == sizes["plain"][1] + DETAILS_HEIGHT
    assert sizes["detailed"][0] == sizes["plain"][0] == 7
