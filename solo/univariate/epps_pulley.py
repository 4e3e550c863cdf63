"""Epps–Pulley: distance of the empirical characteristic function to the normal's."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from solo import distributed
from solo.distributions.placed import Placed
from solo.univariate.base import UnivariateTest, check_samples
from solo.univariate.characteristic import empirical_characteristic_function


class EppsPulley(UnivariateTest):
    """N * integral of |ecf(t) - exp(-t^2/2)|^2 exp(-t^2/2) dt over [-t_max, t_max].

    Epps & Pulley (1983), as in LeJEPA (arXiv 2511.08544). The integrand is even: the trapezoid
    rule runs over [0, t_max] and is doubled. A large value means that the sample is not N(0, 1);
    the N in front gives it a limit law under the null. Null value: the integral of
    ``(1 - exp(-t^2)) w(t)``, for any N (1.05 with the default grid).

    Args:
        num_points: nodes of the trapezoid rule, >= 2.
        t_max: upper end of the grid, > 0.
        n_points: another name for num_points.
        t_range: (-t_max, t_max), another way to give t_max.
        weight_type: w(t): ``gaussian`` is exp(-t^2 / 2), ``uniform`` 1.

    Raises:
        ValueError: for fewer than 2 nodes, t_max not above 0, a range that is not symmetric or an
            unknown weight.

    Example:
        >>> x = torch.special.ndtri(torch.arange(1, 100) / 100)[:, None]  # as normal as can be
        >>> values = EppsPulley()(torch.cat((x, x.exp()), dim=1))  # [N, K] -> [K]
        >>> [f'{value:.2g}' for value in values.tolist()]  # normal, and lognormal
        ['0.023', '55']
    """

    def __init__(
        self,
        num_points: int = 17,
        t_max: float = 3.0,
        *,
        n_points: int | None = None,
        t_range: tuple[float, float] | None = None,
        weight_type: Literal["gaussian", "uniform"] = "gaussian",
    ) -> None:
        super().__init__()
        count = num_points if n_points is None else n_points
        if t_range is not None:
            if t_range[0] != -t_range[1]:
                raise ValueError(f"t_range is {t_range}; it must be (-t_max, t_max)")
            t_max = t_range[1]
        if weight_type not in ("gaussian", "uniform"):
            raise ValueError(f"Unknown weight type {weight_type!r}; choose gaussian or uniform")
        if count < 2 or t_max <= 0:
            raise ValueError(
                f"num_points is {count} and t_max {t_max}; at least 2 points and t_max above 0"
            )
        t = torch.linspace(0, t_max, count, dtype=torch.float64)
        trapezoid = torch.full_like(t, t_max / (count - 1))
        trapezoid[[0, -1]] /= 2
        normal = torch.exp(-(t**2) / 2)
        self.num_points, self.t_max, self.weight_type = count, t_max, weight_type
        self.spacing = t_max / (count - 1)
        self.target, self.weights = normal, 2 * trapezoid * self.weight_function(t)
        both = torch.stack((normal, torch.zeros_like(normal)))  # real and imaginary parts
        self._constants = Placed(self.weights.numpy(), both.numpy())

    def forward(self, x: Tensor) -> Tensor:
        """[..., N, K] -> [..., K]."""
        check_samples(x)
        ecf = empirical_characteristic_function(x, self.spacing, len(self.weights))
        ecf = distributed.all_mean(ecf, alike=True)
        weights, target = self._constants.at(ecf.device, ecf.dtype)
        shape = (2, *[1] * (ecf.ndim - 3), len(weights), 1)
        distance = weights @ (ecf - target.view(shape)).square()  # [2, ..., K]
        count = x.shape[-2] * distributed.world_size()
        return count * distance.sum(0)

    def weight_function(self, t: Tensor) -> Tensor:
        """w(t), elementwise."""
        return torch.ones_like(t) if self.weight_type == "uniform" else torch.exp(-(t**2) / 2)

    def cost_of_a_shift(self) -> float:
        """``integral of u^2 exp(-u^2) w(u) du``: what a small shift costs, per N and its square."""
        u = np.arange(self.num_points) * self.spacing
        return float(self.weights @ torch.from_numpy(u**2 * np.exp(-(u**2))))

    @staticmethod
    def empirical_cf(x: Tensor, t: Tensor) -> Tensor:
        """``mean_n exp(i t x_n)`` at any t [T]: x [N, K] -> complex [T, K]."""
        return torch.exp(1j * t[:, None, None] * x).mean(1)

    @staticmethod
    def normal_cf(t: Tensor, mu: float = 0.0, sigma: float = 1.0) -> Tensor:
        """The characteristic function of N(mu, sigma^2), complex, elementwise."""
        return torch.exp(1j * mu * t - (sigma * t) ** 2 / 2)

    def null_mean(self, num_samples: int) -> float:
        """``integral of (1 - exp(-t^2)) w(t) dt`` by the same quadrature, for any N."""
        return float(self.weights @ (1 - self.target.square()))
