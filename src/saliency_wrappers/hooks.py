"""`RecurrentAgentHook` sees every pass of an agent; a `DecisionWindow` picks the one that chose the action of a step."""

from __future__ import annotations

import os
import uuid
import weakref
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from saliency_wrappers.agents import ActingAdapter, AgentAdapter, as_adapter
from saliency_wrappers.preprocessing import FramePreprocessor
from saliency_wrappers.records import AgentPass, StateTree, state_leaves


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
        """How often policy passes of each batch size were seen."""

    def see(self, seen: AgentPass) -> None:
        """Keep a pass when it can be the decision, count it when not."""
        reason = self._why_not(seen)
        if reason is None:
            self.latest = seen
            self.accepted += 1
        else:
            self.reject(reason)

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
            return "No pass of the agent was seen: check that the hooked module is the one that acts, by a call, not by `forward`."
        reasons = "; ".join(f"{count} {reason}" for reason, count in self.rejected.most_common()) or "none"
        text = f"{seen} passes of the agent seen, {self.accepted} could be decisions. Rejected: {reasons}."
        if not self.accepted and len(self.batches) == 1:
            (batch,) = self.batches
            if batch != self.num_envs:
                text += f" Every policy pass had {batch} rows: for a vector of {batch} environments use VectorSaliencyRecorder."
        return text

    def _why_not(self, seen: AgentPass) -> str | None:
        if seen.logits is None:
            return "without policy output"
        self.batches[seen.batch] += 1
        if seen.batch != self.num_envs or len(seen.logits) != self.num_envs:
            return f"with a batch other than the number of environments ({seen.batch}, expected {self.num_envs})"
        if seen.scored_action:
            return "given an action to score"
        return None


