"""Recurrent actor-critic networks, and the checkpoints they load from.

`GreydanusLSTM` is the published Atari agent, `BabyA3CGRU` its GRU variant and the network of the bundled agents, `AtariLSTM` a smaller one.
All three act the same way: `value, logits, state = model((x, state))`.
"""

from __future__ import annotations

import io
import re
import warnings
from importlib import resources
from pathlib import Path
from typing import Any, cast

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional

from saliency_wrappers.preprocessing import FramePreprocessor

LSTMState = tuple[Tensor, Tensor]


class _ConvTrunk(nn.Module):
    """Four 3x3 convolutions of stride 2 with ELU: `(n, 1, 80, 80)` to `(n, 800)`."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 32, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(32, 32, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(32, 32, 3, stride=2, padding=1)
        self.conv4 = nn.Conv2d(32, 32, 3, stride=2, padding=1)

    def features(self, x: Tensor) -> Tensor:
        """The flattened activations of the last convolution, `(n, 800)` float32."""
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = functional.elu(conv(x))
        return x.flatten(1)


class GreydanusLSTM(_ConvTrunk):
    """The LSTM actor-critic of Greydanus et al. (2018), `visualize_atari`.

    Input: `(n, 1, 80, 80)` float32 in [0, 1] and the state `(hx, cx)`, each `(n, 256)` float32.
    """

    state_size = 256

    def __init__(self, num_actions: int, channels: int = 1) -> None:
        super().__init__(channels)
        self.lstm = nn.LSTMCell(800, self.state_size)
        self.critic_linear = nn.Linear(self.state_size, 1)
        self.actor_linear = nn.Linear(self.state_size, num_actions)

    def forward(self, inputs: tuple[Tensor, LSTMState]) -> tuple[Tensor, Tensor, LSTMState]:
        """Act once: value `(n, 1)`, logits `(n, num_actions)` and the next state."""
        x, state = inputs
        hx, cx = self.lstm(self.features(x), state)
        return self.critic_linear(hx), self.actor_linear(hx), (hx, cx)

    def initial_state(self, n: int) -> LSTMState:
        """The zero state of `n` episodes that begin."""
        zeros = self.critic_linear.weight.new_zeros(n, self.state_size)
        return zeros, zeros.clone()


class BabyA3CGRU(_ConvTrunk):
    """The GRU actor-critic of baby-a3c, which the bundled agents use: one state tensor, `(n, 256)` float32.

    Input: `(n, 1, 80, 80)` float32 in [0, 1] and the state.
    """

    state_size = 256

    def __init__(self, num_actions: int, channels: int = 1) -> None:
        super().__init__(channels)
        self.gru = nn.GRUCell(800, self.state_size)
        self.critic_linear = nn.Linear(self.state_size, 1)
        self.actor_linear = nn.Linear(self.state_size, num_actions)

    def forward(self, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Act once: value `(n, 1)`, logits `(n, num_actions)` and the next state."""
        x, state = inputs
        hx = self.gru(self.features(x), state)
        return self.critic_linear(hx), self.actor_linear(hx), hx

    def initial_state(self, n: int) -> Tensor:
        """The zero state of `n` episodes that begin."""
        return self.critic_linear.weight.new_zeros(n, self.state_size)


class AtariLSTM(nn.Module):
    """The network of `examples/train_ppo_lstm.py`: two convolutions, a linear layer, an LSTM cell and two heads.

    Input: `(n, 1, 84, 84)` float32 in [0, 1] and the state `(hx, cx)`, each `(n, 128)` float32.
    Small on purpose: it learns Breakout on two CPU cores and weighs less than 5 MB.
    """

    state_size = 128

    def __init__(self, num_actions: int, channels: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 8, stride=4)
        self.conv2 = nn.Conv2d(16, 32, 4, stride=2)
        self.linear = nn.Linear(32 * 9 * 9, 256)
        self.lstm = nn.LSTMCell(256, self.state_size)
        self.critic_linear = nn.Linear(self.state_size, 1)
        self.actor_linear = nn.Linear(self.state_size, num_actions)

    def features(self, x: Tensor) -> Tensor:
        """What the LSTM cell receives, `(n, 256)` float32."""
        x = functional.relu(self.conv1(x))
        x = functional.relu(self.conv2(x))
        return functional.relu(self.linear(x.flatten(1)))

    def forward(self, inputs: tuple[Tensor, LSTMState]) -> tuple[Tensor, Tensor, LSTMState]:
        """Act once: value `(n, 1)`, logits `(n, num_actions)` and the next state."""
        x, state = inputs
        hx, cx = cast(LSTMState, self.lstm(self.features(x), state))
        return self.critic_linear(hx), self.actor_linear(hx), (hx, cx)

    def initial_state(self, n: int) -> LSTMState:
        """The zero state of `n` episodes that begin."""
        zeros = self.critic_linear.weight.new_zeros(n, self.state_size)
        return zeros, zeros.clone()


