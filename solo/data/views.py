"""What is done to every image alike: the validation view, and normalisation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import InterpolationMode

BICUBIC = InterpolationMode.BICUBIC


def validation_transform(crop_size: int, whole: bool) -> v2.Transform:
    """[..., H, W] -> [..., crop_size, crop_size] of the same type, without randomness.

    Args:
        crop_size: side of the result (the first recipe's view).
        whole: take the whole image (sets of small images); else the centre crop of a resize to
            8/7 of crop_size, 256 for 224.
    """
    if whole:
        return v2.Resize((crop_size, crop_size), interpolation=BICUBIC, antialias=True)
    return v2.Compose(
        [
            v2.Resize(round(crop_size * 8 / 7), interpolation=BICUBIC, antialias=True),
            v2.CenterCrop(crop_size),
        ]
    )


class Normalize(nn.Module):
    """Images [..., C, H, W] in 0 to 255 -> float32, standardised channel by channel."""

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.mean, self.std = mean, std
        self.register_buffer("scale", torch.empty(len(std), 1, 1), persistent=False)
        self.register_buffer("shift", torch.empty(len(std), 1, 1), persistent=False)
        self._fill()

    def _fill(self) -> None:
        for buffer, values in (
            (self.scale, [1 / (255 * std) for std in self.std]),
            (self.shift, [-mean / std for mean, std in zip(self.mean, self.std)]),
        ):
            buffer.copy_(torch.tensor(values, dtype=torch.float64)[:, None, None])

    def _apply(self, *args: Any, **kwargs: Any) -> Normalize:
        """With another precision or device, the constants of that precision."""
        super()._apply(*args, **kwargs)
        if not self.scale.is_meta:
            self._fill()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """[..., C, H, W] -> the same shape, float32 (or the network's own precision)."""
        return torch.addcmul(self.shift, images.to(self.scale.dtype), self.scale)
