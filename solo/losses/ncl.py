"""Non-negative contrastive learning (arXiv 2403.12459): NT-Xent on rectified features."""

from __future__ import annotations

import torch
from torch import Tensor

from solo.losses.simclr import simclr_loss


def ncl_loss(z1: Tensor, z2: Tensor, *, temperature: float = 0.2) -> Tensor:
    """NT-Xent of ReLU(z), normalised after the ReLU.

    Args:
        z1, z2: [B, D] each, this process's share of the batch.
        temperature: divides the cosine similarities, > 0.
    """
    return simclr_loss(torch.relu(z1), torch.relu(z2), temperature=temperature)
