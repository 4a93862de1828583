"""What the page is given of an episode: `episode_row` for the list, `episode_numbers` for the curves, blocks of frames and maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saliency_wrappers.preprocessing import FramePreprocessor
from saliency_wrappers.store.files import StoreError
from saliency_wrappers.store.reader import StoredBlock, StoredEpisode
from saliency_wrappers.store.tree_schema import rebuilt
from saliency_wrappers.viewer.encoding import encode_frames, encode_maps

LONGEST_NAME = 200
"""Letters of a name, at most; the rest is left out."""


def episode_row(index: int, episode: StoredEpisode) -> dict[str, Any]:
    """Return an episode's row in the list: name, environment, seed, decisions, return, whether it is complete."""
    return _row(index, episode, list(episode.blocks()))


def episode_numbers(index: int, episode: StoredEpisode) -> dict[str, Any]:
    """Return everything of an episode but frames and maps, as JSON can hold it: NaN and infinity are None."""
    blocks = list(episode.blocks())
    header = episode.header
    numbers: dict[str, Any] = {**_row(index, episode, blocks), "block": episode.block, "picture": _picture(episode, blocks)}
    numbers["steps"] = [step for block in blocks for step in block.steps.tolist()]
    numbers["rewards"] = [number_of_page(reward) for block in blocks for reward in block.field("reward").tolist()]
    numbers["logits"] = [[number_of_page(logit) for logit in row] for block in blocks for row in _rows(block, "logits", header.logits)]
    value = header.value
    numbers["values"] = None if value is None else [number_of_page(row[0]) for block in blocks for row in _rows(block, "value", value)]
    actions = [block.action(row) for block in blocks for row in range(block.rows)]
    numbers["actions"] = [action_of_page(action) for action in actions]
    numbers["discrete"] = all(isinstance(action, int) for action in actions)
    numbers["action_names"], numbers["first_action"] = names_of_page(header.action_names), header.first_action
    numbers["layers"] = [
        {"fingerprint": name, "name": str(about.get("name", "?"))[:LONGEST_NAME]} for name, about in episode.methods.items()
    ]
    return numbers


def frames_of_block(episode: StoredEpisode, index: int, *, small: bool = False) -> bytes:
    """Return a block's frames by `encode_frames`; where frames were not kept, the newest plane of each network input, in grey."""
    block = episode.block_at(index)
    if episode.header.frames:
        return encode_frames(list(block.field("frames")), small=small)
    return encode_frames(_input_pictures(block.field("inputs")), small=small)


def maps_of_block(episode: StoredEpisode, layer: int, index: int, *, small: bool = False) -> bytes:
    """Return a block's maps of the layer-th method by `encode_maps`."""
    fingerprint = list(episode.methods)[layer]
    rows = episode.block_at(index).rows
    return encode_maps(episode.layer(fingerprint).read(index)[:rows], small=small)


def number_of_page(value: float) -> float | None:
    """Return seven significant digits, as many as a float32 has. None for NaN and infinity."""
    return float(f"{value:.7g}") if math.isfinite(value) else None


def names_of_page(names: Sequence[str] | None) -> list[str] | None:
    """Return names of actions as the page shows them; None for none."""
    return None if names is None else [name[:LONGEST_NAME] for name in names]


def action_of_page(action: Any) -> int | str:
    """Return an action as the page shows it: a whole number, or at most `LONGEST_NAME` letters."""
    return action if isinstance(action, int) else str(action)[:LONGEST_NAME]


def picture_of_page(size: tuple[int, ...], input_size: tuple[int, int] | None, preprocessor: FramePreprocessor | None) -> dict[str, Any]:
    """Return the size of the picture, the size of the network input (None when it is no image), and where that lies in the picture.

    Args:
        size: of the picture, `(H, W)`.
        input_size: of the network input, `(h, w)`. None: it is no image.
        preprocessor: tells which part of the frame the agent gets. None: all of it.
    """
    covered = np.ones(size, np.bool_) if preprocessor is None else preprocessor.covers((size[0], size[1]))
    rows, columns = np.flatnonzero(covered.any(axis=1)), np.flatnonzero(covered.any(axis=0))
    box = [int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1]
    return {"height": int(size[0]), "width": int(size[1]), "box": box, "input": None if input_size is None else [*input_size]}


def block_count(episode: StoredEpisode) -> int:
    """Return how many blocks of decisions an episode has now."""
    return -(-len(episode) // episode.block)


def _row(index: int, episode: StoredEpisode, blocks: list[StoredBlock]) -> dict[str, Any]:
    header = episode.header
    rewards = [reward for block in blocks for reward in block.field("reward").tolist()]
    return {
        "index": index,
        "name": episode.name,
        "environment": _environment(header.env_spec),
        "seed": header.seed,
        "decisions": len(rewards),
        "return": number_of_page(sum(reward for reward in rewards if math.isfinite(reward))),
        "complete": header.complete,
    }


def _environment(env_spec: dict[str, Any] | None) -> str:
    return str((env_spec or {}).get("id", "unknown environment"))[:LONGEST_NAME]


def _rows(block: StoredBlock, name: str, dtype: str) -> list[list[float]]:
    tensor = rebuilt(dtype, iter([torch.from_numpy(block.field(name))]))
    if not isinstance(tensor, Tensor):
        raise StoreError(f"Expected {name} to be one array.")
    return tensor.float().reshape(block.rows, -1).tolist()


def _picture(episode: StoredEpisode, blocks: list[StoredBlock]) -> dict[str, Any] | None:
    """None when there are no frames and the network inputs are no images."""
    if not blocks:
        return None
    inputs = blocks[0].field("inputs")
    size = (int(inputs.shape[-2]), int(inputs.shape[-1])) if inputs.ndim == 4 else None
    if episode.header.frames:
        return picture_of_page(blocks[0].field("frames").shape[1:3], size, episode.preprocessor)
    return None if size is None else picture_of_page(size, size, None)


def _input_pictures(inputs: NDArray[Any]) -> list[NDArray[np.uint8]]:
    planes = inputs[:, -1].astype(np.float32)
    span = float(planes.max() - planes.min()) or 1.0
    grey = np.rint((planes - planes.min()) * (255.0 / span)).astype(np.uint8)
    return [np.repeat(plane[..., None], 3, axis=2) for plane in grey]
