"""Whatever a store accepts can be read: states, actions, rewards, seeds and specifications of any form."""

from __future__ import annotations

import math
import uuid
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from saliency_wrappers import EpisodeStore
from saliency_wrappers.decisions import Decision
from saliency_wrappers.states import StateTree, state_leaves, structure


def decision(t: int, state: StateTree) -> Decision:
    return Decision(torch.full((1, 1, 4, 4), float(t)), state, torch.full((1, 3), float(t)), torch.tensor([float(t)]))


def tensors(dtype: torch.dtype) -> Any:
    """Tensors of one row whose other axes have 0 to 3 entries."""
    shapes = st.lists(st.integers(0, 3), max_size=3)
    return shapes.map(lambda shape: torch.arange(math.prod(shape)).reshape(1, *shape).to(dtype))


LEAVES = st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]).flatmap(
    tensors
)
TREES: Any = st.recursive(
    st.none() | LEAVES,
    lambda trees: st.lists(trees, max_size=3).map(tuple) | st.dictionaries(st.text(max_size=4), trees, max_size=3),
    max_leaves=5,
)
ACTIONS = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.floats(width=32), arrays(st.sampled_from([np.float32, np.int64]), st.integers(0, 3))
)
SPECS = st.none() | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda content: st.lists(content, max_size=3) | st.dictionaries(st.text(max_size=4), content, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.tuples(TREES, st.floats()), min_size=1, max_size=6),
    ACTIONS,
    st.one_of(st.none(), st.integers(), st.text(max_size=3)),
    SPECS,
)
@pytest.mark.filterwarnings("ignore")  # what is optional is left out with a warning
def test_whatever_was_accepted_can_be_read(steps: list[tuple[Any, float]], action: Any, seed: Any, spec: Any) -> None:
    place = f"memory://{uuid.uuid4().hex}"
    accepted = list[tuple[Any, float]]()
    try:
        with EpisodeStore(place, block=2) as store, store.new_episode(seed=seed, env_spec=spec) as episode:
            for t, (state, reward) in enumerate(steps):
                episode.append(decision(t, state), action, reward)
                accepted.append((state, reward))
    except (ValueError, TypeError, RuntimeError):
        pass  # refused, in the agent's thread or at the next block
    found = [stored for one in EpisodeStore.open(place).episodes for stored in one.decisions()] if accepted else []
    for stored, (state, reward) in zip(found, accepted, strict=False):
        assert structure(stored.decision.state) == structure(state)
        assert all(torch.equal(*pair) for pair in zip(state_leaves(stored.decision.state), state_leaves(state), strict=True))
        assert stored.reward == reward or (math.isnan(stored.reward) and math.isnan(reward))
        np.testing.assert_array_equal(stored.action, action)
