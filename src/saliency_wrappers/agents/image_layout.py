"""`ImageLayout`: on which axis an agent's images have their channels."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class ImageLayout:
    """Converts between an agent's image layout and channels first."""

    def __init__(self, module: Any, channels_last: bool | None) -> None:
        """Choose the layout.

        Args:
            module: the agent, whose first convolution tells the layout at its first pass.
            channels_last: whether images are `(n, h, w, C)`. None: where the first axis has not as many entries as the first `nn.Conv2d`
                has input channels, and the last one has.
        """
        self._module = module
        self.last = channels_last
        """None until it is known."""

    def channels_first(self, images: Tensor) -> Tensor:
        """Return the agent's images channels first, `(n, C, h, w)`."""
        if self.last is None and images.ndim == 4:
            self.last = _has_channels_last(self._module, images)
        return images.permute(0, 3, 1, 2) if self.last and images.ndim == 4 else images

    def as_given(self, images: Tensor) -> Tensor:
        """Return images `(n, C, h, w)` in the agent's layout; vectors as they are."""
        return images.permute(0, 2, 3, 1) if self.last and images.ndim == 4 else images


def _has_channels_last(module: Any, images: Tensor) -> bool:
    layers = module.modules() if isinstance(module, nn.Module) else ()
    first = next((layer for layer in layers if isinstance(layer, nn.Conv2d)), None)
    return first is not None and images.shape[3] == first.in_channels != images.shape[1]
