"""Baringhaus–Henze–Epps–Pulley."""

from __future__ import annotations

from torch import Tensor

from solo.multivariate.base import PairwiseTest, squared_norms


class BHEP(PairwiseTest):
    """``integral of |ecf(t) - exp(-|t|^2 / 2)|^2 w(t) dt``, w the density of N(0, beta^2 I).

    Henze & Wagner (1997), eq. 1.4 in closed form, without their factor N (as the published code
    of LeJEPA). Null value: ``(1 - (1 + 2 beta^2)^(-D/2)) / N``. A large value means that the
    sample is not N(0, I). Large beta looks at fine detail, small beta at low moments.

    Args:
        beta: > 0.

    Raises:
        ValueError: for beta not above 0.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = torch.randn(200, 3, generator=generator)
        >>> [f'{BHEP()(sample).item():.2g}' for sample in (x, 1.5 * x)]  # the second is too wide
        ['0.00022', '0.0011']
    """

    def __init__(self, beta: float = 0.1) -> None:
        super().__init__()
        if not beta > 0:
            raise ValueError(f"beta is {beta}; beta must be positive")
        self.beta = beta

    def of_rows(self, rows: Tensor, samples: Tensor) -> Tensor:
        """A process's rows of the double sum."""
        return _bhep(rows, samples, self.beta)

    def null_mean(self, num_samples: int, dim: int) -> float:
        """The statistic's expectation under N(0, I)."""
        return _null_mean(num_samples, dim, self.beta)


class HZ(PairwiseTest):
    """Henze & Zirkler (1990): BHEP at ``beta = ((2 D + 1) N / 4)^(1 / (D + 4)) / sqrt(2)``.

    Null value and meaning are BHEP's; this beta is the best bandwidth of a Gaussian kernel density
    estimate of N normal samples.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = torch.randn(200, 3, generator=generator)
        >>> [f'{HZ()(sample).item():.2g}' for sample in (x, 1.5 * x)]  # the second is too wide
        ['0.0046', '0.019']
    """

    def of_rows(self, rows: Tensor, samples: Tensor) -> Tensor:
        """A process's rows of the double sum."""
        return _bhep(rows, samples, self.compute_bandwidth(samples.shape[-2], samples.shape[-1]))

    def null_mean(self, num_samples: int, dim: int) -> float:
        """The statistic's expectation under N(0, I)."""
        return _null_mean(num_samples, dim, self.compute_bandwidth(num_samples, dim))

    @staticmethod
    def compute_bandwidth(n_samples: int, n_dims: int) -> float:
        """beta for N samples in D dimensions.

        Raises:
            ValueError: for a number below 1.
        """
        for name, value in (("n_samples", n_samples), ("n_dims", n_dims)):
            if value < 1:
                raise ValueError(f"{name} must be a positive integer, not {value}")
        return float(((2 * n_dims + 1) * n_samples / 4) ** (1 / (n_dims + 4)) / 2**0.5)


def _bhep(rows: Tensor, samples: Tensor, beta: float) -> Tensor:
    count, dim = samples.shape[-2:]
    part, square = rows.shape[-2] / count, beta**2
    pairs = (-square / 2 * squared_norms(rows, samples, -1)).exp().sum((-2, -1)) / count**2
    exponent = -square / (2 * (1 + square)) * rows.square().sum(-1)
    single = 2 * (1 + square) ** (-dim / 2) * exponent.exp().sum(-1) / count
    return pairs - single + part * (1 + 2 * square) ** (-dim / 2)


def _null_mean(num_samples: int, dim: int, beta: float) -> float:
    return (1 - (1 + 2 * beta**2) ** (-dim / 2)) / num_samples