class CheckpointError(ValueError):
    """A file is no checkpoint of a known network: corrupt, or with weights that fit none."""


class UnsafeCheckpointError(CheckpointError):
    """A checkpoint holds objects other than weights. Loading them could run code, so nothing of it was loaded."""


def load_checkpoint(path: str | Path) -> GreydanusLSTM | BabyA3CGRU | AtariLSTM:
    """Load a trained agent; the network and its number of actions are told from the weights.

    Args:
        path: a checkpoint (`.tar`, `.pt`, `.safetensors`...), or a folder, from which the highest step is taken: the number before
            the suffix, as in `strong.40.tar`.

    Returns:
        The network on the CPU, in evaluation mode, its weights float32, whatever precision the file has.

    Raises:
        FileNotFoundError: there is no such file, or no numbered checkpoint in the folder.
        UnsafeCheckpointError: the file holds more than weights.
        CheckpointError: the file is corrupt, or its weights fit no known network.
    """
    file = _highest_step(Path(path))
    weights = _read_weights(file)
    model = _network_for(weights, file)
    try:
        model.load_state_dict(weights)
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
    """The environment ids for which a trained agent ships with the package."""
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


def _read_weights(file: Path) -> dict[str, Tensor]:
    content = _read_safetensors(file) if file.suffix == ".safetensors" else _read_pickle(file)
    if isinstance(content, dict):
        content = next((content[key] for key in ("state_dict", "model_state_dict", "model") if isinstance(content.get(key), dict)), content)
    if not isinstance(content, dict) or not content or not all(_is_weight(value) for value in content.values()):
        raise CheckpointError(f"Expected a state dict of dense tensors in {file}, got {type(content).__name__} of something else.")
    broken = [str(name) for name, weight in content.items() if not torch.isfinite(weight.float()).all()]
    if broken:
        raise CheckpointError(f"The weights in {file} are not finite: {', '.join(broken)}.")
    return content


def _is_weight(value: object) -> bool:
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        return False
    return value.numel() > 0 and not value.is_meta and not value.is_complex()


def _read_safetensors(file: Path) -> Any:
    try:
        return safetensors.torch.load_file(file)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{file} is corrupt or no safetensors file: {error}") from error


def _read_pickle(file: Path) -> Any:
    content = file.read_bytes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what is refused below
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # broken bytes raise anything from EOFError to AssertionError
        # Protocols 4 and newer begin with operand 149, which the reader of weights knows as little as what follows.
        forbidden = re.search(r"GLOBAL ([\w.]+)|Unsupported operand 149", str(error))
        if forbidden:
            raise UnsafeCheckpointError(
                f"{file} holds more than weights ({forbidden[1] or 'a pickle of protocol 4 or newer'}), which could run code when loaded. "
                "Nothing was loaded. Save only `model.state_dict()`."
            ) from error
        raise CheckpointError(f"{file} ({len(content)} bytes) is corrupt, cut short or no PyTorch checkpoint.") from error


def _network_for(weights: dict[str, Tensor], file: Path) -> GreydanusLSTM | BabyA3CGRU | AtariLSTM:
    families = (
        ("conv4.weight", "lstm.weight_ih", GreydanusLSTM),
        ("conv4.weight", "gru.weight_ih", BabyA3CGRU),
        ("linear.weight", "lstm.weight_ih", AtariLSTM),
    )
    needed = {"conv1.weight", "actor_linear.weight", "critic_linear.weight"}
    for trunk, cell, family in families:
        if needed | {trunk, cell} <= weights.keys() and weights["conv1.weight"].ndim == 4 and weights["actor_linear.weight"].ndim == 2:
            return family(num_actions=len(weights["actor_linear.weight"]), channels=weights["conv1.weight"].shape[1])
    raise CheckpointError(
        f"The weights in {file} belong to no known network (expected conv1..4, lstm or gru, critic_linear, actor_linear): "
        f"{sorted(map(str, weights))}"
    )
