"""Non-negative contrastive learning (arXiv 2403.12459): NT-Xent on rectified features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from solo.losses.simclr import simclr_loss


class _RepReLU(torch.autograd.Function):
    """One pass either way, and in half precision ReLU's own values, which a sum would round."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return z.relu()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        made: Tensor = torch.ops.aten.gelu_backward(grad, z)
        return made


def rep_relu(z: Tensor) -> Tensor:
    """ReLU whose gradient is GELU's, so that dead coordinates can come back."""
    made: Tensor = _RepReLU.apply(z)
    return made


NonNegative = Literal["relu", "rep_relu", "gelu", "leakyrelu", "sigmoid", "softplus", "exp"]
"""The last five are the paper's ablations: not sparse, the first two of them not even positive."""

RECTIFIERS: dict[NonNegative, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "rep_relu": rep_relu,
    "gelu": F.gelu,
    "leakyrelu": F.leaky_relu,
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
    "exp": torch.exp,
}


def ncl_loss(
    z1: Tensor,
    z2: Tensor,
    *,
    temperature: float = 0.2,
    non_neg: NonNegative | None = "relu",
) -> Tensor:
    """NT-Xent of rectified embeddings, normalised after the rectification.

    Args:
        z1, z2: [B, D] each, this process's share of the batch.
        temperature: divides the cosine similarities, > 0.
        non_neg: how z becomes non-negative; relu and rep_relu have the same value. None: it is.
    """
    if non_neg is None:
        return simclr_loss(z1, z2, temperature=temperature)
    rectify = RECTIFIERS[non_neg]
    return simclr_loss(rectify(z1), rectify(z2), temperature=temperature)
