"""`Recording`, without an environment: clocks, blocks, consumers, the self-check, error policy, and what tells of wrong wiring."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from counting import Blackout, CountingAgent, CountingEnv, check_maps, expected, network_input
from torch import Tensor, nn

from saliency_wrappers import (
    Decision,
    FramePreprocessor,
    MissingDecisionError,
    PerturbationSaliency,
    RecurrentAgentHook,
    RecurrentModuleAdapter,
    ReplayMismatchError,
    SaliencyMaps,
)
from saliency_wrappers.recording.clock import EpisodeClock
from saliency_wrappers.recording.options import RecordingOptions
from saliency_wrappers.recording.recording import Recording
from saliency_wrappers.recording.sinks import EpisodeSink
from saliency_wrappers.step_saliency import StepSaliency


class Method:
    """Maps that carry the number of the decision, 0, 1, ..., as its logits say it; remembers how many came at a time."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.blocks: list[int] = []
        self.fails_at = fails_at
        self.seen: list[weakref.ref[Decision]] = []

    def __call__(self, adapter: Any, decisions: Sequence[Decision]) -> list[SaliencyMaps]:
        self.blocks.append(len(decisions))
        self.seen += [weakref.ref(decision) for decision in decisions]
        if self.fails_at in [passes(decision.logits[0]) for decision in decisions]:
            raise ValueError("no map today")
        return [SaliencyMaps(np.full((8, 8), passes(decision.logits[0]), np.float32), None) for decision in decisions]


def passes(logits: Any) -> int:
    """Which pass of the episode it was, by the logits of a `CountingAgent`."""
    return round(float(logits[1]))


class Listener:
    """A consumer that writes down what it is told."""

    def __init__(self, wants: bool = True) -> None:
        self.wants = wants
        self.asked = 0
        self.heard: list[tuple[str, int, int, int | None]] = []
        self.most_pending = 0

    def wants_step(self) -> bool:
        self.asked += 1
        return self.wants

    def decided(self, saliency: StepSaliency) -> None:
        self._hear("decided", saliency)

    def explained(self, saliency: StepSaliency) -> None:
        self._hear("explained", saliency)

    def _hear(self, what: str, saliency: StepSaliency) -> None:
        number = None if saliency.maps is None else int(saliency.maps.actor[0, 0])
        self.heard.append((what, saliency.episode, saliency.step, number))
        kinds = [kind for kind, *_ in self.heard]
        self.most_pending = max(self.most_pending, kinds.count("decided") - kinds.count("explained"))

    def steps(self, what: str) -> list[int]:
        return [step for kind, _, step, _ in self.heard if kind == what]


class Loop:
    """A loop around a `Recording` of a `CountingAgent`: episodes and steps, with and without a decision."""

    def __init__(self, method: Any = None, agent: Any = None, adapter: Any = None, **options: Any) -> None:
        self.agent = agent or CountingAgent()
        self.hook = RecurrentAgentHook(adapter or self.agent)
        self.method = method or Method()
        self.listener = Listener()
        self.recording = Recording(self.hook, self.method, RecordingOptions(**options))
        self.world = CountingEnv()

    def listened(self) -> Loop:
        self.recording.subscribe(self.listener)
        return self

    def begin(self) -> None:
        self.recording.begin_episodes()
        self.state = self.agent.initial_state(1)

    @property
    def clock(self) -> EpisodeClock:
        return self.recording.clocks[0]

    def decide(self, action: Any = 0, frames: Any = tuple) -> StepSaliency | None:
        with torch.no_grad():
            image = network_input(self.world.frame(max(self.clock.episode, 0), self.clock.step))
            _, _, self.state = self.agent((image, self.state))
        return self.recording.decide([action], frames)[0]

    def step(self, n: int = 1, ended: bool = False, decides: bool = True, action: Any = 0) -> list[StepSaliency | None]:
        results: list[StepSaliency | None] = []
        for i in range(n):
            results.append(self.decide(action) if decides else self.recording.decide([action])[0])
            self.recording.advance([ended and i == n - 1])
        return results


