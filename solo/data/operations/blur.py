"""Gaussian blur."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from solo.config.views import Chance
from solo.data.operations.base import Operation, Turn, chosen, separable

SIGMAS = (0.1, 2.0)

TAPS = 13
"""Hold three standard deviations of the widest blur; small views allow fewer."""


def blur(x: Tensor, sigmas: Tensor) -> Tensor:
    """Blur image i with a Gaussian of ``sigmas[i]`` pixels, mirrored at the edges.

    Like resizing, a matrix an axis and image.
    """
    height, width = x.shape[-2:]
    return separable(x, _blurring(sigmas, height), _blurring(sigmas, width))


def _blurring(sigmas: Tensor, pixels: int) -> Tensor:
    """Matrices [n, pixels, pixels]."""
    reach = min(TAPS // 2, (pixels - 1) // 2)
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


def _plan(options: Chance, u: np.ndarray) -> Iterator[Turn]:
    """Numbers: whether, and how wide."""
    views = chosen(options, u[:, 0])
    low, high = SIGMAS
    yield Turn(blur, views, (low + (high - low) * u[views, 1]).astype(np.float32))


gaussian_blur = Operation("gaussian_blur", range(30, 32), _plan)
