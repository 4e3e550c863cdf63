"""From univariate tests to multivariate ones, by random slices."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from solo import distributed
from solo.multivariate.base import MultivariateTest
from solo.multivariate.directions import random_directions
from solo.univariate import OrderTest, UnivariateTest
from solo.univariate.sorting import ascending


class SlicingUnivariateTest(MultivariateTest):
    """A univariate test along random directions (the "sketch" of LeJEPA, arXiv 2511.08544).

    By Cramér–Wold, a sample is N(0, I) in law if all its projections are N(0, 1). A test that
    averages reduces its means over processes; for one that sorts, each process takes its share of
    the directions of the global batch.

    Args:
        univariate_test: applied to each projection.
        num_slices: directions, uniform on the sphere, new ones each call.
        reduction: over directions: "mean", "sum", or "none" for all statistics.
        clip_value: statistics below it count as 0.
        seed: names the stream of directions; every process draws the same ones.

    Raises:
        ValueError: for an unknown reduction or no slices.
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
        if num_slices < 1:
            raise ValueError(f"num_slices is {num_slices}; at least 1 is needed")
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(f"reduction is {reduction!r}; choose mean, sum or none")
        self.univariate_test = univariate_test
        self.num_slices = num_slices
        self.reduction = reduction
        self.clip_value = clip_value
        self.seed = seed
        self.calls = 0

    def forward(self, x: Tensor, step: tuple[int, ...] | None = None) -> Tensor:
        """[..., N, D] -> [...], or [..., num_slices] without reduction.

        Args:
            x: this process's samples.
            step: names the directions; without one, the calls are counted.
        """
        if x.ndim < 2:
            raise ValueError(f"the samples have shape {tuple(x.shape)}; expected [..., N, D]")
        if step is None:
            step, self.calls = (self.calls,), self.calls + 1
        if isinstance(self.univariate_test, OrderTest) and distributed.is_distributed():
            statistics = self._shared(x, self.univariate_test, step)
        else:
            statistics = self.univariate_test(x @ self._directions(x, step, 0, self.num_slices).T)
        if self.clip_value is not None:
            statistics = torch.where(statistics < self.clip_value, 0.0, statistics)
        if self.reduction == "none":
            return statistics
        return statistics.mean(-1) if self.reduction == "mean" else statistics.sum(-1)

    def null_mean(self, num_samples: int, dim: int) -> float:
        """The univariate test's (times num_slices for "sum"), without clipping."""
        factor = self.num_slices if self.reduction == "sum" else 1
        return factor * self.univariate_test.null_mean(num_samples)

    def _directions(self, x: Tensor, step: tuple[int, ...], start: int, stop: int) -> Tensor:
        return random_directions(x, self.seed, step, start, stop)

    def _shared(self, x: Tensor, test: OrderTest, step: tuple[int, ...]) -> Tensor:
        """[..., num_slices], each process working on its share."""
        samples = distributed.gather(x, dim=x.ndim - 2)
        start, stop = distributed.share(self.num_slices)
        projected = self._directions(x, step, start, stop) @ samples.mT  # [..., share, N]
        own = test.of_sorted(ascending(projected))
        others = (start, self.num_slices - stop)
        return distributed.all_sum(F.pad(own, others))
