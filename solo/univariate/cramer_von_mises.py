"""Cramér–von Mises."""

from __future__ import annotations

import torch
from torch import Tensor

from solo.univariate.base import OrderTest, ranks


def edf_deviations(x: Tensor) -> Tensor:
    """``F(x_(i)) - (2i - 1) / (2N)`` of sorted samples [..., N]."""
    return torch.special.ndtr(x) - (2 * ranks(x) - 1) / (2 * x.shape[-1])


class CramerVonMises(OrderTest):
    """``mean_i (F(x_(i)) - (2i - 1) / (2N))^2``.

    Cramér (1928), von Mises (1931). The classical ``W^2`` is N times this plus 1 / (12 N). Null
    value: ``(1/6 - 1/(12 N)) / N``, as W^2 has mean 1/6. A large value means that the distribution
    function is off anywhere.

    Example:
        >>> x = torch.special.ndtri(torch.arange(1, 100) / 100)[:, None]  # as normal as can be
        >>> values = CramerVonMises()(torch.cat((x, x.exp()), dim=1))  # [N, K] -> [K]
        >>> [f'{value:.2g}' for value in values.tolist()]  # normal, and lognormal
        ['8.3e-06', '0.13']
    """

    def of_sorted(self, x: Tensor) -> Tensor:
        """[..., K, N] -> [..., K]."""
        return edf_deviations(x).square().mean(-1)

    def null_mean(self, num_samples: int) -> float:
        """``(1/6 - 1/(12 N)) / N``, exactly."""
        return (1 / 6 - 1 / (12 * num_samples)) / num_samples
