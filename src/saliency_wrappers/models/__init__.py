"""Published networks, checkpoints and bundled agents. Imports preprocessing."""

from saliency_wrappers.models.networks import (
    AtariLSTM,
    BabyA3CGRU,
    CheckpointError,
    GreydanusLSTM,
    UnsafeCheckpointError,
    load_checkpoint,
    load_pretrained,
    pretrained_agents,
)

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
