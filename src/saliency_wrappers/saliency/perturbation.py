"""`PerturbationSaliency`: computes the maps of actor and critic from the same batched passes over perturbed inputs."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import chain
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor
from xaitk_saliency.interfaces.gen_classifier_conf_sal import GenerateClassifierConfidenceSaliency
from xaitk_saliency.interfaces.perturb_image import PerturbImage

from saliency_wrappers.agents.base import AgentAdapter, split_rows
from saliency_wrappers.decisions import Array, Decision, SaliencyMaps, floating_inputs
from saliency_wrappers.saliency.colour_masks import colour_fills, colour_layers
from saliency_wrappers.saliency.default_masks import default_perturber
from saliency_wrappers.saliency.fills import Fills, as_fills
from saliency_wrappers.saliency.incremental.parallel import single_torch_thread
from saliency_wrappers.saliency.masks import GaussianBlur, MaskCache, Masks, filled
from saliency_wrappers.saliency.passes import Perturbation, change_by_frame
from saliency_wrappers.saliency.paths import Evaluation, PathChoice, Plan
from saliency_wrappers.saliency.perturbed_outputs import PerturbedOutputs, of_every_mask
from saliency_wrappers.saliency.scoring import (
    GridSquaredDifference,
    PerturbationScores,
    SquaredDifference,
    added_maps,
    change_weighted,
    chosen_scores,
    saliency_map,
)
from saliency_wrappers.states import map_state

Weighting = Literal["coverage", "change"]

_TOGETHER, _PIXELS = 8, 400_000
"""How many decisions are prepared at a time: each needs a byte for every mask and pixel."""


class PerturbationSaliency:
    """Perturbation saliency of Greydanus et al. (2018), eq. 1, 2 and 4, for any xaitk perturber and generator.

    For masks m_k, input x, fill f, outputs y and incoming state h: `x_k = m_k x + (1 - m_k) f`, `s_k = 0.5 sum((y(x, h) - y(x_k, h))²)`,
    `map = sum_k s_k (1 - m_k) / sum_k (1 - m_k)`; y are the logits for the actor and the value for the critic, from the same passes.
    """

    def __init__(
        self,
        perturber: PerturbImage | None = None,
        saliency_gen: GenerateClassifierConfidenceSaliency | None = None,
        fill: Fills | None = None,
        tolerance: float = 0.0,
        batch_size: int | None = None,
        device: torch.device | str | None = None,
        path: PathChoice = "auto",
        frames: int | None = None,
        weighting: Weighting = "coverage",
        critic_gen: GenerateClassifierConfidenceSaliency | None = None,
    ) -> None:
        """Choose perturber, scores and fill; None takes those of the `"xaitk"` preset.

        Args:
            perturber: image to masks. None: `SlidingRadial(radius=(1, 1), stride=(5, 5), sigma=(5, 5))`, spaced wider on inputs of more
                than 100x100 pixels, so that there are about 300 masks.
            saliency_gen: outputs and masks to a map. None: raw `SquaredDifference()`.
            fill: what shows through where a mask is 0; a list or tuple of several, whose maps are divided by the sum of their absolute
                values and added. None: `GaussianBlur(sigma=3)`. For colour masks (`MCRISEGrid`) see `colour_fills`.
            tolerance: changes of a pixel by no more than this, relative to the input range, count as none: masks that change nothing else
                are not run, their score is 0, and on the incremental path nothing is computed for such pixels. 0.0 is exact.
            batch_size: run at most so many rows in each forward pass. None: as many as are fastest, measured at the first decision.
            device: where to compute; the agent must be there. None: where the captured inputs are.
            path: `"plain"`: whole images; `"incremental"`: only what the masks change; `"auto"`: the faster one, measured at the first
                decision, see `plan`.
            frames: one map for each of so many stacked frames, among which the channels are divided evenly: maps are `(frames, h, w)`, each
                with the other frames untouched. None: masks act on all channels at once.
            weighting: how scores become a map. `"coverage"`: each pixel gets the mean of the scores of the masks that reach it. `"change"`:
                each score goes to the pixels that its mask changes, in proportion to their change, see `change_weighted`; it needs
                `PerturbationScores`.
            critic_gen: outputs and masks to the critic's map. None: `saliency_gen`, or `SquaredDifference()` when that reads a policy.
        """
        if not tolerance >= 0:
            raise ValueError(f"Expected a tolerance >= 0, got {tolerance}.")
        if frames is not None and frames < 1:
            raise ValueError(f"Expected a positive number of frames, got {frames}.")
        self.perturber = default_perturber() if perturber is None else perturber
        self.saliency_gen = SquaredDifference() if saliency_gen is None else saliency_gen
        self.fill: Fills = GaussianBlur(sigma=3) if fill is None else fill
        self.tolerance = tolerance
        self.batch_size = batch_size
        self.device = None if device is None else torch.device(device)
        self.path: PathChoice = path
        self.frames = frames
        reads_policy = isinstance(self.saliency_gen, PerturbationScores) and self.saliency_gen.reads_policy
        self.critic_gen = critic_gen or (SquaredDifference() if reads_policy else self.saliency_gen)
        self.weighting: Weighting = weighting
        _check_parts(self.perturber, self.saliency_gen, self.critic_gen)
        _check_weighting(weighting, self.saliency_gen, self.critic_gen)
        self._fills = as_fills(self.fill)
        self._masks = MaskCache(self.perturber)
        self._evaluation = Evaluation(path, batch_size)
        self._warned = False

    def __call__(self, adapter: AgentAdapter, decisions: Sequence[Decision]) -> list[SaliencyMaps]:
        """Compute the maps.

        Args:
            adapter: the agent that decided, with the weights it had then.
            decisions: what it saw and remembered.

        Returns:
            One `SaliencyMaps` for each row of each decision, in order, as `(h, w)` float32 on a raw scale; `(frames, h, w)` with `frames`.

        Raises:
            ValueError: an input, a fill, masks or outputs of a wrong shape or not finite.
        """
        rows = [row for decision in decisions for row in split_rows(adapter, decision)]
        together = max(1, min(_TOGETHER, *(_PIXELS // max(1, row.inputs[0].numel()) for row in rows))) if rows else 1
        count = -(-len(rows) // together)
        groups = [rows[len(rows) * i // count : len(rows) * (i + 1) // count] for i in range(count)]
        return [maps for group in groups for maps in self._explain(adapter, group)]

    def plan(self, adapter: AgentAdapter, decision: Decision) -> Plan:
        """Return how the maps of a one-row decision are computed (those of the first fill), and why; it can be printed. Runs the agent."""
        with torch.inference_mode():
            masks, inputs, changes = self._prepared(adapter, decision)
            return self._evaluation.plan(adapter, self._perturbation(adapter, decision, masks, inputs, changes[0]))

    def outputs(self, adapter: AgentAdapter, decision: Decision) -> PerturbedOutputs:
        """Return the outputs of a one-row decision under every mask (and the first fill), from which maps are computed."""
        return self._outputs(adapter, [decision])[0][0][0]

    def _explain(self, adapter: AgentAdapter, decisions: Sequence[Decision]) -> list[SaliencyMaps]:
        outputs = self._outputs(adapter, decisions)
        with single_torch_thread():
            return [self._maps(decision, by_fill) for decision, by_fill in zip(decisions, outputs, strict=True)]

    def _maps(self, decision: Decision, by_fill: Sequence[Sequence[PerturbedOutputs]]) -> SaliencyMaps:
        untouched = by_fill[0][0]
        action = int(untouched.policy_logits[0].argmax() if decision.action is None else decision.action.flatten()[0])
        actor = added_maps([self._joined([self._actor_map(one, action) for one in frames]) for frames in by_fill])
        if untouched.values is None:
            return SaliencyMaps(actor, None)
        critic = [[self._map(self.critic_gen, cast(Array, one.values), one, 0) for one in frames] for frames in by_fill]
        return SaliencyMaps(actor, added_maps([self._joined(frames) for frames in critic]))

    def _joined(self, by_frame: Sequence[Array]) -> Array:
        return by_frame[0] if self.frames is None else np.stack(by_frame)

    def _outputs(self, adapter: AgentAdapter, decisions: Sequence[Decision]) -> list[list[list[PerturbedOutputs]]]:
        """For each decision and fill the outputs for each of its frames, or for all at once."""
        low, high = adapter.input_range
        with torch.inference_mode():
            with single_torch_thread():
                prepared = [self._prepared(adapter, decision) for decision in decisions]
                changes = [
                    [[change] if self.frames is None else change_by_frame(change, self.frames) for change in by_fill]
                    for _, _, by_fill in prepared
                ]
                perturbations = [
                    self._perturbation(adapter, decision, masks, inputs, change)
                    for decision, (masks, inputs, _), by_fill in zip(decisions, prepared, changes, strict=True)
                    for change in chain.from_iterable(by_fill)
                ]
            evaluated = iter(zip(perturbations, self._evaluation(adapter, perturbations), strict=True))
            return [
                [[of_every_mask(masks, *next(evaluated), high - low) for _ in frames] for frames in by_fill]
                for (masks, _, _), by_fill in zip(prepared, changes, strict=True)
            ]

    def _prepared(self, adapter: AgentAdapter, decision: Decision) -> tuple[Masks, Tensor, list[Tensor]]:
        """The masks for a decision, its input x `(1, C, h, w)` and `f - x` `(C, h, w)` for each fill f.

        For colour masks there is one change `(k, C, h, w)`, of all colours.
        """
        inputs = self._checked_inputs(decision)
        # SciPy and NumPy know no bfloat16, and blur no float16.
        image = inputs[0].to("cpu", torch.promote_types(inputs.dtype, torch.float32)).numpy()
        masks = self._masks(image)
        if masks.colours is None:
            fills = [torch.as_tensor(filled(fill, image, adapter.input_range)).to(inputs) for fill in self._fills]
            return masks, inputs, [fill - inputs[0] for fill in fills]
        if self.frames is not None or self.weighting == "change":
            raise ValueError("Expected frames=None and weighting='coverage' with colour masks, whose maps are one for each colour.")
        colours = colour_fills(self.fill, len(masks.colours), image, adapter.input_range)
        return masks, inputs, [torch.as_tensor(colours).to(inputs) - inputs[0]]

    def _perturbation(self, adapter: AgentAdapter, decision: Decision, masks: Masks, inputs: Tensor, change: Tensor) -> Perturbation:
        low, high = adapter.input_range
        start = decision.episode_start
        colours = () if masks.colours is None else colour_layers(masks.colours, change, inputs)
        return Perturbation(
            inputs=inputs,
            change=change[0] if colours else change,
            replaced=masks.on(inputs),
            changed=masks.on(inputs)[:, 0] > 0 if colours else masks.changed(inputs, change, self.tolerance * (high - low)),
            state=map_state(lambda leaf: _moved(leaf, inputs.device), decision.state),
            episode_start=None if start is None else _moved(start, inputs.device),
            recorded=(decision.logits, decision.value),
            colours=colours,
        )

    def _actor_map(self, outputs: PerturbedOutputs, chosen: int) -> Array:
        reads_policy = isinstance(self.saliency_gen, PerturbationScores) and self.saliency_gen.reads_policy
        return self._map(self.saliency_gen, outputs.policy_logits if reads_policy else outputs.logits, outputs, chosen)

    def _map(self, generator: GenerateClassifierConfidenceSaliency, rows: Array, outputs: PerturbedOutputs, chosen: int) -> Array:
        """The map of one head, whose outputs `(1 + n, k)` are the `rows`."""
        if self.weighting == "change":
            scores = chosen_scores(cast(PerturbationScores, generator), rows[0], rows[1:], chosen)
            return change_weighted(scores, outputs.masks, outputs.change, outputs.mask_changes)
        saliency = saliency_map(generator, rows[0], rows[1:], outputs.masks, chosen)
        if np.isfinite(saliency).all():
            return saliency
        if not self._warned:
            self._warned = True
            warnings.warn(f"{type(generator).__name__} gave NaN for scores that are all the same: such maps become zeros.", stacklevel=2)
        return np.nan_to_num(saliency, nan=0.0, posinf=0.0, neginf=0.0)

    def _checked_inputs(self, decision: Decision) -> Tensor:
        inputs = decision.inputs.detach()
        if inputs.ndim != 4 or len(inputs) != 1:
            hint = " For vectors use method='features'." if inputs.ndim == 2 else ""
            raise ValueError(f"Expected the input of one decision, an image (1, C, h, w), got {tuple(inputs.shape)}.{hint}")
        if inputs.shape[3] <= 4 < inputs.shape[1]:
            raise ValueError(f"Expected channels first, (1, C, h, w), got {tuple(inputs.shape)}, which looks like channels last.")
        inputs = floating_inputs(_moved(inputs, self.device or inputs.device))
        if not torch.isfinite(inputs).all():
            raise ValueError("Expected a finite network input, got NaN or infinity.")
        return inputs


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Move a tensor to a device; to a GPU through pinned memory, without waiting."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def _check_parts(perturber: object, saliency_gen: object, critic_gen: object) -> None:
    if not isinstance(perturber, PerturbImage):
        raise TypeError(f"Expected perturber to be an xaitk PerturbImage, got {type(perturber).__name__}.")
    for name, generator in (("saliency_gen", saliency_gen), ("critic_gen", critic_gen)):
        if not isinstance(generator, GenerateClassifierConfidenceSaliency):
            raise TypeError(f"Expected {name} to be an xaitk GenerateClassifierConfidenceSaliency, got {type(generator).__name__}.")


def _check_weighting(weighting: str, *generators: GenerateClassifierConfidenceSaliency) -> None:
    if weighting not in ("coverage", "change"):
        raise ValueError(f"Expected weighting to be 'coverage' or 'change', got {weighting!r}.")
    for generator in generators if weighting == "change" else ():
        if not isinstance(generator, PerturbationScores) or isinstance(generator, GridSquaredDifference):
            raise TypeError(
                f"weighting='change' needs PerturbationScores that it can weigh; {type(generator).__name__} makes its own maps."
            )
