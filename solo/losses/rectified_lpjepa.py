"""Rectified LpJEPA (arXiv 2602.01456): view invariance plus rectified distribution matching.

RDMReg pulls the features' distribution to a product target by matching their one-dimensional
projections: along each slice, the sorted features should be the sorted target samples (the
squared 2-Wasserstein distance of the two empirical measures), averaged over random slices.

Shapes: V views, B images on this process, N = W B images on all W processes, D features,
K slices.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import repeat
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from solo import distributed, rng
from solo.distributions import GeneralizedGaussian
from solo.losses.vicreg import invariance_loss
from solo.multivariate.directions import (
    Slices,
    chunk_rows,
    dense_chunks,
    random_chunks,
    structured_chunks,
)
from solo.univariate.sorting import sort_rows, sort_rows_with_order

ProjectionVectorsType = Literal[
    "random", "structured", "torch_svd_and_random", "torch_svd_bottom_half_eigen_and_random"
]


def sliced_wasserstein(features: Tensor, targets: Tensor, projections: Tensor) -> Tensor:
    """Squared 2-Wasserstein distance along each slice, averaged over slices.

    Args:
        features: [N, D]; gradients flow here only.
        targets: [N, D], samples of the target distribution.
        projections: [K, D], unit rows.

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
    chunks = dense_chunks(projections.detach(), 2 * len(features))
    return sorted_distance(features[None], targets[None], chunks) / len(projections)


def sorted_distance(features: Tensor, targets: Tensor, chunks: Iterable[Slices]) -> Tensor:
    """Sum over views and slices of the squared 2-Wasserstein distance.

    Goes through the slices in chunks and forms the gradient on the way, so that memory does not
    grow with their number: the gradient of a sorted distance is the difference put back in the
    order of the samples, times the directions.

    Args:
        features: [V, N, D]; gradients flow here only.
        targets: samples [V, N, D], or, where the target is the same along every slice, its
            quantiles [N], ascending.
        chunks: the slices, the same for all views.
    """
    total: Tensor = _SortedDistance.apply(features, targets, chunks)
    return total


class _SortedDistance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, targets: Tensor, chunks: Iterable[Slices]) -> Tensor:
        views, samples, dim = features.shape
        wanted = ctx.needs_input_grad[0]
        total = features.new_zeros(())
        own = features.reshape(-1, dim).T.contiguous()  # [D, V N]
        drawn = None if targets.ndim == 1 else targets.reshape(-1, dim).T.contiguous()
        gradient = torch.zeros_like(own) if wanted else None
        rows = chunk_rows(2 * views * samples, features)
        for slices in chunks:
            differences = []
            goals: Iterable[Tensor | None] = repeat(None)
            if drawn is not None:
                goals = slices.project(drawn).split(rows)
            for projection, goal in zip(slices.project(own).split(rows), goals):
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
                gradient += slices.pull_back(whole)
        if gradient is not None:
            ctx.gradient = gradient.mul_(2 / samples).T.reshape(features.shape)
        return total / samples

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.gradient * grad, None, None


class RectifiedLpJEPALoss(NamedTuple):
    """The loss and its two terms, before their weights."""

    loss: Tensor
    invariance: Tensor
    rdm_reg: Tensor


def rectified_lpjepa_loss(
    z: Tensor,
    targets: Tensor,
    projections: Tensor,
    *,
    invariance_loss_weight: float = 25.0,
    rdm_reg_loss_weight: float = 125.0,
) -> RectifiedLpJEPALoss:
    """The whole loss on one process, with given targets and slices.

    Args:
        z: [V, N, D] projector outputs.
        targets: [V, N, D], each view's own target samples.
        projections: [K, D], unit rows, shared by the views.
    """
    invariance = invariance_loss(z)
    rdm_reg = torch.stack(
        [sliced_wasserstein(view, target, projections) for view, target in zip(z, targets)]
    ).mean()
    total = invariance_loss_weight * invariance + rdm_reg_loss_weight * rdm_reg
    return RectifiedLpJEPALoss(total, invariance, rdm_reg)


