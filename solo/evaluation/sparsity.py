"""How sparse features are."""

from __future__ import annotations

from torch import Tensor


def l0_sparsity(z: Tensor) -> Tensor:
    """Fraction of non-zero features, the mean over rows. z: [N, D] -> scalar in [0, 1]."""
    return (z != 0).float().mean()


def l1_sparsity(z: Tensor) -> Tensor:
    """(||z||_1 / ||z||_2)^2 / D, the mean over rows. z: [N, D] -> scalar in [0, 1].

    1 / D for one active feature, 1 for equal ones; rows of zeros count as 0.
    """
    squared = z.square().sum(-1)
    ratio = z.abs().sum(-1).square() / squared.clamp(min=1e-30)
    return ratio.mean() / z.shape[-1]
