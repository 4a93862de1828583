"""`PerturbationSaliency`: from decisions to maps, in one batched pass for actor and critic. `saliency_method` makes one from a preset.

A `SaliencyMethod` is anything that turns decisions into maps. Nothing here knows of environments.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from xaitk_saliency.impls.perturb_image.sliding_radial import SlidingRadial
from xaitk_saliency.interfaces.gen_classifier_conf_sal import GenerateClassifierConfidenceSaliency
from xaitk_saliency.interfaces.perturb_image import PerturbImage

from saliency_wrappers.agents.base import AgentAdapter, split_rows
from saliency_wrappers.perturbation import Fill, GaussianBlur, MaskCache, Masks, SlidingDisc, check_fill, filled, perturbed
from saliency_wrappers.records import Array, Decision, SaliencyMaps, map_state
from saliency_wrappers.scoring import GridSquaredDifference, SquaredDifference, saliency_map


@runtime_checkable
class SaliencyMethod(Protocol):
    """Turns decisions into maps."""

    def __call__(self, adapter: AgentAdapter, decisions: Sequence[Decision]) -> list[SaliencyMaps]:
        """One `SaliencyMaps` for each row of each decision, in order."""
        ...


class PerturbationSaliency:
    """Perturbation saliency of Greydanus et al. (2018), eq. 1, 2 and 4, for any xaitk perturber and generator.

    For masks m_k, input x, fill f, outputs y and incoming state h: `x_k = m_k x + (1 - m_k) f`, `s_k = 0.5 sum((y(x, h) - y(x_k, h))²)`,
    `map = sum_k s_k (1 - m_k) / sum_k (1 - m_k)`; y are the logits for the actor and the value for the critic, from the same passes.
    """

    def __init__(
        self,
        perturber: PerturbImage | None = None,
        saliency_gen: GenerateClassifierConfidenceSaliency | None = None,
        fill: Fill | None = None,
        tolerance: float = 0.0,
        batch_size: int | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        """Choose the parts; None takes the `"xaitk"` preset's.

        Args:
            perturber: image to masks. None: `SlidingRadial(radius=(1, 1), stride=(5, 5), sigma=(5, 5))`.
            saliency_gen: outputs and masks to a map. None: raw `SquaredDifference()`.
            fill: what shows through where a mask is 0. None: `GaussianBlur(sigma=3)`.
            tolerance: masks that change no pixel by more than this, relative to the input range, are not run: their score is 0.
                0.0 skips only those that change nothing at all, which is exact.
            batch_size: forward at most so many masks at a time. None: measured at the first decision, for each model and input shape.
            device: where to compute; the agent must be there. None: where the captured inputs are.
        """
        if not tolerance >= 0:
            raise ValueError(f"Expected a tolerance >= 0, got {tolerance}.")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"Expected a positive batch_size, got {batch_size}.")
        self.perturber = SlidingRadial(radius=(1, 1), stride=(5, 5), sigma=(5, 5)) if perturber is None else perturber
        self.saliency_gen = SquaredDifference() if saliency_gen is None else saliency_gen
        self.fill: Fill = GaussianBlur(sigma=3) if fill is None else fill
        self.tolerance = tolerance
        self.batch_size = batch_size
        self.device = None if device is None else torch.device(device)
        _check_parts(self.perturber, self.saliency_gen)
        check_fill(self.fill)
        self._masks = MaskCache(self.perturber)
        self._tuner = _BatchTuner()
        self._warned = False

    def __call__(self, adapter: AgentAdapter, decisions: Sequence[Decision]) -> list[SaliencyMaps]:
        """Compute the maps.

        Args:
            adapter: the agent that decided, with the weights it had then.
            decisions: what it saw and remembered.

        Returns:
            One `SaliencyMaps` for each row of each decision, in order, as `(h, w)` float32 on a raw scale.

        Raises:
            ValueError: an input, a fill, masks or outputs of a wrong shape or not finite.
        """
        return [self._explain(adapter, row) for decision in decisions for row in split_rows(adapter, decision)]

    def outputs(self, adapter: AgentAdapter, decision: Decision) -> PerturbedOutputs:
        """What the outputs of a one-row decision become under every mask: the numbers that maps are made of."""
        inputs = self._checked_inputs(decision)
        # SciPy and NumPy know no bfloat16, and blur no float16.
        image = inputs[0].to("cpu", torch.promote_types(inputs.dtype, torch.float32)).numpy()
        masks = self._masks(image)
        fill = torch.as_tensor(filled(self.fill, image, adapter.input_range)).to(inputs)
        replaced, change = masks.on(inputs), fill - inputs[0]
        state = map_state(lambda leaf: leaf.to(inputs.device), decision.state)

        def evaluate(rows: Tensor) -> tuple[Tensor, Tensor | None]:
            start = None if decision.episode_start is None else decision.episode_start.to(inputs.device).expand(len(rows))
            images = perturbed(inputs[0], change, _rows(replaced, rows), out=_channels_last(len(rows), inputs))
            return adapter.evaluate(images, adapter.repeat_state(state, len(rows)), start)

        with torch.inference_mode():
            rows = _changing_rows(replaced, change, self.tolerance * (adapter.input_range[1] - adapter.input_range[0]))
            size = self.batch_size or self._tuner.best_size(adapter, inputs, rows, evaluate)
            outputs = [evaluate(chunk) for chunk in torch.tensor_split(rows, -(-len(rows) // size))]
            logits = _of_every_mask([chunk[0] for chunk in outputs], rows, len(replaced))
            values = None if outputs[0][1] is None else _of_every_mask([chunk[1] for chunk in outputs], rows, len(replaced))
        return PerturbedOutputs(masks, logits, values)

    def _explain(self, adapter: AgentAdapter, decision: Decision) -> SaliencyMaps:
        outputs = self.outputs(adapter, decision)
        action = outputs.logits[0].argmax() if decision.action is None else decision.action.flatten()[0]
        critic = None if outputs.values is None else self._map(outputs.values, outputs.masks, chosen=0)
        return SaliencyMaps(self._map(outputs.logits, outputs.masks, int(action)), critic)

    def _map(self, outputs: Array, masks: Masks, chosen: int) -> Array:
        saliency = saliency_map(self.saliency_gen, outputs[0], outputs[1:], masks, chosen)
        if np.isfinite(saliency).all():
            return saliency
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{type(self.saliency_gen).__name__} gave NaN for scores that are all the same: such maps become zeros.", stacklevel=2
            )
        return np.nan_to_num(saliency, nan=0.0, posinf=0.0, neginf=0.0)

    def _checked_inputs(self, decision: Decision) -> Tensor:
        inputs = decision.inputs.detach()
        if inputs.ndim != 4 or len(inputs) != 1:
            raise ValueError(f"Expected the input of one decision, an image (1, C, h, w), got {tuple(inputs.shape)}.")
        if inputs.shape[3] <= 4 < inputs.shape[1]:
            raise ValueError(f"Expected channels first, (1, C, h, w), got {tuple(inputs.shape)}, which looks like channels last.")
        inputs = inputs.to(self.device or inputs.device)
        inputs = inputs if inputs.is_floating_point() else inputs.float()
        if not torch.isfinite(inputs).all():
            raise ValueError("Expected a finite network input, got NaN or infinity.")
        return inputs


@dataclass(frozen=True, eq=False)
class PerturbedOutputs:
    """The outputs of one decision, untouched and under every mask."""

    masks: Masks
    """The n masks."""
    logits: Array
    """`(1 + n, num_actions)` float32: on the input itself, then under each mask."""
    values: Array | None
    """`(1 + n, 1)` float32. None when the agent has no value output."""


PRESETS: dict[str, Callable[[], PerturbationSaliency]] = {
    "xaitk": PerturbationSaliency,
    "greydanus2018": lambda: PerturbationSaliency(
        perturber=SlidingDisc(radius=1, stride=5, sigma=5), saliency_gen=GridSquaredDifference(stride=5), fill=GaussianBlur(sigma=3)
    ),
}
"""Named methods: `"xaitk"`, the published application's; `"greydanus2018"`, the paper's own code."""


def saliency_method(
    method: str | SaliencyMethod = "xaitk",
    perturber: PerturbImage | None = None,
    saliency_gen: GenerateClassifierConfidenceSaliency | None = None,
    fill: Fill | None = None,
) -> SaliencyMethod:
    """A preset by its name, or a method as it is; the parts that are given replace the method's own.

    Raises:
        ValueError: no preset of this name.
        TypeError: neither a name nor a method, or parts for a method that has none.
    """
    if isinstance(method, str):
        if method not in PRESETS:
            raise ValueError(f"Expected a saliency method or the name of one, one of {sorted(PRESETS)}, got {method!r}.")
        method = PRESETS[method]()
    # xaitk's parts can be called too, and so can a class.
    if not callable(method) or isinstance(method, PerturbImage | GenerateClassifierConfidenceSaliency | type):
        raise TypeError(f"Expected a saliency method or the name of one, got {type(method).__name__}.")
    if perturber is None and saliency_gen is None and fill is None:
        return method
    if not isinstance(method, PerturbationSaliency):
        raise TypeError(f"perturber, saliency_gen and fill are parts of a PerturbationSaliency; {type(method).__name__} has none.")
    return PerturbationSaliency(
        method.perturber if perturber is None else perturber,
        method.saliency_gen if saliency_gen is None else saliency_gen,
        method.fill if fill is None else fill,
        method.tolerance,
        method.batch_size,
        method.device,
    )


class _BatchTuner:
    """Measures how many masks to run at a time: activations of too large a batch fall out of the processor's caches."""

    smallest = 16
    shares = (1, 2, 4, 8, 16)
    """Into how many equal batches the masks are cut: a small last one would waste time."""

    def __init__(self) -> None:
        self._best: dict[Hashable, int] = {}

    def best_size(self, adapter: AgentAdapter, inputs: Tensor, rows: Tensor, evaluate: Callable[[Tensor], Any]) -> int:
        """The fastest size for this agent, input shape, device and number of threads; measured once."""
        # By id: an adapter need not be hashable, and when another takes over its id only the speed is at stake.
        key = (id(adapter), inputs.shape, inputs.dtype, inputs.device, torch.get_num_threads())
        if key not in self._best:
            if len(rows) <= self.smallest:
                return self.smallest
            self._best[key] = self._measure(rows, evaluate)
        return self._best[key]

    def _measure(self, rows: Tensor, evaluate: Callable[[Tensor], Any]) -> int:
        sizes = {max(self.smallest, -(-len(rows) // share)) for share in self.shares}
        shortest = dict.fromkeys(sizes, float("inf"))
        for _ in range(4):  # in turns: what else the machine does then hits all of them
            for size in sizes:
                shortest[size] = min(shortest[size], _seconds(evaluate, rows[:size]) / size)
        return min(sizes, key=lambda size: shortest[size])


def _seconds(evaluate: Callable[[Tensor], Any], rows: Tensor) -> float:
    start = time.perf_counter()
    evaluate(rows)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _rows(tensor: Tensor, rows: Tensor) -> Tensor:
    """These ascending rows: a view where they follow each other, which they mostly do, else a copy."""
    first, last = int(rows[0]), int(rows[-1])
    return tensor[first : last + 1] if last - first == len(rows) - 1 else tensor[rows]


def _channels_last(n: int, like: Tensor) -> Tensor:
    """An empty `(n, C, h, w)` in the layout in which convolutions are fastest; `memory_format` would ignore it where C is 1."""
    _, channels, height, width = like.shape
    strides = (channels * height * width, 1, width * channels, channels)
    return torch.empty_strided((n, channels, height, width), strides, dtype=like.dtype, device=like.device)


def _changing_rows(replaced: Tensor, change: Tensor, tolerance: float) -> Tensor:
    """Row 0, which is untouched, and the rows of masks that change some pixel by more than `tolerance`."""
    largest = (replaced[1:, 0] * change.abs().amax(dim=0)).flatten(1).amax(dim=1)
    changing = (largest > tolerance).nonzero().flatten() + 1
    return torch.cat([changing.new_zeros(1), changing])


def _of_every_mask(chunks: Sequence[Tensor | None], rows: Tensor, n: int) -> Array:
    """The outputs `(n, outputs)`: those that were run, and the untouched ones where a mask changes nothing; 0 for forbidden actions."""
    run = torch.cat([chunk.reshape(len(chunk), -1) for chunk in chunks if chunk is not None]).float()
    run[:, run[0] == -torch.inf] = 0  # an action that is forbidden has no say
    finite = torch.isfinite(run).all(dim=1)
    if not finite.all():
        first = int(finite.int().argmin())
        where = "" if first == 0 else " on a perturbed input"
        raise ValueError(f"The agent's output{where} is not finite: {run[first].tolist()}.")
    every = run[:1].repeat(n, 1)
    every[rows] = run
    return every.cpu().numpy()


def _check_parts(perturber: object, saliency_gen: object) -> None:
    if not isinstance(perturber, PerturbImage):
        raise TypeError(f"Expected perturber to be an xaitk PerturbImage, got {type(perturber).__name__}.")
    if not isinstance(saliency_gen, GenerateClassifierConfidenceSaliency):
        raise TypeError(f"Expected saliency_gen to be an xaitk GenerateClassifierConfidenceSaliency, got {type(saliency_gen).__name__}.")
