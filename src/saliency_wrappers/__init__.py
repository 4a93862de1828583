"""See what reinforcement-learning agents look at: saliency maps in `info["saliency"]` and in the video of every episode."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from saliency_wrappers.agents import (
    ActorQAdapter,
    AgentAdapter,
    CleanRLAdapter,
    FunctionAdapter,
    QNetworkAdapter,
    RecurrentModuleAdapter,
    as_adapter,
)
from saliency_wrappers.compute.compute import compute_saliency
from saliency_wrappers.decisions import Decision, InputMaps, SaliencyMaps
from saliency_wrappers.details import SaliencyDetails
from saliency_wrappers.faithfulness import Confidence, DetailedSaliency, Scorecard, evaluate, map_confidence
from saliency_wrappers.hooks.hook import RecurrentAgentHook
from saliency_wrappers.hooks.replay_check import ReplayMismatchError
from saliency_wrappers.models.checkpoints import CheckpointError, UnsafeCheckpointError, load_checkpoint, load_pretrained, pretrained_agents
from saliency_wrappers.preprocessing import FramePreprocessor
from saliency_wrappers.recording.error_policy import MissingDecisionError
from saliency_wrappers.saliency.cells import grid_cells
from saliency_wrappers.saliency.feature_fills import FeatureMean, FeatureNoise, Marginal
from saliency_wrappers.saliency.features import FeatureExplanation, FeatureOcclusion, FeatureShapley
from saliency_wrappers.saliency.fills import Background, ChannelMean, Noise
from saliency_wrappers.saliency.gradients import Gradient, IntegratedGradients, SmoothGrad
from saliency_wrappers.saliency.inputs import InputSaliency
from saliency_wrappers.saliency.masks import GaussianBlur, SlidingDisc
from saliency_wrappers.saliency.memory_share import MemoryShare, memory_share
from saliency_wrappers.saliency.method import SaliencyMethod
from saliency_wrappers.saliency.objects import LeaveOneOut, ObjectExplanation, ObjectShapley
from saliency_wrappers.saliency.perturbation import PerturbationSaliency
from saliency_wrappers.saliency.perturbers import Searchlight
from saliency_wrappers.saliency.policy_scores import (
    SARFA,
    KLDivergence,
    LogitDrop,
    ProbabilityDrop,
    SquaredProbabilityDifference,
    TotalVariation,
    ValueDifference,
)
from saliency_wrappers.saliency.scoring import GridSquaredDifference, PerturbationScores, SquaredDifference
from saliency_wrappers.store.files import StoreError
from saliency_wrappers.store.reader import StoredDecision, StoredEpisode
from saliency_wrappers.store.store import EpisodeStore
from saliency_wrappers.video.overlay import draw
from saliency_wrappers.viewer.export import show
from saliency_wrappers.viewer.server import Viewer, view
from saliency_wrappers.wrappers.action_hint import ActionHint
from saliency_wrappers.wrappers.recorder import SaliencyRecorder
from saliency_wrappers.wrappers.vector.recorder import VectorSaliencyRecorder
from saliency_wrappers.wrappers.vector.video import RecordVectorSaliencyVideo
from saliency_wrappers.wrappers.video import RecordSaliencyVideo

if TYPE_CHECKING:
    from saliency_wrappers.sb3 import FlushSaliency as FlushSaliency
    from saliency_wrappers.sb3 import SaliencyCallback as SaliencyCallback
    from saliency_wrappers.sb3 import SaliencyVecEnv as SaliencyVecEnv

__all__ = [
    "SARFA",
    "ActionHint",
    "ActorQAdapter",
    "AgentAdapter",
    "Background",
    "ChannelMean",
    "CheckpointError",
    "CleanRLAdapter",
    "Confidence",
    "Decision",
    "DetailedSaliency",
    "EpisodeStore",
    "FeatureExplanation",
    "FeatureMean",
    "FeatureNoise",
    "FeatureOcclusion",
    "FeatureShapley",
    "FramePreprocessor",
    "FunctionAdapter",
    "GaussianBlur",
    "Gradient",
    "GridSquaredDifference",
    "InputMaps",
    "InputSaliency",
    "IntegratedGradients",
    "KLDivergence",
    "LeaveOneOut",
    "LogitDrop",
    "Marginal",
    "MemoryShare",
    "MissingDecisionError",
    "Noise",
    "ObjectExplanation",
    "ObjectShapley",
    "PerturbationSaliency",
    "PerturbationScores",
    "ProbabilityDrop",
    "QNetworkAdapter",
    "RecordSaliencyVideo",
    "RecordVectorSaliencyVideo",
    "RecurrentAgentHook",
    "RecurrentModuleAdapter",
    "ReplayMismatchError",
    "SaliencyDetails",
    "SaliencyMaps",
    "SaliencyMethod",
    "SaliencyRecorder",
    "Scorecard",
    "Searchlight",
    "SlidingDisc",
    "SmoothGrad",
    "SquaredDifference",
    "SquaredProbabilityDifference",
    "StoreError",
    "StoredDecision",
    "StoredEpisode",
    "TotalVariation",
    "UnsafeCheckpointError",
    "ValueDifference",
    "VectorSaliencyRecorder",
    "Viewer",
    "as_adapter",
    "compute_saliency",
    "draw",
    "evaluate",
    "grid_cells",
    "load_checkpoint",
    "load_pretrained",
    "map_confidence",
    "memory_share",
    "pretrained_agents",
    "show",
    "view",
]

__version__ = "0.2.0"

# What extends a class of an optional package is imported when it is asked for; not in __all__, for `import *` must not fail without it.
_LAZY = {"FlushSaliency", "SaliencyCallback", "SaliencyVecEnv"}
"""What belongs to Stable-Baselines3, which is imported when one of these is asked for."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("saliency_wrappers.sb3"), name)
