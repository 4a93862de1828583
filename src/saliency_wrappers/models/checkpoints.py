"""Checkpoints: `load_checkpoint` reads a file or folder, `load_pretrained` the agents that ship with the package.

Checkpoints are untrusted: only weights are loaded, nothing in a file is executed.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, cast

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from saliency_wrappers.models.limits import LARGEST_CHECKPOINT, MOST_TIMES, ForbiddenError, LimitError, bounded_pickle, check_safetensors
from saliency_wrappers.models.networks import AtariLSTM, BabyA3CGRU, GreydanusLSTM
from saliency_wrappers.models.sb3_files import policy_file
from saliency_wrappers.models.vector_networks import VectorActorCritic, vector_network
from saliency_wrappers.preprocessing import FramePreprocessor


class CheckpointError(ValueError):
    """The file is not a checkpoint of a known network: corrupt, too large, or with weights that fit none."""


class UnsafeCheckpointError(CheckpointError):
    """The checkpoint holds objects other than weights. Loading them could run code, so nothing was loaded."""


Network = GreydanusLSTM | BabyA3CGRU | AtariLSTM | VectorActorCritic


def load_checkpoint(path: str | Path) -> Network:
    """Load a trained agent. The network and its number of actions are derived from the weights.

    Args:
        path: a checkpoint (`.tar`, `.pt`, `.safetensors`...), the file of `model.save` of PPO or A2C with an `MlpPolicy` of
            Stable-Baselines3 (of which only the policy's weights are read), or a folder, from which the highest step is taken: the number
            before the suffix, as in `strong.40.tar`.

    Returns:
        The network on the CPU, in evaluation mode, its weights float32, whatever precision the file has.

    Raises:
        FileNotFoundError: there is no such file, or no numbered checkpoint in the folder.
        UnsafeCheckpointError: the file holds more than weights.
        CheckpointError: the file is corrupt or larger than `LARGEST_CHECKPOINT`, its weights fit no known network, or they take more memory
            than twice the file's bytes.
        OSError: the file cannot be read.
    """
    file = _highest_step(Path(path))
    weights, activation = _read_weights(file)
    model = _network_for(weights, file, activation)
    unnamed = [repr(name) for name in weights if not isinstance(name, str)]
    if unnamed:
        raise CheckpointError(f"Expected weights under names in {file}, got keys that are no strings: {_names(unnamed)}.")
    own = {name: weight.to(torch.float32, copy=True, memory_format=torch.contiguous_format) for name, weight in weights.items()}
    try:
        model.load_state_dict(own, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"The weights in {file} do not fit {type(model).__name__}: {error}") from error
    return model.eval()


def load_pretrained(env_id: str) -> tuple[BabyA3CGRU, FramePreprocessor]:
    """Load a trained agent that ships with the package, and the preprocessing it was trained with.

    `data/*.md` in the package is each agent's model card.

    Args:
        env_id: the game, as for `gym.make`: one of `pretrained_agents()`.

    Returns:
        The agent on the CPU, in evaluation mode, and its preprocessor.

    Raises:
        ValueError: no agent for this environment ships with the package.
    """
    if env_id not in pretrained_agents():
        raise ValueError(
            f"No agent for {env_id!r} ships with saliency_wrappers, only for {pretrained_agents()}. Pass a checkpoint instead."
        )
    with resources.as_file(_PRETRAINED_FOLDER / _PRETRAINED[env_id]) as file:
        model = load_checkpoint(file)
    return cast(BabyA3CGRU, model), FramePreprocessor.named("greydanus2018")


def pretrained_agents() -> list[str]:
    """Return the environment ids for which a trained agent ships with the package."""
    return [env_id for env_id, name in _PRETRAINED.items() if (_PRETRAINED_FOLDER / name).is_file()]


_PRETRAINED_FOLDER = resources.files("saliency_wrappers") / "data"
_PRETRAINED = {"ALE/Breakout-v5": "breakout.safetensors", "ALE/Pong-v5": "pong.safetensors"}


def _highest_step(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise FileNotFoundError(f"Expected a checkpoint or a folder of checkpoints, found nothing at {path}.")
    files = [file for file in path.iterdir() if file.is_file()]
    numbered = [(int(match[1]), file.name, file) for file in files if (match := re.search(r"\.(\d+)\.[^.]+$", file.name))]
    if not numbered:
        raise FileNotFoundError(f"Expected checkpoints named like strong.40.tar in {path}, found none.")
    return max(numbered)[-1]


def _read_weights(file: Path) -> tuple[dict[str, Tensor], type[nn.Module] | None]:
    """The weights by their names, and the activation where the file tells it."""
    size = file.stat().st_size
    if size > LARGEST_CHECKPOINT:
        raise CheckpointError(f"Expected a checkpoint of at most {LARGEST_CHECKPOINT} bytes, got {size} bytes: {file}.")
    content, activation = (_read_safetensors(file), None) if file.suffix == ".safetensors" else _read_pickle(file)
    if isinstance(content, dict):
        content = next((content[key] for key in ("state_dict", "model_state_dict", "model") if isinstance(content.get(key), dict)), content)
    if not isinstance(content, dict) or not content or not all(_is_weight(value) for value in content.values()):
        raise CheckpointError(f"Expected a state dict of dense tensors in {file}, got {type(content).__name__} of something else.")
    taken = sum(weight.numel() * weight.element_size() for weight in content.values())
    if taken > MOST_TIMES * size:  # views of one number, repeated by a stride of 0
        raise CheckpointError(
            f"Expected weights of at most {MOST_TIMES} times the {size} bytes of {file}, got tensors that take {taken} bytes."
        )
    broken = [name for name, weight in content.items() if not _is_finite(weight, file)]
    if broken:
        raise CheckpointError(f"The weights in {file} are not finite: {_names(broken)}.")
    return content, activation


def _is_weight(value: object) -> bool:
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        return False
    return value.numel() > 0 and not value.is_meta and not value.is_complex() and not value.is_quantized


def _is_finite(weight: Tensor, file: Path) -> bool:
    try:
        return bool(torch.isfinite(weight.float()).all())
    except (RuntimeError, TypeError) as error:  # a dtype without arithmetic, such as bits8
        raise CheckpointError(f"Expected weights that are numbers in {file}, got {weight.dtype}.") from error


def _read_safetensors(file: Path) -> Any:
    try:
        check_safetensors(file)
        return safetensors.torch.load_file(file)
    except LimitError as error:
        raise CheckpointError(f"{error} File: {file}.") from error
    except Exception as error:  # a dtype that PyTorch lacks raises KeyError or AttributeError
        raise CheckpointError(f"{file} is corrupt or no safetensors file: {error}") from error


def _read_pickle(file: Path) -> tuple[Any, type[nn.Module] | None]:
    content, activation = _policy_of(file.read_bytes(), file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what is refused below
            return torch.load(io.BytesIO(bounded_pickle(content)), map_location="cpu", weights_only=True), activation
    except LimitError as error:
        raise CheckpointError(f"{error} File: {file}.") from error
    except ForbiddenError as error:
        raise _unsafe(file, str(error)) from error
    except Exception as error:  # broken bytes raise anything from EOFError to AssertionError
        # Protocols 4 and newer begin with operand 149, which the reader of weights knows as little as what follows.
        forbidden = re.search(r"GLOBAL ([\w.]+)|Unsupported operand 149", str(error))
        if forbidden:
            raise _unsafe(file, forbidden[1] or "a pickle of protocol 4 or newer") from error
        raise CheckpointError(f"{file} ({len(content)} bytes) is corrupt, cut short or no PyTorch checkpoint.") from error


def _policy_of(content: bytes, file: Path) -> tuple[bytes, type[nn.Module] | None]:
    """The weights of the policy and its activation, of a file of Stable-Baselines3; any other content as it is, and None."""
    try:
        return policy_file(content) or (content, None)
    except ValueError as error:
        raise CheckpointError(f"{error} File: {file}.") from error
    except Exception:  # a broken archive is told by what reads it
        return content, None


def _unsafe(file: Path, what: str) -> UnsafeCheckpointError:
    return UnsafeCheckpointError(
        f"{file} holds more than weights ({what}), which could run code when loaded. Nothing was loaded. Save only `model.state_dict()`."
    )


def _network_for(weights: dict[str, Tensor], file: Path, activation: type[nn.Module] | None) -> Network:
    """Return the network that weights belong to, on the meta device."""
    families = (
        ("conv4.weight", "lstm.weight_ih", GreydanusLSTM),
        ("conv4.weight", "gru.weight_ih", BabyA3CGRU),
        ("linear.weight", "lstm.weight_ih", AtariLSTM),
    )
    needed = {"conv1.weight", "actor_linear.weight", "critic_linear.weight"}
    for trunk, cell, family in families:
        if needed | {trunk, cell} <= weights.keys() and weights["conv1.weight"].ndim == 4 and weights["actor_linear.weight"].ndim == 2:
            with torch.device("meta"):
                return family(num_actions=len(weights["actor_linear.weight"]), channels=weights["conv1.weight"].shape[1])
    try:
        with torch.device("meta"):
            network = vector_network(weights, activation)
    except (IndexError, ValueError) as error:
        raise CheckpointError(f"The weights in {file} belong to no known network: {error}") from error
    if network is not None:
        return network
    raise CheckpointError(
        f"The weights in {file} belong to no known network (expected conv1..4, lstm or gru, critic_linear, actor_linear): "
        f"[{_names(sorted(map(repr, map(str, weights))))}]"
    )


def _names(names: Sequence[object]) -> str:
    """Return the first of many names as text."""
    more = [f"and {len(names) - 20} more"] if len(names) > 20 else []
    return ", ".join([*map(str, names[:20]), *more])
