"""Barlow Twins (arXiv 2103.03230)."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from pydantic import Field

from solo.data import Batch
from solo.losses import barlow_twins_loss, over_pairs
from solo.methods.base import Loss, MethodOptions, SSLMethod
from solo.methods.probes import Encoded
from solo.rng import Step


class BarlowTwinsOptions(MethodOptions):
    """``method_kwargs`` of ``barlow_twins``."""

    lamb: float = Field(5.1e-3, ge=0)
    """Weight of redundancy reduction."""
    scale_loss: float = Field(0.024, gt=0)
    """Factor on the whole loss."""


class BarlowTwins(SSLMethod):
    """Cross-correlation to the identity, over all pairs of views."""

    loss_name: ClassVar[str] = "barlow_twins_loss"
    against_collapse: ClassVar[str] = (
        "Raise method_kwargs.lamb, the weight of what decorrelates dimensions"
    )
    Options: ClassVar[type[MethodOptions]] = BarlowTwinsOptions
    options: BarlowTwinsOptions

    def compute_loss(self, encoded: Encoded, batch: Batch, step: Step) -> Loss:
        """The Barlow Twins loss, over all pairs of views."""
        loss = over_pairs(partial(barlow_twins_loss, lamb=self.options.lamb), encoded.z)
        return Loss(self.options.scale_loss * loss)
