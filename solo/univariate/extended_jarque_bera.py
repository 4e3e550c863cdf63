"""Four moments."""

from __future__ import annotations

from torch import Tensor

from solo.univariate.base import UnivariateTest, global_moments


class ExtendedJarqueBera(UnivariateTest):
    """VCReg's two terms plus ``N g^2 / 6 + N (k - 3)^2 / 24``.

    The last two are those of Jarque & Bera (1980), g and k being skewness and kurtosis (with the
    unbiased standard deviation). Null value: about 4, as the sum is chi-squared with four degrees
    of freedom in the limit; ``null_mean`` is exact for any N. A large value means that one of the
    first four moments is not that of N(0, 1).

    Example:
        >>> x = torch.special.ndtri(torch.arange(1, 100) / 100)[:, None]  # as normal as can be
        >>> values = ExtendedJarqueBera()(torch.cat((x, x.exp()), dim=1))  # [N, K] -> [K]
        >>> [f'{value:.2g}' for value in values.tolist()]  # normal, and lognormal
        ['0.94', '6e+02']
    """

    def forward(self, x: Tensor) -> Tensor:
        """[..., N, K] -> [..., K]."""
        mean, variance, skewness, kurtosis, count = global_moments(x)
        location = count * mean.square() / variance
        scale = (count - 1) * (variance - 1).square() / 2
        shape = count * skewness.square() / 6 + count * (kurtosis - 3).square() / 24
        return location + scale + shape

    def null_mean(self, num_samples: int) -> float:
        """Exact: moments of sample skewness and kurtosis by Fisher (1930)."""
        n = num_samples
        if n <= 3:
            return float("inf")
        unbiased = (n - 1) / n
        skewness = unbiased**3 * 6 * (n - 2) / ((n + 1) * (n + 3))
        mean = unbiased**2 * 3 * (n - 1) / (n + 1)
        spread = unbiased**4 * 24 * n * (n - 2) * (n - 3) / ((n + 1) ** 2 * (n + 3) * (n + 5))
        kurtosis = spread + (mean - 3) ** 2
        return 1 + (n - 1) / (n - 3) + n * skewness / 6 + n * kurtosis / 24
