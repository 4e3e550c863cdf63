"""What the univariate tests share."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from solo import distributed


class UnivariateTest(nn.Module, ABC):
    """A goodness-of-fit statistic of each column against the standard normal.

    Called with [..., N, K] (N samples on this process, K columns), returns [..., K]: the statistic
    of each column over the samples of all processes, differentiable.
    """

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """[..., N, K] -> [..., K]."""


def sorted_samples(x: Tensor) -> Tensor:
    """The samples of all processes, [..., N, K] with N of them all, sorted along N.

    Raises:
        ValueError: for fewer than two dimensions.
    """
    check_samples(x)
    return distributed.gather(x, dim=x.ndim - 2).sort(dim=-2).values


def ranks(x: Tensor) -> Tensor:
    """1 … N as a column [N, 1], of the dtype and device of ``x`` [..., N, K]."""
    count = x.shape[-2]
    return torch.arange(1, count + 1, dtype=x.dtype, device=x.device)[:, None]


def check_samples(x: Tensor) -> None:
    """Refuse what is not [..., N, K].

    Raises:
        ValueError: for fewer than two dimensions.
    """
    if x.ndim < 2:
        raise ValueError(f"the samples have shape {tuple(x.shape)}; expected [..., N, K]")


def normal_cdf(x: Tensor) -> Tensor:
    """Distribution function of N(0, 1)."""
    return torch.special.ndtr(x)


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
