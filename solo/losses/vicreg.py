"""Variance, covariance and invariance terms of VICReg (arXiv 2105.04906), on the global batch."""

from __future__ import annotations

import torch
from torch import Tensor

from solo import distributed


def invariance_loss(z: Tensor) -> Tensor:
    """Mean squared difference of two views, averaged over all pairs of views.

    Args:
        z: [V, B, D], this process's share of the batch, V >= 2.

    Returns:
        A scalar, the mean over the global batch. The pairs are not formed: their mean is
        ``2 V / (V - 1)`` times the mean squared distance to the views' centre.
    """
    views = z.shape[0]
    if views == 2:
        local = (z[0] - z[1]).square().mean()
    else:
        local = (z - z.mean(0)).square().mean() * (2 * views / (views - 1))
    return distributed.all_mean(local)


def variance_loss(z: Tensor, eps: float = 1e-4) -> Tensor:
    """Hinge that keeps each coordinate's standard deviation at 1 or above (eq. 1).

    Args:
        z: [N, D], the whole batch.
        eps: added to the variance before the root.
    """
    return torch.relu(1 - torch.sqrt(z.var(dim=0) + eps)).mean()


def covariance_loss(z: Tensor) -> Tensor:
    """Sum of squared off-diagonal covariances, divided by D (eq. 3 and 4).

    Args:
        z: [N, D], the whole batch.
    """
    count, dim = z.shape
    centred = z - z.mean(0)
    covariance = centred.T @ centred / (count - 1)
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / dim


def vicreg_loss(
    z1: Tensor,
    z2: Tensor,
    *,
    sim_loss_weight: float = 25.0,
    var_loss_weight: float = 25.0,
    cov_loss_weight: float = 1.0,
) -> Tensor:
    """The VICReg loss (eq. 6) of two views of the global batch.

    Both regularisers are summed over the two views, as common implementations with these weights
    do; the paper's code halves the variance term.

    Args:
        z1, z2: [B, D] each, this process's share of the batch.
    """
    invariance = invariance_loss(torch.stack((z1, z2)))
    views = (distributed.gather(z1), distributed.gather(z2))
    variance = sum(variance_loss(z) for z in views)
    covariance = sum(covariance_loss(z) for z in views)
    return sim_loss_weight * invariance + var_loss_weight * variance + cov_loss_weight * covariance
