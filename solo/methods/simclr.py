"""SimCLR (arXiv 2002.05709)."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from pydantic import Field

from solo.data import Batch
from solo.losses import over_pairs, simclr_loss
from solo.methods.base import Loss, MethodOptions, SSLMethod
from solo.methods.probes import Encoded
from solo.methods.projectors import ProjectorType
from solo.rng import Step


class SimCLROptions(MethodOptions):
    """``method_kwargs`` of ``simclr``."""

    projector_type: ProjectorType = "standard"
    """`standard` is Linear-ReLU-Linear; `rectified_mlp` makes sparse embeddings."""
    temperature: float = Field(0.2, gt=0)
    """Divides the cosine similarities."""


class SimCLR(SSLMethod):
    """NT-Xent over all pairs of views, the global batch as negatives."""

    loss_name: ClassVar[str] = "nce_loss"
    Options: ClassVar[type[MethodOptions]] = SimCLROptions
    options: SimCLROptions

    def compute_loss(self, encoded: Encoded, batch: Batch, step: Step) -> Loss:
        """NT-Xent, over all pairs of views."""
        loss = partial(simclr_loss, temperature=self.options.temperature)
        return Loss(over_pairs(loss, encoded.z))
