"""What the univariate tests share."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class UnivariateTest(nn.Module, ABC):
    """A goodness-of-fit statistic of each column against the standard normal.

    Called with [..., N, K] (N samples on this process, K columns), returns [..., K]: the statistic
    of each column over the samples of all processes, differentiable.
    """

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """[..., N, K] -> [..., K]."""
