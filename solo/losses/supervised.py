"""Cross-entropy on labels, some of which may be missing."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from solo import distributed


def supervised_loss(logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """The mean of :func:`label_loss` over the labelled rows of all processes.

    Args:
        logits: [N, C], this process's share of the batch.
        labels: [N] or [N, C], -1 where there is none; processes may have different numbers.
        label_smoothing: see :func:`label_loss`.
    """
    total = distributed.all_sum(label_loss(logits, labels, label_smoothing), alike=True)
    return total / distributed.all_sum(labelled(labels).float()).clamp(min=1)


def label_loss(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy summed over labelled rows; for binary attributes, the mean over attributes.

    Args:
        logits: [N, C].
        labels: [N] or [N, C], -1 where there is none.
        label_smoothing: the part of a label that is spread evenly over all classes (of an
            attribute: over yes and no).
    """
    if labels.ndim > 1:
        targets = labels.clamp(min=0).to(logits.dtype)
        targets = targets * (1 - label_smoothing) + label_smoothing / 2
        rows = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(-1)
        return (rows * has_label(labels)).sum()
    return F.cross_entropy(
        logits, labels, ignore_index=-1, reduction="sum", label_smoothing=label_smoothing
    )


def labelled(labels: Tensor) -> Tensor:
    """How many rows have a label."""
    return has_label(labels).sum()


def has_label(labels: Tensor) -> Tensor:
    """Which rows of [N] or [N, C] have a label, [N]: no -1 in them."""
    return labels >= 0 if labels.ndim == 1 else (labels >= 0).all(-1)
