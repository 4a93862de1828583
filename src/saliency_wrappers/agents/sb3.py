"""Stable-Baselines3: `ActorCriticPolicyAdapter` for PPO and A2C, `QPolicyAdapter` for DQN; `adapt` finds the one that fits."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import BoundArguments
from typing import Any

from torch import Tensor, nn

from saliency_wrappers.agents.base import ImageOptions, PolicyForm
from saliency_wrappers.agents.module_hooks import outputs_of, undisturbed
from saliency_wrappers.agents.sb3_off_policy import ActorQPolicyAdapter
from saliency_wrappers.agents.sb3_policy import PolicyAdapter, kept, policy_of, policy_options, policy_output
from saliency_wrappers.decisions import AgentPass
from saliency_wrappers.states import StateTree, copy_state


def adapt(agent: Any, options: ImageOptions) -> PolicyAdapter | None:
    """Return the adapter for an algorithm of Stable-Baselines3 without memory, or for its policy; None for anything else.

    Raises:
        TypeError: an algorithm of another form (ARS, for example), or one that looks at neither images nor vectors.
    """
    policy = policy_of(agent)
    if policy is None:
        return None
    if all(hasattr(policy, name) for name in ("action_net", "value_net", "get_distribution", "predict_values")):
        return ActorCriticPolicyAdapter(policy, **policy_options(agent, options))
    if hasattr(policy, "q_net_target") or hasattr(policy, "quantile_net_target"):
        return QPolicyAdapter(policy, **policy_options(agent, options))
    if hasattr(policy, "critic") and hasattr(getattr(policy, "actor", None), "mu"):
        return ActorQPolicyAdapter(policy, **policy_options(agent, options))
    raise TypeError(
        "Expected a policy with logits, Q-values or an actor and a critic (PPO, A2C, DQN, SAC, TD3, DDPG, TQC, CrossQ, RecurrentPPO), got "
        f"{type(policy).__name__} of {type(agent).__name__}. Write a FunctionAdapter."
    )


class ActorCriticPolicyAdapter(PolicyAdapter):
    """Adapter for PPO and A2C (and TRPO and MaskablePPO, whose masked actions' logits count as the others do).

    `learn` acts by `policy(observation)`: logits and value are those of the pass itself. `predict` computes no value: its value is
    computed by `policy.predict_values` right after it, without side effects, which costs one more pass through the features. Logits are
    those of `policy.action_net`, before they are normalised; of a Gaussian policy they are the mean and the logarithm of the standard
    deviation. `evaluate_actions` never decides.
    """

    def evaluate(self, inputs: Tensor, state: StateTree, episode_start: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return logits `(n, outputs)` and values `(n, 1)` for images `(n, C, h, w)` in `input_range`."""
        policy: Any = self.module
        observation, _ = self.together(inputs, state)
        with undisturbed(policy), kept(policy.action_dist), outputs_of(**self.layers) as heads:
            policy(observation, deterministic=True)
            return policy_output(policy, heads["actor"]), heads["critic"]

    def entering(self, method: str, call: BoundArguments) -> AgentPass | None:
        """Return the pass before it runs: images by reference."""
        read = self.apart(call)
        return None if read is None else AgentPass(*read, None, None, scored_action=method == "evaluate_actions", copied=True)

    def leaving(self, method: str, incoming: AgentPass, output: Any, layers: Mapping[str, Any]) -> AgentPass | None:
        """Return the pass with logits and value from the heads that ran; the value of a prediction is computed here."""
        policy: Any = self.module
        if method == "predict_values":
            return incoming
        value = layers.get("critic")
        if value is None:
            observation, _ = self.together(incoming.inputs.clone(), copy_state(incoming.state))
            with undisturbed(policy):
                value = policy.predict_values(observation)
        return incoming.gave(policy_output(policy, layers["actor"]), value)


class QPolicyAdapter(PolicyAdapter):
    """Adapter for DQN (and QR-DQN, by the mean of its quantiles): Q-values take the place of logits, and there is no value.

    A random action of the exploration is made without the network and has no decision; training calls the network itself, not the policy.
    """

    methods = ("_predict",)

    @property
    def policy_form(self) -> PolicyForm:
        """`"numbers"`: Q-values."""
        return "numbers"

    @property
    def layers(self) -> Mapping[str, nn.Module]:
        """Return the online network, by name."""
        policy: Any = self.module
        return {"network": policy.q_net if hasattr(policy, "q_net") else policy.quantile_net}

    def evaluate(self, inputs: Tensor, state: StateTree, episode_start: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return Q-values `(n, num_actions)` for images `(n, C, h, w)` in `input_range`, and None for the value."""
        observation, _ = self.together(inputs, state)
        with undisturbed(self.module):
            return _q_values(self.layers["network"](observation)), None

    def entering(self, method: str, call: BoundArguments) -> AgentPass | None:
        """Return the pass before it runs: images by reference."""
        read = self.apart(call)
        return None if read is None else AgentPass(*read, None, None, copied=True)

    def leaving(self, method: str, incoming: AgentPass, output: Any, layers: Mapping[str, Any]) -> AgentPass | None:
        """Return the pass with the Q-values of the prediction."""
        return incoming.gave(_q_values(layers["network"]), None)


def _q_values(output: Tensor) -> Tensor:
    return output.mean(dim=1) if output.ndim == 3 else output