# Blocks.


@pytest.mark.parametrize(("block", "blocks"), [(1, [1] * 10), (4, [4, 4, 2]), (5, [5, 5]), (64, [10])])
def test_a_full_block_is_explained_together_and_the_end_of_the_episode_explains_the_rest(block: int, blocks: list[int]) -> None:
    loop = Loop(mode="deferred", block=block).listened()
    loop.begin()
    loop.step(10, ended=True)
    assert loop.method.blocks == blocks
    assert loop.listener.most_pending == min(block, 10)
    assert [one for one in loop.listener.heard if one[0] == "decided"] == [("decided", 0, t, None) for t in range(10)]
    assert [one for one in loop.listener.heard if one[0] == "explained"] == [("explained", 0, t, t) for t in range(10)]


def test_a_block_is_full_at_64_decisions_by_default() -> None:
    loop = Loop(mode="deferred")
    loop.begin()
    loop.step(63)
    assert loop.method.blocks == []
    loop.step()
    assert loop.method.blocks == [64]


@pytest.mark.parametrize("how", ["ended", "reset", "close", "flush"])
def test_what_is_held_is_explained_when_the_episode_ends_at_reset_at_close_and_on_demand(how: str) -> None:
    loop = Loop(mode="deferred").listened()
    loop.begin()
    loop.step(2)
    assert loop.method.blocks == []
    loop.step(ended=how == "ended")
    if how != "ended":
        {"reset": loop.begin, "close": loop.recording.close, "flush": loop.recording.flush}[how]()
    assert loop.method.blocks == [3]
    assert loop.listener.steps("explained") == [0, 1, 2]
    loop.recording.close()
    assert loop.method.blocks == [3]


def test_explained_decisions_are_dropped() -> None:
    loop = Loop(mode="deferred", block=3)
    loop.begin()
    loop.step(7)
    gc.collect()
    assert len(loop.method.seen) == 6
    assert [reference() for reference in loop.method.seen] == [None] * 6


def test_inline_every_decision_is_explained_at_its_step() -> None:
    loop = Loop().listened()
    loop.begin()
    results = loop.step(3, ended=True)
    assert [result is not None and result.maps is not None for result in results] == [True] * 3
    assert loop.listener.heard == [("decided", 0, t, t) for t in range(3)]


def test_decisions_that_are_held_are_explained_by_the_agent_that_made_them() -> None:
    first, second = CountingAgent(), CountingAgent()
    with torch.no_grad():
        second.gain.fill_(2)
    loop = Loop(PerturbationSaliency(Blackout(), fill=0.0), agent=first, mode="deferred", keep=True)
    loop.begin()
    loop.step(2)
    loop.hook.attach(second)
    loop.agent = second
    loop.step(2, ended=True)
    levels = [0, *(loop.world.level(0, t) for t in range(4))]
    for t, maps in enumerate(loop.recording.maps(0)):
        check_maps(maps, expected(levels[t + 1], t, levels[t]), gain=1 if t < 2 else 2)


def test_what_is_held_is_explained_though_the_hook_was_closed_before_the_recorder() -> None:
    loop = Loop(mode="deferred", keep=True)
    loop.begin()
    loop.step(3)
    loop.hook.close()
    loop.recording.close()
    assert len(loop.recording.maps(0)) == 3


# What is kept.


def test_maps_are_kept_by_episode_when_asked_for() -> None:
    loop = Loop(keep=True)
    for steps in (2, 3):
        loop.begin()
        loop.step(steps, ended=True)
    assert [[int(maps.actor[0, 0]) for maps in loop.recording.maps(episode)] for episode in range(3)] == [[0, 1], [0, 1, 2], []]
    loop.recording.maps(0).clear()
    assert len(loop.recording.maps(0)) == 2


def test_maps_that_are_not_kept_cannot_be_had() -> None:
    loop = Loop()
    loop.begin()
    loop.step()
    with pytest.raises(ValueError, match="keep=True"):
        loop.recording.maps(0)


