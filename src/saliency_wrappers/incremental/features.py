"""PyTorch's operators on `Changes` whose images are flattened to features: `on_features`."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from saliency_wrappers.incremental.changes import Changes
from saliency_wrappers.incremental.places import Places
from saliency_wrappers.incremental.products import Product, Seen, compute, direct
from saliency_wrappers.incremental.threads import share
from saliency_wrappers.incremental.workspace import workspace


def on_features(changes: Changes, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Do on the changes what was asked for features `(n, C * h * w)`: an ordinary result, or `NotImplemented`."""
    rule = _CELLS.get(name)
    return NotImplemented if rule is None or kwargs else rule(changes, *args)


def _linear(changes: Changes, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Where the kernels do it, what each image's reference gives, and what it differs by; else the product of whole images."""
    _, channels, height, width = changes.shape
    fits = weight.ndim == 2 and weight.shape[1] == channels * height * width and weight.dtype == changes.rows.dtype
    compiled = direct(weight.T, bias) if fits else None
    if compiled is None:
        # To multiply only what changes, image by image, or group by group, takes longer.
        return functional.linear(changes.dense().flatten(1), weight, bias)
    batch, matrix = changes.batch, _by_positions(changes, weight, compiled)
    references, seen = _differences(changes) if changes.places is None else _listed_differences(changes, changes.places)
    known = references @ matrix
    if bias is not None:
        known += bias
    out = changes.rows.new_empty(len(batch.frames), len(weight))
    compute(seen, Product(matrix, None), (), out)
    return out.add_(known[batch.frames] if len(known) > 1 else known)


def _by_positions(changes: Changes, weight: Tensor, compiled: ModuleType) -> Tensor:
    """Weights `(C_out, C * positions)` as a matrix `(positions * C, C_out)`."""
    channels, positions = changes.shape[1], changes.batch.positions
    matrix = workspace.take((positions, channels, len(weight)), weight)
    arrays = (weight.detach().reshape(len(weight), channels, positions).numpy(), matrix.numpy())
    share(lambda begin, end: compiled.rearrange(*arrays, begin, end), channels, 5_000_000 // weight.numel())
    return matrix.flatten(0, 1)


def _differences(changes: Changes) -> tuple[Tensor, Seen]:
    """The references, `(f, positions * C)`, and by how much the changed positions of each image differ from its own: 0 for all others."""
    batch, positions = changes.batch, changes.batch.positions
    images = changes.rows.view(len(batch.frames), positions + 1, -1)
    references = images[batch.first]
    rows = workspace.take(tuple(images.shape), images)
    torch.sub(images, references[batch.frames] if len(references) > 1 else references, out=rows)
    own = torch.arange(rows[..., 0].numel(), dtype=torch.int32, device=rows.device).view(len(images), -1)
    lookup = own[0, -1].expand_as(own).contiguous()  # the padding's differences are 0
    torch.where(batch.changed.flatten(1), own[:, :-1], own[0, -1], out=lookup[:, :-1])
    return references[:, :-1].flatten(1), _of_whole_images(changes, rows.flatten(0, 1), lookup, positions)


def _listed_differences(changes: Changes, places: Places) -> tuple[Tensor, Seen]:
    """The same of images whose changed positions are listed."""
    batch, positions = changes.batch, changes.batch.positions
    image, position = places.listed[places.known :].long().unbind(1)
    own, reference = changes.rows[places.known : -1], batch.frames[image] * positions + position
    rows = workspace.take((places.changed + 1, changes.shape[1]), changes.rows)
    torch.sub(own, changes.rows.index_select(0, reference), out=rows[:-1])
    rows[-1] = 0
    lookup = torch.where(places.lookup < places.known, places.changed, places.lookup - places.known).int()
    return changes.rows[: places.known].view(len(batch.first), -1), _of_whole_images(changes, rows, lookup, places.changed)


def _of_whole_images(changes: Changes, rows: Tensor, lookup: Tensor, idle: int) -> Seen:
    positions = changes.batch.positions
    images = torch.arange(len(changes.batch.frames), dtype=torch.int32, device=rows.device)
    wholes = torch.stack([images, torch.zeros_like(images)], dim=1)
    return Seen(rows, lookup, positions, torch.arange(positions, device=rows.device)[None], wholes, idle)


def _gru_cell(
    changes: Changes, state: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None
) -> Tensor:
    """`torch.gru_cell`, with the state's half once for each frame."""
    remembered = _once_a_frame(changes, state, w_hh, b_hh)
    seen = _linear(changes, w_ih, b_ih)
    (r, z, new), (r_h, z_h, new_h) = seen.chunk(3, dim=1), remembered.chunk(3, dim=1)
    r.add_(r_h).sigmoid_()
    z.add_(z_h).sigmoid_()
    new.addcmul_(r, new_h.expand_as(r)).tanh_()
    return torch.lerp(new, state, z)


def _lstm_cell(
    changes: Changes, state: Any, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`torch.lstm_cell`, with the state's half once for each frame."""
    hx, cx = state
    gates = _linear(changes, w_ih, b_ih).add_(_once_a_frame(changes, hx, w_hh, b_hh))
    i, f, g, o = gates.chunk(4, dim=1)
    cell = f.sigmoid_().mul_(cx).addcmul_(i.sigmoid_(), g.tanh_())
    return cell.tanh().mul_(o.sigmoid_()), cell.clone()


_CELLS: dict[str, Callable[..., Any]] = {
    "gru_cell": _gru_cell,
    "lstm_cell": _lstm_cell,
    "linear": _linear,
}


def _once_a_frame(changes: Changes, state: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`linear(state)`, `(n, outputs)`, or `(1, outputs)` for one frame; all masks of a frame share its state."""
    own, frames = state[changes.batch.first], changes.batch.frames
    if not torch.equal(own[frames], state):
        return functional.linear(state, weight, bias)
    shared = torch.cat([functional.linear(one, weight, bias) for one in own.split(1)])
    return shared[frames] if len(own) > 1 else shared
