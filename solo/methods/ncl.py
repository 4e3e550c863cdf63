"""Non-negative contrastive learning (arXiv 2403.12459)."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn

from solo.data import Batch
from solo.losses import ncl_loss, over_pairs
from solo.losses.ncl import RECTIFIERS, NonNegative
from solo.methods.base import Loss, MethodOptions, SSLMethod
from solo.methods.probes import Encoded
from solo.methods.projectors import ProjectorType
from solo.rng import Step


class NCLOptions(MethodOptions):
    """``method_kwargs`` of ``ncl``."""

    projector_type: ProjectorType = "standard"
    """`standard` is Linear-ReLU-Linear."""
    temperature: float = Field(0.2, gt=0)
    """Divides the cosine similarities."""
    non_neg: NonNegative | None = "rep_relu"
    """How embeddings become non-negative: `rep_relu` is ReLU with GELU's gradient; null leaves
    them as they are, which is SimCLR. Only relu and rep_relu make them sparse."""

    @property
    def is_rectified(self) -> bool:
        """Whether embeddings are sparse."""
        return self.non_neg in ("relu", "rep_relu") or super().is_rectified

    def build_projector(self, in_features: int) -> nn.Sequential:
        """The projector, the rectification at its end: all who use embeddings see them so."""
        projector = super().build_projector(in_features)
        return projector.append(Rectifier(self.non_neg)) if self.non_neg else projector


class Rectifier(nn.Module):
    """A module for one of ``RECTIFIERS``."""

    def __init__(self, kind: NonNegative) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, z: Tensor) -> Tensor:
        """Rectify coordinate by coordinate."""
        return RECTIFIERS[self.kind](z)


class NCL(SSLMethod):
    """NT-Xent of the projector's non-negative embeddings over all pairs of views."""

    loss_name: ClassVar[str] = "nce_loss"
    Options: ClassVar[type[MethodOptions]] = NCLOptions
    options: NCLOptions

    def compute_loss(self, encoded: Encoded, batch: Batch, step: Step) -> Loss:
        """NT-Xent of rectified embeddings, over all pairs of views."""
        loss = partial(ncl_loss, temperature=self.options.temperature, non_neg=None)
        return Loss(over_pairs(loss, encoded.z))
