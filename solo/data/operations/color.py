"""Colour jitter and grayscale."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from solo.config.views import ColorJitterConfig
from solo.data.operations.base import Operation, Turn, always_alike

LUMINANCE = (0.2989, 0.587, 0.114)

# The 24 orders of brightness (0), contrast (1), saturation (2) and hue (3).
ORDERS = np.array(
    [
        [a, b, c, 6 - a - b - c]
        for a in range(4)
        for b in range(4)
        for c in range(4)
        if len({a, b, c}) == 3
    ]
)


def luminance(x: Tensor) -> Tensor:
    """[n, C, H, W] -> [n, 1, H, W]: of RGB as it is seen, of other channels the mean."""
    if x.shape[1] != 3:
        return x.mean(1, keepdim=True)
    red, green, blue = x.unbind(1)
    return (
        (LUMINANCE[0] * red).add_(green, alpha=LUMINANCE[1]).add_(blue, alpha=LUMINANCE[2])[:, None]
    )


def brightness(x: Tensor, factor: Tensor) -> Tensor:
    """Scale an image towards black."""
    return (x * factor[:, None, None, None]).clamp_(0, 255)


def contrast(x: Tensor, factor: Tensor) -> Tensor:
    """Blend an image with its mean luminance."""
    mean = luminance(x).mean((-1, -2), keepdim=True)
    return torch.lerp(mean, x, factor[:, None, None, None]).clamp_(0, 255)


def saturation(x: Tensor, factor: Tensor) -> Tensor:
    """Blend each pixel with its luminance."""
    return torch.lerp(luminance(x), x, factor[:, None, None, None]).clamp_(0, 255)


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
    ).add_(6 * shift[:, None, None])
    result = torch.empty_like(x)
    for channel, offset in enumerate((5, 3, 1)):
        k = (sixths + offset).remainder_(6)
        part = torch.minimum(k, 4 - k).clamp_(0, 1)
        torch.addcmul(top, part, chroma, value=-1, out=result[:, channel])
    return result


JITTER = (brightness, contrast, saturation, hue)


def _jitter(options: ColorJitterConfig, u: np.ndarray) -> Iterator[Turn]:
    """Numbers: whether, in which order, and a strength for each of the four."""
    strengths = (options.brightness, options.contrast, options.saturation, options.hue)
    applied = u[:, 0] < options.chance
    orders = ORDERS[(u[:, 1] * len(ORDERS)).astype(np.int64)]
    for position in range(4):
        for which, (apply, strength) in enumerate(zip(JITTER, strengths)):
            if not strength:
                continue
            views = np.flatnonzero(applied & (orders[:, position] == which))
            low, high = max(0.0, 1 - strength), 1 + strength
            if apply is hue:
                low, high = -strength, strength
            factors = low + (high - low) * u[views, 2 + which]
            yield Turn(apply, views, factors.astype(np.float32))


def to_grayscale(x: Tensor, _: Tensor) -> Tensor:
    """All three channels become the luminance."""
    return luminance(x).expand_as(x)


color_jitter = Operation("color_jitter", range(23, 29), _jitter)
grayscale = Operation("grayscale", range(29, 30), always_alike(to_grayscale))
