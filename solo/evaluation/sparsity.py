"""How sparse features are, and how many dimensions they really use."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from solo.distributions import GeneralizedGaussian
from solo.univariate.sorting import ascending


class SparsitySummary(NamedTuple):
    """What a set of embeddings [N, D] looks like.

    ``activity``: [D], the fraction of images in which each dimension is non-zero; ``dead``
    dimensions never are, ``always_on`` ones always; ``effective_rank``: see below.
    """

    l0: float
    l1: float
    activity: Tensor
    dead: int
    always_on: int
    effective_rank: float


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


def effective_rank(z: Tensor) -> Tensor:
    """RankMe (Garrido et al., arXiv 2210.02885): exp of the entropy of the singular values.

    Singular values of z [N, D], not centred, divided by their sum. Between 1 and min(N, D).
    """
    return effective_number(torch.linalg.svdvals(z.double()))


def effective_number(values: Tensor) -> Tensor:
    """exp of the entropy of non-negative values' shares of their sum; 1 where all are zero."""
    shares = values / values.sum().clamp(min=1e-300)
    return torch.exp(-torch.special.xlogy(shares, shares).sum())


def sparsity_summary(z: Tensor) -> SparsitySummary:
    """All of it, of embeddings z [N, D]."""
    activity = (z != 0).float().mean(0)
    return SparsitySummary(
        l0=float(l0_sparsity(z)),
        l1=float(l1_sparsity(z)),
        activity=activity,
        dead=int((activity == 0).sum()),
        always_on=int((activity == 1).sum()),
        effective_rank=float(effective_rank(z)),
    )


def marginal_distance(z: Tensor, cdf: Tensor, points: Tensor) -> Tensor:
    """Largest gap between each dimension's distribution and the target's, at some points.

    The Kolmogorov–Smirnov statistic, its supremum taken over ``points`` [T] at which the target's
    cdf is ``cdf`` [T]; z: [N, D] -> [D].
    """
    ordered = ascending(z.T)  # [D, N]
    below = torch.searchsorted(ordered, points.to(z).repeat(len(ordered), 1), right=True)
    return (below / len(z) - cdf.to(z)).abs().amax(-1)


def marginal_gap(z: Tensor, target: GeneralizedGaussian) -> float:
    """The mean over dimensions of :func:`marginal_distance` of z [N, D] to a target.

    Looked at over all of the embedding's range (targets that are not rectified have a negative
    part), and at zero, where rectified ones have an atom.
    """
    points = torch.linspace(float(z.min()), float(z.max()), 400)
    points = torch.cat([points, points.new_zeros(1)]).sort().values
    return float(marginal_distance(z, target.cdf(points.double()).float(), points).mean())


def variance_ratio(z: Tensor, target: GeneralizedGaussian) -> float:
    """Mean over dimensions of the variance of z [N, D], over the target's; 1 where they agree."""
    return float(z.double().var(0).mean()) / target.variance
