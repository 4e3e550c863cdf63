"""Raw moments."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from solo import distributed
from solo.univariate.base import UnivariateTest, check_samples


class Moments(UnivariateTest):
    """``|m_1| + sum_{k=2}^{k_max} exp(-k) |m_k - E Z^k|``, m_k the k-th raw sample moment.

    As in LeJEPA's library (arXiv 2511.08544). Null value: of order ``N^(-1/2)``, see
    ``null_mean``. A large value means that a low moment is off. Where all the listed moments
    agree the sample may still be anything; the paper's reason to prefer Epps–Pulley.

    Args:
        k_max: highest moment, >= 1.

    Raises:
        ValueError: for k_max below 1.

    Example:
        >>> x = torch.special.ndtri(torch.arange(1, 100) / 100)[:, None]  # as normal as can be
        >>> values = Moments()(torch.cat((x, x.exp()), dim=1))  # [N, K] -> [K]
        >>> [f'{value:.2g}' for value in values.tolist()]  # normal, and lognormal
        ['0.024', '7.4']
    """

    def __init__(self, k_max: int = 4) -> None:
        super().__init__()
        if k_max < 1:
            raise ValueError(f"k_max is {k_max}; at least 1 moment is needed")
        self.k_max = k_max

    def forward(self, x: Tensor) -> Tensor:
        """[..., N, K] -> [..., K]."""
        check_samples(x)
        orders = range(1, self.k_max + 1)
        moments = torch.stack([x.pow(k).mean(-2) for k in orders])
        sample = distributed.all_mean(moments, alike=True)
        return sum(  # type: ignore[return-value]
            self._weight(k) * (moment - _normal_moment(k)).abs()
            for k, moment in zip(orders, sample)
        )

    def null_mean(self, num_samples: int) -> float:
        """By the central limit theorem: ``sqrt(2 / (pi N)) sum_k weight_k sd(Z^k)``."""
        spread = [
            self._weight(k) * math.sqrt(_normal_moment(2 * k) - _normal_moment(k) ** 2)
            for k in range(1, self.k_max + 1)
        ]
        return math.sqrt(2 / (math.pi * num_samples)) * sum(spread)

    @staticmethod
    def _weight(order: int) -> float:
        return 1.0 if order == 1 else math.exp(-order)


def _normal_moment(order: int) -> float:
    """E Z^order."""
    return 0.0 if order % 2 else float(math.prod(range(order - 1, 0, -2)))
