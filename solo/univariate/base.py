"""What the univariate tests share."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from solo import distributed
from solo.univariate.sorting import ascending


class UnivariateTest(nn.Module, ABC):
    """A goodness-of-fit statistic of each column against the standard normal.

    Called with [..., N, K] (N samples on this process, K columns), returns [..., K]: the statistic
    of each column over the samples of all processes, differentiable.
    """

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """[..., N, K] -> [..., K].

        Raises:
            ValueError: for fewer than two dimensions, or fewer than two samples.
        """

    @abstractmethod
    def null_mean(self, num_samples: int) -> float:
        """Expected statistic of ``num_samples`` draws from N(0, 1)."""


class OrderTest(UnivariateTest):
    """A test on the order statistics; it gathers the samples of all processes."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., N, K] -> [..., K]."""
        check_samples(x)
        columns = distributed.gather(x, dim=x.ndim - 2).mT.contiguous()  # sorts run along memory
        return self.of_sorted(ascending(columns))

    @abstractmethod
    def of_sorted(self, x: Tensor) -> Tensor:
        """[..., K, N], ascending along N and of all processes -> [..., K]."""


def ranks(x: Tensor) -> Tensor:
    """1 … N, of the dtype and device of ``x`` [..., N]."""
    return torch.arange(1, x.shape[-1] + 1, dtype=x.dtype, device=x.device)


def check_samples(x: Tensor) -> None:
    """Refuse what is not [..., N, K] with N > 1.

    Raises:
        ValueError: for fewer than two dimensions, or fewer than two samples.
    """
    if x.ndim < 2:
        raise ValueError(f"the samples have shape {tuple(x.shape)}; expected [..., N, K]")
    if x.shape[-2] * distributed.world_size() < 2:
        raise ValueError(f"the samples have shape {tuple(x.shape)}; a test needs at least 2")


def global_moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    """Mean, unbiased variance, skewness, kurtosis [..., K] and N over all processes.

    Skewness and kurtosis are mean((x - mean)^3) and mean((x - mean)^4), divided by the unbiased
    standard deviation to the third and fourth power.
    """
    check_samples(x)
    count = x.shape[-2] * distributed.world_size()
    mean = distributed.all_mean(x.mean(-2))
    centred = x - mean.unsqueeze(-2)
    powers = torch.stack([centred.pow(order).mean(-2) for order in (2, 3, 4)])
    second, third, fourth = distributed.all_mean(powers)
    variance = second * count / (count - 1)
    return mean, variance, third / variance.pow(1.5), fourth / variance.square(), count