def test_what_the_reader_of_info_changes_stays_unchanged_in_what_is_kept() -> None:
    loop = Loop(keep=True)
    loop.begin()
    loop.step()
    saliency = loop.step()[0]
    assert saliency is not None
    info = saliency.info()
    info["actor"] /= 100
    info["logits"][:] = 7
    assert loop.recording.maps(0)[1].actor.max() == 1
    assert passes(saliency.logits) == 1


# Consumers and triggers.


def test_without_triggers_only_what_consumers_want_is_explained() -> None:
    loop = Loop(verify="never").listened()
    eager = Listener(wants=False)
    loop.recording.subscribe(eager)
    loop.begin()
    loop.listener.wants = False
    assert loop.step() == [None]
    eager.wants = True
    assert loop.step() != [None]
    assert loop.listener.heard == eager.heard == [("decided", 0, 1, 1)]
    assert loop.method.blocks == [1]


def test_with_a_trigger_consumers_are_told_but_not_asked() -> None:
    loop = Loop(step_trigger=lambda step: step == 1).listened()
    loop.begin()
    loop.step(3)
    assert loop.listener.asked == 0
    assert loop.listener.heard == [("decided", 0, 1, 1)]


def test_nothing_is_recorded_before_the_first_reset() -> None:
    loop = Loop()
    loop.state = loop.agent.initial_state(1)
    assert loop.decide() is None
    loop.begin()
    saliency = loop.decide()
    assert saliency is not None
    assert (saliency.episode, saliency.step) == (0, 0)


@pytest.mark.parametrize(
    ("action", "told"),
    [
        (2, 2),
        (np.int64(2), 2),
        (np.array(2), 2),
        (np.array([2]), 2),
        (torch.tensor(2), 2),
        ((1, np.array([0.5, 1.0])), None),
        ({"a": 1}, None),
    ],
)
def test_a_discrete_action_is_told_as_an_int_and_a_composite_one_as_it_is(action: Any, told: Any) -> None:
    loop = Loop()
    loop.begin()
    saliency = loop.step(action=action)[0]
    assert saliency is not None
    assert repr(saliency.action) == repr(action) if told is None else (saliency.action == told and type(saliency.action) is int)


def test_an_array_of_actions_is_told_as_it_was() -> None:
    loop = Loop(mode="deferred")
    loop.begin()
    buffer = np.array([0.5, -1.0])
    saliency = loop.step(action=buffer)[0]
    buffer[:] = 9
    assert saliency is not None
    assert saliency.action.tolist() == [0.5, -1.0]


# The self-check.


class Counted(RecurrentModuleAdapter):
    """Counts replays: `Method` itself never evaluates."""

    replays = 0

    def evaluate(self, inputs: Tensor, state: Any, episode_start: Tensor | None) -> tuple[Tensor, Tensor | None]:
        self.replays += 1
        return super().evaluate(inputs, state, episode_start)


@pytest.mark.parametrize(("verify", "replays"), [("first", 2), ("always", 6), ("never", 0)])
def test_replays_happen_at_the_first_decision_and_the_first_with_memory_always_or_never(verify: Any, replays: int) -> None:
    agent = CountingAgent()
    adapter = Counted(agent)
    loop = Loop(agent=agent, adapter=adapter, verify=verify)
    found: list[int] = []
    for _ in range(2):
        loop.begin()
        for _ in range(3):
            before = adapter.replays
            loop.step()
            found.append(adapter.replays - before)
    assert sum(found) == replays
    assert found[:3] == {"first": [1, 1, 0], "always": [1, 1, 1], "never": [0, 0, 0]}[verify]


def test_an_agent_without_memory_is_checked_once() -> None:
    class Reflex(nn.Module):
        def initial_state(self, n: int) -> None:
            return None

        def forward(self, inputs: tuple[Tensor, None]) -> Any:
            return None, inputs[0].mean((2, 3)).repeat(1, 2), None

    agent = Reflex()
    adapter = Counted(agent)
    loop = Loop(agent=agent, adapter=adapter)
    loop.begin()
    for _ in range(3):
        loop.step()
    assert adapter.replays == 1


