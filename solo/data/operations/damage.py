"""Noise and erased boxes."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from solo.config.views import ErasingConfig, NoiseConfig
from solo.data.operations.base import Operation, Turn, chosen

AT_ONCE = 2**24
"""Values that get noise at a time."""

RATIOS = (0.3, 3.3)
"""Aspect ratios of erased boxes, torchvision's."""


def erase(x: Tensor, boxes: Tensor) -> Tensor:
    """Make a box of each image black.

    Args:
        x: [n, C, H, W].
        boxes: [n, 4]: its area as a part of the image's, its aspect ratio, and where it is between
            the top (left) edge at 0 and the bottom (right) edge at 1. A box that is longer than
            the image is cut.
    """
    height, width = x.shape[-2:]
    area, ratio, down, right = boxes.T
    sides = (area * height * width / ratio).sqrt(), (area * height * width * ratio).sqrt()
    inside = []
    for side, place, pixels in ((sides[0], down, height), (sides[1], right, width)):
        length = side.round().clamp(1, pixels)
        start = (place * (pixels - length + 1)).floor().minimum(pixels - length)
        pixel = torch.arange(pixels, device=x.device)
        inside.append((pixel >= start[:, None]) & (pixel < (start + length)[:, None]))
    box = inside[0][:, :, None] & inside[1][:, None, :]
    return x.masked_fill(box[:, None], 0)


def add_noise(x: Tensor, noise: Tensor) -> Tensor:
    """Add normal noise, of its own to every pixel and channel.

    Args:
        x: [n, C, H, W].
        noise: [n, 3]: the standard deviation, and two numbers in [0, 1) that say which noise.
    """
    parts = max(1, -(-x.numel() // AT_ONCE))
    if parts > 1 < len(x):  # four numbers of 64 bits for each value are at work
        chunks = zip(x.chunk(parts), noise.chunk(parts))
        return torch.cat([add_noise(some, theirs) for some, theirs in chunks])
    sigma, *names = noise.T
    first, second = ((name.double() * 2**24).long() for name in names)
    states = _mixed((first << 24 | second)[:, None] + _GAMMA)
    bits = _mixed(states + torch.arange(1, x[0].numel() + 1, device=x.device) * _GAMMA)
    # Two numbers of 24 bits, none of them the zero that has no logarithm.
    radius, angle = (((bits >> shift & 0xFFFFFF) + 0.5).float() * 2.0**-24 for shift in (40, 8))
    normal = (-2 * radius.log()).sqrt_() * (2 * math.pi * angle).cos_()
    return (x + sigma[:, None, None, None] * normal.view(x.shape)).clamp_(0, 255)


def _signed(value: int) -> int:
    """An unsigned number of 64 bits as torch's signed ones hold it."""
    return value - 2**64 if value >= 2**63 else value


_GAMMA = _signed(0x9E3779B97F4A7C15)


def _mixed(x: Tensor) -> Tensor:
    """SplitMix64's finalizer, as in :mod:`solo.rng`, on int64 that wrap around."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ _shifted(x, shift)) * _signed(factor)
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """To the right, with zeros from the left."""
    return x >> bits & (1 << 64 - bits) - 1


def _erasing(options: ErasingConfig, u: np.ndarray) -> Iterator[Turn]:
    """Numbers: whether, area, aspect ratio, top and left."""
    views = chosen(options, u[:, 0])
    low, high = options.min_scale, options.max_scale
    shortest, longest = np.log(RATIOS)
    columns = (
        low + (high - low) * u[views, 1],
        np.exp(shortest + (longest - shortest) * u[views, 2]),
        u[views, 3],
        u[views, 4],
    )
    yield Turn(erase, views, np.stack(columns, axis=1).astype(np.float32))


def _noise(options: NoiseConfig, u: np.ndarray) -> Iterator[Turn]:
    """Numbers: whether, and two that name the noise."""
    views = chosen(options, u[:, 0])
    sigmas = np.full(len(views), 255 * options.sigma)
    names = np.floor(u[views, 1:3] * 2**24) / 2**24  # as float32 holds them
    yield Turn(add_noise, views, np.column_stack((sigmas, names)).astype(np.float32))


gaussian_noise = Operation("gaussian_noise", range(39, 42), _noise)
random_erasing = Operation("random_erasing", range(42, 47), _erasing)
