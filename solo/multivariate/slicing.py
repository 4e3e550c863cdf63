"""From univariate tests to multivariate ones, by random slices."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from solo import rng
from solo.univariate import UnivariateTest


class SlicingUnivariateTest(nn.Module):
    """A univariate test along random directions (the "sketch" of LeJEPA, arXiv 2511.08544).

    By Cramér–Wold, a sample is N(0, I) in law if all its projections are N(0, 1).

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
        if step is None:
            step, self.calls = (self.calls,), self.calls + 1
        generator = rng.generator(self.seed, "slices", *step, device=x.device)
        directions = torch.randn(
            x.shape[-1], self.num_slices, generator=generator, device=x.device, dtype=x.dtype
        )
        statistics: Tensor = self.univariate_test(x @ F.normalize(directions, dim=0))
        if self.clip_value is not None:
            statistics = torch.where(statistics < self.clip_value, 0.0, statistics)
        if self.reduction == "none":
            return statistics
        return statistics.mean(-1) if self.reduction == "mean" else statistics.sum(-1)
