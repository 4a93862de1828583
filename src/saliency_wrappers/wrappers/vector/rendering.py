"""`render_environments`: frames of chosen environments of a vector, without rendering the others. `can_render`: whether they have any."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv, VectorWrapper


def render_environments(envs: VectorEnv[Any, Any, Any], chosen: Collection[int]) -> list[Any]:
    """Render environments of a vector.

    Args:
        envs: the vector. Beneath wrappers that do not render by themselves, a `SyncVectorEnv` or `AsyncVectorEnv` renders the chosen
            environments only: the others may have no render mode. Any other vector renders all.
        chosen: the numbers of the environments.

    Returns:
        One entry for each environment of the vector: `(H, W, 3)` uint8 for the chosen ones, if all is well; None for those that were not
        rendered. Empty where the vector renders nothing.
    """
    base: Any = _renderer(envs)
    if len(chosen) < envs.num_envs and isinstance(base, SyncVectorEnv):
        return [env.render() if index in chosen else None for index, env in enumerate(base.envs)]
    if len(chosen) < envs.num_envs and isinstance(base, AsyncVectorEnv) and hasattr(base, "parent_pipes"):
        return _render_workers(base, chosen)
    return list(envs.render() or ())


def can_render(envs: VectorEnv[Any, Any, Any], chosen: Collection[int]) -> bool:
    """Return whether the chosen environments render images: a vector tells the render mode of its first environment only."""
    base: Any = _renderer(envs)
    if isinstance(base, SyncVectorEnv):
        return all(base.envs[index].render_mode == "rgb_array" for index in chosen)
    if isinstance(base, AsyncVectorEnv):
        modes = base.get_attr("render_mode")
        return all(modes[index] == "rgb_array" for index in chosen)
    return envs.render_mode == "rgb_array"


def _renderer(envs: Any) -> Any:
    """Return what renders: the first vector beneath wrappers that delegate `render`."""
    while isinstance(envs, VectorWrapper) and type(envs).render is VectorWrapper.render and "render" not in vars(envs):
        envs = envs.env
    return envs if type(envs).render in (SyncVectorEnv.render, AsyncVectorEnv.render) and "render" not in vars(envs) else None


def _render_workers(base: Any, chosen: Collection[int]) -> list[Any]:
    """Call `render` in chosen workers, as `AsyncVectorEnv.call("render")`; re-raises a worker's exception."""
    for index in sorted(chosen):
        base.parent_pipes[index].send(("_call", ("render", (), {})))
    frames: list[Any] = [None] * base.num_envs
    successes = [True] * base.num_envs
    for index in sorted(chosen):
        frames[index], successes[index] = base.parent_pipes[index].recv()
    base._raise_if_errors(successes)
    return frames
