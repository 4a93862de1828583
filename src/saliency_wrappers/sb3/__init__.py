"""`SaliencyCallback`, `FlushSaliency` and `SaliencyVecEnv` for Stable-Baselines3. Imports wrappers and recording.

Only this room imports Stable-Baselines3 at the top of its modules, and each module only when one of its names is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saliency_wrappers.sb3.callbacks import FlushSaliency, SaliencyCallback
    from saliency_wrappers.sb3.vec_env import SaliencyVecEnv
    from saliency_wrappers.sb3.video import RecordSaliencyVecVideo

__all__ = ["FlushSaliency", "RecordSaliencyVecVideo", "SaliencyCallback", "SaliencyVecEnv"]

_MODULES = {"FlushSaliency": "callbacks", "SaliencyCallback": "callbacks", "SaliencyVecEnv": "vec_env", "RecordSaliencyVecVideo": "video"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
