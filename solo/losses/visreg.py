"""VISReg (arXiv 2606.02572): variance for the scale, sliced Wasserstein for the shape."""

from __future__ import annotations

from torch import Tensor, nn

from solo import distributed
from solo.distributions import GeneralizedGaussian
from solo.losses.rectified_lpjepa import RDMReg


def scale_loss(z: Tensor, eps: float = 1e-6) -> Tensor:
    """(1 - standard deviation)^2, the mean over coordinates and views, over the global batch.

    Args:
        z: [V, B, D], this process's share of the batch.
    """
    mean = distributed.all_mean(z.mean(1))
    variance = distributed.all_mean((z - mean[:, None]).square().mean(1))  # [V, D]
    return (1 - (variance + eps).sqrt()).square().mean()


class ShapeLoss(nn.Module):
    """Sliced 2-Wasserstein distance of standardised embeddings to the standard normal.

    Embeddings are centred and divided by their standard deviations; the divisor carries no
    gradient, so that scale and shape stay apart.

    Args:
        num_projections: slices a step.
        seed: of slices and target samples.
    """

    def __init__(self, num_projections: int = 1024, seed: int = 0) -> None:
        super().__init__()
        target = GeneralizedGaussian(2.0)
        self.distance = RDMReg(target, num_projections=num_projections, seed=seed)

    def forward(self, z: Tensor, step: tuple[int, ...], eps: float = 1e-6) -> Tensor:
        """z: [V, B, D], this process's share of the batch -> scalar."""
        mean = distributed.all_mean(z.mean(1))[:, None]
        variance = distributed.all_mean((z - mean).square().mean(1))[:, None]
        shape: Tensor = self.distance((z - mean) / (variance + eps).sqrt().detach(), step)
        return shape
