"""Likelihood of the order statistics."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import special
from torch import Tensor

from solo.univariate.base import OrderTest, ranks


class NLL(OrderTest):
    """Mean negative log-likelihood of each order statistic under its own law, in nats.

    If the samples are N(0, 1), the i-th smallest of N has density
    ``N! / ((i-1)! (N-i)!) F^(i-1) (1 - F)^(N-i) phi``. Used in LeJEPA's library (arXiv
    2511.08544). Null value: the mean entropy of those laws, negative for large N; see
    ``null_mean``. A large value means that the samples are not where those of a normal would be.

    Args:
        alpha: order statistics between their own alpha and 1 - alpha quantiles count as 0, so that
            only outlying ones pull; 0.5 lets all count.
        k: use the k-th smallest only.

    Raises:
        ValueError: for alpha outside (0, 0.5], k below 1, or (when called) k above N.

    Example:
        >>> x = torch.special.ndtri(torch.arange(1, 100) / 100)[:, None]  # as normal as can be
        >>> values = NLL()(torch.cat((x, x.exp()), dim=1))  # [N, K] -> [K]
        >>> [f'{value:.2g}' for value in values.tolist()]  # normal, and lognormal
        ['-0.97', '42']
    """

    def __init__(self, alpha: float = 0.5, k: int | None = None) -> None:
        super().__init__()
        if not 0 < alpha <= 0.5:
            raise ValueError(f"alpha is {alpha}; it lies in (0, 0.5]")
        if k is not None and k < 1:
            raise ValueError(f"k is {k}; order statistics count from 1")
        self.alpha, self.k = alpha, k

    def of_sorted(self, x: Tensor) -> Tensor:
        """[..., K, N] -> [..., K]."""
        count = x.shape[-1]
        if self.k is not None and self.k > count:
            raise ValueError(f"k is {self.k}, but there are {count} samples")
        loss = _losses(x)
        if self.alpha < 0.5:
            order = np.arange(1, count + 1)
            inner = [
                special.ndtri(special.betaincinv(order, count + 1 - order, quantile))
                for quantile in (self.alpha, 1 - self.alpha)
            ]
            low, high = (torch.from_numpy(bound).to(x) for bound in inner)
            loss = torch.where((x > low) & (x < high), 0.0, loss)
        return loss.mean(-1) if self.k is None else loss[..., self.k - 1]

    def null_mean(self, num_samples: int) -> float:
        """By Gauss–Legendre quadrature over the quantiles that count; relative error below 1e-3.

        With alpha = 0.5 and all k it is the mean entropy of Beta(i, N + 1 - i) plus that of
        N(0, 1).
        """
        nodes, weights = np.polynomial.legendre.leggauss(64)
        quantiles = self.alpha * (nodes[:, None] + 1) / 2
        i = np.arange(1, num_samples + 1)
        total = np.zeros(num_samples)
        for side in (quantiles, 1 - quantiles):
            x = special.ndtri(special.betaincinv(i, num_samples + 1 - i, side))
            total += self.alpha / 2 * weights @ _losses(torch.from_numpy(x)).numpy()
        return float(total.mean() if self.k is None else total[self.k - 1])


def _losses(x: Tensor) -> Tensor:
    """Negative log-density of each order statistic at ``x`` [..., N]."""
    count = x.shape[-1]
    order = np.arange(1, count + 1)
    i = ranks(x)
    return (
        torch.from_numpy(special.betaln(order, count + 1 - order)).to(x)
        - (i - 1) * torch.special.log_ndtr(x)
        - (count - i) * torch.special.log_ndtr(-x)
        + x.square() / 2
        + math.log(2 * math.pi) / 2
    )
