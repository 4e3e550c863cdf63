"""DINO (arXiv 2104.14294): match the teacher's sharpened, centred distribution."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from solo import distributed


def dino_loss(
    student: Tensor,
    teacher: Tensor,
    center: Tensor,
    *,
    student_temperature: float = 0.1,
    teacher_temperature: float = 0.04,
) -> Tensor:
    """Cross-entropy of student and teacher over all pairs of different views (eq. 2 and 3).

    Args:
        student: [V, B, K] scores, this process's share of the batch.
        teacher: [T, B, K] scores of the first T views; carries no gradient.
        center: [K], subtracted from the teacher's scores.

    Returns:
        The mean over the V T - T pairs and the global batch.
    """
    targets = ((teacher.detach() - center) / teacher_temperature).softmax(-1)
    logs = F.log_softmax(student / student_temperature, dim=-1)
    entropies = -(targets[None] * logs[:, None]).sum(-1).mean(-1)  # [V, T]
    views, teachers = len(student), len(teacher)
    total = entropies.sum() - entropies.diagonal().sum()
    return distributed.all_mean(total / (views * teachers - teachers), alike=True)


def updated_center(center: Tensor, teacher: Tensor, momentum: float = 0.9) -> Tensor:
    """The center after a step (eq. 4): a running mean of the teacher's scores."""
    return momentum * center + (1 - momentum) * distributed.all_mean(teacher.mean((0, 1)))