@pytest.mark.parametrize("verify", ["first", "always"])
def test_a_block_is_replayed_before_it_is_explained(verify: Any) -> None:
    agent = CountingAgent()
    adapter = Counted(agent)
    loop = Loop(agent=agent, adapter=adapter, verify=verify, mode="deferred", block=2)
    loop.begin()
    loop.step(6)
    assert adapter.replays == {"first": 2, "always": 6}[verify] + 3


@pytest.mark.parametrize("at", [1, 2, 3])
def test_weights_that_change_before_a_block_is_explained_are_noticed(at: int) -> None:
    loop = Loop(mode="deferred", block=4).listened()
    loop.begin()
    loop.step(at)
    with torch.no_grad():
        loop.agent.gain.mul_(1.5)
    with pytest.raises(ReplayMismatchError, match="or its weights changed since it acted"):
        loop.step(4)
    assert loop.method.blocks == []
    loop.begin()
    loop.step(4)
    assert loop.method.blocks == [4]


def test_weights_that_change_between_blocks_do_no_harm() -> None:
    loop = Loop(mode="deferred", block=4)
    loop.begin()
    for _ in range(3):
        loop.step(4)
        with torch.no_grad():
            loop.agent.gain.mul_(1.5)
    assert loop.method.blocks == [4, 4, 4]


def test_changed_weights_go_unnoticed_only_with_verify_never() -> None:
    loop = Loop(mode="deferred", verify="never")
    loop.begin()
    loop.step(2)
    with torch.no_grad():
        loop.agent.gain.mul_(1.5)
    loop.step(ended=True)
    assert loop.method.blocks == [3]


def test_a_mismatch_shows_what_was_recorded_and_what_was_replayed() -> None:
    class Wrong(RecurrentModuleAdapter):
        def evaluate(self, inputs: Tensor, state: Any, episode_start: Tensor | None) -> tuple[Tensor, Tensor | None]:
            logits, value = super().evaluate(inputs, state, episode_start)
            assert value is not None
            return logits, value + 1

    agent = CountingAgent()
    loop = Loop(agent=agent, adapter=Wrong(agent))
    loop.begin()
    with pytest.raises(ReplayMismatchError) as caught:
        loop.step()
    lines = str(caught.value).splitlines()
    assert lines[:3] == ["Replaying the decision gave other value than the acting pass.", "  recorded: [[100.]]", "  replayed: [[101.]]"]


class Stochastic(CountingAgent):
    """A counting agent in which something draws at random, or learns its statistics, while it trains."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Identity(), layer)

    def forward(self, inputs: tuple[Tensor, Any]) -> Any:
        return super().forward((self.trunk(inputs[0]), inputs[1]))


class NoisyLinear(nn.Linear):
    """As in NoisyNet: other weights at every pass, while training."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + (torch.randn(()) if self.training else 0)


@pytest.mark.parametrize(
    ("layer", "named"),
    [
        (lambda: nn.Dropout(0.5), "trunk.1 (Dropout)"),
        (lambda: nn.Dropout2d(1.0), "trunk.1 (Dropout2d)"),
        (lambda: nn.BatchNorm2d(1), "trunk.1 (BatchNorm2d)"),
        (lambda: NoisyLinear(8, 8), "trunk.1 (NoisyLinear)"),
    ],
)
def test_a_mismatch_names_the_layers_that_draw_at_random_while_training(layer: Any, named: str) -> None:
    torch.manual_seed(0)
    loop = Loop(agent=Stochastic(layer()).train())
    loop.begin()
    with pytest.raises(ReplayMismatchError) as caught:
        loop.step(2)
    assert f"These layers draw at random while training: {named}. Act with agent.eval()" in str(caught.value)
    loop = Loop(agent=Stochastic(layer()).eval())
    loop.begin()
    loop.step(2)


