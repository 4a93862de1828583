"""`RecurrentAgentHook` sees every pass of an agent, shows them to its windows, and can act for it."""

from __future__ import annotations

import uuid
import warnings
import weakref
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from types import TracebackType
from typing import Any

from numpy.typing import NDArray

from saliency_wrappers.agents import AgentAdapter, RecurrentModuleAdapter, UnreadPass, as_adapter
from saliency_wrappers.agents.base import acts_by_method, advice_for
from saliency_wrappers.agents.detaching import release_waiting, release_when_unused, waiting
from saliency_wrappers.decisions import AgentPass
from saliency_wrappers.hooks.acting import Actor
from saliency_wrappers.hooks.decision_window import DecisionWindow
from saliency_wrappers.hooks.observation_match import ObservationMatch
from saliency_wrappers.hooks.process import ANOTHER_PROCESS, Process, call_when_alive, live_hooks, revive
from saliency_wrappers.hooks.shared_calls import SharedCalls
from saliency_wrappers.preprocessing import FramePreprocessor


class RecurrentAgentHook:
    """Observes the passes of an agent without changes to the user's loop.

        hook = RecurrentAgentHook(agent, preprocessor="greydanus2018")
        env = SaliencyRecorder(gym.make("ALE/Breakout-v5", render_mode="rgb_array"), hook)

    The hook is attached at construction (or by `attach`, when the environment comes first) and detached by `close`, by leaving a
    `with` block, or by the recorder's `close`. A deep copy is the same live hook; copies of a hooked agent do not record.
    """

    def __init__(
        self,
        agent: Any = None,
        preprocessor: FramePreprocessor | str | None = None,
        *,
        seed: int | None = None,
        input_range: tuple[float, float] | None = None,
        image: str | None = None,
        channels_last: bool | None = None,
    ) -> None:
        """Hook an agent.

        Args:
            agent: anything that `as_adapter` takes: an algorithm of Stable-Baselines3 or sb3-contrib, an agent of CleanRL, an `nn.Module`
                called as `value, logits, state = model((x, state))`, or an `AgentAdapter`. None: `attach` it later.
            preprocessor: how frames become network inputs, or its name. It tells overlays how a map lies on the frame, and `act`
                what to feed. None: maps are laid over the whole frame.
            seed: for the actions that `act` samples. None: a fresh seed from the operating system.
            input_range: the lowest and highest value of the agent's images. None: as `as_adapter` finds out.
            image: the key of the image in a dictionary with several. None: the only one.
            channels_last: whether the agent's images are `(n, h, w, C)`. None: as its first convolution tells.
        """
        self.preprocessor = FramePreprocessor.of(preprocessor)
        self._options: dict[str, Any] = {"input_range": input_range, "image": image, "channels_last": channels_last}
        self._adapter: AgentAdapter | None = None
        self._detach: Any = None
        self._forgotten: Any = None
        self._listening: tuple[weakref.ref[DecisionWindow], ...] = ()
        self._paused = 0
        self._closed = False
        self._read_for_the_first_time = True
        self._process = Process.id
        self._actor = Actor(seed)
        self._token = uuid.uuid4().hex
        live_hooks[self._token] = self
        if agent is not None:
            self.attach(agent)

    @property
    def adapter(self) -> AgentAdapter:
        """The hooked agent's adapter; `RuntimeError` when no agent is attached."""
        if self._adapter is None:
            raise RuntimeError(f"{self._without_agent} Do so before the first step.")
        return self._adapter

    @property
    def attached(self) -> bool:
        """Whether an agent is being watched now."""
        return self._detach is not None

    def attach(self, agent: Any) -> RecurrentAgentHook:
        """Watch an agent, instead of the one before, if any. Returns the hook."""
        adapter = as_adapter(agent, **self._options)
        self.close()
        self._adapter, self._closed, self._read_for_the_first_time = adapter, False, True
        self.new_episode()
        self._sync()
        self._introduce()
        return self

    def close(self) -> None:
        """Detach from the agent and leave it as it was found. More than once does no harm."""
        self._closed |= self._adapter is not None
        self._adapter = None
        self._sync()
        for window in self._windows():
            window.clear()

    def __enter__(self) -> RecurrentAgentHook:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    @contextmanager
    def paused(self) -> Generator[None]:
        """Ignore the agent's passes within the block."""
        self._paused += 1
        try:
            yield
        finally:
            self._paused -= 1

    @contextmanager
    def alone(self) -> Generator[None]:
        """Pause all other hooks on this agent within the block, as in an evaluation during training."""
        with ExitStack() as stack:
            for other in list(live_hooks.values()):
                if other is not self and other._watches(self.adapter):
                    stack.enter_context(other.paused())
            yield

    def explain(self) -> str:
        """Return how many passes were seen since the episode began, and how many were rejected, by reason."""
        text = " ".join(window.explain() for window in self._windows()) or "No recorder listens to this hook yet."
        return text if self._adapter is not None else f"{text} {self._without_agent}"

    def act(self, observation: NDArray[Any], *, greedy: bool = True) -> int:
        """Choose an action: preprocess, run the agent, carry its state; the state begins anew with each episode.

        There is one state: recorders that share a hook may take turns by whole episodes, not by steps.

        Args:
            observation: a frame `(H, W, 3)` uint8 for the preprocessor; without one the network input itself, `(C, h, w)`, of the
                agent's own dtype (float32) and within its `input_range`.
            greedy: take the action of the largest logit; otherwise sample from their softmax, with the hook's `seed`.

        Returns:
            The number of the action.
        """
        return self._actor.act(self.adapter, observation, self.preprocessor, greedy)

    def new_episode(self, window: DecisionWindow | None = None) -> None:
        """Make the next `act` begin with the initial state. A recorder calls it at every reset, with its window."""
        self._actor.begin(window)

    def open_window(self, num_envs: int) -> DecisionWindow:
        """Open a window that sees every pass from now on; each recorder has one."""
        window = DecisionWindow(num_envs)
        self._listening = (*map(weakref.ref, self._windows()), weakref.ref(window))
        forgotten = weakref.finalize(window, release_when_unused, partial(call_when_alive, weakref.WeakMethod(self._sync)))
        forgotten.atexit = False
        self._sync()
        self._introduce()
        return window

    def close_window(self, window: DecisionWindow) -> None:
        """Stop showing passes to a window; with the last one the hook closes."""
        windows = self._windows()
        if window not in windows:
            return
        windows.remove(window)
        window.closed = True
        self._listening = tuple(map(weakref.ref, windows))
        if not windows:
            self.close()
        self._sync()

    def enable_window(self, window: DecisionWindow, enabled: bool) -> None:
        """Enable or disable a window; while all are disabled the hook is detached from the agent and costs nothing."""
        window.enabled = enabled
        window.clear()
        self._sync()

    def take(self, window: DecisionWindow, actions: Sequence[Any] = ()) -> AgentPass | None:
        """Return the pass that decided, or None; the window is cleared, and the pass decides for no other window.

        Args:
            window: of a recorder.
            actions: what each environment is given, for agents whose value is one of actions.

        Raises:
            RuntimeError: the hook is used in another process, or `act` decided with the memory of another recorder's episode.
        """
        if Process.id != self._process:
            raise RuntimeError(ANOTHER_PROCESS)
        if waiting:
            release_waiting()
        decided = window.decide()
        if decided is None:
            return None
        if self._read_for_the_first_time:
            self._read_for_the_first_time = False
            if (notice := getattr(self._adapter, "notice", None)) is not None:
                warnings.warn(notice, stacklevel=4)
        if len(self._listening) > 1:
            for other in self._windows():
                other.withdraw(decided)
        if self._actor.acted_for_another(decided, window):
            raise RuntimeError(_ANOTHER_EPISODE)
        return decided if decided.on_actions is None else decided.judged(actions)

    def __deepcopy__(self, memo: dict[int, Any]) -> RecurrentAgentHook:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return revive, (self._token,)

    def _watches(self, adapter: AgentAdapter) -> bool:
        module = getattr(adapter, "module", adapter)
        return self._adapter is not None and getattr(self._adapter, "module", self._adapter) is module

    @property
    def _without_agent(self) -> str:
        which = "The hook is closed" if self._closed else "No agent is attached to this hook"
        return f"{which}: call hook.attach(agent)."

    def _windows(self) -> list[DecisionWindow]:
        """Return the windows that are alive."""
        return [window for listening in self._listening if (window := listening()) is not None]

    def _introduce(self) -> None:
        """Tell the windows of all hooks on this agent about each other."""
        if self._adapter is None:
            return
        hooks = [hook for hook in list(live_hooks.values()) if hook._watches(self._adapter)]
        windows: list[DecisionWindow] = [window for hook in hooks for window in hook._windows()]
        calls = SharedCalls() if len(windows) > 1 else None
        for window in windows:
            window.meet([other for other in windows if other is not window], calls)
        for window in self._windows():
            window.match = ObservationMatch()
            window.match.assumed = getattr(self._adapter, "takes_observations", False)
            module = getattr(self._adapter, "module", self._adapter)
            window.advice = advice_for(module)
            window.acts_by_method = isinstance(self._adapter, RecurrentModuleAdapter) and acts_by_method(module)

    def _sync(self) -> None:
        """Attach to or detach from the agent, by whether a window is enabled."""
        release_waiting()
        windows = self._windows()
        idle = bool(windows) and not any(window.enabled for window in windows)
        wanted = self._adapter is not None and not idle
        if self._detach is not None and not wanted:
            self._forgotten.detach()
            self._detach()
            self._detach = None
        elif self._detach is None and wanted:
            # A method would keep the hook alive as long as the agent lives; a hook that is gone leaves the agent as it was.
            self._detach = self.adapter.attach(partial(self._see, weakref.ref(self)))
            self._forgotten = weakref.finalize(self, release_when_unused, self._detach)
            self._forgotten.atexit = False

    @staticmethod
    def _see(watching: weakref.ref[RecurrentAgentHook], seen: AgentPass | UnreadPass) -> None:
        """Show a pass of the agent to the windows."""
        hook = watching()
        if hook is None or Process.id != hook._process:  # a forked child may use the agent as it likes; only recording is refused
            return
        hook._actor.see(seen)
        for listening in hook._listening:
            window = listening()
            if window is None or not window.enabled:
                continue
            if hook._paused:
                window.reject("made while the hook was paused")
            else:
                window.see(seen)


_ANOTHER_EPISODE = (
    "hook.act chose this action with the memory of another recorder's episode, which began meanwhile. "
    "Give each environment its own RecurrentAgentHook, or let them take turns by whole episodes, each with its reset."
)
