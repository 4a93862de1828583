"""Hooks and recorders that are forgotten: garbage collection changes nothing of an agent that is in use."""

from __future__ import annotations

import copy
import gc
from collections.abc import Generator
from typing import Any

import pytest
import torch
from counting import CountingAgent, CountingEnv, recorded
from torch import nn

from saliency_wrappers import FunctionAdapter, RecurrentAgentHook, SaliencyRecorder


@pytest.fixture(autouse=True)
def _collected_when_the_test_says_so() -> Generator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def call(agent: nn.Module) -> None:
    with torch.no_grad():
        agent((torch.zeros(1, 1, 8, 8), torch.zeros(1, 2)))


def forget(agent: Any) -> None:
    """A recorder that only the garbage collector can find: it is part of a cycle."""
    env: Any = recorded(CountingEnv((5,)), agent)
    env.myself = env


def left(agent: nn.Module) -> int:
    return len(agent._forward_hooks) + len(agent._forward_pre_hooks)


@pytest.mark.parametrize("register", ["register_forward_pre_hook", "register_forward_hook"])
def test_garbage_that_is_collected_amid_a_pass_changes_no_hook_of_it(register: str) -> None:
    agent = CountingAgent()
    counts: list[int] = []

    def collect(*_: Any) -> None:
        before = left(agent)
        gc.collect()
        counts.append(left(agent) - before)

    handle = getattr(agent, register)(collect)
    forget(agent)
    call(agent)
    assert counts == [0]
    handle.remove()
    RecurrentAgentHook(CountingAgent()).close()
    assert left(agent) == 0, "it is detached as soon as the agent is not in use"


def test_garbage_that_is_collected_amid_a_pass_that_fails_leaves_the_users_own_error() -> None:
    class Failing(CountingAgent):
        def forward(self, inputs: Any) -> Any:
            gc.collect()
            raise KeyError("the user's")

    agent = Failing()
    forget(agent)
    with pytest.raises(KeyError, match="the user's"):
        call(agent)


def test_garbage_that_is_collected_amid_a_copy_of_the_agent_does_not_disturb_it() -> None:
    class Collects:
        def __deepcopy__(self, memo: Any) -> Any:
            gc.collect()
            return self

    agent = CountingAgent()
    agent.first = Collects()  # type: ignore[assignment]
    forget(agent)
    copy.deepcopy(agent)
    assert left(agent) == 2
    RecurrentAgentHook(CountingAgent()).close()
    assert left(agent) == 0


def test_garbage_that_is_collected_amid_a_watched_method_leaves_the_others_watching() -> None:
    class Player:
        def act(self, x: torch.Tensor) -> torch.Tensor:
            gc.collect()
            return x.flatten(1)[:, :4]

    player = Player()

    def hooked() -> RecurrentAgentHook:
        return RecurrentAgentHook(FunctionAdapter(player, lambda x, state, start: (x.flatten(1)[:, :4], None), method="act"))

    def forgotten() -> None:
        env: Any = SaliencyRecorder(CountingEnv(), hooked())
        env.myself = env

    forgotten()
    window = (hook := hooked()).open_window(1)
    forgotten()
    player.act(torch.zeros(1, 1, 8, 8))
    assert window.accepted == 1
    hook.close()
    assert "act" not in vars(player)


def test_an_explicit_detach_amid_a_pass_does_not_break_it() -> None:
    agent = CountingAgent()
    hooks: list[RecurrentAgentHook] = []
    agent.register_forward_pre_hook(lambda *_: hooks.pop().close() if hooks else None)
    hooks.append(RecurrentAgentHook(agent))
    call(agent)
    assert not agent._forward_hooks
