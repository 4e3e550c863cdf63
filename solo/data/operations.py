"""Batched image operations with parameters of their own for every image, on any device.

Images are float32 [n, C, H, W] in [0, 255]. Each operation follows torchvision's definition for
float images; only the results of the last one are rounded.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from solo.data.plans import ViewPlan

LUMINANCE = (0.2989, 0.587, 0.114)
BLUR_TAPS = 13
"""Hold three standard deviations of the widest blur; small views allow fewer."""


def crop_and_resize(images: Tensor, plan: ViewPlan) -> Tensor:
    """Crop each image's box, resize it (bicubic, antialiased) and flip it where the plan says.

    Resampling is separable and linear: one small matrix an axis and image, so that the whole
    batch is two batched matrix products.

    Args:
        images: uint8 or float [n, C, H, W].
        plan: of n views.

    Returns:
        float32 [n, C, size, size], not clamped.
    """
    height, width = images.shape[-2:]
    boxes = torch.from_numpy(plan.boxes).to(images.device, torch.float32)
    rows = _resampling(boxes[:, 0], boxes[:, 2], height, plan.size)
    columns = _resampling(boxes[:, 1], boxes[:, 3], width, plan.size)
    flipped = np.flatnonzero(plan.flip)
    if len(flipped):
        index = torch.from_numpy(flipped).to(images.device)
        columns[index] = columns[index].flip(1)
    return _separable(images.float(), rows, columns)


def _separable(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """``rows_i @ image_i @ columns_i^T``: [n, C, H, W], [n, h, H] and [n, w, W] -> [n, C, h, w]."""
    count, channels, height, width = images.shape
    narrow = images.reshape(count, channels * height, width) @ columns.mT
    narrow = narrow.view(count, channels, height, columns.shape[1])
    result = images.new_empty(count, channels, rows.shape[1], columns.shape[1])
    for channel in range(channels):
        result[:, channel] = rows @ narrow[:, channel]
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


def finish(images: Tensor, plan: ViewPlan) -> Tensor:
    """Colours: jitter, grayscale, blur, solarization, equalization, in that order.

    Args:
        images: float32 [n, 3, H, W]; overwritten.
        plan: of n views.

    Returns:
        uint8 [n, 3, H, W].
    """
    images.clamp_(0, 255)
    for operation, views, factors in plan.jitter:
        factor = torch.from_numpy(factors).to(images.device)[:, None, None, None]
        _replace(images, views, lambda x, o=operation, f=factor: _JITTER[o](x, f))
    _replace(images, plan.grayscale, lambda x: luminance(x).expand_as(x))
    sigmas = torch.from_numpy(plan.sigmas).to(images.device)
    _replace(images, plan.blur, lambda x: gaussian_blur(x, sigmas))
    _replace(images, plan.solarize, lambda x: torch.where(x >= 127.5, 255 - x, x))
    _replace(images, plan.equalize, equalize)
    return images.round_().to(torch.uint8)


def _replace(images: Tensor, views: np.ndarray, operation: object) -> None:
    """Put the operation's result in place of the chosen images."""
    if len(views):
        index = torch.from_numpy(views).to(images.device)
        images.index_copy_(0, index, operation(images.index_select(0, index)))  # type: ignore[operator]


def luminance(x: Tensor) -> Tensor:
    """[n, 3, H, W] -> [n, 1, H, W]."""
    red, green, blue = x.unbind(1)
    return (
        (LUMINANCE[0] * red).add_(green, alpha=LUMINANCE[1]).add_(blue, alpha=LUMINANCE[2])[:, None]
    )


def brightness(x: Tensor, factor: Tensor) -> Tensor:
    """Towards black."""
    return (x * factor).clamp_(0, 255)


def contrast(x: Tensor, factor: Tensor) -> Tensor:
    """Towards the mean luminance of the image."""
    return torch.lerp(luminance(x).mean((-1, -2), keepdim=True), x, factor).clamp_(0, 255)


def saturation(x: Tensor, factor: Tensor) -> Tensor:
    """Towards the luminance of the pixel."""
    return torch.lerp(luminance(x), x, factor).clamp_(0, 255)


def hue(x: Tensor, shift: Tensor) -> Tensor:
    """Turn the colour circle of HSV by ``shift`` turns."""
    red, green, blue = x.unbind(1)
    top, bottom = x.amax(1), x.amin(1)
    chroma = top - bottom
    safe = chroma.clamp_min(1e-6)
    # The hue in sixths of a turn, up to multiples of six.
    sixths = torch.where(
        top == red,
        (green - blue) / safe,
        torch.where(top == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    ).add_(6 * shift[:, 0])
    result = torch.empty_like(x)
    for channel, offset in enumerate((5, 3, 1)):
        k = (sixths + offset).remainder_(6)
        part = torch.minimum(k, 4 - k).clamp_(0, 1)
        torch.addcmul(top, part, chroma, value=-1, out=result[:, channel])
    return result


_JITTER = (brightness, contrast, saturation, hue)


def gaussian_blur(x: Tensor, sigmas: Tensor) -> Tensor:
    """Blur image i with a Gaussian of ``sigmas[i]`` pixels, mirrored at the edges.

    Like resizing, a matrix an axis and image.
    """
    height, width = x.shape[-2:]
    return _separable(x, _blurring(sigmas, height), _blurring(sigmas, width))


def _blurring(sigmas: Tensor, pixels: int) -> Tensor:
    """Matrices [n, pixels, pixels]."""
    reach = min(BLUR_TAPS // 2, (pixels - 1) // 2)
    offsets = torch.arange(-reach, reach + 1, device=sigmas.device, dtype=sigmas.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigmas[:, None]).square())
    kernel = kernel / kernel.sum(-1, keepdim=True)  # [n, taps]
    taken = torch.arange(pixels, device=sigmas.device)[:, None] + torch.arange(
        -reach, reach + 1, device=sigmas.device
    )
    taken = taken.abs()
    taken = torch.where(taken >= pixels, 2 * (pixels - 1) - taken, taken)  # mirrored
    one_hot = F.one_hot(taken, pixels).to(kernel.dtype)  # [pixels, taps, pixels]
    return torch.einsum("nt,ptq->npq", kernel, one_hot)


def equalize(x: Tensor) -> Tensor:
    """Spread each channel's histogram evenly (of the rounded image)."""
    levels = x.round().long().flatten(0, 1).flatten(1)  # [n C, pixels]
    histogram = torch.zeros(len(levels), 256, dtype=torch.long, device=x.device)
    histogram.scatter_add_(1, levels, torch.ones_like(levels))
    highest = levels.amax(1, keepdim=True)
    step = (levels.shape[1] - histogram.gather(1, highest)) // 255
    safe = step.clamp_min(1)
    table = (F.pad(histogram.cumsum(1)[:, :-1], (1, 0)) + safe // 2) // safe
    table = torch.where(step > 0, table.clamp_max(255), torch.arange(256, device=x.device))
    return table.gather(1, levels).view(x.shape).to(x.dtype)
