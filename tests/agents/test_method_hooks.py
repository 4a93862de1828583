"""Watching an agent's methods: each call is seen once, with what its own layers gave, whatever else goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from inspect import BoundArguments
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from saliency_wrappers.agents import UnreadPass
from saliency_wrappers.agents.method_hooks import observe_calls
from saliency_wrappers.agents.module_hooks import outputs_of, undisturbed
from saliency_wrappers.decisions import AgentPass


class Agent(nn.Module):
    """Acts by `act`, which asks `score`; both by their own layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Identity()
        self.between: Callable[[], Any] = lambda: None

    def score(self, x: Tensor) -> Tensor:
        if x.isnan().any():
            raise ValueError("no number")
        return self.layer(2 * x)

    def act(self, x: Tensor, *, extra: float = 0.0) -> Tensor:
        scored = self.score(x + extra)
        self.between()
        return scored + 1


class Reader:
    """Reads the calls' input, their method by its length, and the layer's output."""

    form = "agent.act(x)"

    def __init__(self, agent: Agent) -> None:
        self.layers: Mapping[str, nn.Module] = {"layer": agent.layer}

    def entering(self, method: str, call: BoundArguments) -> AgentPass | None:
        return AgentPass(call.arguments["x"], torch.tensor([len(method)]), None, None)

    def leaving(self, method: str, incoming: AgentPass, output: Any, layers: Mapping[str, Any]) -> AgentPass | None:
        return AgentPass(incoming.inputs, incoming.state, layers["layer"], output)


def watched(agent: Agent, *methods: str) -> tuple[list[Any], Callable[[], None]]:
    seen: list[Any] = []
    return seen, observe_calls(agent, methods or ("act", "score"), Reader(agent), seen.append)


def numbers(one: AgentPass) -> tuple[int, float, float]:
    """The length of the method's name, what its layer gave and what it returned."""
    return int(one.state), float(one.logits), float(one.value)  # type: ignore[arg-type]


def test_a_call_within_a_call_is_part_of_it() -> None:
    agent = Agent()
    seen, _ = watched(agent)
    assert float(agent.act(torch.ones(1), extra=2.0)) == 7
    agent.score(torch.ones(1))
    assert [numbers(one) for one in seen] == [(3, 6, 7), (5, 2, 2)]


def test_a_call_that_fails_within_a_call_leaves_the_next_to_be_seen() -> None:
    agent = Agent()
    seen, _ = watched(agent)
    with pytest.raises(ValueError, match="no number"):
        agent.act(torch.full((1,), torch.nan))
    assert seen == []
    agent.act(torch.ones(1))
    assert [numbers(one) for one in seen] == [(3, 2, 3)]


def test_those_who_watch_different_methods_of_one_agent_do_not_disturb_each_other() -> None:
    agent = Agent()
    outer, leave_outer = watched(agent, "act")
    inner, leave_inner = watched(agent, "score")
    agent.act(torch.ones(1))
    leave_outer()
    agent.act(torch.ones(1))
    leave_inner()
    leave_inner()  # more than once does no harm
    agent.act(torch.ones(1))
    assert ([numbers(one) for one in outer], [numbers(one) for one in inner]) == ([(3, 2, 3)], [(5, 2, 2)] * 2)
    assert not {"act", "score"} & vars(agent).keys()


def test_calls_in_two_threads_do_not_mix() -> None:
    agent = Agent()
    seen, _ = watched(agent, "act")
    both_are_within = threading.Barrier(2, timeout=30)
    agent.between = both_are_within.wait
    threads = [threading.Thread(target=agent.act, args=(torch.full((1,), number),)) for number in (1.0, 10.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers(one) for one in seen) == [(3, 2, 3), (3, 20, 21)]


def test_what_a_layer_gave_is_kept_as_it_was() -> None:
    agent = Agent()
    with torch.inference_mode(), outputs_of(layer=agent.layer) as outputs:
        agent.score(torch.ones(1)).zero_()
    assert float(outputs["layer"]) == 2
    assert not outputs["layer"].is_inference()
    assert not agent.layer._forward_hooks


def test_calls_in_a_replay_are_not_seen_and_the_method_keeps_its_face() -> None:
    agent = Agent()
    seen, _ = watched(agent)
    with undisturbed(agent):
        agent.act(torch.ones(1))
    assert seen == []
    assert agent.act.__name__ == "act"


def test_what_cannot_be_read_never_raises_out_of_the_call() -> None:
    agent = Agent()
    seen, _ = watched(agent, "act")
    agent.layer = nn.Identity()  # not the one that the reader knows
    assert float(agent.act(torch.ones(1))) == 3
    assert seen == [UnreadPass("that could not be captured: 'layer'")]


def test_a_method_that_others_put_in_place_meanwhile_stays() -> None:
    agent = Agent()
    seen, detach = watched(agent, "act")
    tapped = agent.act
    agent.act = lambda x: tapped(x) + 100  # type: ignore[method-assign, assignment]
    assert float(agent.act(torch.ones(1))) == 103
    detach()
    assert float(agent.act(torch.ones(1))) == 103
    assert len(seen) == 1
