"""Tests on the empirical moment generating function ``M(t) = mean_j exp(t . y_j)``.

All three weigh with ``exp(-gamma |t|^2)``. In the papers its integral, ``(pi / gamma)^(D/2)``, is a
factor of the statistic; beyond D of about 100 no float32 holds it. ``normalize=True`` divides by
it, and is what a loss should use.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from solo.multivariate.base import PairwiseTest, squared_norms


class GeneratingFunctionTest(PairwiseTest):
    """Base of tests on generating functions: double sums over pairs of samples.

    Args:
        gamma: rate of the weight. The exponentials of squared norms overflow where gamma is small
            beside the squared norm of a sample.
        normalize: divide by the weight's integral.

    Raises:
        ValueError: for gamma not above the test's lower limit.
    """

    lower_limit = 0.0
    """Gamma above which the statistic exists."""

    def __init__(self, gamma: float, normalize: bool = False) -> None:
        super().__init__()
        if not gamma > self.lower_limit:
            raise ValueError(f"gamma (beta) is {gamma}; it must be above {self.lower_limit:g}")
        self.gamma = gamma
        self.normalize = normalize

    def scale(self, dim: int) -> float:
        """The weight's integral, or 1 where it is divided out."""
        return 1.0 if self.normalize else (math.pi / self.gamma) ** (dim / 2)


class BHEP_M(GeneratingFunctionTest):  # noqa: N801 the name its users know
    """``N * integral of (M(t) - exp(|t|^2 / 2))^2 exp(-beta |t|^2) dt``.

    Henze & Jiménez-Gamero (2019): BHEP with the moment generating function. Null value, beta > 2:
    ``pi^(D/2) ((beta - 2)^(-D/2) - (beta - 1)^(-D/2))``. A large value means that the sample is not
    N(0, I); heavy tails count most.

    Args:
        beta: > 1; above 2 for a finite mean under the null.
        normalize: divide by the weight's integral.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = torch.randn(200, 3, generator=generator)
        >>> [f'{BHEP_M()(sample).item():.2g}' for sample in (x, 1.5 * x)]  # the second is too wide
        ['0.053', '1.6']
    """

    lower_limit = 1.0

    def __init__(self, beta: float = 10.0, normalize: bool = False) -> None:
        super().__init__(beta, normalize)

    def of_rows(self, rows: Tensor, samples: Tensor) -> Tensor:
        """A process's rows of the double sum."""
        beta, (count, dim) = self.gamma, samples.shape[-2:]
        pairs = (squared_norms(rows, samples, 1) / (4 * beta)).exp().sum((-2, -1)) / count
        single = (rows.square().sum(-1) / (4 * beta - 2)).exp().sum(-1)
        single = 2 * (beta / (beta - 0.5)) ** (dim / 2) * single
        constant = rows.shape[-2] * (beta / (beta - 1)) ** (dim / 2)
        return self.scale(dim) * (pairs - single + constant)

    def null_mean(self, num_samples: int, dim: int) -> float:
        """The expectation under N(0, I); infinite up to beta = 2."""
        beta = self.gamma
        if beta <= 2:
            return math.inf
        ratio = (beta / (beta - 2)) ** (dim / 2) - (beta / (beta - 1)) ** (dim / 2)
        return self.scale(dim) * ratio


class HV(GeneratingFunctionTest):
    """``N * integral of |grad M(t) - t M(t)|^2 exp(-gamma |t|^2) dt``.

    Henze & Visagie (2020): ``grad m = t m`` characterises the moment generating function of
    N(0, I). Null value, gamma > 2: ``(pi / (gamma - 2))^(D/2) (D + D / (2 (gamma - 2)))``. A large
    value means that the sample is not N(0, I); heavy tails count most.

    Args:
        gamma: > 0; above 2 for a finite mean under the null (the paper recommends 5).
        normalize: divide by the weight's integral.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = torch.randn(200, 3, generator=generator)
        >>> [f'{HV()(sample).item():.2g}' for sample in (x, 1.5 * x)]  # the second is too wide
        ['6.4', '1.5e+03']
    """

    def __init__(self, gamma: float = 5.0, normalize: bool = False) -> None:
        super().__init__(gamma, normalize)

    def of_rows(self, rows: Tensor, samples: Tensor) -> Tensor:
        """A process's rows of the double sum."""
        gamma, (count, dim) = self.gamma, samples.shape[-2:]
        norms = squared_norms(rows, samples, 1)
        polynomial = (
            rows @ samples.mT - norms / (2 * gamma) + dim / (2 * gamma) + norms / (4 * gamma**2)
        )
        pairs = ((norms / (4 * gamma)).exp() * polynomial).sum((-2, -1))
        return self.scale(dim) * pairs / count

    def null_mean(self, num_samples: int, dim: int) -> float:
        """The expectation under N(0, I); infinite up to gamma = 2."""
        rest = self.gamma - 2
        if rest <= 0:
            return math.inf
        return self.scale(dim) * (self.gamma / rest) ** (dim / 2) * (dim + dim / (2 * rest))


class COMB(GeneratingFunctionTest):
    """``| sqrt(N) * integral of (R(t) M(t) - 1) exp(-gamma |t|^2) dt |``.

    Henze, Jiménez-Gamero & Meintanis (2019): ``R(t) = mean_j cos(t . y_j)``, and R M = 1 only for
    N(0, I) among symmetric laws of mean 0. The paper rejects for large absolute values; without
    them (``signed=True``) the null value is ``((pi / gamma)^(D/2) Re (1 - i / gamma)^(-D/2) -
    (pi / gamma)^(D/2)) / sqrt(N)``. A large value means that the sample is not N(0, I).

    Args:
        gamma: > 0; above 1 for a finite variance under the null.
        normalize: divide by the weight's integral.
        signed: without the absolute value.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = torch.randn(200, 3, generator=generator)
        >>> [f'{COMB()(sample).item():.2g}' for sample in (x, 1.5 * x)]  # the second is too wide
        ['3.6', '3.9']
    """

    def __init__(self, gamma: float = 1.5, normalize: bool = False, signed: bool = False) -> None:
        super().__init__(gamma, normalize)
        self.signed = signed

    def forward(self, x: Tensor, step: tuple[int, ...] | None = None) -> Tensor:
        """[..., N, D] -> [...]."""
        value = super().forward(x, step)
        return value if self.signed else value.abs()

    def of_rows(self, rows: Tensor, samples: Tensor) -> Tensor:
        """A process's rows of the double sum."""
        gamma, (count, dim) = self.gamma, samples.shape[-2:]
        norms, others = (y.square().sum(-1) / (4 * gamma) for y in (rows, samples))
        phases = torch.cos(rows @ samples.mT / (2 * gamma))
        pairs = ((norms[..., :, None] - others[..., None, :]).exp() * phases).sum((-2, -1))
        return self.scale(dim) * (pairs / count**2 - rows.shape[-2] / count) * math.sqrt(count)

    def null_mean(self, num_samples: int, dim: int) -> float:
        """The expectation of the signed statistic under N(0, I)."""
        same = (1 - 1j / self.gamma) ** (-dim / 2)
        return self.scale(dim) * (same.real - 1) / math.sqrt(num_samples)
