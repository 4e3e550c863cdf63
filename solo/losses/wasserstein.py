"""The squared 2-Wasserstein distance along slices: sorted features against sorted samples.

Shapes: V views, B images on this process, N = W B images on all W processes, D features,
K slices.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import repeat
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from solo import distributed
from solo.multivariate.slices import Chunk, Slices, chunk_rows, given_slices
from solo.univariate.sorting import sort_rows, sort_rows_with_order


def sliced_wasserstein(features: Tensor, targets: Tensor, projections: Tensor) -> Tensor:
    """Squared 2-Wasserstein distance along each slice, averaged over slices.

    Args:
        features: [N, D]; gradients flow here only.
        targets: [N, D], samples of the target distribution.
        projections: [K, D], the slices: unit rows.

    Returns:
        A scalar: mean over slices and ranks of (sorted features - sorted targets)^2.

    Raises:
        ValueError: where the shapes do not fit.
    """
    if features.shape != targets.shape or projections.shape[-1] != features.shape[-1]:
        raise ValueError(
            f"features {tuple(features.shape)} and targets {tuple(targets.shape)} must be "
            f"[N, D] alike, and projections {tuple(projections.shape)} [K, D]"
        )
    chunks = given_slices(projections.detach(), 2 * len(features))
    return sorted_distance(features[None], targets[None], chunks) / len(projections)


def global_wasserstein(
    features: Tensor, targets: Tensor, slices: Slices, step: tuple[int, ...]
) -> Tensor:
    """The distance of the gathered batch, each process working on its share of the slices.

    Args:
        features: [V, N, D], of all processes; gradients flow here only.
        targets: samples [V, N, D], or quantiles [N] (see ``sorted_distance``).
        slices: those of the step.
        step: names their draw.

    Returns:
        A scalar, the same on every process: the mean over views and slices.
    """

    def of(views: Tensor, goals: Tensor) -> Tensor:
        return sorted_distance(views, goals, slices.share(views.detach().flatten(0, 1), step))

    if slices.shared:
        total = of(features, targets)
    else:
        goals = targets.split(1) if targets.ndim == 3 else repeat(targets)
        total = torch.stack([of(*each) for each in zip(features.split(1), goals)]).sum()
    return distributed.all_sum(total, alike=True) / (len(features) * slices.count)


def sorted_distance(features: Tensor, targets: Tensor, chunks: Iterable[Chunk]) -> Tensor:
    """Sum over views and slices of the squared 2-Wasserstein distance.

    Goes through the slices in chunks and forms the gradient on the way, so that memory does not
    grow with their number: the gradient of a sorted distance is the difference put back in the
    order of the samples, times the slices.

    Args:
        features: [V, N, D]; gradients flow here only.
        targets: samples [V, N, D], or, where the target is the same along every slice, its
            quantiles [N], ascending.
        chunks: of the slices, the same for all views.
    """
    total: Tensor = _SortedDistance.apply(features, targets, chunks)
    return total


class _SortedDistance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, targets: Tensor, chunks: Iterable[Chunk]) -> Tensor:
        views, samples, dim = features.shape
        wanted = ctx.needs_input_grad[0]
        total = features.new_zeros(())
        own = features.reshape(-1, dim).T.contiguous()  # [D, V N]
        drawn = None if targets.ndim == 1 else targets.reshape(-1, dim).T.contiguous()
        gradient = torch.zeros_like(own) if wanted else None
        rows = chunk_rows(2 * views * samples, features)
        for chunk in chunks:
            differences = []
            goals: Iterable[Tensor | None] = repeat(None)
            if drawn is not None:
                goals = chunk.project(drawn).split(rows)
            for projection, goal in zip(chunk.project(own).split(rows), goals):
                target = targets if goal is None else sort_rows(goal.view(-1, samples))
                projected = projection.view(-1, samples)  # [k V, N]
                if wanted:
                    values, order = sort_rows_with_order(projected)
                    difference = values.sub_(target)
                    differences.append(projected.scatter_(1, order, difference).view_as(projection))
                else:
                    difference = sort_rows(projected).sub_(target)
                total += torch.linalg.vector_norm(difference).square()
            if gradient is not None:
                whole = differences[0] if len(differences) == 1 else torch.cat(differences)
                gradient += chunk.pull_back(whole)
        if gradient is not None:
            ctx.gradient = gradient.mul_(2 / samples).T.reshape(features.shape)
        return total / samples

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.gradient * grad, None, None