def test_a_mismatch_names_a_layer_that_is_noisy_even_in_evaluation_mode() -> None:
    class AlwaysNoisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.rand(())

    loop = Loop(agent=Stochastic(AlwaysNoisy()).eval())
    loop.begin()
    with pytest.raises(ReplayMismatchError, match=r"trunk\.1 \(AlwaysNoisy\)"):
        loop.step()


FRAME = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)


def checked(preprocessor: FramePreprocessor, verify: Any = "first", frame: Any = lambda: FRAME) -> Loop:
    """A loop whose agent sees one step of `FRAME` as `AREA` makes it, recorded with another preprocessor, perhaps."""
    loop = Loop(verify=verify)
    loop.hook.preprocessor = preprocessor
    loop.begin()
    loop.agent((torch.as_tensor(AREA(FRAME))[None], loop.state))
    loop.recording.decide([0], lambda: [shown for shown in [frame()] if shown is not None])
    return loop


AREA = FramePreprocessor(size=(8, 8))


def test_the_captured_input_is_compared_with_the_preprocessed_frame() -> None:
    assert checked(AREA).method.blocks == [1]


@pytest.mark.parametrize("other", [FramePreprocessor(size=(8, 8), grey="mean"), FramePreprocessor(size=(8, 8), scaling="stretch")])
def test_another_preprocessor_than_the_agents_is_noticed(other: FramePreprocessor) -> None:
    with pytest.raises(ValueError, match=r"differs from the hook's preprocessor applied to the rendered frame by up to 0\.\d+"):
        checked(other)


@pytest.mark.parametrize("other", [FramePreprocessor(size=(6, 8)), AREA.stacked(4)])
def test_a_preprocessor_of_another_input_shape_is_noticed_without_a_frame(other: FramePreprocessor) -> None:
    with pytest.raises(
        ValueError, match=r"Expected a network input of shape \(\d, \d, 8\), as the hook's preprocessor makes it, got \(1, 8, 8\)"
    ):
        checked(other, frame=lambda: None)


@pytest.mark.parametrize("how", ["determines_input=False", "no frame", "verify never"])
def test_a_frame_that_does_not_tell_the_input_is_not_compared(how: str) -> None:
    free = how == "determines_input=False"
    other = FramePreprocessor(size=(8, 8), grey="mean", determines_input=not free)
    frame = (lambda: None) if how == "no frame" else lambda: FRAME
    assert checked(other, "never" if how == "verify never" else "first", frame).method.blocks == [1]


def test_a_stack_is_not_compared_with_one_frame() -> None:
    loop = Loop()
    loop.hook.preprocessor = FramePreprocessor(size=(8, 8), stack=2)
    loop.begin()
    loop.agent((torch.rand(1, 2, 8, 8), loop.state))
    assert loop.recording.decide([0], lambda: [FRAME]) != [None]


def test_only_checked_steps_ask_for_the_frame() -> None:
    rendered: list[int] = []
    loop = Loop()
    loop.hook.preprocessor = FramePreprocessor(size=(8, 8))
    loop.begin()
    for t in range(4):
        loop.decide(0, lambda t=t: rendered.append(t) or [loop.world.frame(0, t)])
        loop.recording.advance([False])
    assert rendered == [0, 1]


# Errors.


def test_a_failing_computation_raises_and_leaves_the_recording_usable() -> None:
    loop = Loop(Method(fails_at=1))
    loop.begin()
    loop.step()
    with pytest.raises(ValueError, match="no map today"):
        loop.decide()
    loop.recording.advance([False])
    assert loop.step()[0] is not None


def test_with_on_error_warn_a_failing_computation_costs_only_its_own_maps() -> None:
    loop = Loop(Method(fails_at=1), on_error="warn")
    loop.begin()
    with pytest.warns(UserWarning, match="No saliency for step 1 of episode 0: ValueError: no map today"):
        results = loop.step(3, ended=True)
    assert [result is None for result in results] == [False, True, False]


