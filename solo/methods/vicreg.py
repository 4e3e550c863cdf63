"""VICReg (arXiv 2105.04906)."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from pydantic import Field
from torch import nn

from solo.data import Batch
from solo.losses import over_pairs, vicreg_loss
from solo.losses.vicreg import invariance_loss
from solo.methods.base import Loss, MethodOptions, SSLMethod
from solo.methods.probes import Encoded
from solo.rng import Step


class VICRegOptions(MethodOptions):
    """``method_kwargs`` of ``vicreg``."""

    sim_loss_weight: float = Field(25.0, ge=0)
    """Weight of invariance."""
    var_loss_weight: float = Field(25.0, ge=0)
    """Weight of variance, summed over two views."""
    cov_loss_weight: float = Field(1.0, ge=0)
    """Weight of covariance, summed over two views."""
    non_neg: bool = False
    """Rectify the embedding, as `rectified_mlp` does."""

    @property
    def is_rectified(self) -> bool:
        """Whether embeddings are sparse."""
        return self.non_neg or super().is_rectified

    def build_projector(self, in_features: int) -> nn.Sequential:
        """The projector, ending with a ReLU where ``non_neg`` says so."""
        projector = super().build_projector(in_features)
        return projector.append(nn.ReLU()) if self.non_neg else projector


class VICReg(SSLMethod):
    """Invariance, variance and covariance, over all pairs of views."""

    loss_name: ClassVar[str] = "vicreg_loss"
    against_collapse: ClassVar[str] = (
        "Raise method_kwargs.var_loss_weight, or lower sim_loss_weight"
    )
    Options: ClassVar[type[MethodOptions]] = VICRegOptions
    options: VICRegOptions

    def compute_loss(self, encoded: Encoded, batch: Batch, step: Step) -> Loss:
        """The VICReg loss, over all pairs of views."""
        options = self.options
        loss = partial(
            vicreg_loss,
            sim_loss_weight=options.sim_loss_weight,
            var_loss_weight=options.var_loss_weight,
            cov_loss_weight=options.cov_loss_weight,
        )
        terms = {"invariance_loss": invariance_loss(encoded.z.detach())}
        return Loss(over_pairs(loss, encoded.z), terms)
