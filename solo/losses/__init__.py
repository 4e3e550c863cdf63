"""Losses: tensors in, scalar out, exact over the global batch of all processes."""

from solo.losses.barlow_twins import barlow_twins_loss
from solo.losses.byol import byol_loss
from solo.losses.dino import dino_loss
from solo.losses.ijepa import ijepa_loss
from solo.losses.ncl import ncl_loss
from solo.losses.pairs import over_pairs
from solo.losses.simclr import simclr_loss
from solo.losses.supervised import supervised_loss
from solo.losses.vicreg import vicreg_loss

__all__ = [
    "barlow_twins_loss",
    "byol_loss",
    "dino_loss",
    "ijepa_loss",
    "ncl_loss",
    "over_pairs",
    "simclr_loss",
    "supervised_loss",
    "vicreg_loss",
]