def test_a_failing_block_is_handed_on_without_maps() -> None:
    loop = Loop(Method(fails_at=3), mode="deferred", block=2, on_error="warn", keep=True).listened()
    loop.begin()
    with pytest.warns(UserWarning, match="No saliency for the 2 decisions from step 2 of episode 0: ValueError: no map today"):
        loop.step(6, ended=True)
    explained = [number for kind, _, _, number in loop.listener.heard if kind == "explained"]
    assert explained == [0, 1, None, None, 4, 5]
    assert len(loop.recording.maps(0)) == 4


def test_a_failing_block_that_raises_was_handed_on_too() -> None:
    loop = Loop(Method(fails_at=1), mode="deferred", block=3).listened()
    loop.begin()
    with pytest.raises(ValueError, match="no map today"):
        loop.step(3)
    assert [one for one in loop.listener.heard if one[0] == "explained"] == [("explained", 0, t, None) for t in range(3)]
    loop.begin()
    assert loop.clock.episode == 1


@pytest.mark.parametrize("call", ["begin_episodes", "end_episodes", "flush", "close", "decide"])
def test_a_failure_when_the_episode_ends_waits_for_the_next_call_and_is_raised_once(call: str) -> None:
    loop = Loop(Method(fails_at=1), mode="deferred").listened()
    loop.begin()
    loop.step(3, ended=True)
    assert [one for one in loop.listener.heard if one[0] == "explained"] == [("explained", 0, t, None) for t in range(3)]
    with pytest.raises(ValueError, match="no map today"):
        getattr(loop.recording, call)(*[[0]] * (call == "decide"))
    loop.begin()
    assert (loop.clock.episode, loop.clock.step) == (1, 0)
    loop.recording.close()
    assert not loop.hook.attached


