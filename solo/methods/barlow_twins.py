"""Barlow Twins (arXiv 2103.03230)."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from solo.losses import barlow_twins_loss, over_pairs
from solo.methods.base import Loss, MethodKwargs, SSLMethod


class BarlowTwinsKwargs(MethodKwargs):
    """``method_kwargs`` of ``barlow_twins``."""

    lamb: float = Field(5.1e-3, ge=0)
    """Weight of redundancy reduction."""
    scale_loss: float = Field(0.024, gt=0)
    """Factor on the whole loss."""


class BarlowTwins(SSLMethod):
    """Cross-correlation to the identity, over all pairs of views."""

    Kwargs: ClassVar[type[MethodKwargs]] = BarlowTwinsKwargs
    kwargs: BarlowTwinsKwargs

    def compute_loss(self, h: Tensor, z: Tensor, step: tuple[int, ...]) -> Loss:
        """See the class."""
        loss = over_pairs(partial(barlow_twins_loss, lamb=self.kwargs.lamb), z)
        total = self.kwargs.scale_loss * loss
        return Loss(total, {"barlow_twins_loss": total})
