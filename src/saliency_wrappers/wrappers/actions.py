"""What an environment tells about its actions: the number of the first one, and names for them."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from typing import Any, cast

from gymnasium import Space
from gymnasium.spaces import Discrete, MultiDiscrete


def first_action(space: Space[Any]) -> int:
    """Return the action that the first logit stands for: the `start` of a `Discrete` space, and 0 for any other space."""
    if isinstance(space, Discrete):
        return int(space.start)
    if isinstance(space, MultiDiscrete) and space.start.size == 1:
        return int(space.start.item())
    return 0


def action_names(env: Any) -> list[str] | None:
    """Return the names of an environment's actions, in the order of the logits.

    Args:
        env: anything with an attribute `get_action_meanings`: a method or a value, of strings or members of an enumeration, or a mapping
            from the actions' numbers to such.

    Returns:
        One string for each action. None if the environment has no names, or no valid ones: numbers are shown.
    """
    try:
        meanings: Any = getattr(env, "get_action_meanings", None)
        told: Any = meanings() if callable(meanings) else meanings
        if isinstance(told, Mapping):
            by_number = cast("Mapping[Any, Any]", told)
            told = [by_number[number] for number in sorted(by_number)]
        if told is None or isinstance(told, str) or not isinstance(told, Iterable):
            return None
        return [_name(one) for one in cast("Iterable[Any]", told)]
    except Exception:  # an environment's own code, asked for an ornament
        return None


def _name(meaning: Any) -> str:
    return meaning.name if isinstance(meaning, enum.Enum) else str(meaning)
