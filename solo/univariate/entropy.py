"""Sample entropy."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from solo.univariate.base import OrderTest
from solo.univariate.sorting import sort_rows

Edges = Literal["padded", "vasicek"]


class Entropy(OrderTest):
    """``sqrt(2 pi e) s / exp(H)``: the normal's entropy is the largest at a given variance.

    Vasicek (1976), inverted: H is the entropy estimated from spacings,
    ``mean_i log(N / (2m) (x_(i+m) - x_(i-m)))``, and s the unbiased standard deviation. The
    statistic knows neither location nor scale. Null value: ``2m exp(-digamma(2m))`` in the
    limit (1.31 for m = 1), not 1, as log-spacings are biased; see ``null_mean``. A large value
    means that the shape is not normal.

    Args:
        m: half the width of a spacing.
        edges: how spacings beyond the ends are cut: ``vasicek`` puts the smallest (largest) sample
            in place of the missing ones, as the paper does; ``padded`` counts the 2m spacings from
            each end, as LeJEPA's library does (the golden numbers).
        eps: spacings below it (ties) count as this much.

    Raises:
        ValueError: for m below 1, an unknown ``edges``, or (when called) not more than 2m samples.

    Example:
        >>> x = torch.special.ndtri(torch.arange(1, 100) / 100)[:, None]  # as normal as can be
        >>> values = Entropy()(torch.cat((x, x.exp()), dim=1))  # [N, K] -> [K]
        >>> [f'{value:.2g}' for value in values.tolist()]  # normal, and lognormal
        ['1', '1.8']
    """

    def __init__(self, m: int = 1, edges: Edges = "padded", eps: float = 1e-5) -> None:
        super().__init__()
        if m < 1:
            raise ValueError(f"m is {m}; a spacing spans at least 1")
        if edges not in get_args(Edges):
            raise ValueError(f"edges is {edges!r}; choose from {', '.join(get_args(Edges))}")
        self.m, self.edges, self.eps = m, edges, eps

    def of_sorted(self, x: Tensor) -> Tensor:
        """[..., K, N] -> [..., K]."""
        m, count = self.m, x.shape[-1]
        if count <= 2 * m:
            raise ValueError(f"{count} samples have no spacing of 2m = {2 * m}; give more than 2m")
        low, high = (1, 2 * m + 1) if self.edges == "padded" else (m, 2 * m)
        spacings = (
            x[..., 2 * m :] - x[..., : -2 * m],
            x[..., low:high] - x[..., :1],
            x[..., -1:] - x[..., -high : count - low],
        )
        logs = torch.cat(spacings, dim=-1).clamp_min(self.eps).log().sum(-1) / count
        normal = math.log(2 * math.pi * math.e) / 2
        return (normal + x.std(-1).log() - logs - math.log(count / (2 * m))).exp()

    def null_mean(self, num_samples: int) -> float:
        """Mean over 4,096 seeded draws (no closed form is known), about 0.2 % from the truth."""
        generator = torch.Generator().manual_seed(0)
        options = {"generator": generator, "dtype": torch.float64}
        draws = torch.randn(4096, num_samples, **options)  # type: ignore[call-overload]
        return self.of_sorted(sort_rows(draws)).mean().item()
