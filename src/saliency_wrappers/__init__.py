"""See what reinforcement-learning agents look at: saliency maps in `info["saliency"]` and in the video of every episode."""

from saliency_wrappers.agents import AgentAdapter, RecurrentModuleAdapter, as_adapter
from saliency_wrappers.deferred import compute_saliency
from saliency_wrappers.episodes import StoredDecision, StoredEpisode
from saliency_wrappers.hooks import RecurrentAgentHook
from saliency_wrappers.locations import StoreError
from saliency_wrappers.models import CheckpointError, UnsafeCheckpointError, load_checkpoint, load_pretrained, pretrained_agents
from saliency_wrappers.overlay import draw
from saliency_wrappers.perturbation import GaussianBlur, SlidingDisc
from saliency_wrappers.preprocessing import FramePreprocessor
from saliency_wrappers.recorder import SaliencyRecorder
from saliency_wrappers.recording import MissingDecisionError
from saliency_wrappers.records import Decision, SaliencyMaps
from saliency_wrappers.replay import ReplayMismatchError
from saliency_wrappers.saliency import PerturbationSaliency, SaliencyMethod
from saliency_wrappers.scoring import GridSquaredDifference, SquaredDifference
from saliency_wrappers.store import EpisodeStore
from saliency_wrappers.vector import VectorSaliencyRecorder
from saliency_wrappers.video import RecordSaliencyVideo

__all__ = [
    "AgentAdapter",
    "CheckpointError",
    "Decision",
    "EpisodeStore",
    "FramePreprocessor",
    "GaussianBlur",
    "GridSquaredDifference",
    "MissingDecisionError",
    "PerturbationSaliency",
    "RecordSaliencyVideo",
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
]

__version__ = "0.1.0"
