"""What is done to every image alike: the validation view, and normalisation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from solo.config import Size, sides

BICUBIC = InterpolationMode.BICUBIC


class CentreCrop(nn.Module):
    """[..., H, W] -> [..., h, w]: the middle 7/8 of the image, as much as the view's shape allows.

    For 224 px, the shorter side becomes 256 px (bicubic, antialiased) and the middle is cut out.
    """

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = sides(size)

    def forward(self, images: Tensor) -> Tensor:
        """Of the same type."""
        (tall, wide), (height, width) = self.size, images.shape[-2:]
        if tall * width > wide * height:  # the image is broader than the view
            short = round(tall * 8 / 7)
            resized = [short, int(short * width / height)]
        else:
            short = round(wide * 8 / 7)
            resized = [int(short * height / width), short]
        images = TF.resize(images, resized, BICUBIC, antialias=True)
        cropped: Tensor = TF.center_crop(images, list(self.size))
        return cropped


def validation_transform(size: Size, whole: bool) -> nn.Module:
    """[..., H, W] -> [..., h, w] of the same type, without randomness.

    Args:
        size: of the result (the first recipe's view).
        whole: take the whole image (sets of small images); else the :class:`CentreCrop`.
    """
    if whole:
        return v2.Resize(sides(size), interpolation=BICUBIC, antialias=True)
    return CentreCrop(size)


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
