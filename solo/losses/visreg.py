"""VISReg (arXiv 2606.02572): place, scale and shape of the embeddings' distribution, apart."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy import special
from torch import Tensor, nn

from solo import distributed, rng
from solo.distributions.placed import Placed
from solo.losses.wasserstein import global_wasserstein
from solo.multivariate.slices import RandomSlices


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

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> z = torch.randn(2, 512, 16, generator=generator)  # [V, B, D]
        >>> [round(term.item(), 2) for term in VISRegTest(256)(2 * z)]  # center, scale, shape
        [0.01, 1.01, 0.0]
    """

    def __init__(self, num_projections: int = 4096, seed: int = 0) -> None:
        super().__init__()
        self.slices = RandomSlices(num_projections, seed)
        self.steps = rng.StepCounter()
        self._quantiles: dict[int, Placed] = {}

    def forward(self, z: Tensor, step: tuple[int, ...] | None = None) -> VISRegTerms:
        """The terms of center, scale and shape of a batch.

        Args:
            z: [V, B, D], this process's share of the batch.
            step: names the draw of the slices; without one, the calls are counted.
        """
        z = distributed.gather(z, dim=1)  # [V, N, D]
        mean = z.mean(1, keepdim=True)
        centred = z - mean
        std = torch.linalg.vector_norm(centred, dim=1, keepdim=True) / z.shape[1] ** 0.5
        standard = centred / std.detach().clamp(min=1e-6)
        count = z.shape[1]
        if count not in self._quantiles:
            self._quantiles[count] = Placed(normal_quantiles(count))
        (quantiles,) = self._quantiles[count].at(z.device, z.dtype)
        shape = global_wasserstein(standard, quantiles, self.slices, self.steps.named(step))
        return VISRegTerms(mean.square().mean(), (1 - std).square().mean(), shape)


def normal_quantiles(count: int) -> np.ndarray:
    """The standard normal's at 1 / (count + 1) … count / (count + 1), [count]."""
    quantiles: np.ndarray = special.ndtri(np.arange(1, count + 1) / (count + 1))
    return quantiles
