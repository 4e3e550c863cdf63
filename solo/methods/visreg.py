"""VISReg (arXiv 2606.02572)."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from solo.data import Batch
from solo.losses.sigreg import lejepa_loss
from solo.losses.visreg import VISRegTerms, VISRegTest
from solo.methods.base import Loss, MethodOptions, SSLMethod
from solo.methods.probes import Encoded
from solo.rng import Step


class VISRegOptions(MethodOptions):
    """``method_kwargs`` of ``visreg``."""

    views_together: bool = True
    """Whether BatchNorm sees all views of a resolution as one batch, as published."""
    lamb: float = Field(0.9, ge=0, le=1)
    """Weight of the three terms below; invariance to the global views' centre weighs 1 - lamb."""
    center_loss_weight: float = Field(1.0, ge=0)
    """Weight of the squared mean."""
    scale_loss_weight: float = Field(1.0, ge=0)
    """Weight of (1 - standard deviation)^2."""
    shape_loss_weight: float = Field(1.0, ge=0)
    """Weight of the sliced Wasserstein distance to the normal."""
    num_projections: int = Field(4096, ge=1)
    """Slices a step."""


class VISReg(SSLMethod):
    """``(1 - lamb) * invariance + lamb * (center + scale + shape)``."""

    loss_name: ClassVar[str] = "visreg_loss"
    against_collapse: ClassVar[str] = (
        "Lower method_kwargs.lamb, the weight of the pull between views"
    )
    Options: ClassVar[type[MethodOptions]] = VISRegOptions
    options: VISRegOptions

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.test = VISRegTest(self.options.num_projections, self.config.seed)

    def compute_loss(self, encoded: Encoded, batch: Batch, step: Step) -> Loss:
        """Invariance to the global views' centre, and center, scale and shape."""
        options, z = self.options, encoded.z
        terms: VISRegTerms = self.test(z, step)
        regulariser = (
            options.center_loss_weight * terms.center
            + options.scale_loss_weight * terms.scale
            + options.shape_loss_weight * terms.shape
        )
        total, invariance = lejepa_loss(z, regulariser, self.global_views, lamb=options.lamb)
        logs = {f"{name}_loss": value for name, value in terms._asdict().items()}
        return Loss(total, {"invariance_loss": invariance, **logs})
