"""VISReg (arXiv 2606.02572): place, scale and shape of the embeddings' distribution, apart."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from solo import distributed
from solo.losses.rectified_lpjepa import sorted_distance
from solo.multivariate.directions import random_chunks


class VISRegTerms(NamedTuple):
    """What pulls embeddings to N(0, I), before weights: scalars over the global batch."""

    center: Tensor
    scale: Tensor
    shape: Tensor


class VISRegTest(nn.Module):
    """Mean to 0, standard deviations to 1, and what is left to the normal shape.

    Shape is the mean over slices of the squared distance between sorted projections of the
    standardised embeddings and the normal's quantiles at i / (N + 1). The divisor carries no
    gradient, so that scale and shape stay apart; the gradient of scale does not vanish at collapse.

    Args:
        num_projections: slices a step.
        seed: of the slices.
    """

    def __init__(self, num_projections: int = 4096, seed: int = 0) -> None:
        super().__init__()
        self.num_projections, self.seed = num_projections, seed

    def forward(self, z: Tensor, step: tuple[int, ...] = (0,)) -> VISRegTerms:
        """z: [V, B, D], this process's share of the batch; step: names the draw of the slices."""
        z = distributed.gather(z, dim=1)  # [V, N, D]
        views, samples = z.shape[:2]
        mean = z.mean(1, keepdim=True)
        centred = z - mean
        std = torch.linalg.vector_norm(centred, dim=1, keepdim=True) / samples**0.5
        standard = centred / std.detach().clamp(min=1e-6)
        start, stop = distributed.share(self.num_projections)
        slices = random_chunks(standard.detach().flatten(0, 1), self.seed, step, start, stop)
        total = distributed.all_sum(sorted_distance(standard, normal_quantiles(samples, z), slices))
        return VISRegTerms(
            center=mean.square().mean(),
            scale=(1 - std).square().mean(),
            shape=total / (views * self.num_projections),
        )


def normal_quantiles(count: int, like: Tensor) -> Tensor:
    """The standard normal's at 1 / (count + 1) … count / (count + 1), [count]."""
    levels = torch.arange(1, count + 1, dtype=torch.float64, device=like.device) / (count + 1)
    return torch.special.ndtri(levels).to(like.dtype)
