"""Tests on the empirical distribution function."""

from __future__ import annotations

import torch
from torch import Tensor

from solo.univariate.base import UnivariateTest, normal_cdf, ranks, sorted_samples


class AndersonDarling(UnivariateTest):
    """``A^2 = -N - mean_i (2i - 1) (log F(x_(i)) + log(1 - F(x_(N+1-i))))``.

    Anderson & Darling (1952): N times the integral of ``(F_N - F)^2 / (F (1 - F)) dF``, which
    weighs the tails. Its mean under the null is 1, for any N; a large value means that the sample
    is not N(0, 1), above all in the tails.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[..., N, K] -> [..., K]."""
        x = sorted_samples(x)
        count = x.shape[-2]
        lower = torch.special.log_ndtr(x)
        upper = torch.special.log_ndtr(-x).flip(-2)  # 1 - F(x) = F(-x), without cancellation
        return -count - ((2 * ranks(x) - 1) * (lower + upper)).mean(-2)


class CramerVonMises(UnivariateTest):
    """``mean_i (F(x_(i)) - (2i - 1) / (2N))^2``.

    Cramér (1928), von Mises (1931). The classical ``W^2`` is N times this plus 1 / (12 N); its
    mean under the null is 1/6, so that of this statistic is ``(1/6 - 1/(12 N)) / N``. A large
    value means that the distribution function is off anywhere.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[..., N, K] -> [..., K]."""
        return _deviations(x).square().mean(-2)


class Watson(UnivariateTest):
    """Cramér–von Mises without the part that a shift of F makes.

    Watson (1961): ``mean_i d_i^2 - (mean_i d_i)^2`` with ``d_i = F(x_(i)) - (2i - 1) / (2N)``. The
    classical ``U^2`` is N times this plus 1 / (12 N); its mean under the null is 1/12. A large
    value means that the shape is off, rather than the location.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[..., N, K] -> [..., K]."""
        return _deviations(x).var(-2, correction=0)


def _deviations(x: Tensor) -> Tensor:
    """F at the sorted samples minus its expected values, [..., N, K]."""
    x = sorted_samples(x)
    return normal_cdf(x) - (2 * ranks(x) - 1) / (2 * x.shape[-2])
