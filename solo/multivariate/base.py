"""What the multivariate tests share."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from solo import distributed
from solo.univariate.base import GoodnessOfFit


class MultivariateTest(GoodnessOfFit, ABC):
    """A goodness-of-fit statistic of a sample against N(0, I).

    Called with [..., N, D] (N samples on this process), returns [...]: the statistic of the samples
    of all processes, differentiable. The data are taken as they are: no standardisation.
    """

    @abstractmethod
    def forward(self, x: Tensor, step: tuple[int, ...] | None = None) -> Tensor:
        """[..., N, D] -> [...]. ``step`` names the random draws of a test that makes any.

        Raises:
            ValueError: for fewer than two dimensions.
        """

    @abstractmethod
    def null_mean(self, num_samples: int, dim: int) -> float:
        """Expectation for ``num_samples`` draws of N(0, I_dim), exactly or as documented."""


class PairwiseTest(MultivariateTest):
    """A test that sums over all pairs of samples: each process sums over its share of the rows.

    The cost is N^2 (D + 1) operations in all and N^2 / W numbers of memory on each of W processes:
    meant for batches up to a few thousand.
    """

    def forward(self, x: Tensor, step: tuple[int, ...] | None = None) -> Tensor:
        """[..., N, D] -> [...]."""
        if x.ndim < 2:
            raise ValueError(f"Expected 2D input [N, D], or batches of it, not {tuple(x.shape)}")
        samples = distributed.gather(x, dim=x.ndim - 2)
        start, stop = distributed.shard_range(samples.shape[-2])
        own = self.of_rows(samples[..., start:stop, :], samples)
        return distributed.all_sum(own, alike=True)

    @abstractmethod
    def of_rows(self, rows: Tensor, samples: Tensor) -> Tensor:
        """These rows' part [...] of the statistic; ``rows`` [..., R, D] of ``samples`` [..., N, D].

        The parts of all rows add up to the statistic.
        """


def squared_norms(rows: Tensor, samples: Tensor, sign: int) -> Tensor:
    """``|y_j + sign y_k|^2`` for y_j in rows and y_k in samples: [..., R, N]."""
    own = rows.square().sum(-1)[..., :, None]
    other = samples.square().sum(-1)[..., None, :]
    return (own + other + 2 * sign * rows @ samples.mT).clamp_min(0)
