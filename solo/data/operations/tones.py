"""Solarization and equalization."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from solo.data.operations.base import Operation, always_alike


def solarize(x: Tensor, _: Tensor) -> Tensor:
    """Invert values from 128 up (of the rounded image)."""
    return torch.where(x >= 127.5, 255 - x, x)


def equalize(x: Tensor, _: Tensor) -> Tensor:
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


solarization = Operation("solarization", range(32, 33), always_alike(solarize))
equalization = Operation("equalization", range(33, 34), always_alike(equalize))
