"""TorchScript beside hooks: hooked agents are scripted and traced as if they were not, and go on to be watched."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from saliency_wrappers import FunctionAdapter, RecurrentAgentHook


class Agent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.pi, self.v = nn.Conv2d(1, 2, 3), nn.Linear(72, 4), nn.Linear(72, 1)

    def forward(self, call: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        x, state = call
        h = self.body(x).flatten(1)
        return self.v(h), self.pi(h), state


CALL = (torch.rand(1, 1, 8, 8), torch.zeros(1, 2))


def by_function(agent: Agent) -> FunctionAdapter:
    return FunctionAdapter(agent, lambda x, state, start: agent((x, state))[1::-1], incoming=lambda call: call, initial_state=None)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
@pytest.mark.parametrize("adapt", [lambda agent: agent, by_function], ids=["module", "method"])
@pytest.mark.parametrize("how", ["script", "trace"])
def test_a_hooked_agent_is_compiled_as_if_it_were_not_hooked(how: str, adapt: Any) -> None:
    agent = Agent()
    before = vars(agent).keys() - {"forward"}
    hook = RecurrentAgentHook(adapt(agent))
    window = hook.open_window(1)
    compiled = torch.jit.script(agent) if how == "script" else torch.jit.trace(agent, (CALL,))
    assert not compiled._forward_hooks
    for ours, theirs in zip(compiled(CALL), agent(CALL), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert window.latest is not None
    hook.close()
    assert vars(agent).keys() == before


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda agent: pickle.loads(pickle.dumps(agent))], ids=["deepcopy", "pickle"])
def test_copies_of_a_hooked_agent_are_compiled_too(duplicate: Any) -> None:
    agent = Agent()
    hook = RecurrentAgentHook(agent)
    twin = duplicate(agent)
    hook.close()
    del agent
    torch.testing.assert_close(torch.jit.script(twin)(CALL)[1], twin(CALL)[1])


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
def test_a_module_that_holds_a_hooked_one_says_what_to_do() -> None:
    owner = nn.Sequential(nn.Linear(2, 2))
    hook = RecurrentAgentHook(owner[0])
    with pytest.raises(RuntimeError, match=r"hooked Linear.*hook\.close\(\) first"):
        torch.jit.script(owner)
    hook.close()
    torch.jit.script(owner)