class RecurrentAgentHook:
    """Watches an agent act, without a changed line in the user's loop.

        hook = RecurrentAgentHook(agent, preprocessor="greydanus2018")
        env = SaliencyRecorder(gym.make("ALE/Breakout-v5", render_mode="rgb_array"), hook)

    The hook is attached at construction (or by `attach`, when the environment comes first) and detached by `close`, by leaving a
    `with` block, or by the recorder's `close`. A deep copy is the same live hook; copies of a hooked agent do not record.
    """

    def __init__(self, agent: Any = None, preprocessor: FramePreprocessor | str | None = None, *, seed: int | None = None) -> None:
        """Hook an agent.

        Args:
            agent: an `nn.Module` called as `value, logits, state = model((x, state))`, or an `AgentAdapter`. None: `attach` it later.
            preprocessor: how frames become network inputs, or its name. It tells overlays how a map lies on the frame, and `act`
                what to feed. None: maps are laid over the whole frame.
            seed: for the actions that `act` samples. None: a fresh seed from the operating system.
        """
        self.preprocessor = FramePreprocessor.of(preprocessor)
        self._adapter: AgentAdapter | None = None
        self._detach: Any = None
        self._windows: weakref.WeakSet[DecisionWindow] = weakref.WeakSet()
        self._paused = 0
        self._process = os.getpid()
        self._state: StateTree = None
        self._state_begins = True
        self._random = np.random.default_rng(seed)
        self._token = uuid.uuid4().hex
        _live[self._token] = self
        if agent is not None:
            self.attach(agent)

    @property
    def adapter(self) -> AgentAdapter:
        """The hooked agent's adapter; `RuntimeError` when no agent is attached."""
        if self._adapter is None:
            raise RuntimeError("No agent is attached to this hook: call hook.attach(agent) before the first step.")
        return self._adapter

    @property
    def attached(self) -> bool:
        """Whether an agent is being watched now."""
        return self._detach is not None

    def attach(self, agent: Any) -> RecurrentAgentHook:
        """Watch an agent, instead of the one before, if any. Returns the hook."""
        adapter = as_adapter(agent)
        self.close()
        self._adapter = adapter
        self.new_episode()
        self._sync()
        return self

    def close(self) -> None:
        """Detach from the agent and leave it as it was found. More than once does no harm."""
        self._adapter = None
        self._sync()
        for window in self._windows:
            window.clear()

    def __enter__(self) -> RecurrentAgentHook:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    @contextmanager
    def paused(self) -> Generator[None]:
        """Passes within the block are no decisions."""
        self._paused += 1
        try:
            yield
        finally:
            self._paused -= 1

    def explain(self) -> str:
        """How many passes were seen since the episode began, and how many were rejected, by reason."""
        text = " ".join(window.explain() for window in self._windows) or "No recorder listens to this hook yet."
        detached = "" if self._adapter is not None else " No agent is attached."
        return text + detached

    def act(self, observation: NDArray[Any], *, greedy: bool = True) -> int:
        """Choose an action: preprocess, run the agent, carry its state; the state begins anew with each episode.

        Args:
            observation: a frame `(H, W, 3)` uint8 for the preprocessor; without one the network input itself, `(C, h, w)` float32.
            greedy: take the action of the largest logit; otherwise sample from their softmax, with the hook's `seed`.

        Returns:
            The number of the action.
        """
        adapter = self.adapter
        if not isinstance(adapter, ActingAdapter):
            raise TypeError(f"{type(adapter).__name__} cannot act by itself: it has no act(inputs, state). Call your agent instead.")
        if self._state_begins:
            self._state, self._state_begins = adapter.initial_state(1), False
        image = observation if self.preprocessor is None else self.preprocessor(observation)
        device = next((leaf.device for leaf in state_leaves(self._state)), None)
        inputs = torch.as_tensor(np.asarray(image), device=device)[None]
        logits, self._state = adapter.act(inputs, self._state)
        scores = logits[0].double().cpu()
        if greedy:
            return int(scores.argmax())
        return int(self._random.choice(len(scores), p=scores.softmax(0).numpy()))

    def new_episode(self) -> None:
        """The next `act` begins with the initial state. A recorder calls it at every reset."""
        self._state_begins = True

    def open_window(self, num_envs: int) -> DecisionWindow:
        """A window that sees every pass from now on: what a recorder listens through."""
        window = DecisionWindow(num_envs)
        self._windows.add(window)
        self._sync()
        return window

    def close_window(self, window: DecisionWindow) -> None:
        """Stop showing passes to a window; with the last one the hook closes."""
        if window not in self._windows:
            return
        self._windows.discard(window)
        if not self._windows:
            self.close()

    def enable_window(self, window: DecisionWindow, enabled: bool) -> None:
        """While every window is disabled, the hook is taken off the agent and costs nothing."""
        window.enabled = enabled
        window.clear()
        self._sync()

    def take(self, window: DecisionWindow) -> AgentPass | None:
        """The pass that decided, or None; the window is cleared, and the pass decides for no other window."""
        if os.getpid() != self._process:
            raise RuntimeError(_ANOTHER_PROCESS)
        decided = window.latest
        for other in self._windows:
            if other.latest is decided:
                other.clear()
        return decided

    def __deepcopy__(self, memo: dict[int, Any]) -> RecurrentAgentHook:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _revive, (self._token,)

    def _sync(self) -> None:
        """Attach or detach, as the agent and the windows want it."""
        idle = bool(self._windows) and not any(window.enabled for window in self._windows)
        wanted = self._adapter is not None and not idle
        if self._detach is not None and not wanted:
            self._detach()
            self._detach = None
        elif self._detach is None and wanted:
            # A method would keep the hook alive as long as the agent lives; a hook that is gone leaves the agent as it was.
            see = weakref.WeakMethod(self._see)
            self._detach = weakref.finalize(self, self.adapter.attach(lambda seen: (method := see()) and method(seen)))
            self._detach.atexit = False

    def _see(self, seen: AgentPass) -> None:
        if os.getpid() != self._process:
            raise RuntimeError(_ANOTHER_PROCESS)
        for window in self._windows:
            if not window.enabled:
                continue
            if self._paused:
                window.reject("made while the hook was paused")
            else:
                window.see(seen)


_ANOTHER_PROCESS = (
    "This RecurrentAgentHook belongs to another process, where its agent acts; here it would see nothing. "
    "Make the agent, the hook and the recorder in one process (wrap the vector environment, not the environments inside AsyncVectorEnv)."
)
_live: weakref.WeakValueDictionary[str, RecurrentAgentHook] = weakref.WeakValueDictionary()


def _revive(token: str) -> RecurrentAgentHook:
    hook = _live.get(token)
    if hook is None:
        raise RuntimeError(_ANOTHER_PROCESS)
    return hook