def test_a_method_that_always_fails_warns_once_an_episode_and_says_how_often_it_failed_since() -> None:
    def fails(adapter: Any, decisions: Any) -> Any:
        raise ValueError(f"no map of {float(decisions[0].logits[0, 0])}")

    loop = Loop(fails, on_error="warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for length in (5, 3, 1):
            loop.begin()
            loop.step(length, ended=True)
    assert [str(warning.message) for warning in caught] == [
        "No saliency for step 0 of episode 0: ValueError: no map of 1.0",
        "No saliency for step 0 of episode 1: ValueError: no map of 41.0 (4 more since the last such warning)",
        "No saliency for step 0 of episode 2: ValueError: no map of 81.0 (2 more since the last such warning)",
    ]


def test_another_type_of_error_in_the_same_episode_is_warned_of_too() -> None:
    def fails(adapter: Any, decisions: Any) -> Any:
        raise (KeyError if passes(decisions[0].logits[0]) % 2 else ValueError)("no map")

    loop = Loop(fails, on_error="warn")
    loop.begin()
    with pytest.warns(UserWarning, match="No saliency") as caught:
        loop.step(6, ended=True)
    assert [str(warning.message).split()[8] for warning in caught] == ["ValueError:", "KeyError:"]


def refuse(number: int) -> bool:
    raise ValueError(f"no trigger for {number}")


@pytest.mark.parametrize("name", ["episode_trigger", "step_trigger"])
def test_with_on_error_warn_a_failing_trigger_is_a_warning(name: str) -> None:
    loop = Loop(on_error="warn", **{name: refuse})
    results: list[Any] = []

    def episode() -> None:
        loop.begin()
        results.extend(loop.step(3, ended=True))

    with pytest.warns(UserWarning, match="No saliency .*ValueError: no trigger for 0"):
        episode()
    assert results == [None] * 3
    assert loop.clock.step == 3


def test_a_ragged_action_is_kept_as_it_is() -> None:
    loop = Loop()
    loop.begin()
    (saliency,) = loop.step(action=[[1], [2, 3]])
    assert saliency is not None
    assert saliency.info()["action"] == [[1], [2, 3]]


def test_with_on_error_warn_a_listener_that_fails_late_is_a_warning_and_loses_no_other_decision() -> None:
    loop = Loop(mode="deferred", on_error="warn")
    heard: list[int] = []

    class Fails(Listener):
        def explained(self, saliency: StepSaliency) -> None:
            heard.append(saliency.step)
            raise OSError("no space left")

    loop.recording.subscribe(Fails())
    loop.begin()
    with pytest.warns(UserWarning, match="OSError: no space left") as caught:
        loop.step(3, ended=True)
    assert len(caught) == 1
    assert heard == [0, 1, 2]


def test_with_on_error_warn_a_mismatch_and_nan_are_warnings() -> None:
    loop = Loop(PerturbationSaliency(), on_error="warn")
    loop.begin()
    with torch.no_grad():
        loop.agent.gain.fill_(torch.nan)
    with pytest.warns(UserWarning, match="No saliency for step 0 of episode 0: ReplayMismatchError"):
        assert loop.step() == [None]
    with torch.no_grad():
        loop.agent.gain.fill_(1)
    loop.begin()
    assert loop.step() != [None]


def test_nan_from_the_agent_is_an_error_even_when_nothing_is_verified() -> None:
    loop = Loop(PerturbationSaliency(), verify="never")
    loop.begin()
    with torch.no_grad():
        loop.agent.gain.fill_(torch.nan)
    with pytest.raises(ValueError, match="not finite"):
        loop.step()


def test_a_method_that_gives_another_number_of_maps_is_an_error() -> None:
    for mode in ("inline", "deferred"):
        loop = Loop(lambda adapter, decisions: [], mode=mode, block=1)
        loop.begin()
        with pytest.raises(ValueError, match="Expected 1 SaliencyMaps from function, one a decision, got 0"):
            loop.step()


def test_a_step_without_a_decision_is_an_error_only_when_required() -> None:
    loop = Loop(require_decision=True)
    loop.begin()
    loop.step()
    loop.agent((torch.rand(64, 1, 8, 8), loop.agent.initial_state(64)))
    with pytest.raises(
        MissingDecisionError, match=r"Step 1 of episode 0 came without a decision. 2 passes of the agent seen, 1 could be"
    ) as caught:
        loop.recording.decide([0])
    assert "(64, expected 1)" in str(caught.value)
    assert loop.step() != [None]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "offline"}, r"Expected mode to be one of \('inline', 'deferred', 'capture'\), got 'offline'"),
        ({"on_error": "ignore"}, r"Expected on_error to be one of \('raise', 'warn'\), got 'ignore'"),
        ({"verify": True}, r"Expected verify to be one of \('first', 'always', 'never'\), got True"),
        ({"block": 0}, "Expected a positive block, got 0"),
    ],
)
def test_options_that_are_none_are_refused(options: dict[str, Any], message: str) -> None:
    hook = RecurrentAgentHook(CountingAgent())
    with pytest.raises(ValueError, match=message):
        Recording(hook, Method(), RecordingOptions(**options))
    assert hook.explain() == "No recorder listens to this hook yet."


@pytest.mark.parametrize("name", ["episode_trigger", "step_trigger"])
def test_a_trigger_that_cannot_be_called_is_refused(name: str) -> None:
    with pytest.raises(TypeError, match="Expected a trigger to be a function of a number, or None, got int"):
        RecordingOptions(**{name: 10})  # pyright: ignore[reportArgumentType]


# Silence and wrong wiring.


def test_an_episode_without_a_decision_warns_once_per_recorder_with_counts() -> None:
    loop = Loop()
    loop.begin()
    for _ in range(3):
        loop.agent((torch.rand(64, 1, 8, 8), loop.agent.initial_state(64)))
        loop.step(decides=False)
    seen = "3 passes of the agent seen, 0 could be decisions. Rejected: 3 with a batch other than the number of environments"
    with pytest.warns(UserWarning, match=f"Episode 0 had no decision in 3 steps. {seen}.*use VectorSaliencyRecorder") as caught:
        loop.begin()
    assert len(caught) == 1
    loop.step(3, decides=False, ended=True)  # warnings are errors here


