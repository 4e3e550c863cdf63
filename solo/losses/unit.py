"""Rows of length 1, without the explosion that a row of zeros makes of its gradient."""

from __future__ import annotations

import torch
from torch import Tensor


def unit_rows(z: Tensor, eps: float = 1e-12) -> Tensor:
    """``z / ||z||`` along the last dimension; rows shorter than ``eps`` become zero.

    Such a row has no direction, and gets a gradient of zero: dividing it by ``eps``, as is usual,
    gives one of 1 / eps. Embeddings that end in a ReLU have such rows.

    Args:
        z: [..., D].
        eps: the length below which a row counts as zero.

    Examples:
        >>> unit_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    length = torch.linalg.vector_norm(z, dim=-1, keepdim=True)
    return z / torch.where(length > eps, length, torch.inf)
