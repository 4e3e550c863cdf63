"""Losses: tensors in, scalar out, exact over the global batch of all processes."""

from solo.losses.ncl import ncl_loss
from solo.losses.simclr import simclr_loss
from solo.losses.vicreg import vicreg_loss

__all__ = ["ncl_loss", "simclr_loss", "vicreg_loss"]
