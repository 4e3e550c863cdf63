"""Features of patches as pictures: principal components as colours."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Palette(NamedTuple):
    """Three principal directions and the range that is spread over the colours."""

    mean: Tensor
    """[C]"""
    basis: Tensor
    """[C, 3], orthonormal; zero where there are fewer directions."""
    low: Tensor
    """[3]"""
    high: Tensor
    """[3]"""

    @classmethod
    def of(cls, maps: Tensor) -> Palette:
        """From feature maps [N, C, h, w], all places of all images together.

        A sign is chosen such that each component is skewed to the right, so that the same features
        have the same colours whatever the solver returned; the range leaves out one place in a
        hundred on either side.
        """
        flat = maps.permute(0, 2, 3, 1).flatten(0, 2).double()
        mean = flat.mean(0)
        centred = flat - mean
        _, vectors = torch.linalg.eigh(centred.T @ centred)
        basis = vectors.flip(1)[:, :3]
        scores = centred @ basis
        basis = basis * torch.where(scores.pow(3).sum(0) < 0, -1.0, 1.0)
        basis = torch.nn.functional.pad(basis, (0, 3 - basis.shape[1]))
        scores = centred @ basis
        low, high = (_quantile(scores, level) for level in (0.01, 0.99))
        return cls(mean.float(), basis.float(), low.float(), high.float())

    def paint(self, maps: Tensor) -> Tensor:
        """Feature maps [N, C, h, w] -> colours [N, 3, h, w] in [0, 1]."""
        scores = torch.einsum("nchw,ck->nkhw", maps - self.mean[:, None, None], self.basis)
        low, high = (bound[:, None, None] for bound in (self.low, self.high))
        return ((scores - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)


def _quantile(values: Tensor, level: float) -> Tensor:
    """Of each column, any number of rows (``torch.quantile`` ends at 2^24)."""
    rank = min(len(values), max(1, round(level * len(values))))
    return values.kthvalue(rank, dim=0).values
