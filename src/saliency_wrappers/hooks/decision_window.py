"""`DecisionWindow`: which of the agent's passes chose the action of a step."""

from __future__ import annotations

import itertools
import threading
import warnings
import weakref
from collections import Counter, deque
from collections.abc import Iterable
from typing import Any

from saliency_wrappers.agents import UnreadPass
from saliency_wrappers.decisions import AgentPass, numbers_of
from saliency_wrappers.hooks.observation_match import ObservationMatch
from saliency_wrappers.hooks.shared_calls import CallSite, SharedCalls, call_site

_clock = itertools.count()
_SOON = 8
"""After so many steps without a decision, a warning says that the agent's form is unknown."""
_REMEMBERED = 32
"""How many passes of one step are held, at most: the first, and the latest ones."""


class DecisionWindow:
    """Collects the agent's passes between two returns of an environment; the latest acting pass is the decision.

    A pass counts when it yields policy output, has one row for each environment and was not given an action to score. Where the agent's
    inputs are the environment's observations, and other passes are seen beside the decision's, a pass on anything else does not count.
    """

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs
        self.enabled = True
        self.closed = False
        self.latest: AgentPass | None = None
        self.accepted = 0
        self.rejected: Counter[str] = Counter()
        self.batches: Counter[int] = Counter()
        """How often policy passes of each batch size were rejected."""
        self.match = ObservationMatch()
        self._observation: Any = None
        self._earlier: list[tuple[AgentPass, CallSite | None]] = []
        """Passes of this step before the latest one."""
        self._site: CallSite | None = None
        """Where the latest pass was made. None where that is not looked at."""
        self._sites: set[CallSite] = set()
        """Where decisions beyond doubt were made."""
        self._doubts = 0
        self._sparse = False
        """Whether there were steps without a pass: then even a single pass may be another's."""
        self._rivals: tuple[weakref.ref[DecisionWindow], ...] = ()
        self._calls: SharedCalls | None = None
        self._returns: deque[int] = deque(maxlen=3)
        self._warned = False
        self.advice = ""
        """What to do when the agent's passes cannot be read."""
        self.acts_by_method = False
        """Whether the agent has a method that is not watched, by which it may act."""
        self._unread: str | None = None
        self._silent = 0

    def see(self, seen: AgentPass | UnreadPass) -> None:
        """Keep a pass that can be the decision; count any other by its reason."""
        if isinstance(seen, UnreadPass):
            self._unread = seen.reason
            self.reject(seen.reason)
            return
        inputs, logits = seen.inputs.shape, seen.logits  # each look at a tensor's shape makes another
        if logits is None or seen.scored_action or inputs[0] != self.num_envs or len(inputs) == 3 or logits.shape[:1] != inputs[:1]:
            self.reject(self._why_not(seen))
            return
        if seen.numbers is None:  # another window of the same hook may have looked
            try:
                if seen.complete is not None:
                    seen.complete(seen)
                seen.numbers = numbers_of(logits, seen.value)
            except Exception as error:  # it would come out of the user's own call of the agent
                self.reject(f"that could not be captured: {error}")
                return
        if self._calls is not None:
            self._calls.join(seen, self)
        if self.latest is not None:
            self._set_aside(self.latest)
            self._site = call_site()
        elif self.accepted < 2:
            self._site = call_site()
        else:
            self._site = None
        self.latest = seen
        self.accepted += 1

    def turn(self, observation: Any) -> None:
        """Set the observation that the agent decides on next, kept by reference. None: not known."""
        self.latest = None
        if self._earlier:
            self._earlier = []
        self._observation = observation
        self._returns.append(next(_clock))

    def withdraw(self, seen: AgentPass) -> None:
        """Discard a pass that decided in another environment."""
        if self.latest is seen:
            self.latest, self._site = self._earlier.pop() if self._earlier else (None, None)
        elif self._earlier:
            self._earlier = [one for one in self._earlier if one[0] is not seen]

    def meet(self, others: Iterable[DecisionWindow], calls: SharedCalls | None) -> None:
        """Set the other windows on the same agent and the calls that they share. None: there are no others."""
        self._rivals = tuple(map(weakref.ref, others))
        self._calls = calls

    def decide(self) -> AgentPass | None:
        """Return the pass that decided this step, None when there was none, and clear the window."""
        latest, earlier = self.latest, self._earlier
        self.latest = None
        if latest is None:
            self._sparse, self._doubts = True, 0
            self._silent += 1
            if self._silent == _SOON and not self._sites:
                self._notice()
            return None
        if not (earlier or self._rivals or self._sparse):
            if self.match.unfinished:
                self.match.learn(self._observation, latest.inputs)
            if self._site is not None and len(self._sites) < 8:
                self._sites.add(self._site)
            return latest
        self._earlier = []
        decided = self._choose([*earlier, (latest, self._site)])
        if decided is not None and decided.call is not None:
            decided.call.taken = True
        return decided

    def reject(self, reason: str) -> None:
        """Count a pass that the hook rejected for this reason."""
        self.rejected[reason] += 1

    def clear(self) -> None:
        """Discard all passes that were seen until now."""
        self.latest = None
        if self._earlier:
            self._earlier = []

    def forget_counts(self) -> None:
        """Reset the counts, at the beginning of an episode."""
        self.accepted = 0
        self.rejected.clear()
        self.batches.clear()

    def explain(self) -> str:
        """Return how many passes were seen, and how many were rejected, by reason."""
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

    def _notice(self) -> None:
        """Warn, some steps after the beginning, that no pass of the agent could be read."""
        if self._unread is not None:
            why = f"passes were seen {self._unread}"
        elif self.acts_by_method and not (self.accepted or self.rejected):
            why = "no call of it was seen, and it has methods that may act without one"
        else:
            return  # random actions, as an exploration begins with
        warnings.warn(f"No decision of the agent in {_SOON} steps: {why}. {self.advice}", stacklevel=5)

    def _set_aside(self, seen: AgentPass) -> None:
        """Hold a pass that was followed by another one."""
        if len(self._earlier) >= _REMEMBERED:
            del self._earlier[1]
        self._earlier.append((seen, self._site))

    def _choose(self, seen: list[tuple[AgentPass, CallSite | None]]) -> AgentPass | None:
        """Choose the decision among several passes, or passes that other windows see too."""
        inputs = seen[-1][0].inputs.data_ptr()
        free = [one for one in seen[:-1] if one[0].inputs.data_ptr() != inputs] + seen[-1:]  # of the others the inputs are gone
        free = [one for one in free if one[0].call is None or not one[0].call.taken]
        if len(free) < len(seen):
            self.rejected["that decided in another environment, or on an input that changed before the step"] += len(seen) - len(free)
        if not free:
            return None
        if self.match.known:
            return self._fitting(free)
        if self.match.unfinished and (len(free) == 1 or self.match.assumed or self._contested()):
            if self.match.learn(self._observation, *(one.inputs for one, _ in free)):
                return self._fitting(free)
            if len(free) > 1 and self.match.assumed and self.match.unfinished:
                self.rejected[_ELSEWHERE] += len(free)
                return None
        if len(free) > 1 and self._contested():
            return self._of_this_thread([one for one, _ in free])
        return free[-1][0]

    def _fitting(self, seen: list[tuple[AgentPass, CallSite | None]]) -> AgentPass | None:
        """Return the latest pass on this environment's observation."""
        fitting = [self.match.fits(self._observation, one.inputs) for one, _ in seen]
        foreign = len(seen) - sum(fitting)
        if foreign == len(seen) == 1 and self._rivals and not self.match.assumed and not self._fits_a_rival(seen[0][0]):
            return seen[0][0]  # of an agent that may be fed with anything
        if foreign:
            self.rejected[_ELSEWHERE] += foreign
        if not any(fitting):
            return None
        latest = max(i for i, fits in enumerate(fitting) if fits)
        decided, site = seen[latest]
        if (
            foreign
            and not all(fitting[: latest + 1])
            and self._in_doubt(site, [at for (_, at), fits in zip(seen, fitting, strict=True) if not fits])
        ):
            self.rejected["on this observation, amid passes on others, from a place in the program where no decision was made before"] += 1
            return None
        return decided

    def _fits_a_rival(self, seen: AgentPass) -> bool:
        """Whether a pass is one on the observation of another environment."""
        rivals = [rival for one in self._rivals if (rival := one()) is not None]
        return any(self.match.fits(rival._observation, seen.inputs) for rival in rivals)

    def _in_doubt(self, site: CallSite | None, elsewhere: list[CallSite | None]) -> bool:
        """Whether a pass on this observation belongs to the passes on others before it: an evaluation may come by the same image."""
        if site is None or self._contested():
            return False
        doubt = site not in self._sites if self._sites else len(elsewhere) > 1 and site in elsewhere
        self._doubts = self._doubts + 1 if doubt else 0
        return doubt and self._doubts < 4  # step after step: then it is where decisions are made

    def _contested(self) -> bool:
        """Whether another environment, with a window of its own, is being stepped, too."""
        since = self._returns[0] if len(self._returns) == self._returns.maxlen else -1
        rivals = [rival for one in self._rivals if (rival := one()) is not None]
        return any(not rival.closed and rival._returns and rival._returns[-1] > since for rival in rivals)

    def _of_this_thread(self, seen: list[AgentPass]) -> AgentPass | None:
        """Return the only pass made by the thread that steps; None, with a warning, where there are several."""
        here = [one for one in seen if one.call is None or one.call.thread == threading.get_ident()]
        if len(here) == 1:
            return here[0]
        self.rejected[f"among several before one step, {_UNKNOWN}"] += len(seen)
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"No decision recorded: {len(seen)} passes of the agent came before this step, {_UNKNOWN}. Step each environment right "
                "after its own pass, give each environment an agent of its own, or use VectorSaliencyRecorder.",
                stacklevel=6,
            )
        return None

    def _remedy(self, batch: int) -> str:
        if self.num_envs == 1:
            return f"for a vector of {batch} environments use VectorSaliencyRecorder"
        return f"the agent should act for all {self.num_envs} environments in one pass"

    def _why_not(self, seen: AgentPass) -> str:
        """Return why a pass cannot be the decision."""
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


_ELSEWHERE = "on another input than this environment's observation"
_UNKNOWN = "which other recorders watch, and it is not known which of them is this environment's"
