"""Stable-Baselines3's and sb3-contrib's actor-critics with Q-functions: `ActorQPolicyAdapter` for SAC, TD3, DDPG, TQC and CrossQ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import BoundArguments
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from saliency_wrappers.agents.base import PolicyForm
from saliency_wrappers.agents.dict_observation import ObservedState
from saliency_wrappers.agents.module_hooks import outputs_of, undisturbed
from saliency_wrappers.agents.sb3_policy import PolicyAdapter, kept
from saliency_wrappers.agents.taken_action import TakenAction, differs
from saliency_wrappers.decisions import AgentPass, numbers_of
from saliency_wrappers.states import StateTree, copy_tensor


class ActorQPolicyAdapter(PolicyAdapter):
    """SAC, TD3, DDPG, TQC and CrossQ, whose critic judges observation and action.

    The policy output of SAC, TQC and CrossQ is the mean and the logarithm of the standard deviation of each action dimension before `tanh`,
    `(n, 2 * action_size)`; of TD3 and DDPG the action in [-1, 1], `(n, action_size)`. The value is Q of the action that is taken, with the
    exploration's noise: the smallest of several critics' as in the algorithms' own losses, for TQC the mean over critics and quantiles. The
    action travels as part of the state, so that a perturbation of the observation is judged with the same action.

    `learn` and `predict` both act by `policy._predict`, which runs the actor only: the critic is run right after it, without side effects.
    Random actions of the warm-up are made without the policy and have no decision.
    """

    methods = ("_predict",)

    @property
    def policy_form(self) -> PolicyForm:
        """`"gaussian"`, or `"numbers"` for a deterministic actor."""
        return "numbers" if self._deterministic else "gaussian"

    @property
    def layers(self) -> Mapping[str, nn.Module]:
        """The heads of the actor."""
        policy: Any = self.module
        spread: Any = getattr(policy.actor, "log_std", None)
        return {"mean": policy.actor.mu, **({"log_std": spread} if isinstance(spread, nn.Module) else {})}

    def evaluate(self, inputs: Tensor, state: StateTree, episode_start: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Policy output `(n, outputs)` and Q `(n, 1)` of the actions in `state`, for images `(n, C, h, w)` or vectors `(n, features)`."""
        policy: Any = self.module
        observation, memory = self.together(inputs, state)
        with undisturbed(policy), kept(getattr(policy.actor, "action_dist", None)), outputs_of(**self.layers) as heads:
            policy.actor(observation, deterministic=True) if not self._deterministic else policy.actor(observation)
            return self._output(heads), self._q(observation, cast("TakenAction", memory).action)

    def initial_memory(self, n: int) -> TakenAction:
        """Actions of zeros."""
        policy: Any = self.module
        return TakenAction(torch.zeros(n, int(np.prod(policy.action_space.shape)), device=policy.device))

    def entering(self, method: str, call: BoundArguments) -> AgentPass | None:
        """The observation, by reference."""
        read = self.apart(call)
        return None if read is None else AgentPass(*read, None, None, copied=True)

    def leaving(self, method: str, incoming: AgentPass, output: Any, layers: Mapping[str, Any]) -> AgentPass | None:
        """What the actor's heads gave; the action that came of it, in the state."""
        incoming.state = _with_action(incoming.state, copy_tensor(output).reshape(len(output), -1))
        incoming.complete, incoming.on_actions = self._complete, self._take
        return incoming.gave(self._output(layers), None)

    @property
    def _deterministic(self) -> bool:
        policy: Any = self.module
        return not hasattr(policy.actor, "action_dist")

    def _output(self, heads: Mapping[str, Any]) -> Tensor:
        policy: Any = self.module
        if self._deterministic:
            return heads["mean"]
        if "log_std" in heads:
            return torch.cat([heads["mean"], heads["log_std"].clamp(*_LOG_STD_BOUNDS)], dim=1)
        distribution = policy.actor.action_dist.distribution  # of gSDE, right after it was used
        return torch.cat([distribution.mean, distribution.stddev.log()], dim=1).detach()

    def _q(self, observation: Any, action: Tensor) -> Tensor:
        policy: Any = self.module
        judged = policy.critic(observation, action)
        if isinstance(judged, Tensor):  # quantiles (n, critics, quantiles)
            return judged.mean(dim=2).mean(dim=1, keepdim=True)
        return torch.cat([*judged], dim=1).min(dim=1, keepdim=True).values

    def _complete(self, incoming: AgentPass) -> None:
        """The value, of the action that the actor chose."""
        observation, memory = self.together(incoming.inputs.clone(), incoming.state)
        with undisturbed(self.module):
            value = self._q(observation, cast("TakenAction", memory).action)
        incoming.gave(incoming.logits, copy_tensor(value))

    def _take(self, incoming: AgentPass, actions: Sequence[Any]) -> None:
        """The value of the actions that the environments are given, where these are others than the actor's: with noise added."""
        policy: Any = self.module

        def given() -> NDArray[Any]:
            stacked = np.asarray([np.asarray(action, np.float32) for action in actions], np.float32)
            return policy.scale_action(stacked) if policy.squash_output else stacked

        taken = differs(self._action_of(incoming.state), given)
        if taken is not None:
            incoming.state = _with_action(incoming.state, taken)
            self._complete(incoming)
            incoming.numbers = numbers_of(incoming.logits, incoming.value)

    @staticmethod
    def _action_of(state: StateTree) -> Tensor:
        memory = state.memory if isinstance(state, ObservedState) else state
        return cast("TakenAction", memory).action


_LOG_STD_BOUNDS = (-20.0, 2.0)
"""Between which SAC, TQC and CrossQ keep the logarithm of the standard deviation."""


def _with_action(state: StateTree, action: Tensor) -> StateTree:
    taken = TakenAction(action)
    return state._replace(memory=taken) if isinstance(state, ObservedState) else taken
