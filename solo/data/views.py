"""View recipes: what each entry of ``augmentations`` does to an image."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import InterpolationMode

from solo.config import Augmentation

BICUBIC = InterpolationMode.BICUBIC


def view_transform(recipe: Augmentation) -> v2.Transform:
    """uint8 [3, H, W] -> uint8 [3, crop_size, crop_size], one random view.

    The order is that of the field: random resized crop (bicubic), colour jitter, grayscale,
    Gaussian blur, solarization, equalization, horizontal flip. Views stay uint8; the step turns
    them into normalised floats on the device.
    """
    size = recipe.crop_size
    steps: list[nn.Module] = []
    if recipe.rrc.enabled:
        scale = (recipe.rrc.crop_min_scale, recipe.rrc.crop_max_scale)
        steps.append(v2.RandomResizedCrop(size, scale=scale, interpolation=BICUBIC, antialias=True))
    else:
        steps.append(v2.Resize((size, size), interpolation=BICUBIC, antialias=True))
    jitter = recipe.color_jitter
    if jitter.active:
        colours = v2.ColorJitter(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
        steps.append(v2.RandomApply([colours], p=jitter.prob))
    if recipe.grayscale.active:
        steps.append(v2.RandomGrayscale(recipe.grayscale.prob))
    if recipe.gaussian_blur.active:
        # 13 taps hold three standard deviations of the widest blur; small views allow fewer.
        taps = min(13, 2 * ((size - 1) // 2) + 1)
        steps.append(
            v2.RandomApply([v2.GaussianBlur(taps, sigma=(0.1, 2.0))], p=recipe.gaussian_blur.prob)
        )
    if recipe.solarization.active:
        steps.append(v2.RandomSolarize(threshold=128, p=recipe.solarization.prob))
    if recipe.equalization.active:
        steps.append(v2.RandomEqualize(p=recipe.equalization.prob))
    if recipe.horizontal_flip.active:
        steps.append(v2.RandomHorizontalFlip(recipe.horizontal_flip.prob))
    return v2.Compose(steps)


def validation_transform(crop_size: int, whole: bool) -> v2.Transform:
    """uint8 [3, H, W] -> uint8 [3, crop_size, crop_size], without randomness.

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
    """uint8 images [..., 3, H, W] -> float32, standardised channel by channel."""

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        scale = 1 / (255 * torch.tensor(std, dtype=torch.float64))
        shift = -torch.tensor(mean, dtype=torch.float64) / torch.tensor(std, dtype=torch.float64)
        self.register_buffer("scale", scale.float()[:, None, None], persistent=False)
        self.register_buffer("shift", shift.float()[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """[..., 3, H, W] uint8 -> the same shape, float32."""
        return torch.addcmul(self.shift, images.float(), self.scale)
