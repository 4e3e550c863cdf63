"""Non-negative contrastive learning (arXiv 2403.12459)."""

from __future__ import annotations

from functools import partial
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from solo.losses import ncl_loss, over_pairs, simclr_loss
from solo.methods.base import Loss, MethodKwargs, SSLMethod
from solo.methods.projectors import ProjectorType


class NCLKwargs(MethodKwargs):
    """``method_kwargs`` of ``ncl``."""

    projector_type: ProjectorType = "standard"
    """`standard` is Linear-ReLU-Linear."""
    temperature: float = Field(0.2, gt=0)
    """Divides the cosine similarities."""
    non_neg: Literal["relu", "rep_relu"] | None = "rep_relu"
    """How embeddings become non-negative: `rep_relu` is ReLU with GELU's gradient; null leaves
    them as they are, which is SimCLR."""
    normalize: Literal["dim"] = "dim"
    """Embeddings have length 1 over their dimensions."""
    drop: Literal[0] = 0
    """Published recipes carry it; only this value is known here, as for the five below."""
    loss_type: Literal["xent"] = "xent"
    """See drop."""
    tau: Literal[1] = 1
    """See drop."""
    gsize: int = Field(256, ge=1)
    """See drop; it has no effect with loss_type xent."""
    learnable_temp: Literal[0] = 0
    """See drop."""
    power_iter: Literal[1] = 1
    """See drop."""


class NCL(SSLMethod):
    """NT-Xent of non-negative embeddings over all pairs of views."""

    Kwargs: ClassVar[type[MethodKwargs]] = NCLKwargs
    kwargs: NCLKwargs

    def compute_loss(self, h: Tensor, z: Tensor, step: tuple[int, ...]) -> Loss:
        """See the class."""
        options = self.kwargs
        loss = partial(simclr_loss, temperature=options.temperature)
        if options.non_neg is not None:
            loss = partial(ncl_loss, temperature=options.temperature, non_neg=options.non_neg)
        total = over_pairs(loss, z)
        return Loss(total, {"nce_loss": total})
