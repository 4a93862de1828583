"""`DecisionWindow`: which of the agent's passes chose the action of a step."""

from __future__ import annotations

from collections import Counter

from saliency_wrappers.agents import UnreadPass
from saliency_wrappers.decisions import AgentPass, numbers_of


class DecisionWindow:
    """The time between two returns of an environment, in which the latest acting pass is the decision.

    A pass counts when it yields policy output, has one row for each environment and was not given an action to score.
    """

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs
        self.enabled = True
        self.latest: AgentPass | None = None
        self.accepted = 0
        self.rejected: Counter[str] = Counter()
        self.batches: Counter[int] = Counter()
        """How often policy passes of each batch size were rejected."""

    def see(self, seen: AgentPass | UnreadPass) -> None:
        """Keep a pass when it can be the decision, count it when not."""
        if isinstance(seen, UnreadPass):
            self.reject(seen.reason)
            return
        inputs, logits = seen.inputs.shape, seen.logits  # each look at a tensor's shape makes another
        if logits is None or seen.scored_action or inputs[0] != self.num_envs or len(inputs) == 3 or logits.shape[:1] != inputs[:1]:
            self.reject(self._why_not(seen))
            return
        try:
            seen.numbers = numbers_of(logits, seen.value)
        except Exception as error:  # it would come out of the user's own call of the agent
            self.reject(f"that could not be captured: {error}")
            return
        self.latest = seen
        self.accepted += 1

    def reject(self, reason: str) -> None:
        """Count a pass that is no decision for a reason of the hook's."""
        self.rejected[reason] += 1

    def clear(self) -> None:
        """Begin anew: what was seen until now decides nothing any more."""
        self.latest = None

    def forget_counts(self) -> None:
        """Begin to count anew, as with an episode."""
        self.accepted = 0
        self.rejected.clear()
        self.batches.clear()

    def explain(self) -> str:
        """How many passes were seen, and why those that cannot be decisions were rejected."""
        seen = self.accepted + self.rejected.total()
        if not seen:
            return (
                "No pass of the agent was seen: check that the hooked module is the one that acts, by a call, not by `forward`. "
                "(Random actions, as of an exploration, are made without it.)"
            )
        reasons = "; ".join(f"{count} {reason}" for reason, count in self.rejected.most_common()) or "none"
        text = f"{seen} passes of the agent seen, {self.accepted} could be decisions. Rejected: {reasons}."
        if not self.accepted and len(self.batches) == 1:
            (batch,) = self.batches
            if batch != self.num_envs:
                text += f" Every policy pass had {batch} rows: {self._remedy(batch)}."
        return text

    def _remedy(self, batch: int) -> str:
        if self.num_envs == 1:
            return f"for a vector of {batch} environments use VectorSaliencyRecorder"
        return f"the agent should act for all {self.num_envs} environments in one pass"

    def _why_not(self, seen: AgentPass) -> str:
        """What keeps a pass from being the decision."""
        if seen.logits is None:
            return "without policy output"
        inputs, logits = seen.inputs.shape, seen.logits.shape
        if len(inputs) == 3:
            return f"with an input {tuple(inputs)} where (n, C, h, w) is expected: add a batch axis"
        batch = inputs[0]
        self.batches[batch] += 1
        if batch != self.num_envs:
            return f"with a batch other than the number of environments ({batch}, expected {self.num_envs})"
        if seen.scored_action:
            return "given an action to score"
        return f"with logits {tuple(logits)} where ({self.num_envs}, num_actions) is expected"
