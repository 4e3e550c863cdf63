"""From univariate tests to multivariate ones, by random slices."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from solo import distributed, rng
from solo.multivariate.base import MultivariateTest
from solo.multivariate.slices import RandomSlices
from solo.univariate import OrderTest, UnivariateTest
from solo.univariate.sorting import ascending


class SlicingUnivariateTest(MultivariateTest):
    """A univariate test along random slices (the "sketch" of LeJEPA, arXiv 2511.08544).

    By Cramér–Wold, a sample is N(0, I) in law if all its projections are N(0, 1). A test that
    averages reduces its means over processes; for one that sorts, each process takes its share of
    the slices of the global batch.

    Args:
        univariate_test: applied to each projection.
        num_slices: unit vectors, uniform on the sphere, new ones each call.
        reduction: over slices: "mean", "sum", or "none" for all statistics.
        clip_value: statistics below it count as 0.
        seed: names the stream of slices; every process draws the same ones.

    Raises:
        ValueError: for an unknown reduction or no slices.

    Example:
        >>> from solo.univariate import EppsPulley
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = torch.randn(200, 3, generator=generator)
        >>> test = SlicingUnivariateTest(EppsPulley(), num_slices=256)
        >>> [round(test(sample, (0,)).item(), 2) for sample in (x, 2 * x)]  # the second is too wide
        [1.68, 45.77]
    """

    def __init__(
        self,
        univariate_test: UnivariateTest,
        num_slices: int = 1024,
        reduction: Literal["mean", "sum", "none"] = "mean",
        clip_value: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(f"reduction is {reduction!r}; choose mean, sum or none")
        self.univariate_test = univariate_test
        self.slices = RandomSlices(num_slices, seed)
        self.reduction = reduction
        self.clip_value = clip_value
        self.steps = rng.StepCounter()

    @property
    def num_slices(self) -> int:
        """Unit vectors a call."""
        return self.slices.count

    def forward(self, x: Tensor, step: tuple[int, ...] | None = None) -> Tensor:
        """[..., N, D] -> [...], or [..., num_slices] without reduction.

        Args:
            x: this process's samples.
            step: names the slices; without one, the calls are counted.
        """
        if x.ndim < 2:
            raise ValueError(f"the samples have shape {tuple(x.shape)}; expected [..., N, D]")
        step = self.steps.named(step)
        if isinstance(self.univariate_test, OrderTest) and distributed.is_distributed():
            statistics = self._shared(x, self.univariate_test, step)
        else:
            statistics = self.univariate_test(x @ self.slices.matrix(x, step).T)
        if self.clip_value is not None:
            statistics = torch.where(statistics < self.clip_value, 0.0, statistics)
        if self.reduction == "none":
            return statistics
        return statistics.mean(-1) if self.reduction == "mean" else statistics.sum(-1)

    def null_mean(self, num_samples: int, dim: int) -> float:
        """The univariate test's (times num_slices for "sum"), without clipping."""
        factor = self.slices.count if self.reduction == "sum" else 1
        return factor * self.univariate_test.null_mean(num_samples)

    def _shared(self, x: Tensor, test: OrderTest, step: tuple[int, ...]) -> Tensor:
        """[..., num_slices], each process working on its share."""
        samples = distributed.gather(x, dim=x.ndim - 2)
        start, stop = distributed.shard_range(self.slices.count)
        projected = self.slices.matrix(x, step, start, stop) @ samples.mT  # [..., share, N]
        own = test.of_sorted(ascending(projected))
        others = (start, self.slices.count - stop)
        return distributed.all_sum(F.pad(own, others), alike=True)
