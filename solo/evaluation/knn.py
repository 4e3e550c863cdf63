"""k-nearest-neighbour classification of features, exact and in blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Distance = Literal["cosine", "euclidean"]


class Setting(NamedTuple):
    """One point of a grid; ``temperature`` is None for Euclidean distance, which has none."""

    distance: Distance
    k: int
    temperature: float | None


def nearest(
    bank: Tensor,
    queries: Tensor,
    k: int,
    distance: Distance = "cosine",
    block: int = 1024,
    bank_block: int = 65536,
) -> Iterator[tuple[Tensor, Tensor]]:
    """For each block of queries: how near the k nearest are (cosine, or minus distance), and which.

    Memory is bounded by block * bank_block, whatever the sizes.

    Args:
        bank: [M, F].
        queries: [N, F].
        k: at most M.

    Yields:
        Nearness [block, k], falling, and indices into the bank [block, k].
    """
    if distance == "cosine":
        bank, queries = F.normalize(bank, dim=-1), F.normalize(queries, dim=-1)
    for part in queries.split(block):
        values = part.new_empty(len(part), 0)
        indices = torch.empty(len(part), 0, dtype=torch.long, device=part.device)
        for start in range(0, len(bank), bank_block):
            rows = bank[start : start + bank_block]
            if distance == "cosine":
                near = part @ rows.T
            else:
                near = -torch.cdist(part, rows, compute_mode="donot_use_mm_for_euclid_dist")
            best = near.topk(min(k, len(rows)), dim=-1)
            values = torch.cat([values, best.values], dim=1)
            indices = torch.cat([indices, best.indices + start], dim=1)
            if start:
                best = values.topk(min(k, values.shape[1]), dim=-1)
                values, indices = best.values, indices.gather(1, best.indices)
        yield values, indices


def votes(nearness: Tensor, labels: Tensor, num_classes: int, temperature: float | None) -> Tensor:
    """Weighted votes of neighbours, [N, k] each -> [N, num_classes].

    Votes weigh ``exp(cosine / temperature)`` (Wu et al., arXiv 1805.01978) or, without a
    temperature, ``1 / (distance + 1e-6)``.
    """
    if temperature is None:
        weights = 1 / (1e-6 - nearness)
    else:
        weights = (nearness / temperature).softmax(-1)  # exp, scaled to be finite
    return nearness.new_zeros(len(nearness), num_classes).scatter_add_(1, labels, weights)


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

    Args:
        bank: [M, F] with labels [M].
        queries: [N, F].
        block: queries compared at a time.

    Returns:
        [N, min(5, num_classes)] class indices.
    """
    heat = temperature if distance == "cosine" else None
    return torch.cat(
        [
            votes(near, bank_labels[which], num_classes, heat)
            .topk(min(5, num_classes), dim=-1)
            .indices
            for near, which in nearest(bank, queries, min(k, len(bank)), distance, block)
        ]
    )


def knn_grid(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    query_labels: Tensor,
    num_classes: int,
    *,
    ks: Sequence[int],
    temperatures: Sequence[float],
    distances: Sequence[Distance] = ("cosine", "euclidean"),
) -> dict[Setting, float]:
    """Percent correct for every combination; each distance is computed once.

    A k above the bank's size is left out.
    """
    ks = [k for k in ks if k <= len(bank)] or [len(bank)]
    hits: dict[Setting, int] = {}
    for distance in distances:
        heats = list(temperatures) if distance == "cosine" else [None]
        done = 0
        for near, which in nearest(bank, queries, max(ks), distance):
            wanted = query_labels[done : done + len(near)]
            done += len(near)
            for k in ks:
                for heat in heats:
                    ballot = votes(near[:, :k], bank_labels[which[:, :k]], num_classes, heat)
                    setting = Setting(distance, k, heat)
                    right = int((ballot.argmax(-1) == wanted).sum())
                    hits[setting] = hits.get(setting, 0) + right
    return {setting: 100 * count / len(queries) for setting, count in hits.items()}
