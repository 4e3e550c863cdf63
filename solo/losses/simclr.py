"""NT-Xent, the contrastive loss of SimCLR (arXiv 2002.05709), on the global batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from solo import distributed
from solo.losses.unit import unit_rows


def simclr_loss(z1: Tensor, z2: Tensor, *, temperature: float = 0.2) -> Tensor:
    """Cross-entropy of finding each image's other view among all other views (eq. 1).

    Each process scores its own 2 B rows against all 2 W B columns.

    Args:
        z1, z2: [B, D] each, this process's share of the batch; normalised here.
        temperature: divides the cosine similarities, > 0.

    Raises:
        ValueError: for a temperature not above 0.
    """
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}; it must be above 0")
    z = unit_rows(torch.stack((z1, z2)))  # [2, B, D]
    batch = z.shape[1]
    columns = distributed.gather(z, dim=1)  # [2, N, D]
    total = columns.shape[1]
    logits = z.flatten(0, 1) @ columns.flatten(0, 1).T / temperature  # [2B, 2N]
    own = torch.arange(batch, device=z.device) + distributed.rank() * batch
    itself = torch.cat((own, own + total))
    other_view = torch.cat((own + total, own))
    logits = logits.scatter(1, itself[:, None], float("-inf"))
    return distributed.all_mean(F.cross_entropy(logits, other_view), alike=True)
