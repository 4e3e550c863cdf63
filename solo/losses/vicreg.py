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
    return distributed.all_mean(local, alike=True)


def variance_loss(z: Tensor, eps: float = 1e-4) -> Tensor:
    """Hinge that keeps each coordinate's standard deviation at 1 or above (eq. 1).

    Args:
        z: [..., N, D], whole batches.
        eps: added to the variance before the root.

    Returns:
        [...], one value a batch.
    """
    return torch.relu(1 - torch.sqrt(z.var(dim=-2) + eps)).mean(-1)


def covariance_loss(z: Tensor) -> Tensor:
    """Sum of squared off-diagonal covariances, divided by D (eq. 3 and 4).

    Args:
        z: [..., N, D], whole batches.

    Returns:
        [...], one value a batch.
    """
    count, dim = z.shape[-2:]
    centred = z - z.mean(-2, keepdim=True)
    covariance = centred.mT @ centred / (count - 1)
    own = covariance.diagonal(dim1=-2, dim2=-1)
    return (covariance.square().sum((-2, -1)) - own.square().sum(-1)) / dim


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

    Raises:
        ValueError: for a global batch of one image.
    """
    z = torch.stack((z1, z2))
    views = distributed.gather(z, dim=1)
    if views.shape[1] < 2:
        raise ValueError("the batch has one image; VICReg's variances need 2 or more")
    spread = var_loss_weight * variance_loss(views) + cov_loss_weight * covariance_loss(views)
    return sim_loss_weight * invariance_loss(z) + spread.sum()
