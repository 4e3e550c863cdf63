"""Anderson–Darling."""

from __future__ import annotations

import torch
from torch import Tensor

from solo.univariate.base import OrderTest, ranks


class AndersonDarling(OrderTest):
    """``A^2 = -N - mean_i (2i - 1) (log F(x_(i)) + log(1 - F(x_(N+1-i))))``.

    Anderson & Darling (1952): N times the integral of ``(F_N - F)^2 / (F (1 - F)) dF``, which
    weighs the tails. Null value: 1, for any N. A large value means that the sample is not N(0, 1),
    above all in the tails.

    Example:
        >>> x = torch.special.ndtri(torch.arange(1, 100) / 100)[:, None]  # as normal as can be
        >>> values = AndersonDarling()(torch.cat((x, x.exp()), dim=1))  # [N, K] -> [K]
        >>> [f'{value:.2g}' for value in values.tolist()]  # normal, and lognormal
        ['0.029', '84']
    """

    def of_sorted(self, x: Tensor) -> Tensor:
        """[..., K, N] -> [..., K]."""
        lower = torch.special.log_ndtr(x)
        upper = torch.special.log_ndtr(-x).flip(-1)  # 1 - F(x) = F(-x), without cancellation
        return -x.shape[-1] - ((2 * ranks(x) - 1) * (lower + upper)).mean(-1)

    def null_mean(self, num_samples: int) -> float:
        """1, exactly."""
        return 1.0
