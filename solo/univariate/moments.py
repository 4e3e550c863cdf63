"""Tests on sample moments."""

from __future__ import annotations

from torch import Tensor

from solo.univariate.base import UnivariateTest, global_moments


class VCReg(UnivariateTest):
    """``N m^2 / s^2 + (N - 1) (s^2 - 1)^2 / 2``: is the mean 0 and the variance 1?

    m and s^2 are the sample mean and unbiased variance. Each term is about chi-squared with one
    degree of freedom under the null, so the mean is about 2; a large value means a wrong location
    or scale. Higher moments do not matter.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[..., N, K] -> [..., K]."""
        mean, variance, _, _, count = global_moments(x)
        return count * mean.square() / variance + (count - 1) * (variance - 1).square() / 2


class ExtendedJarqueBera(UnivariateTest):
    """VCReg's terms plus those of Jarque & Bera (1980): ``N g^2 / 6 + N (k - 3)^2 / 24``.

    g and k are skewness and kurtosis (with the unbiased standard deviation). About chi-squared
    with four degrees of freedom under the null, so the mean is about 4; a large value means that
    one of the first four moments is not that of N(0, 1).
    """

    def forward(self, x: Tensor) -> Tensor:
        """[..., N, K] -> [..., K]."""
        mean, variance, skewness, kurtosis, count = global_moments(x)
        location = count * mean.square() / variance
        scale = (count - 1) * (variance - 1).square() / 2
        shape = count * skewness.square() / 6 + count * (kurtosis - 3).square() / 24
        return location + scale + shape
