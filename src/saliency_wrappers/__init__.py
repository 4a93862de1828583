"""See what reinforcement-learning agents look at: saliency maps in `info["saliency"]` and in the video of every episode."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from saliency_wrappers.agents import AgentAdapter, CleanRLAdapter, FunctionAdapter, QNetworkAdapter, RecurrentModuleAdapter, as_adapter
from saliency_wrappers.compute.compute import compute_saliency
from saliency_wrappers.decisions import Decision, SaliencyMaps
from saliency_wrappers.hooks.hook import RecurrentAgentHook
from saliency_wrappers.hooks.replay_check import ReplayMismatchError
from saliency_wrappers.models.networks import CheckpointError, UnsafeCheckpointError, load_checkpoint, load_pretrained, pretrained_agents
from saliency_wrappers.preprocessing import FramePreprocessor
from saliency_wrappers.recording.error_policy import MissingDecisionError
from saliency_wrappers.saliency.masks import GaussianBlur, SlidingDisc
from saliency_wrappers.saliency.perturbation import PerturbationSaliency, SaliencyMethod
from saliency_wrappers.saliency.scoring import GridSquaredDifference, SquaredDifference
from saliency_wrappers.store.files import StoreError
from saliency_wrappers.store.reader import StoredDecision, StoredEpisode
from saliency_wrappers.store.store import EpisodeStore
from saliency_wrappers.video.overlay import draw
from saliency_wrappers.viewer.export import show
from saliency_wrappers.viewer.server import view
from saliency_wrappers.wrappers.recorder import SaliencyRecorder
from saliency_wrappers.wrappers.vector.recorder import VectorSaliencyRecorder
from saliency_wrappers.wrappers.vector.video import RecordVectorSaliencyVideo
from saliency_wrappers.wrappers.video import RecordSaliencyVideo

if TYPE_CHECKING:
    from saliency_wrappers.sb3 import FlushSaliency as FlushSaliency
    from saliency_wrappers.sb3 import SaliencyCallback as SaliencyCallback
    from saliency_wrappers.sb3 import SaliencyVecEnv as SaliencyVecEnv

__all__ = [
    "AgentAdapter",
    "CheckpointError",
    "CleanRLAdapter",
    "Decision",
    "EpisodeStore",
    "FramePreprocessor",
    "FunctionAdapter",
    "GaussianBlur",
    "GridSquaredDifference",
    "MissingDecisionError",
    "PerturbationSaliency",
    "QNetworkAdapter",
    "RecordSaliencyVideo",
    "RecordVectorSaliencyVideo",
    "RecurrentAgentHook",
    "RecurrentModuleAdapter",
    "ReplayMismatchError",
    "SaliencyMaps",
    "SaliencyMethod",
    "SaliencyRecorder",
    "SlidingDisc",
    "SquaredDifference",
    "StoreError",
    "StoredDecision",
    "StoredEpisode",
    "UnsafeCheckpointError",
    "VectorSaliencyRecorder",
    "as_adapter",
    "compute_saliency",
    "draw",
    "load_checkpoint",
    "load_pretrained",
    "pretrained_agents",
    "show",
    "view",
]

__version__ = "0.1.0"

# What extends a class of an optional package is imported when it is asked for; not in __all__, for `import *` must not fail without it.
_LAZY = {"FlushSaliency", "SaliencyCallback", "SaliencyVecEnv"}
"""What belongs to Stable-Baselines3, which is imported when one of these is asked for."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("saliency_wrappers.sb3"), name)
