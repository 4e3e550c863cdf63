"""Rectified LpJEPA (arXiv 2602.01456): view invariance plus rectified distribution matching.

RDMReg pulls the features' distribution to a product target by matching their one-dimensional
projections: along each slice, the sorted features should be the sorted target samples (the
squared 2-Wasserstein distance of the two empirical measures), averaged over random slices.

Shapes: V views, B images on this process, N = W B images on all W processes, D features,
K slices.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from solo import distributed, rng
from solo.distributions import GeneralizedGaussian
from solo.losses.vicreg import invariance_loss
from solo.multivariate import random_directions

ProjectionVectorsType = Literal[
    "random", "torch_svd_and_random", "torch_svd_bottom_half_eigen_and_random"
]


def sliced_wasserstein(features: Tensor, targets: Tensor, projections: Tensor) -> Tensor:
    """Squared 2-Wasserstein distance along each slice, averaged over slices.

    Args:
        features: [N, D].
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
    return _slice_distances(features, targets, projections).mean()


def _slice_distances(features: Tensor, targets: Tensor, projections: Tensor) -> Tensor:
    """[K]: the distance along each slice. [K, N] products, so that sorts run along memory."""
    sorted_features = (projections @ features.T).sort(dim=-1).values
    sorted_targets = (projections @ targets.T).sort(dim=-1).values
    return (sorted_features - sorted_targets).square().mean(dim=-1)


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
        views = z.shape[0]
        start, stop = distributed.share(self.num_projections)
        total = z.new_zeros(())
        shared: Tensor | None = None
        for index, view in enumerate(z):
            if self.projection_vectors_type == "random":
                if shared is None:
                    shared = self.random_directions(step, start, stop, view)
                projections = shared
            else:
                projections = self._directions_of_view(view, step, start, stop)
            samples = self.target_samples(step, index, view)
            total = total + _slice_distances(view, samples, projections).sum()
        return distributed.all_sum(total) / (views * self.num_projections)

    def target_samples(self, step: tuple[int, ...], view: int, like: Tensor) -> Tensor:
        """The target samples of one view: of ``like``'s shape [N, D], dtype and device."""
        generator = rng.generator(self.seed, "targets", *step, view, device=like.device)
        return self.target.sample(
            like.shape, generator=generator, device=like.device, dtype=like.dtype
        )

    def random_directions(
        self, step: tuple[int, ...], start: int, stop: int, like: Tensor
    ) -> Tensor:
        """Rows ``start`` to ``stop`` of the step's random directions: [stop - start, D]."""
        return random_directions(like, self.seed, step, start, stop)

    def _directions_of_view(
        self, view: Tensor, step: tuple[int, ...], start: int, stop: int
    ) -> Tensor:
        """The view's singular vectors (no gradient flows through them), then random rows."""
        vectors = torch.linalg.svd(view.detach(), full_matrices=False).Vh  # [min(N, D), D]
        if self.projection_vectors_type == "torch_svd_bottom_half_eigen_and_random":
            vectors = vectors[vectors.shape[0] // 2 :]
        own = vectors[start : min(stop, vectors.shape[0])]
        filling = (max(start, vectors.shape[0]), max(stop, vectors.shape[0]))
        return torch.cat((own, self.random_directions(step, *filling, view)))
