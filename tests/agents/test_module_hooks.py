"""Watching modules: agents that change what they are given, passes that an interrupt ends, and compilers of TorchScript."""

from __future__ import annotations

import threading
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from counting import Blackout, CountingAgent, CountingEnv, always_acting, check_saliency
from torch import Tensor, nn

from saliency_wrappers import FunctionAdapter, RecurrentAgentHook, RecurrentModuleAdapter, SaliencyRecorder
from saliency_wrappers.decisions import AgentPass
from saliency_wrappers.hooks.replay_check import ReplayMismatchError, replay


class Scales(CountingAgent):
    """Takes images in 0..255, and divides them where they are."""

    def forward(self, inputs: tuple[Tensor, Any]) -> Any:
        x, state = inputs
        x /= 255
        return super().forward((x, state))

    def act(self, x: Tensor, state: Tensor) -> Any:
        value, logits, state = self.forward((x, state))
        return logits, value, state


def adapter(agent: Scales, by_method: bool) -> Any:
    if not by_method:
        return RecurrentModuleAdapter(agent, input_range=(0.0, 255.0))
    return FunctionAdapter(
        agent,
        lambda x, state, start: agent.act(x, state)[:2],
        method="act",
        initial_state=agent.initial_state,
        input_range=(0.0, 255.0),
    )


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("by_method", [False, True])
def test_an_agent_that_changes_its_input_in_place_is_recorded_and_its_tensors_are_left_alone(by_method: bool, mode: Any) -> None:
    agent = Scales()
    env = SaliencyRecorder(
        CountingEnv((5,)), RecurrentAgentHook(adapter(agent, by_method)), perturber=Blackout(), fill=0.0, verify="always"
    )
    world: Any = env.unwrapped
    observation, _ = env.reset()
    state = agent.initial_state(1)
    for t in range(5):
        x = torch.as_tensor(observation[None, None, :, :, 0].copy()).float()
        with mode():
            state = agent.act(x, state)[2] if by_method else agent((x, state))[2]
        before = x.clone()
        observation, _, _, _, info = env.step(t % 4)
        assert torch.equal(x, before)
        check_saliency(info["saliency"], 0, t, always_acting(world, 0, t))


def test_the_replay_leaves_the_captured_input_and_state_as_they_are() -> None:
    class Spoils(CountingAgent):
        def forward(self, inputs: tuple[Tensor, Any]) -> Any:
            x, state = inputs
            x += 1
            state += 1
            return super().forward((x, state))

    seen: list[Any] = []
    agent = Spoils()
    RecurrentModuleAdapter(agent).attach(seen.append)
    x, state = torch.zeros(1, 1, 8, 8), torch.zeros(1, 2)
    agent((x, state))
    (one,) = seen
    assert float(one.inputs.max()) == 0, "what went in, not what it became"
    before = one.inputs.clone(), one.state.clone()
    replay(RecurrentModuleAdapter(agent), one)
    assert torch.equal(one.inputs, before[0])
    assert torch.equal(one.state, before[1])
    with pytest.raises(ReplayMismatchError):
        replay(RecurrentModuleAdapter(agent), AgentPass(x, before[1], one.logits, one.value))  # type: ignore[arg-type]


def test_an_agent_that_leaves_its_input_alone_is_held_by_reference() -> None:
    seen: list[Any] = []
    agent = CountingAgent()
    RecurrentModuleAdapter(agent).attach(seen.append)
    x = torch.ones(1, 1, 8, 8)
    for _ in range(2):
        agent((x, torch.zeros(1, 2)))
    assert [one.inputs.data_ptr() == x.data_ptr() for one in seen] == [True, True]


class Interruptible(nn.Module):
    """Calls itself `depth` times; the innermost call may be interrupted."""

    def __init__(self) -> None:
        super().__init__()
        self.agent, self.interrupted, self.catches = CountingAgent(), False, False

    def forward(self, inputs: tuple[Tensor, Tensor], depth: int = 0) -> Any:
        if depth:
            try:
                self((inputs[0] + depth, inputs[1]), depth - 1)
            except KeyboardInterrupt:
                if not self.catches:
                    raise
        elif self.interrupted:
            raise KeyboardInterrupt
        return self.agent(inputs)


class AnyDepth(RecurrentModuleAdapter):
    def incoming(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> AgentPass | None:
        return super().incoming(args[:1], {})


def begun(agent: nn.Module) -> list[Any]:
    (hook,) = agent._forward_pre_hooks.values()
    return hook._see.__self__._passes.begun  # type: ignore[attr-defined]


def test_passes_that_are_interrupted_leave_nothing_behind() -> None:
    agent, seen = Interruptible(), []
    AnyDepth(agent).attach(seen.append)
    agent.interrupted = True
    inputs = []
    for depth in (0, 2, 1):
        x = torch.zeros(1, 1, 8, 8)
        inputs.append(weakref.ref(x))
        with pytest.raises(KeyboardInterrupt):
            agent((x, torch.zeros(1, 2)), depth)
        del x
    agent.interrupted = False
    agent((torch.zeros(1, 1, 8, 8), torch.zeros(1, 2)), 2)
    assert [float(one.inputs.max()) for one in seen] == [3, 2, 0], "innermost first, each with its own input"
    assert begun(agent) == []
    assert [reference() for reference in inputs] == [None] * 3


def test_a_pass_goes_on_to_be_seen_after_one_within_it_was_interrupted() -> None:
    agent, seen = Interruptible(), []
    AnyDepth(agent).attach(seen.append)
    agent.interrupted = agent.catches = True
    agent((torch.zeros(1, 1, 8, 8), torch.zeros(1, 2)), 1)
    assert [float(one.inputs.max()) for one in seen] == [0]
    assert begun(agent) == []


def test_interrupts_in_one_thread_do_not_touch_the_passes_of_another() -> None:
    agent, seen = Interruptible(), []
    AnyDepth(agent).attach(seen.append)
    thread = threading.Thread(target=lambda: agent((torch.zeros(1, 1, 8, 8), torch.zeros(1, 2)), 1))
    agent.interrupted = True
    with pytest.raises(KeyboardInterrupt):
        agent((torch.zeros(1, 1, 8, 8), torch.zeros(1, 2)), 1)
    agent.interrupted = False
    thread.start()
    thread.join()
    assert len(seen) == 2
    np.testing.assert_allclose([float(one.logits[0, 0]) for one in seen], [255, 0])
