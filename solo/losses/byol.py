"""BYOL (arXiv 2006.07733): predict the teacher's embedding of another view."""

from __future__ import annotations

from torch import Tensor

from solo import distributed
from solo.losses.unit import unit_rows


def byol_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """2 - 2 cos of prediction and target (eq. 2), over all pairs of different views.

    Args:
        prediction: [V, B, D] of the student, this process's share of the batch.
        target: [T, B, D] of the teacher, of the first T views; carries no gradient.

    Returns:
        The mean over the V T - T pairs and the global batch.
    """
    p, t = unit_rows(prediction), unit_rows(target.detach())
    views, teachers = len(p), len(t)
    cosines = (p[:, None] * t[None]).sum(-1).mean(-1)  # [V, T]
    same = cosines.diagonal().sum()
    mean = (cosines.sum() - same) / (views * teachers - teachers)
    return distributed.all_mean(2 - 2 * mean, alike=True)
