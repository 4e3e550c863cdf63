"""Epps–Pulley: distance of the empirical characteristic function to the normal's."""

from __future__ import annotations

import torch
from torch import Tensor

from solo import distributed
from solo.univariate.base import UnivariateTest


class EppsPulley(UnivariateTest):
    """N * integral of |ecf(t) - exp(-t^2/2)|^2 exp(-t^2/2) dt over [-t_max, t_max].

    Epps & Pulley (1983), as in LeJEPA (arXiv 2511.08544). The integrand is even: the trapezoid
    rule runs over [0, t_max] and is doubled. A large value means that the sample is not N(0, 1);
    the N in front gives it a limit law under the null.

    Args:
        num_points: nodes of the trapezoid rule, >= 2.
        t_max: upper end of the grid, > 0.
        n_points: another name for num_points.

    Raises:
        ValueError: for fewer than 2 nodes or t_max not above 0.
    """

    nodes: Tensor
    weights: Tensor
    target: Tensor

    def __init__(
        self, num_points: int = 17, t_max: float = 3.0, *, n_points: int | None = None
    ) -> None:
        super().__init__()
        count = num_points if n_points is None else n_points
        if count < 2 or t_max <= 0:
            raise ValueError(
                f"num_points is {count} and t_max {t_max}; at least 2 points and t_max above 0"
            )
        t = torch.linspace(0, t_max, count, dtype=torch.float64)
        trapezoid = torch.full_like(t, t_max / (count - 1))
        trapezoid[[0, -1]] /= 2
        normal = torch.exp(-(t**2) / 2)
        self.register_buffer("nodes", t, persistent=False)
        self.register_buffer("target", normal, persistent=False)
        self.register_buffer("weights", 2 * trapezoid * normal, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., N, K] -> [..., K]."""
        nodes, weights, target = (
            buffer.to(x.device, x.dtype) for buffer in (self.nodes, self.weights, self.target)
        )
        phase = x.unsqueeze(-1) * nodes  # [..., N, K, T]
        real = distributed.all_mean(phase.cos().mean(-3))
        imaginary = distributed.all_mean(phase.sin().mean(-3))
        count = x.shape[-2] * distributed.world_size()
        return count * ((real - target).square() + imaginary.square()) @ weights
