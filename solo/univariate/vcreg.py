"""Mean and variance."""

from __future__ import annotations

from torch import Tensor

from solo.univariate.base import UnivariateTest, global_moments


class VCReg(UnivariateTest):
    """``N m^2 / s^2 + (N - 1) (s^2 - 1)^2 / 2``: is the mean 0 and the variance 1?

    m and s^2 are the sample mean and unbiased variance (the sliced view of VICReg's terms, LeJEPA,
    arXiv 2511.08544). Null value: ``1 + (N - 1) / (N - 3)``, as the first term is the square of a
    t statistic. A large value means a wrong location or scale; higher moments do not matter.

    Example:
        >>> x = torch.special.ndtri(torch.arange(1, 100) / 100)[:, None]  # as normal as can be
        >>> values = VCReg()(torch.cat((x, x.exp()), dim=1))  # [N, K] -> [K]
        >>> [f'{value:.2g}' for value in values.tolist()]  # normal, and lognormal
        ['0.23', '2.5e+02']
    """

    def forward(self, x: Tensor) -> Tensor:
        """[..., N, K] -> [..., K]."""
        mean, variance, _, _, count = global_moments(x)
        return count * mean.square() / variance + (count - 1) * (variance - 1).square() / 2

    def null_mean(self, num_samples: int) -> float:
        """``1 + (N - 1) / (N - 3)``, exactly; infinite up to N = 3."""
        if num_samples <= 3:
            return float("inf")
        return 1 + (num_samples - 1) / (num_samples - 3)
