"""VISReg (arXiv 2606.02572)."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from solo.losses.vicreg import invariance_loss
from solo.losses.visreg import ShapeLoss, scale_loss
from solo.methods.base import Loss, MethodKwargs, SSLMethod


class VISRegKwargs(MethodKwargs):
    """``method_kwargs`` of ``visreg``."""

    sim_loss_weight: float = Field(25.0, ge=0)
    """Weight of invariance."""
    scale_loss_weight: float = Field(25.0, ge=0)
    """Weight of (1 - standard deviation)^2."""
    shape_loss_weight: float = Field(25.0, ge=0)
    """Weight of the sliced Wasserstein distance."""
    num_projections: int = Field(1024, ge=1)
    """Slices a step."""


class VISReg(SSLMethod):
    """Invariance, scale and shape."""

    Kwargs: ClassVar[type[MethodKwargs]] = VISRegKwargs
    kwargs: VISRegKwargs

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.shape_loss = ShapeLoss(self.kwargs.num_projections, self.config.seed)

    def compute_loss(self, h: Tensor, z: Tensor, step: tuple[int, ...]) -> Loss:
        """See the class."""
        options = self.kwargs
        invariance, scale, shape = invariance_loss(z), scale_loss(z), self.shape_loss(z, step)
        total = (
            options.sim_loss_weight * invariance
            + options.scale_loss_weight * scale
            + options.shape_loss_weight * shape
        )
        logs = {"visreg_loss": total, "invariance_loss": invariance}
        return Loss(total, {**logs, "scale_loss": scale, "shape_loss": shape})
