"""The crop of each view: its box, and boxes of a batch to views of one size, on any device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from solo.config import Augmentation, Size, sides
from solo.data.operations.base import separable

# Which of a view's random numbers decides what.
TRIES = 10
AREA, RATIO = slice(0, TRIES), slice(TRIES, 2 * TRIES)
TOP, LEFT, FLIP = range(20, 23)

ASPECT_RATIOS = (3 / 4, 4 / 3)


def crop_boxes(
    recipe: Augmentation, u: np.ndarray, heights: np.ndarray, widths: np.ndarray
) -> np.ndarray:
    """The box of each view: top, left, height and width, [n, 4].

    The laws are torchvision's: area uniform, aspect ratio log-uniform in [3/4, 4/3] (of a view
    that is not square: times the view's own), up to ten tries, else the largest centred box.

    Args:
        recipe: one entry of ``augmentations``.
        u: random numbers, [n, NUMBERS] in [0, 1).
        heights: [n], of the images.
        widths: [n].
    """
    if not recipe.rrc.enabled:
        zeros = np.zeros_like(heights)
        return np.stack((zeros, zeros, heights, widths), axis=1)
    low, high = recipe.rrc.crop_min_scale, recipe.rrc.crop_max_scale
    area = (heights * widths)[:, None] * (low + (high - low) * u[:, AREA])
    tall, wide = sides(recipe.crop_size)
    narrowest, broadest = (ratio * wide / tall for ratio in ASPECT_RATIOS)
    log_ratios = np.log((narrowest, broadest))
    ratio = np.exp(log_ratios[0] + (log_ratios[1] - log_ratios[0]) * u[:, RATIO])
    width = np.round(np.sqrt(area * ratio)).astype(np.int64)
    height = np.round(np.sqrt(area / ratio)).astype(np.int64)
    fits = (width > 0) & (height > 0) & (width <= widths[:, None]) & (height <= heights[:, None])
    first = fits.argmax(axis=1)[:, None]
    width, height = (np.take_along_axis(x, first, axis=1)[:, 0] for x in (width, height))
    # Where no try fits: the whole image, cut to an allowed ratio, in the middle.
    none = ~fits.any(axis=1)
    widest = np.minimum(widths, np.round(heights * broadest)).astype(np.int64)
    tallest = np.minimum(heights, np.round(widths / narrowest)).astype(np.int64)
    width, height = np.where(none, widest, width), np.where(none, tallest, height)
    top = np.where(none, (heights - height) // 2, u[:, TOP] * (heights - height + 1))
    left = np.where(none, (widths - width) // 2, u[:, LEFT] * (widths - width + 1))
    return np.stack((top.astype(np.int64), left.astype(np.int64), height, width), axis=1)


def crop_and_resize(images: Tensor, boxes: np.ndarray, flip: np.ndarray, size: Size) -> Tensor:
    """Crop each image's box, resize it (bicubic, antialiased) and flip it where ``flip`` says.

    Resampling is separable and linear: one small matrix an axis and image, so that the whole
    batch is two batched matrix products.

    Args:
        images: uint8 or float [n, C, H, W].
        boxes: [n, 4].
        flip: bool [n].
        size: of the view.

    Returns:
        float32 [n, C, h, w], not clamped.
    """
    height, width = images.shape[-2:]
    top, left, tall, wide = torch.from_numpy(boxes).to(images.device, torch.float32).unbind(1)
    view_height, view_width = sides(size)
    rows = _resampling(top, tall, height, view_height)
    columns = _resampling(left, wide, width, view_width)
    flipped = np.flatnonzero(flip)
    if len(flipped):
        index = torch.from_numpy(flipped).to(images.device)
        columns[index] = columns[index].flip(1)
    return separable(images.float(), rows, columns)


def crop_files(images: Sequence[Tensor], boxes: np.ndarray, flip: np.ndarray, size: Size) -> Tensor:
    """The same for images of different sizes, one by one.

    Args:
        images: B of them, [C, H, W]; view i is of image i % B.
        boxes: [n, 4].
        flip: bool [n].
        size: of the views.

    Returns:
        [n, C, h, w] of their type: uint8 is rounded, float32 not clamped.
    """
    result = images[0].new_empty(len(boxes), len(images[0]), *sides(size))
    for i, (top, left, height, width) in enumerate(boxes.tolist()):
        box = images[i % len(images)][:, top : top + height, left : left + width]
        crop = TF.resize(box, list(sides(size)), InterpolationMode.BICUBIC, antialias=True)
        result[i] = crop.flip(-1) if flip[i] else crop
    return result


def _resampling(start: Tensor, length: Tensor, pixels: int, size: int) -> Tensor:
    """Matrices [n, size, pixels] that resize ``[start, start + length)`` to ``size`` values."""
    scale = (length / size)[:, None, None]
    stretch = scale.clamp_min(1)  # antialiasing: the kernel covers at least one input pixel
    centre = (torch.arange(size, device=start.device)[:, None] + 0.5) * scale
    pixel = torch.arange(pixels, device=start.device) - start[:, None, None] + 0.5
    x = (pixel - centre).div_(stretch).abs_()
    # Keys' cubic with a = -0.5: one polynomial up to 1, another up to 2.
    inner = (1.5 * x - 2.5) * x * x + 1
    outer = ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = torch.where(x < 1, inner, torch.where(x < 2, outer, 0.0))
    weights.mul_((pixel > 0) & (pixel < length[:, None, None]))  # only the box's own pixels
    return weights.div_(weights.sum(-1, keepdim=True))
