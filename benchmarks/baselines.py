"""The two earlier ways to compute the same maps, written anew on public calls: what this library is measured against.

`published_application`: xaitk calls, a thread per frame. `code_of_2018`: scipy and torch calls, one frame and one head at a time. Each is
given what makes it fast without changing what it is (no gradients, one torch thread per worker, inputs that are preprocessed already).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import cv2
import numpy as np
import torch
from measuring import torch_threads
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import nn
from xaitk_saliency.impls.gen_classifier_conf_sal.squared_difference_scoring import SquaredDifferenceScoring
from xaitk_saliency.impls.perturb_image.sliding_radial import SlidingRadial
from xaitk_saliency.utils.masking import occlude_image_batch

from saliency_wrappers import Decision, SaliencyMaps

Array = NDArray[np.float32]


def published_application(agent: nn.Module, decisions: Sequence[Decision], workers: int) -> list[SaliencyMaps]:
    """The xaitk notebook's application: frames are handed to threads; for each frame masks are made anew, and each mask is one pass.

    Args:
        agent: called as `value, logits, state = agent((x, state))`.
        decisions: of one row each, with inputs `(1, C, h, w)`.
        workers: how many threads share the frames. Each gets one torch thread: on two cores that is the fastest.

    Returns:
        One pair of maps a decision, each scaled to [0, 1] by xaitk.
    """
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return list(pool.map(partial(_published_maps, agent), decisions))


def _published_maps(agent: nn.Module, decision: Decision) -> SaliencyMaps:
    channels = decision.inputs[0].numpy()
    image = channels[0] if len(channels) == 1 else np.moveaxis(channels, 0, -1)
    value, logits = _run(agent, decision, image)
    masks = SlidingRadial(radius=(1, 1), stride=(5, 5), sigma=(5, 5)).perturb(image)
    images = occlude_image_batch(image, masks, fill=gaussian_filter(image, sigma=(3, 3, 0)[: image.ndim]))
    outputs = [_run(agent, decision, perturbed) for perturbed in images]
    scoring = SquaredDifferenceScoring()
    actor = scoring.generate(logits, np.stack([perturbed[1] for perturbed in outputs]), masks)
    critic = scoring.generate(value, np.stack([perturbed[0] for perturbed in outputs]), masks)
    return SaliencyMaps(actor, critic)


def code_of_2018(agent: nn.Module, decisions: Sequence[Decision]) -> list[SaliencyMaps]:
    """The code beside Greydanus et al. (2018): serial, one sweep of masks for each head, mask and blur made anew for each pass.

    Two things are other than they were: the frame is not preprocessed again for each pass, and the scores are enlarged by OpenCV
    (SciPy's `imresize`, which rounded them to 8 bits, is gone). One torch thread: a second gains nothing on a single image.

    Args:
        agent: called as `value, logits, state = agent((x, state))`.
        decisions: of one row each, with inputs `(1, 1, h, w)`.

    Returns:
        One pair of maps a decision, on the raw scale of the scores.
    """
    with torch_threads(1):
        return [SaliencyMaps(_sweep(agent, decision, head=1), _sweep(agent, decision, head=0)) for decision in decisions]


def _sweep(agent: nn.Module, decision: Decision, head: int, stride: int = 5) -> Array:
    image = decision.inputs[0, 0].numpy()
    height, width = image.shape
    reference = _run(agent, decision, image)[head]
    scores = np.zeros((-(-height // stride), -(-width // stride)), np.float32)
    for row, column in np.ndindex(*scores.shape):
        mask = _disc(row * stride, column * stride, image.shape)
        perturbed = image * (1 - mask) + gaussian_filter(image, sigma=3) * mask
        output = _run(agent, decision, perturbed.astype(np.float32))[head]
        scores[row, column] = 0.5 * ((reference - output) ** 2).sum()
    return cv2.resize(scores, (width, height), interpolation=cv2.INTER_LINEAR)


def _disc(row: int, column: int, shape: tuple[int, ...]) -> NDArray[np.float64]:
    y, x = np.ogrid[: shape[0], : shape[1]]
    mask = np.zeros(shape)
    mask[(y - row) ** 2 + (x - column) ** 2 <= 1] = 1
    mask = gaussian_filter(mask, sigma=5)
    return mask / mask.max()


def _run(agent: nn.Module, decision: Decision, image: Array) -> tuple[Array, Array]:
    """One pass on one image, `(h, w)` or `(h, w, C)`: value `(1,)` and logits `(num_actions,)`."""
    channels = image[None] if image.ndim == 2 else np.moveaxis(image, -1, 0)
    with torch.no_grad():
        value, logits, _ = agent((torch.from_numpy(channels)[None], decision.state))
    return value[0].numpy(), logits[0].numpy()