def test_an_agent_that_was_never_called_is_told_apart() -> None:
    loop = Loop()
    loop.begin()
    with pytest.warns(
        UserWarning, match=r"Episode 0 had no decision in 2 steps\. No pass of the agent was seen: check that the hooked module"
    ):
        loop.step(2, decides=False, ended=True)


def test_one_decision_in_an_episode_is_enough_not_to_warn() -> None:
    loop = Loop()
    for _ in range(2):
        loop.begin()
        loop.step(2, decides=False)
        loop.step()
        loop.step(2, decides=False, ended=True, action=1)
    loop.recording.close()


def test_an_episode_that_is_not_recorded_does_not_warn_when_the_next_one_is() -> None:
    loop = Loop()
    loop.recording.enabled = False
    loop.begin()
    loop.step(3, decides=False, ended=True)
    loop.recording.enabled = True
    loop.begin()
    loop.step(3, ended=True)
    loop.recording.close()


def test_while_disabled_nothing_is_seen_and_the_clocks_go_on() -> None:
    loop = Loop(step_trigger=lambda step: step == 5)
    loop.begin()
    loop.step(2)
    loop.recording.enabled = False
    assert not loop.agent._forward_hooks
    loop.step(2)
    loop.begin()
    loop.recording.enabled = True
    found = loop.step(3)
    assert [saliency and (saliency.episode, saliency.step) for saliency in found] == [None, (1, 1), None]


def test_steps_that_repeat_each_decision_as_frame_skip_does_warn_once() -> None:
    loop = Loop()
    for episode in range(2):
        loop.begin()
        loop.step(2, decides=False)  # no-op resets
        for action in (1, 2, 2):
            loop.step(action=action)
            loop.step(3, decides=False, action=action)
        if episode == 0:
            with pytest.warns(
                UserWarning, match=r"had 3 decisions in 14 steps.*the recorder belongs outside wrappers that step several times"
            ):
                loop.recording.end_episodes()
    loop.recording.close()


@pytest.mark.parametrize("case", ["one decision", "two in a row", "another action", "every other step", "composite"])
def test_other_patterns_of_scripted_actions_do_not_warn(case: str) -> None:
    loop = Loop()
    loop.begin()
    for i in range(1 if case == "one decision" else 4):
        loop.step(2 if case == "two in a row" and i == 1 else 1, action=(1, 2) if case == "composite" else 1)
        loop.step(1 if case == "every other step" else 3, decides=False, action={"another action": 2, "composite": (1, 2)}.get(case, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loop.recording.close()


class Sink(EpisodeSink):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []

    def begin(self, clock: EpisodeClock, seed: int | None) -> None:
        self.heard.append(("begin", clock.episode, seed))

    def append(self, records: Sequence[StepSaliency], frames: Any) -> None:
        self.heard.append(("decide", records[0].step, records[0].action))

    def advance(self, rewards: Sequence[Any] | None) -> None:
        self.heard.append(("reward", None if rewards is None else rewards[0]))

    def explained(self, saliency: StepSaliency) -> None:
        self.heard.append(("maps", saliency.step, saliency.maps is not None))

    def end(self, clocks: Any, complete: bool = False) -> None:
        self.heard.append(("end", len(list(clocks)), complete))


def test_an_attached_sink_is_told_of_every_decision_though_no_trigger_wants_it_until_it_is_detached() -> None:
    loop, sink = Loop(step_trigger=lambda step: step == 1), Sink()
    loop.recording.attach(sink)
    loop.begin()
    loop.step(3, ended=True)
    steps = [("decide", 0, 0), ("reward", None), ("decide", 1, 0), ("maps", 1, True), ("reward", None), ("decide", 2, 0), ("reward", None)]
    assert [one for one in sink.heard if one[0] != "end"] == [("begin", 0, None), *steps]
    assert ("end", 1, True) in sink.heard
    loop.recording.detach(sink)
    loop.recording.detach(sink)
    before = len(sink.heard)
    loop.begin()
    loop.step(2)
    loop.recording.close()
    assert len(sink.heard) == before