class RDMReg(nn.Module):
    """Rectified distribution matching over the global batch, with its own seeded draws.

    Each call gathers the features of all processes and works on this process's share of the
    slices; value and (averaged) gradients are those of one process with the whole batch.

    Args:
        target: the distribution of each coordinate.
        num_projections: slices K a step.
        projection_vectors_type: ``random``: uniform on the sphere, shared by the views;
            ``structured``: orthogonal blocks, much cheaper, shared as well;
            ``torch_svd_and_random``: the view's own right-singular vectors first, random ones to
            fill up to K; ``torch_svd_bottom_half_eigen_and_random``: only the half of them with
            the smallest singular values, then random ones.
        seed: the run's seed.

    Raises:
        ValueError: for an unknown type or no slices.
    """

    def __init__(
        self,
        target: GeneralizedGaussian,
        *,
        num_projections: int = 8192,
        projection_vectors_type: ProjectionVectorsType = "random",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if num_projections < 1:
            raise ValueError(f"num_projections is {num_projections}; at least 1 slice is needed")
        if projection_vectors_type not in get_args(ProjectionVectorsType):
            raise ValueError(
                f"projection_vectors_type is {projection_vectors_type!r}; choose from "
                f"{', '.join(get_args(ProjectionVectorsType))}"
            )
        self.target = target
        self.num_projections = num_projections
        self.projection_vectors_type = projection_vectors_type
        self.seed = seed

    def forward(self, z: Tensor, step: tuple[int, ...] = (0,)) -> Tensor:
        """Mean over views and slices of the sliced distance to fresh target samples.

        Args:
            z: [V, B, D], this process's share of the batch.
            step: which step this is (any integers); it names the draws.

        Returns:
            A scalar, the same on every process.
        """
        z = distributed.gather(z, dim=1)  # [V, N, D]
        targets = torch.stack([self.target_samples(step, v, view) for v, view in enumerate(z)])
        # Slices that depend on a view are its own; the others are the same for all.
        groups = 1 if self.projection_vectors_type in ("random", "structured") else len(z)
        total = z.new_zeros(())
        for own, drawn in zip(z.chunk(groups), targets.chunk(groups)):
            total = total + sorted_distance(own, drawn, self._slices(own.detach(), step))
        return distributed.all_sum(total) / (len(z) * self.num_projections)

    def target_samples(self, step: tuple[int, ...], view: int, like: Tensor) -> Tensor:
        """The target samples of one view: of ``like``'s shape [N, D], dtype and device."""
        generator = rng.generator(self.seed, "targets", *step, view, device=like.device)
        return self.target.sample(
            like.shape, generator=generator, device=like.device, dtype=like.dtype
        )

    def _slices(self, views: Tensor, step: tuple[int, ...]) -> Iterator[Slices]:
        """This process's share of the slices of [V, N, D]."""
        start, stop = distributed.share(self.num_projections)
        samples = views.flatten(0, 1)
        if self.projection_vectors_type == "random":
            yield from random_chunks(samples, self.seed, step, start, stop)
        elif self.projection_vectors_type == "structured":
            yield from structured_chunks(samples, self.seed, step, start, stop)
        else:  # the view's singular vectors (no gradient flows through them), then random rows
            vectors = torch.linalg.svd(samples, full_matrices=False).Vh  # [min(N, D), D]
            if self.projection_vectors_type == "torch_svd_bottom_half_eigen_and_random":
                vectors = vectors[vectors.shape[0] // 2 :]
            yield from dense_chunks(vectors[start : min(stop, len(vectors))], 2 * len(samples))
            filling = (max(start, len(vectors)), max(stop, len(vectors)))
            yield from random_chunks(samples, self.seed, step, *filling)
