"""PyTorch's operators on `Changes` whose images are flattened to features: `on_features`."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from saliency_wrappers.saliency.incremental.gathered_matmul import Seen, direct, multiply
from saliency_wrappers.saliency.incremental.kernels import load_kernels
from saliency_wrappers.saliency.incremental.parallel import parallel_for
from saliency_wrappers.saliency.incremental.positions import Places
from saliency_wrappers.saliency.incremental.scratch import workspace
from saliency_wrappers.saliency.incremental.sparse_images import Changes


def on_features(changes: Changes, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run an operator on flattened images `(n, C * h * w)`: an ordinary tensor, or `NotImplemented`."""
    rule = _CELLS.get(name)
    return NotImplemented if rule is None or kwargs else rule(changes, *args)


def _linear(changes: Changes, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply references and differences separately and add them, with kernels; without kernels, multiply whole images."""
    _, channels, height, width = changes.shape
    fits = weight.ndim == 2 and weight.shape[1] == channels * height * width and weight.dtype == changes.rows.dtype
    kernels = direct(weight.T, bias) if fits else None
    if kernels is None:
        # To multiply only what changes, image by image, or group by group, takes longer.
        return functional.linear(changes.dense().flatten(1), weight, bias)
    references, seen = _differences(changes, kernels) if changes.places is None else _listed_differences(changes, changes.places)
    known = torch.cat([functional.linear(one, weight, bias) for one in references.split(1)])
    out = changes.rows.new_empty(len(changes.batch.frames), len(weight))
    multiply(kernels, seen, _by_positions(changes, weight, kernels), known, changes.batch.frames, out)
    return out


def _by_positions(changes: Changes, weight: Tensor, kernels: ModuleType) -> Tensor:
    """Rearrange weights `(C_out, C * positions)` by positions, as `multiply` takes them."""
    channels, positions = changes.shape[1], changes.batch.positions
    weights = workspace.take((weight.numel(),), weight)
    arrays = (weight.detach().reshape(len(weight), channels, positions).numpy(), weights.numpy())
    vectors = len(weight) // kernels.LANES
    parallel_for(lambda begin, end: kernels.rearrange(*arrays, begin, end), vectors, 5_000_000 // weight.numel())
    return weights


def _differences(changes: Changes, kernels: ModuleType) -> tuple[Tensor, Seen]:
    """Return the references `(f, C * positions)`, and the differences of each image's changed positions from them, 0 elsewhere."""
    batch, positions = changes.batch, changes.batch.positions
    images = changes.rows.view(len(batch.frames), positions + 1, -1)
    rows = workspace.take(tuple(images.shape), images)
    lookup = workspace.take((len(images), positions + 1), batch.changed.new_empty(0, dtype=torch.int32))
    changed = batch.changed.flatten(1).view(torch.uint8)
    arrays = [tensor.numpy() for tensor in (images, batch.frames, batch.first, changed, rows, lookup)]
    parallel_for(lambda begin, end: kernels.differ(*arrays, begin, end), len(images), 300_000 // images[0].numel())
    references = images[batch.first, :-1].transpose(1, 2).flatten(1)
    return references, _of_whole_images(changes, rows.flatten(0, 1), lookup, positions)


def _listed_differences(changes: Changes, places: Places) -> tuple[Tensor, Seen]:
    """As `_differences`, for images that list their changed positions."""
    batch, positions = changes.batch, changes.batch.positions
    image, position = places.listed[places.known :].long().unbind(1)
    own, reference = changes.rows[places.known : -1], batch.frames[image] * positions + position
    rows = workspace.take((places.changed + 1, changes.shape[1]), changes.rows)
    torch.sub(own, changes.rows.index_select(0, reference), out=rows[:-1])
    rows[-1] = 0
    lookup = torch.where(places.lookup < places.known, places.changed, places.lookup - places.known).int()
    references = changes.rows[: places.known].view(len(batch.first), positions, -1).transpose(1, 2).flatten(1)
    return references, _of_whole_images(changes, rows, lookup, places.changed)


def _of_whole_images(changes: Changes, rows: Tensor, lookup: Tensor, idle: int) -> Seen:
    positions = changes.batch.positions
    images = torch.arange(len(changes.batch.frames), dtype=torch.int32, device=rows.device)
    wholes = torch.stack([images, torch.zeros_like(images)], dim=1)
    return Seen(rows, lookup, positions, torch.arange(positions, device=rows.device)[None], wholes, idle)


def _gru_cell(
    changes: Changes, state: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None
) -> Tensor:
    """Compute `torch.gru_cell`, with the product of the state once per frame."""
    seen, own = _linear(changes, w_ih, b_ih), _own_states(changes, state)
    known = functional.linear(state, w_hh, b_hh) if own is None else _once_a_frame(own, w_hh, b_hh)
    kernels = None if own is None else _cell_kernels(3, seen, known, own)
    if own is None or kernels is None:
        return _gru_gates(seen, known if own is None else known[changes.batch.frames], state)
    out = torch.empty_like(state)
    arrays = [tensor.numpy() for tensor in (seen, known, own, changes.batch.frames, out)]
    parallel_for(lambda begin, end: kernels.gru(*arrays, begin, end), len(out), 50_000 // state.shape[1])
    return out


def _gru_gates(seen: Tensor, remembered: Tensor, state: Tensor) -> Tensor:
    (r, z, new), (r_h, z_h, new_h) = seen.chunk(3, dim=1), remembered.chunk(3, dim=1)
    r.add_(r_h).sigmoid_()
    z.add_(z_h).sigmoid_()
    new.addcmul_(r, new_h).tanh_()
    return torch.lerp(new, state, z)


def _lstm_cell(
    changes: Changes, state: Any, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute `torch.lstm_cell`, with the product of the state once per frame."""
    hx, cx = state
    seen, own, cells = _linear(changes, w_ih, b_ih), _own_states(changes, hx), _own_states(changes, cx)
    known = functional.linear(hx, w_hh, b_hh) if own is None else _once_a_frame(own, w_hh, b_hh)
    kernels = None if own is None or cells is None else _cell_kernels(4, seen, known, own, cells)
    if cells is None or kernels is None:
        return _lstm_gates(seen.add_(known if own is None else known[changes.batch.frames]), cx)
    hidden, cell = torch.empty_like(hx), torch.empty_like(cx)
    arrays = [tensor.numpy() for tensor in (seen, known, cells, changes.batch.frames, hidden, cell)]
    parallel_for(lambda begin, end: kernels.lstm(*arrays, begin, end), len(hidden), 50_000 // hx.shape[1])
    return hidden, cell


def _lstm_gates(gates: Tensor, cx: Tensor) -> tuple[Tensor, Tensor]:
    i, f, g, o = gates.chunk(4, dim=1)
    cell = f.sigmoid_().mul_(cx).addcmul_(i.sigmoid_(), g.tanh_())
    return cell.tanh().mul_(o.sigmoid_()), cell.clone()


_CELLS: dict[str, Callable[..., Any]] = {
    "gru_cell": _gru_cell,
    "lstm_cell": _lstm_cell,
    "linear": _linear,
}


def _own_states(changes: Changes, state: Tensor) -> Tensor | None:
    """Return each frame's state, `(f, hidden)`. None where the images of a frame have different states."""
    if len(state) != len(changes.batch.frames):
        return None
    own = state[changes.batch.first]
    parts = torch.tensor_split(state, changes.batch.first.tolist()[1:])
    return own if all(bool((part == one).all()) for one, part in zip(own.split(1), parts, strict=True)) else None


def _once_a_frame(own: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute the product of the state frame by frame, so that it does not depend on the other frames."""
    return torch.cat([functional.linear(one, weight, bias) for one in own.split(1)])


def _cell_kernels(gates: int, seen: Tensor, known: Tensor, *states: Tensor) -> ModuleType | None:
    """Return the kernels for a cell of so many gates. None where its tensors do not fit: kernels do not validate, PyTorch raises."""
    hidden = states[0].shape[-1]
    fit = all(one.shape[1:] == (hidden,) for one in states) and seen.shape[1] == known.shape[1] == gates * hidden
    same = all(one.dtype == torch.float32 for one in (seen, known, *states))
    return load_kernels(seen) if fit and same else None
