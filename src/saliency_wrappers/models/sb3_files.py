"""Files of `model.save` of Stable-Baselines3: `policy_file` takes the policy's weights out of one; nothing in it is executed."""

from __future__ import annotations

import io
import json
import re
import zipfile
from typing import Any

from torch import nn

from saliency_wrappers.models.limits import LimitError

_LARGEST_DATA = 2**24
"""Bytes of the description of the algorithm, at most."""
_ACTIVATIONS: dict[str, type[nn.Module]] = {"Tanh": nn.Tanh, "ReLU": nn.ReLU, "ELU": nn.ELU, "LeakyReLU": nn.LeakyReLU, "SiLU": nn.SiLU}
_HARMLESS = ("net_arch", "activation_fn", "ortho_init", "share_features_extractor", "optimizer_class", "optimizer_kwargs", "log_std_init")
"""Arguments of a policy that the weights tell, or that do not change what it computes."""


def policy_file(content: bytes) -> tuple[bytes, type[nn.Module]] | None:
    """Return the policy's weights, as PyTorch wrote them, and its activation; None for any other file.

    Args:
        content: of the file.

    Raises:
        LimitError: parts that are larger than the file, when decompressed.
        ValueError: a policy with arguments that this package does not know.
    """
    if not content.startswith(b"PK\x03\x04"):
        return None
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
        if not {"policy.pth", "data"} <= sizes.keys():
            return None
        if sizes["policy.pth"] > len(content) or sizes["data"] > min(_LARGEST_DATA, 2 * len(content)):
            raise LimitError(f"Expected parts that are not larger than the file's {len(content)} bytes, got {sizes}.")
        return archive.read("policy.pth"), _activation(json.loads(archive.read("data")))


def _activation(described: Any) -> type[nn.Module]:
    """The activation by the algorithm's description, of which only texts are read."""
    arguments: Any = described.get("policy_kwargs") if isinstance(described, dict) else None
    arguments = {key: value for key, value in arguments.items() if not key.startswith(":")} if isinstance(arguments, dict) else {}
    unknown = sorted(set(arguments) - set(_HARMLESS))
    if unknown:
        raise ValueError(f"Expected a policy with no other arguments than {_HARMLESS}, got {unknown}: hook the model itself instead.")
    name = re.sub(r".*\.(\w+)'>$", r"\1", str(arguments.get("activation_fn", "<class 'torch.Tanh'>")))
    if name not in _ACTIVATIONS:
        raise ValueError(f"Expected activation_fn to be one of {sorted(_ACTIVATIONS)}, got {name!r}: hook the model itself instead.")
    return _ACTIVATIONS[name]
