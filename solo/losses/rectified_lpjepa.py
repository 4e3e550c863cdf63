"""Rectified LpJEPA (arXiv 2602.01456): view invariance plus rectified distribution matching.

RDMReg pulls the features' distribution to a product target by matching their one-dimensional
projections: along each slice, the sorted features should be the sorted target samples (the
squared 2-Wasserstein distance of the two empirical measures), averaged over random slices.

Shapes: V views, B images on this process, N = W B images on all W processes, D features,
K slices.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from solo import distributed, kernels, rng
from solo.distributions import GeneralizedGaussian
from solo.losses.vicreg import invariance_loss
from solo.losses.wasserstein import global_wasserstein, sliced_wasserstein
from solo.multivariate.slices import ProjectionVectorsType, build_slices

__all__ = [
    "RDMReg",
    "RectifiedLpJEPALoss",
    "rectified_lpjepa_loss",
    "sliced_wasserstein",
    "weighted_sum",
]


class RectifiedLpJEPALoss(NamedTuple):
    """The loss and its two terms, before their weights."""

    loss: Tensor
    invariance: Tensor
    rdm_reg: Tensor


def weighted_sum(
    z: Tensor,
    rdm_reg: Tensor,
    *,
    invariance_loss_weight: float = 25.0,
    rdm_reg_loss_weight: float = 125.0,
) -> RectifiedLpJEPALoss:
    """``invariance_loss_weight * mse(z1, z2) + rdm_reg_loss_weight * rdm_reg``.

    Args:
        z: [V, B, D], this process's share of the batch.
        rdm_reg: a scalar, the regulariser of ``z``.
    """
    invariance = invariance_loss(z)
    total = invariance_loss_weight * invariance + rdm_reg_loss_weight * rdm_reg
    return RectifiedLpJEPALoss(total, invariance, rdm_reg)


def rectified_lpjepa_loss(
    z: Tensor, targets: Tensor, projections: Tensor, **weights: float
) -> RectifiedLpJEPALoss:
    """The whole loss on one process, with given targets and slices.

    Args:
        z: [V, N, D] projector outputs.
        targets: [V, N, D], each view's own target samples.
        projections: [K, D], the slices: unit rows, shared by the views.
        **weights: of the two terms, as in ``weighted_sum``.
    """
    distances = [sliced_wasserstein(view, target, projections) for view, target in zip(z, targets)]
    return weighted_sum(z, torch.stack(distances).mean(), **weights)


class RDMReg(nn.Module):
    """Rectified distribution matching over the global batch, with its own seeded draws.

    Each call gathers the features of all processes and works on this process's share of the
    slices; value and (averaged) gradients are those of one process with the whole batch.

    Args:
        target: the distribution of each coordinate.
        num_projections: slices K a step.
        projection_vectors_type: a key of ``solo.multivariate.slices.SLICES``.
        seed: the run's seed.

    Raises:
        ValueError: for an unknown type or no slices.

    Example:
        >>> from solo.distributions import RectifiedGeneralizedGaussian
        >>> target = RectifiedGeneralizedGaussian(p=1.0)
        >>> reg = RDMReg(target, num_projections=256)
        >>> generator = torch.Generator().manual_seed(0)
        >>> z = target.sample((2, 512, 16), generator=generator)  # [V, B, D]
        >>> [round(reg(batch, (0,)).item(), 2) for batch in (z, 2 * z)]  # as wanted, and too wide
        [0.01, 0.55]
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
        self.target, self.seed = target, seed
        self.slices = build_slices(projection_vectors_type, num_projections, seed)
        self.steps = rng.StepCounter()

    def forward(self, z: Tensor, step: tuple[int, ...] | None = None) -> Tensor:
        """Mean over views and slices of the sliced distance to fresh target samples.

        Args:
            z: [V, B, D], this process's share of the batch.
            step: which step this is (any integers); it names the draws. Without one, the calls
                are counted.

        Returns:
            A scalar, the same on every process.
        """
        step = self.steps.named(step)
        z = distributed.gather(z, dim=1)  # [V, N, D]
        return global_wasserstein(z, self.target_samples(step, z), self.slices, step)

    def target_samples(self, step: tuple[int, ...], like: Tensor) -> Tensor:
        """Each view's own target samples: of ``like``'s shape [V, N, D], dtype and device."""
        if kernels.usable(like):
            from solo.kernels.draws import samples_of

            return samples_of(self.target, like, rng.seed_for(self.seed, "targets", *step))
        return torch.stack([self._of_a_view(step, v, view) for v, view in enumerate(like)])

    def _of_a_view(self, step: tuple[int, ...], view: int, like: Tensor) -> Tensor:
        generator = rng.generator(self.seed, "targets", *step, view, device=like.device)
        return self.target.sample(
            like.shape, generator=generator, device=like.device, dtype=like.dtype
        )
