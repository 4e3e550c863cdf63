"""Whether features are spread out, or collapse to a point, to few directions, to dead ones."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from solo.evaluation.sparsity import effective_number

CONSTANT = 1e-5
"""A dimension whose deviation is below this part of its size is the same for all images."""


class Spread(NamedTuple):
    """How embeddings z [N, D] are spread, each a scalar.

    ``effective_rank``: see :func:`rank_of_moments`; ``mean_std`` and ``least_std``: of the
    dimensions' standard deviations; ``dead``: the share of dimensions that are the same for all
    images.
    """

    effective_rank: Tensor
    mean_std: Tensor
    least_std: Tensor
    dead: Tensor


def spread(z: Tensor) -> Spread:
    """All of it, of z [N, D], without reading anything back."""
    deviations = z.std(0, correction=0)
    size = z.square().mean(0).sqrt()
    dead = (deviations <= CONSTANT * size).float().mean()
    return Spread(moments_rank(z), deviations.mean(), deviations.min(), dead)


def exact(z: Tensor) -> Tensor:
    """In float64, on the CPU where a device has none."""
    return (z.cpu() if z.device.type == "mps" else z).double()


def moments_rank(z: Tensor) -> Tensor:
    """:func:`solo.evaluation.sparsity.effective_rank` of z [N, D], from the smaller Gram matrix."""
    z = exact(z)
    return rank_of_moments(z.T @ z if len(z) > z.shape[1] else z @ z.T)


def rank_of_moments(moments: Tensor) -> Tensor:
    """RankMe (arXiv 2210.02885): exp of the entropy of the singular values of z.

    Args:
        moments: z^T z or z z^T, float64: the squares of singular values are its eigenvalues.

    Returns:
        Between 1 and the size of the matrix; 0 where z is zero, NaN where it is no number.
    """
    values = torch.linalg.eigvalsh(moments.nan_to_num(0, 0, 0)).clamp(min=0)
    # Rounding leaves some 1e-16 of the largest where there is nothing.
    values = torch.where(values > 1e-14 * values.max() * len(values), values, 0).sqrt()
    rank = effective_number(values) * (values.sum() > 0)
    return torch.where(moments.isfinite().all(), rank, torch.nan)


def alignment(views: Tensor) -> Tensor:
    """Mean squared distance between two views of an image on the unit sphere.

    Wang & Isola (arXiv 2005.10242), alpha = 2.

    Args:
        views: [2, N, D].
    """
    first, second = F.normalize(views, dim=-1)
    return (first - second).square().sum(-1).mean()


def uniformity(z: Tensor) -> Tensor:
    """log of the mean of exp(-2 |x - y|^2) over pairs of images on the unit sphere, 0 or less.

    Wang & Isola (arXiv 2005.10242), t = 2. z: [N, D], N of two or more.
    """
    return torch.pdist(F.normalize(z, dim=-1)).square().mul(-2).exp().mean().log()
