"""Published networks, checkpoints and bundled agents. Imports preprocessing."""

from saliency_wrappers.models.checkpoints import (
    CheckpointError,
    UnsafeCheckpointError,
    load_checkpoint,
    load_pretrained,
    pretrained_agents,
)
from saliency_wrappers.models.networks import AtariLSTM, BabyA3CGRU, GreydanusLSTM

__all__ = [
    "AtariLSTM",
    "BabyA3CGRU",
    "CheckpointError",
    "GreydanusLSTM",
    "UnsafeCheckpointError",
    "load_checkpoint",
    "load_pretrained",
    "pretrained_agents",
]
