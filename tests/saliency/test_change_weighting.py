"""Change weighting, several fills, background fills, and the presets made of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from saliency_wrappers import (
    Background,
    ChannelMean,
    Decision,
    EpisodeStore,
    FunctionAdapter,
    GaussianBlur,
    GridSquaredDifference,
    KLDivergence,
    Noise,
    PerturbationSaliency,
    ProbabilityDrop,
    SlidingDisc,
    SquaredDifference,
)
from saliency_wrappers.saliency.fills import FILLS, as_fills
from saliency_wrappers.saliency.fingerprints import fingerprint, method_description
from saliency_wrappers.saliency.masks import Masks
from saliency_wrappers.saliency.presets import PRESETS, saliency_method
from saliency_wrappers.saliency.scoring import change_weighted

DISC = SlidingDisc(radius=1, stride=3, sigma=1.5)


class Net(nn.Module):
    """Images `(n, 2, 12, 12)` to three logits and a value."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.actor, self.critic = nn.Linear(288, 3), nn.Linear(288, 1)
        self.forbid = False

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits = 3 * self.actor(x.flatten(1))
        if self.forbid:
            logits = torch.cat([logits - 50, torch.full((len(x), 1), -torch.inf)], dim=1)
        return logits, self.critic(x.flatten(1))


@pytest.fixture
def adapter() -> FunctionAdapter:
    net = Net()
    return FunctionAdapter(net, lambda images, _state, _start: net(images))


