"""Weak-SIGReg: the covariance of a random sketch against the identity."""

from __future__ import annotations

import torch
from torch import Tensor

from solo import distributed, rng
from solo.multivariate.base import MultivariateTest


class WeakSIGReg(MultivariateTest):
    """``|cov(x S^T) - I|_F`` of a random sketch (Akbar 2026, arXiv 2603.05924).

    S has independent N(0, 1 / D) entries; where D is at most the sketch's, x is taken as it is. The
    covariance is the unbiased one of the centred sample, so that a shift is not seen, nor anything
    beyond second moments. Null value of the squared norm, k the sketch's dimension:
    ``E |S S^T - I|^2 + E [tr(W)^2 + tr(W^2)] / (N - 1)`` with W = S S^T, a Wishart matrix.

    Args:
        sketch_dim: k, rows of S.
        squared: the squared norm, which is smooth at its minimum; the published code has the norm.
        seed: names the stream of sketches; every process draws the same ones.

    Raises:
        ValueError: for a sketch of no dimensions.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = torch.randn(200, 3, generator=generator)
        >>> [f'{WeakSIGReg()(sample).item():.2g}' for sample in (x, 1.5 * x)]
        ['0.2', '2.3']
    """

    def __init__(self, sketch_dim: int = 64, squared: bool = False, seed: int = 0) -> None:
        super().__init__()
        if not isinstance(sketch_dim, int) or sketch_dim < 1:
            raise ValueError(f"sketch_dim is {sketch_dim}; it must be an integer, at least 1")
        self.sketch_dim, self.squared, self.seed = sketch_dim, squared, seed
        self.steps = rng.StepCounter()

    def forward(self, x: Tensor, step: tuple[int, ...] | None = None) -> Tensor:
        """[..., N, D] -> [...]."""
        if x.ndim < 2:
            raise ValueError(f"Expected 2D input [N, D], or batches of it, not {tuple(x.shape)}")
        count, dim = x.shape[-2] * distributed.world_size(), x.shape[-1]
        if count < 2:
            raise ValueError(f"the samples have shape {tuple(x.shape)}; at least 2 are needed")
        step = self.steps.named(step)
        if dim > self.sketch_dim:
            generator = rng.generator(self.seed, "sketch", *step, device=x.device)
            sketch = torch.randn(
                self.sketch_dim, dim, generator=generator, device=x.device, dtype=x.dtype
            )
            x = x @ sketch.T / dim**0.5
        x = x - distributed.all_mean(x.mean(-2, keepdim=True))
        covariance = distributed.all_mean(x.mT @ x / x.shape[-2], alike=True)
        covariance = covariance * (count / (count - 1))
        identity = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        square = (covariance - identity).square().sum((-2, -1))
        return square if self.squared else square.sqrt()

    def null_mean(self, num_samples: int, dim: int) -> float:
        """Of the squared norm exactly; else its root, by a few per cent too large for small k."""
        k = min(dim, self.sketch_dim)
        sketch, trace, of_square = 0.0, float(k * k), float(k)
        if dim > k:
            sketch = k * (k + 1) / dim
            trace, of_square = k * k + 2 * k / dim, k * (dim + k + 1) / dim
        square = sketch + (trace + of_square) / (num_samples - 1)
        return float(square if self.squared else square**0.5)
