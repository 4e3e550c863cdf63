"""Kernel discrepancies to N(0, I): maximum mean discrepancy and kernel Stein discrepancy.

The regularisers of KerJEPA (arXiv 2512.19605), unsliced. Both are V-statistics, ``mean_ij
u(x_i, x_j)`` over all pairs (i = j included), of a radial kernel ``f(|x - y|^2)`` with f(0) = 1.

Shapes: N samples, D coordinates, J nodes.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from solo.distributions.quadrature import panel_rule
from solo.multivariate.base import PairwiseTest, squared_norms

Kernel = Literal["gaussian", "imq"]


class KernelTest(PairwiseTest):
    """What both discrepancies share.

    Args:
        kernel: ``gaussian``, ``exp(-r^2 / (2 h^2))``, or ``imq``, ``(1 + r^2 / (2 h^2))^(-1/2)``.
        bandwidth: h; None is sqrt(D), which makes r^2 / (2 h^2) about 1 for normal samples.

    Raises:
        ValueError: for an unknown kernel or a bandwidth not above 0.
    """

    rates: Tensor
    masses: Tensor

    def __init__(self, kernel: Kernel = "gaussian", bandwidth: float | None = None) -> None:
        super().__init__()
        if kernel not in ("gaussian", "imq"):
            raise ValueError(f"kernel is {kernel!r}; choose gaussian or imq")
        if bandwidth is not None and not 0 < bandwidth < math.inf:
            raise ValueError(f"bandwidth is {bandwidth}; it must be above 0 and finite")
        self.kernel, self.bandwidth = kernel, bandwidth
        for name, values in zip(("rates", "masses"), mixture(kernel)):
            self.register_buffer(name, torch.from_numpy(values), persistent=False)

    def square_of_bandwidth(self, dim: int) -> float:
        """h^2 in D dimensions."""
        return float(dim) if self.bandwidth is None else self.bandwidth**2

    def of_pairs(self, r2: Tensor, square: float) -> Tensor:
        """f(r^2), h^2 being ``square``."""
        scaled = r2 / (2 * square)
        return (-scaled).exp() if self.kernel == "gaussian" else (1 + scaled).rsqrt()


def mixture(kernel: Kernel) -> tuple[np.ndarray, np.ndarray]:
    """G, w [J]: the kernel as ``sum_j w_j exp(-G_j r^2 / (2 h^2))``.

    The inverse multiquadric is a mixture over G ~ Gamma(1/2), the square of a normal variable.
    """
    if kernel == "gaussian":
        return np.ones(1), np.ones(1)
    root, weights = panel_rule(6.5 * np.array([0, 1 / 64, 1 / 16, 1 / 4, 1 / 2, 1]), 16)
    mass = weights * np.exp(-(root**2))
    return root**2, mass / mass.sum()


class KernelMMD(KernelTest):
    """Squared maximum mean discrepancy: the distance of the sample's kernel mean to the normal's.

    ``mean_ij f(|x_i - x_j|^2) - 2 mean_i E f(|x_i - Y|^2) + E f(|Y - Y'|^2)``, Y ~ N(0, I)
    (Gretton et al. 2012, eq. 5, with both expectations of the normal in closed form). With the
    Gaussian kernel it is BHEP at beta = 1 / h. Null value: ``(1 - E f(|Y - Y'|^2)) / N``. A large
    value means that the sample is not N(0, I); a wide kernel looks at low moments.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = torch.randn(200, 3, generator=generator)
        >>> [f'{KernelMMD()(sample).item():.2g}' for sample in (x, 1.5 * x)]
        ['0.0042', '0.051']
    """

    def of_rows(self, rows: Tensor, samples: Tensor) -> Tensor:
        """A process's rows of the double sum."""
        count, dim = samples.shape[-2:]
        square = self.square_of_bandwidth(dim)
        pairs = self.of_pairs(squared_norms(rows, samples, -1), square)
        rates, weights = self.rates.to(rows), self.masses.to(rows)
        norms = rows.square().sum(-1, keepdim=True)
        single = (-norms * rates / (2 * (square + rates))).exp() * (1 + rates / square) ** (
            -dim / 2
        )
        part = rows.shape[-2] / count
        both = self._mean_of_both(dim)
        return pairs.sum((-2, -1)) / count**2 - 2 * (single @ weights).sum(-1) / count + part * both

    def null_mean(self, num_samples: int, dim: int) -> float:
        """The statistic's expectation under N(0, I)."""
        return (1 - self._mean_of_both(dim)) / num_samples

    def _mean_of_both(self, dim: int) -> float:
        rates, weights = mixture(self.kernel)
        return float(weights @ (1 + 2 * rates / self.square_of_bandwidth(dim)) ** (-dim / 2))


class KernelStein(KernelTest):
    """Squared kernel Stein discrepancy: needs the normal's score, -x, and no expectation.

    With r = x - y the Langevin Stein kernel (Liu, Lee & Jordan 2016, eq. 14) of a radial f is
    ``u(x, y) = x.y f + 2 r^2 f' - 2 D f' - 4 r^2 f''``, f and its derivatives at ``r^2``. Null
    value: ``E u(Y, Y) / N = D (1 - 2 f'(0)) / N``. A large value means that the sample is not
    N(0, I).

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = torch.randn(200, 3, generator=generator)
        >>> [f'{KernelStein()(sample).item():.2g}' for sample in (x, 1.5 * x)]
        ['0.027', '0.17']
    """

    def of_rows(self, rows: Tensor, samples: Tensor) -> Tensor:
        """A process's rows of the double sum."""
        count, dim = samples.shape[-2:]
        square = self.square_of_bandwidth(dim)
        r2 = squared_norms(rows, samples, -1)
        value = self.of_pairs(r2, square)
        if self.kernel == "gaussian":
            slope, bend = -value / (2 * square), value / (4 * square**2)
        else:
            slope, bend = -(value**3) / (4 * square), value**5 * (3 / (16 * square**2))
        stein = rows @ samples.mT * value + 2 * (r2 - dim) * slope - 4 * r2 * bend
        return stein.sum((-2, -1)) / count**2

    def null_mean(self, num_samples: int, dim: int) -> float:
        """The statistic's expectation under N(0, I)."""
        slope = -1 / (2 * self.square_of_bandwidth(dim))
        if self.kernel == "imq":
            slope /= 2
        return dim * (1 - 2 * slope) / num_samples