def decision(adapter: Any, seed: int = 0) -> Decision:
    inputs = torch.rand(1, 2, 12, 12, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return Decision(inputs, None, *adapter.evaluate(inputs, None, None))


@given(seed=st.integers(0, 2**16), n=st.integers(1, 8))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_every_score_is_handed_out_once(seed: int, n: int):
    random = np.random.default_rng(seed)
    masks = Masks(np.where(random.random((n, 5, 6)) < 0.5, 1, random.random((n, 5, 6))).astype(np.float32))
    change = np.where(random.random((5, 6)) < 0.6, 0, random.random((5, 6))).astype(np.float32)
    scores = random.exponential(size=n)
    replaced = 1 - masks.untouched.astype(np.float64)
    reached = (replaced * change).sum(axis=(1, 2))
    made = change_weighted(scores, masks, change)
    assert made.sum(dtype=np.float64) == pytest.approx(scores[reached > 1e-6].sum(), rel=1e-5)
    kept = reached > 1e-6
    expected = change * np.einsum("k,kij->ij", scores[kept] / reached[kept], replaced[kept])
    assert np.allclose(made, expected, rtol=1e-4, atol=1e-6)
    assert not made[change == 0].any()


def test_the_map_of_a_network_sums_to_the_scores(adapter: Any):
    method = PerturbationSaliency(DISC, KLDivergence(), weighting="change")
    one = decision(adapter)
    outputs = method.outputs(adapter, one)
    (maps,) = method(adapter, [one])
    assert maps.actor.sum() == pytest.approx(KLDivergence().scores(outputs.logits[0], outputs.logits[1:]).sum(), rel=1e-5)
    assert outputs.values is not None
    assert maps.critic is not None  # squared differences: a value is no policy
    assert maps.critic.sum() == pytest.approx(SquaredDifference().scores(outputs.values[0], outputs.values[1:]).sum(), rel=1e-5)


def test_the_change_is_relative_to_the_input_range():
    net = Net()
    small = FunctionAdapter(net, lambda images, _state, _start: net(images))
    large = FunctionAdapter(net, lambda images, _state, _start: net(images / 255), input_range=(0.0, 255.0))
    method = PerturbationSaliency(DISC, weighting="change")
    one = decision(small)
    other = Decision(one.inputs * 255, None, one.logits, one.value)
    assert np.allclose(method(small, [one])[0].actor, method(large, [other])[0].actor, rtol=1e-3, atol=1e-5)


def test_one_fill_in_a_list_is_that_fill(adapter: Any):
    ones = [decision(adapter)]
    alone, listed = (PerturbationSaliency(DISC, fill=fill)(adapter, ones)[0] for fill in (GaussianBlur(3), [GaussianBlur(3)]))
    assert np.array_equal(alone.actor, listed.actor)


@pytest.mark.parametrize("weighting", ["coverage", "change"])
def test_maps_of_several_fills_are_normalised_and_added(adapter: Any, weighting: Any):
    fills = (GaussianBlur(3), 0.0, ChannelMean())
    one = [decision(adapter)]
    parts = [PerturbationSaliency(DISC, fill=fill, weighting=weighting)(adapter, one)[0].actor for fill in fills]
    both = PerturbationSaliency(DISC, fill=fills, weighting=weighting)(adapter, one)[0].actor
    assert np.allclose(both, sum(part / part.sum() for part in parts), atol=1e-6)
    assert both.sum() == pytest.approx(3, rel=1e-5)


def test_a_fill_that_changes_nothing_adds_nothing(adapter: Any):
    one = decision(adapter)
    same = one.inputs[0].numpy()
    (maps,) = PerturbationSaliency(DISC, fill=(same, 0.0), weighting="change")(adapter, [one])
    assert maps.actor.sum() == pytest.approx(1, rel=1e-5)
    (none,) = PerturbationSaliency(DISC, fill=same, weighting="change")(adapter, [one])
    assert not none.actor.any()


def test_maps_per_frame_follow_the_change_of_their_frame(adapter: Any):
    (maps,) = PerturbationSaliency(DISC, frames=2, fill=(GaussianBlur(3), 0.0), weighting="change")(adapter, [decision(adapter)])
    assert maps.actor.shape == (2, 12, 12)
    assert maps.actor.sum() == pytest.approx(2, rel=1e-5)


def test_an_action_that_is_forbidden_has_no_say(adapter: Any):
    plain = decision(adapter)
    method = PerturbationSaliency(DISC, ProbabilityDrop(), weighting="change")
    expected = method(adapter, [plain])[0].actor
    adapter.module.forbid = True
    made = method(adapter, [decision(adapter)])[0].actor
    assert np.allclose(made, expected, atol=1e-4)


def test_change_weighting_needs_scores(adapter: Any):
    with pytest.raises(TypeError, match="GridSquaredDifference makes its own maps"):
        PerturbationSaliency(saliency_gen=GridSquaredDifference(), weighting="change")
    with pytest.raises(ValueError, match="Expected weighting to be"):
        PerturbationSaliency(weighting="both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="empty sequence"):
        PerturbationSaliency(fill=())


def test_a_background_is_the_median(adapter: Any, tmp_path: Any):
    decisions = [decision(adapter, seed) for seed in range(5)]
    inputs = torch.cat([one.inputs for one in decisions])
    median = np.median(inputs.numpy(), axis=0)
    store = EpisodeStore(tmp_path / "store")
    with store.new_episode() as episode:
        for one in decisions:
            episode.append(one, action=0, reward=0.0)
    for source in (inputs, inputs.numpy(), decisions, store, store.episodes[0], store.episodes[0].decisions()):
        fill = Background(source)
        assert np.allclose(fill(inputs[0].numpy()), median)
    assert Background(inputs[:3]).get_config() != Background(inputs).get_config()


def test_a_running_background_follows_the_inputs():
    images = np.random.default_rng(0).random((6, 1, 3, 3)).astype(np.float32)
    fill = Background(last=4)
    for i, image in enumerate(images):
        expected = np.median(images[max(0, i - 3) : i + 1], axis=0)
        assert np.allclose(fill(image), expected)
    assert fill(np.zeros((1, 5, 5), np.float32)).shape == (1, 5, 5)
    with pytest.raises(ValueError, match="at least one network input"):
        Background([])
    with pytest.raises(TypeError, match="Expected network inputs as an array, or decisions"):
        Background([3])


@pytest.mark.parametrize("name", sorted(FILLS))
def test_named_fills_are_finite_within_the_range_and_change_no_input(name: str, adapter: Any):
    one = decision(adapter)
    before = one.inputs.clone()
    (maps,) = PerturbationSaliency(DISC, fill=FILLS[name]())(adapter, [one])
    assert np.isfinite(maps.actor).all()
    assert torch.equal(before, one.inputs)


def test_noise_and_mean_by_hand():
    image = np.array([[[0.0, 1.0]], [[2.0, 4.0]]], np.float32)
    assert ChannelMean()(image).tolist() == [[[0.5, 0.5]], [[3.0, 3.0]]]
    noise = Noise(seed=1)(image)
    assert np.array_equal(noise, Noise(seed=1)(image))
    assert (noise[1] >= 2).all()
    assert (noise[1] <= 4).all()


def test_nested_lists_are_one_array():
    assert as_fills([[0.0]]) == ([[0.0]],)
    assert as_fills((0.0, 0.5)) == (0.0, 0.5)


def test_old_fingerprints_stay_and_new_parameters_tell():
    old = {"xaitk": "b54103688e8b1d11", "greydanus2018": "7006447f1879df95"}
    assert {name: fingerprint(method_description(PRESETS[name](), "agent")) for name in old} == old
    methods = [make() for make in PRESETS.values()]
    methods += [
        PerturbationSaliency(weighting="change"),
        PerturbationSaliency(fill=(0.0, 1.0)),
        PerturbationSaliency(fill=(1.0, 0.0)),
        PerturbationSaliency(saliency_gen=KLDivergence()),
        PerturbationSaliency(critic_gen=KLDivergence()),
        PerturbationSaliency(fill=Background(last=3)),
        PerturbationSaliency(fill=Background(np.zeros((2, 1, 3, 3)))),
    ]
    assert len({fingerprint(method_description(method, None)) for method in methods}) == len(methods)


def test_parts_of_a_preset_are_kept_when_others_are_replaced():
    changed: Any = saliency_method("change_weighted_two_fills", perturber=DISC)
    assert changed.weighting == "change"
    assert isinstance(changed.critic_gen, SquaredDifference)
    assert len(changed.fill) == 2
    assert method_description(PRESETS["change_weighted_two_fills"](), None)["name"] == "change_weighted_two_fills"
