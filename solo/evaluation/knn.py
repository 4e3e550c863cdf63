"""k-nearest-neighbour classification of features, exact and in blocks."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Distance = Literal["cosine", "euclidean"]


def knn_predict(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    *,
    k: int = 20,
    num_classes: int,
    distance: Distance = "cosine",
    temperature: float = 0.07,
    block: int = 1024,
) -> Tensor:
    """Classes by weighted vote of the k nearest features, best first.

    Votes weigh ``exp(cosine / temperature)`` (Wu et al., arXiv 1805.01978) or, for Euclidean
    distance d, ``1 / (d + 1e-6)``.

    Args:
        bank: [M, F] with labels [M].
        queries: [N, F].
        block: queries compared at a time; memory is block * M.

    Returns:
        [N, min(5, num_classes)] class indices.
    """
    if distance == "cosine":
        bank, queries = F.normalize(bank, dim=-1), F.normalize(queries, dim=-1)
    k = min(k, len(bank))
    predictions = []
    for part in queries.split(block):
        if distance == "cosine":
            nearest = (part @ bank.T).topk(k, dim=-1)
            weights = (nearest.values / temperature).softmax(-1)  # exp, scaled to be finite
        else:
            nearest = torch.cdist(part, bank).topk(k, dim=-1, largest=False)
            weights = 1 / (nearest.values + 1e-6)
        votes = part.new_zeros(len(part), num_classes)
        votes.scatter_add_(1, bank_labels[nearest.indices], weights)
        predictions.append(votes.topk(min(5, num_classes), dim=-1).indices)
    return torch.cat(predictions)
