"""Correlation with the normal order statistics."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, get_args

import numpy as np
import torch
from scipy import integrate, special, stats
from torch import Tensor

from solo.univariate.base import OrderTest

ExpectationMode = Literal["elfving", "blom", "rahman"]
CovarianceMode = Literal["shapiro_francia", "rahman"]


class ShapiroWilk(OrderTest):
    """``1 - |a . x_sorted| / (|a| |x|)``, a the weights of the expected normal order statistics.

    Shapiro & Francia (1972): a_i = m_i, the expected order statistics, here by plotting positions.
    The tridiagonal variant (``covariance_mode="rahman"``, Rahman & Pearson 1999) puts the inverse
    of their asymptotic covariance, which is tridiagonal, before m: Shapiro & Wilk (1965) in the
    limit. The sample is not centred, so that a shift counts; the scale does not. Null value: near
    0, of order log(N) / N; see ``null_mean``. The largest value is 1: no order of the samples is
    like the normal's.

    Args:
        expectation_mode: plotting positions: ``elfving`` (i - pi/8) / (N + 1/4), which leans to
            the right by about 0.02 places, ``blom`` (i - 3/8) / (N + 1/4), ``rahman`` i / (N + 1).
        covariance_mode: see above.

    Raises:
        ValueError: for an unknown mode, or (when called) fewer than 2 samples.

    Example:
        >>> x = torch.special.ndtri(torch.arange(1, 100) / 100)[:, None]  # as normal as can be
        >>> values = ShapiroWilk()(torch.cat((x, x.exp()), dim=1))  # [N, K] -> [K]
        >>> [f'{value:.2g}' for value in values.tolist()]  # normal, and lognormal
        ['0.00019', '0.38']
    """

    def __init__(
        self,
        expectation_mode: ExpectationMode = "elfving",
        covariance_mode: CovarianceMode = "shapiro_francia",
    ) -> None:
        super().__init__()
        for name, value, known in (
            ("expectation_mode", expectation_mode, get_args(ExpectationMode)),
            ("covariance_mode", covariance_mode, get_args(CovarianceMode)),
        ):
            if value not in known:
                raise ValueError(f"{name} is {value!r}; choose from {', '.join(known)}")
        self.expectation_mode = expectation_mode
        self.covariance_mode = covariance_mode

    def of_sorted(self, x: Tensor) -> Tensor:
        """[..., K, N] -> [..., K]."""
        modes = self.expectation_mode, self.covariance_mode
        weights = self.get_shapiro_weights(x.shape[-1], *modes, x.dtype).to(x.device)
        tiny = torch.finfo(x.dtype).tiny
        return 1 - (x @ weights).abs() / torch.linalg.vector_norm(x, dim=-1).clamp_min(tiny)

    @staticmethod
    def get_shapiro_weights(
        num_samples: int,
        expectation_mode: ExpectationMode = "elfving",
        covariance_mode: CovarianceMode = "shapiro_francia",
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """The unit vector a, [N]."""
        weights = _weights(num_samples, expectation_mode, covariance_mode)
        return torch.from_numpy(weights).to(dtype)

    def null_mean(self, num_samples: int) -> float:
        """Exact up to the absolute value: x / |x| is independent of |x| under the null."""
        n = num_samples
        expected = np.array([_order_statistic_mean(i, n) for i in range(1, n + 1)])
        log_norm = np.log(2) / 2 + special.gammaln((n + 1) / 2) - special.gammaln(n / 2)
        weights = _weights(n, self.expectation_mode, self.covariance_mode)
        return float(1 - weights @ expected / np.exp(log_norm))


@lru_cache(maxsize=64)
def _weights(n: int, expectation_mode: str, covariance_mode: str) -> np.ndarray:
    if n < 2:
        raise ValueError(f"{n} samples have no order; at least 2 are needed")
    i = np.arange(1, n + 1)
    positions = {
        "elfving": (i - np.pi / 8) / (n + 0.25),
        "blom": (i - 0.375) / (n + 0.25),
        "rahman": i / (n + 1),
    }[expectation_mode]
    m = special.ndtri(positions)
    if covariance_mode == "rahman":
        density = stats.norm.pdf(m)
        flux = np.pad(density * m, 1)  # phi_0 m_0 = phi_{N+1} m_{N+1} = 0
        m = density * (2 * flux[1:-1] - flux[:-2] - flux[2:])
    return m / np.linalg.norm(m)


def _order_statistic_mean(i: int, n: int) -> float:
    """E of the i-th smallest of n draws from N(0, 1)."""
    law = stats.beta(i, n + 1 - i)
    value = integrate.quad(
        lambda x: x * law.pdf(special.ndtr(x)) * stats.norm.pdf(x), -9, 9, epsabs=1e-9, limit=200
    )
    return float(value[0])
