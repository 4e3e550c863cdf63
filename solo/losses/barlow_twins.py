"""Barlow Twins (arXiv 2103.03230): the cross-correlation of two views shall be the identity."""

from __future__ import annotations

import torch
from torch import Tensor

from solo import distributed


def barlow_twins_loss(z1: Tensor, z2: Tensor, *, lamb: float = 5.1e-3, eps: float = 1e-5) -> Tensor:
    """Sum of (1 - C_ii)^2 and ``lamb`` times the squared off-diagonal C_ij (eq. 1).

    C is the cross-correlation over the global batch (eq. 2), of coordinates standardised with the
    batch's mean and (biased) variance.

    Args:
        z1, z2: [B, D] each, this process's share of the batch.
        lamb: weight of redundancy reduction.
        eps: added to variances.
    """
    first, second = _standardise(torch.stack((z1, z2)), eps)
    count = len(z1) * distributed.world_size()
    correlation = distributed.all_sum(first.T @ second, alike=True) / count  # [D, D]
    diagonal = correlation.diagonal()
    off = correlation.square().sum() - diagonal.square().sum()
    return (1 - diagonal).square().sum() + lamb * off


def _standardise(z: Tensor, eps: float) -> Tensor:
    mean = distributed.all_mean(z.mean(1, keepdim=True))
    centred = z - mean
    variance = distributed.all_mean(centred.square().mean(1, keepdim=True))
    return centred * (variance + eps).rsqrt()
