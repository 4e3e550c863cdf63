"""SIGReg, the regulariser of LeJEPA (arXiv 2511.08544): sliced Epps–Pulley against N(0, I)."""

from __future__ import annotations

from torch import Tensor, nn

from solo.multivariate import SlicingUnivariateTest
from solo.univariate import EppsPulley


class SIGReg(nn.Module):
    """Mean Epps–Pulley statistic over random slices, of the global batch.

    Args:
        num_slices: directions a call.
        num_points: nodes of the statistic's quadrature.
        t_max: upper end of its grid.
        seed: the run's seed.
    """

    def __init__(
        self, num_slices: int = 1024, num_points: int = 17, t_max: float = 3.0, seed: int = 0
    ) -> None:
        super().__init__()
        self.test = SlicingUnivariateTest(EppsPulley(num_points, t_max), num_slices, seed=seed)

    def forward(self, z: Tensor, step: tuple[int, ...] | None = None) -> Tensor:
        """z [..., N, D] -> a scalar: the mean over leading dimensions (views) and slices."""
        statistic: Tensor = self.test(z, step)
        return statistic.mean()
