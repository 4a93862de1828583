"""Triggers are asked once for each number, and nobody watches the agent while none of them wants to know."""

from __future__ import annotations

from typing import Any

import pytest
from counting import CountingAgent, CountingEnv, recorded
from loops import loop

from saliency_wrappers.recording.clock import EpisodeClock
from saliency_wrappers.recording.tracker import _BEGINNING
from saliency_wrappers.recording.triggers import Triggers


def test_a_trigger_is_asked_once_for_each_number() -> None:
    asked: list[int] = []
    triggers = Triggers(None, lambda step: asked.append(step) or step == 2)
    clock = EpisodeClock()
    wanted: list[bool] = []
    for step in (0, 0, 1, 2, 2, 3):
        triggers.prepare(step)
        assert triggers.may_want([clock]) == (triggers.wanted([clock]) == [clock])
        wanted.append(triggers.may_want([clock]))
    assert asked == [0, 1, 2, 3]
    assert wanted == [False, False, False, True, True, False]


def test_what_a_trigger_raises_is_raised_when_its_answer_is_needed() -> None:
    triggers = Triggers(None, lambda step: 1 // step > 0)
    triggers.prepare(0)
    assert triggers.may_want([])
    with pytest.raises(ZeroDivisionError):
        triggers.wanted([])
    triggers.prepare(1)
    assert triggers.wanted([]) == []


def test_the_agent_is_watched_at_an_episodes_beginning_and_where_a_trigger_wants_it() -> None:
    agent = CountingAgent()
    steps = _BEGINNING + 30
    hot = (_BEGINNING + 10, _BEGINNING + 20)
    with recorded(CountingEnv((steps, steps), size=(8, 10)), agent, step_trigger=lambda step: step in hot) as recorder:
        attached: list[bool] = []
        saliencies: list[Any] = []
        for _ in range(2):
            for info in loop(recorder, agent, agent.initial_state(1), steps):
                saliencies.append(info.get("saliency"))
                attached.append(recorder.hook.attached)
    # After step s the agent is watched, or not, for step s + 1.
    first = [step + 1 < _BEGINNING or step + 1 in hot for step in range(steps - 1)]
    assert attached[: steps - 1] == first
    assert attached[steps : 2 * steps - 1] == [step + 1 < _BEGINNING for step in range(steps - 1)]
    assert [number for number, saliency in enumerate(saliencies) if saliency is not None] == list(hot)
    assert [saliencies[number]["step"] for number in hot] == list(hot)


def test_who_requires_decisions_watches_at_every_step() -> None:
    agent = CountingAgent()
    steps = _BEGINNING + 5
    with recorded(CountingEnv((steps,), size=(8, 10)), agent, step_trigger=lambda step: False, require_decision=True) as recorder:
        attached = [recorder.hook.attached for _ in loop(recorder, agent, agent.initial_state(1), steps)]
    assert all(attached[:-1])


def test_a_disabled_recorder_stays_so_whatever_a_trigger_wants() -> None:
    agent = CountingAgent()
    with recorded(CountingEnv((9,), size=(8, 10)), agent, step_trigger=lambda step: True) as recorder:
        recorder.enabled = False
        infos = list(loop(recorder, agent, agent.initial_state(1), 4))
        assert not recorder.hook.attached
        recorder.enabled = True
        infos += list(loop(recorder, agent, agent.initial_state(1), 4))
    assert ["saliency" in info for info in infos] == [False] * 4 + [True] * 4
