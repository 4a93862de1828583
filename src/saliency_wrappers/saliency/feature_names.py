"""`known_features`: what the features of Gymnasium's own environments are called."""

from __future__ import annotations

_LANDER = ("x", "y", "x velocity", "y velocity", "angle", "angular velocity", "left leg contact", "right leg contact")
_NAMES: dict[str, tuple[str, ...]] = {
    "Acrobot": ("cos angle 1", "sin angle 1", "cos angle 2", "sin angle 2", "angular velocity 1", "angular velocity 2"),
    "CartPole": ("cart position", "cart velocity", "pole angle", "pole angular velocity"),
    "LunarLander": _LANDER,
    "LunarLanderContinuous": _LANDER,
    "MountainCar": ("position", "velocity"),
    "MountainCarContinuous": ("position", "velocity"),
    "Pendulum": ("cos angle", "sin angle", "angular velocity"),
}
"""By the environment's name without its version."""


def known_features(env_id: str, features: int) -> tuple[str, ...] | None:
    """Return the names of an environment's features; None for an unknown environment, or observations of another size."""
    names = _NAMES.get(env_id.rpartition("/")[2].rpartition("-v")[0])
    return names if names is not None and len(names) == features else None
