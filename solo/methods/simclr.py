"""SimCLR (arXiv 2002.05709)."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from pydantic import Field

from solo.data import Batch
from solo.losses import over_pairs, simclr_loss
from solo.methods.base import Loss, MethodKwargs, SSLMethod
from solo.methods.probes import Encoded
from solo.methods.projectors import ProjectorType
from solo.rng import Step


class SimCLRKwargs(MethodKwargs):
    """``method_kwargs`` of ``simclr``."""

    projector_type: ProjectorType = "standard"
    """`standard` is Linear-ReLU-Linear; `rectified_mlp` makes sparse embeddings."""
    temperature: float = Field(0.2, gt=0)
    """Divides the cosine similarities."""


class SimCLR(SSLMethod):
    """NT-Xent over all pairs of views, the global batch as negatives."""

    loss_name: ClassVar[str] = "nce_loss"
    Kwargs: ClassVar[type[MethodKwargs]] = SimCLRKwargs
    kwargs: SimCLRKwargs

    def compute_loss(self, encoded: Encoded, batch: Batch, step: Step) -> Loss:
        """See the class."""
        loss = partial(simclr_loss, temperature=self.kwargs.temperature)
        return Loss(over_pairs(loss, encoded.z))
