"""From a loss of two views to one of any number."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import torch
from torch import Tensor


def over_pairs(loss: Callable[[Tensor, Tensor], Tensor], z: Tensor) -> Tensor:
    """The mean of ``loss(z[i], z[j])`` over all pairs i < j of the views z [V, B, D], V >= 2."""
    return torch.stack([loss(z[i], z[j]) for i, j in combinations(range(len(z)), 2)]).mean()
