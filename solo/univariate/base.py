"""What the univariate tests share."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from solo import distributed
from solo.univariate.sorting import ascending


class GoodnessOfFit(nn.Module):
    """What all tests share: they take any array, and show the arguments they were made with."""

    def __call__(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Samples as a tensor, NumPy array or nested list."""
        return super().__call__(as_samples(x), *args, **kwargs)

    def extra_repr(self) -> str:
        """The arguments, as they were given."""
        names = inspect.signature(type(self).__init__).parameters
        return ", ".join(
            f"{name}={value!r}"
            for name in names
            if not isinstance(value := getattr(self, name, self), nn.Module)
        )


def as_samples(x: Any) -> Tensor:
    """A tensor as it is; what is none becomes one, of the same dtype.

    Raises:
        ValueError: for an array that is empty, or holds NaN or infinite values. (Of a tensor
            nothing is read back: there they show in the statistic.)
    """
    if isinstance(x, Tensor):
        return x
    array = np.asarray(x)
    if not array.size:
        raise ValueError(f"Input data cannot be empty; its shape is {array.shape}")
    for found, what in ((np.isnan(array), "NaN"), (np.isinf(array), "infinite")):
        if found.any():
            raise ValueError(f"Input data contains {what} values ({int(found.sum())} of them)")
    return torch.from_numpy(array if array.dtype.kind == "f" else array.astype(np.float32))


class UnivariateTest(GoodnessOfFit, ABC):
    """A goodness-of-fit statistic of each column against the standard normal.

    Called with [..., N, K] (N samples on this process, K columns), returns [..., K]: the statistic
    of each column over the samples of all processes, differentiable.
    """

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """[..., N, K] -> [..., K].

        Raises:
            ValueError: for fewer than two dimensions, or too few samples.
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


def check_samples(x: Tensor, least: int = 1) -> None:
    """Refuse what is not [..., N, K].

    Raises:
        ValueError: for fewer than two dimensions, or fewer samples than ``least``.
    """
    if x.ndim < 2:
        raise ValueError(f"the samples have shape {tuple(x.shape)}; expected [..., N, K]")
    if x.shape[-2] * distributed.world_size() < least:
        raise ValueError(f"the samples have shape {tuple(x.shape)}; at least {least} are needed")


def global_moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    """Mean, unbiased variance, skewness, kurtosis [..., K] and N over all processes.

    Skewness and kurtosis are mean((x - mean)^3) and mean((x - mean)^4), divided by the unbiased
    standard deviation to the third and fourth power.
    """
    check_samples(x, least=2)
    count = x.shape[-2] * distributed.world_size()
    mean = distributed.all_mean(x.mean(-2))
    centred = x - mean.unsqueeze(-2)
    powers = torch.stack([centred.pow(order).mean(-2) for order in (2, 3, 4)])
    second, third, fourth = distributed.all_mean(powers, alike=True)
    variance = second * count / (count - 1)
    return mean, variance, third / variance.pow(1.5), fourth / variance.square(), count
