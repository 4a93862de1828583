"""sb3-contrib: `RecurrentPolicyAdapter` for RecurrentPPO; `CriticMemory` keeps the critic's memory, which `predict` does not."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from inspect import BoundArguments
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from saliency_wrappers.agents.base import ImageOptions
from saliency_wrappers.agents.module_hooks import outputs_of, undisturbed
from saliency_wrappers.agents.sb3_policy import PolicyAdapter, kept, policy_of, policy_options, policy_output
from saliency_wrappers.decisions import AgentPass
from saliency_wrappers.states import StateTree, copy_state, copy_tensor, map_state

LSTMState = tuple[Tensor, Tensor]
"""Hidden and cell state, each `(layers, envs, hidden)`."""


class RNNStates(NamedTuple):
    """Memory of a recurrent policy, with sb3-contrib's names of its parts. Without an LSTM of the critic, `vf` is `pi`."""

    pi: LSTMState
    """The actor's."""
    vf: LSTMState
    """The critic's."""


def adapt(agent: Any, options: ImageOptions) -> RecurrentPolicyAdapter | None:
    """Return the adapter for a RecurrentPPO, or for its policy; None for anything else."""
    policy = policy_of(agent)
    if policy is None or not hasattr(policy, "lstm_actor"):
        return None
    return RecurrentPolicyAdapter(policy, **policy_options(agent, options))


class RecurrentPolicyAdapter(PolicyAdapter):
    """Adapter for RecurrentPPO with a separate LSTM of the critic, a shared one or none.

    The state is the `RNNStates` that went in, of every environment; the policy resets it itself where `episode_start` is True.

    `learn` acts by `policy(observation, states, episode_starts)`: states, logits and value are those of the pass itself. `predict` takes
    and gives the actor's state only and leaves the critic's where it was. The adapter runs the critic's recurrence alongside, one more pass
    of the critic for each prediction, without side effects: value and critic map belong to a critic that saw the whole episode. Which of
    its memories goes with a call is told by the actor's state that the call brings, row by row, so several episodes may be played in turns,
    in training and in evaluation. A call with an actor's state that this adapter saw no prediction give (it was attached, or its recorder
    enabled, in the middle of an episode) cannot be read; the next episode can.
    """

    def __init__(
        self,
        policy: nn.Module,
        input_range: tuple[float, float] | None = None,
        image: str | None = None,
        *,
        channels_last: bool | None = None,
    ) -> None:
        """Adapt a recurrent policy; the parameters are those of `PolicyAdapter`."""
        super().__init__(policy, input_range, image, channels_last=channels_last)
        self._memory = CriticMemory()

    def evaluate(self, inputs: Tensor, state: StateTree, episode_start: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return logits `(n, outputs)` and values `(n, 1)` for images `(n, C, h, w)` and states `(layers, n, hidden)`."""
        policy: Any = self.module
        starts = torch.zeros(len(inputs), device=inputs.device) if episode_start is None else episode_start.float()
        observation, memory = self.together(inputs, map_state(Tensor.contiguous, state))
        pi, vf = cast("RNNStates", memory)
        with undisturbed(policy), kept(policy.action_dist), outputs_of(**self.layers) as heads:
            policy(observation, RNNStates(pi, vf), starts, deterministic=True)
            return policy_output(policy, heads["actor"]), heads["critic"]

    def initial_memory(self, n: int) -> RNNStates:
        """Return zeros for n episodes, on the policy's device."""
        policy: Any = self.module
        layers, _, hidden = policy.lstm_hidden_state_shape
        h, c, critic_h, critic_c = (torch.zeros(layers, n, hidden, device=policy.device) for _ in range(4))
        return RNNStates((h, c), (critic_h, critic_c))

    def entering(self, method: str, call: BoundArguments) -> AgentPass | None:
        """Return the pass before it runs: images by reference, the states of actor and critic copied."""
        if method == "predict_values":
            read = self.apart(call)
            return None if read is None else AgentPass(*read, None, None, copied=True)
        state, start = call.arguments["lstm_states"], call.arguments["episode_starts"].detach().bool()
        if method == "get_distribution":
            state = RNNStates(state, self._critic_state(state, start))
        read = self.apart(call, copy_state(RNNStates(*state)))
        return None if read is None else AgentPass(*read, None, None, start, scored_action=method == "evaluate_actions", copied=True)

    def leaving(self, method: str, incoming: AgentPass, output: Any, layers: Mapping[str, Any]) -> AgentPass | None:
        """Return the pass with logits and value from the heads that ran; after a prediction the critic's pass is run here."""
        if method == "predict_values":
            return incoming
        value = self._predicted_value(incoming, output[1]) if method == "get_distribution" else layers["critic"]
        return incoming.gave(policy_output(self.module, layers["actor"]), value)

    def _critic_state(self, actor: LSTMState, start: Tensor) -> LSTMState:
        policy: Any = self.module
        return actor if policy.lstm_critic is None else self._memory.beside(actor, start)

    def _predicted_value(self, incoming: AgentPass, next_actor: LSTMState) -> Tensor:
        """Compute the value of a prediction, and remember the critic's next state with the actor's."""
        policy: Any = self.module
        observation, memory = self.together(incoming.inputs.clone(), copy_state(incoming.state))
        start, (_, vf) = cast("Tensor", incoming.episode_start), cast("RNNStates", memory)
        recurrence = {} if policy.lstm_critic is None else {"lstm": policy.lstm_critic}
        with undisturbed(policy), outputs_of(**recurrence) as layers:
            value = policy.predict_values(observation, vf, start.float())
        if recurrence:
            _, next_critic = layers["lstm"]
            self._memory.remember(next_actor, next_critic)
        return copy_tensor(value)


class CriticMemory:
    """Maps the actor's states that predictions returned to the critic's states, row by row.

    The latest `rows` of them are kept (the default: 4 MB at the usual 256 units).
    """

    def __init__(self, rows: int = 1024) -> None:
        self._rows = rows
        self._critic: OrderedDict[bytes, LSTMState] = OrderedDict()

    def remember(self, actor: LSTMState, critic: LSTMState) -> None:
        """Remember the states after a pass, for every environment."""
        keys = list(_row_keys(actor))
        for i, key in enumerate(keys):
            self._critic[key] = (copy_tensor(critic[0][:, i : i + 1]), copy_tensor(critic[1][:, i : i + 1]))
            self._critic.move_to_end(key)
        while len(self._critic) > max(self._rows, 2 * len(keys)):
            self._critic.popitem(last=False)

    def beside(self, actor: LSTMState, start: Tensor) -> LSTMState:
        """Return the critic's state for every environment: zeros where an episode starts or the actor's state is zero.

        Raises:
            ValueError: an actor's state that no prediction gave.
        """
        zeros = torch.zeros_like(actor[0][:, :1])
        found: list[LSTMState] = []
        for i, key in enumerate(_row_keys(actor)):
            if bool(start[i]) or not any(bool(part[:, i].any()) for part in actor):
                found.append((zeros, zeros))
            elif key in self._critic:
                found.append(self._critic[key])
            else:
                raise ValueError(
                    "the critic's memory is not known, since this actor's state came from no prediction that was seen: "
                    "begin the episode while the hook watches, with state=None or episode_start=True"
                )
        hidden, cell = zip(*found, strict=True)
        return torch.cat(hidden, dim=1), torch.cat(cell, dim=1)


def _row_keys(actor: LSTMState) -> Iterator[bytes]:
    """Return the bytes of each environment's state, as keys."""
    rows = torch.stack(actor).detach().transpose(0, 2).contiguous().cpu().numpy()
    return (row.tobytes() for row in rows)
