"""Methods by name, and what it takes to build one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from solo.config import Config, ConfigError, resolve
from solo.data import ImageData, Normalize
from solo.data.datasets import normalisation
from solo.methods.barlow_twins import BarlowTwins
from solo.methods.base import MethodOptions, SSLMethod
from solo.methods.byol import BYOL
from solo.methods.dino import DINO
from solo.methods.ijepa import IJEPA
from solo.methods.lejepa import LeJEPA
from solo.methods.ncl import NCL
from solo.methods.rectified_lpjepa import RectifiedLpJEPA
from solo.methods.simclr import SimCLR
from solo.methods.supervised import Supervised
from solo.methods.vicreg import VICReg
from solo.methods.visreg import VISReg
from solo.optim import OPTIMIZER_OPTIONS

__all__ = ["METHODS", "MethodOptions", "SSLMethod", "build_method", "resolve_config"]

METHODS: dict[str, type[SSLMethod]] = {
    "barlow_twins": BarlowTwins,
    "byol": BYOL,
    "dino": DINO,
    "ijepa": IJEPA,
    "lejepa": LeJEPA,
    "ncl": NCL,
    "rectified_lpjepa": RectifiedLpJEPA,
    "simclr": SimCLR,
    "supervised": Supervised,
    "vicreg": VICReg,
    "visreg": VISReg,
}


def resolve_config(given: DictConfig | Mapping[str, Any]) -> Config:
    """Check a config against the schema, the chosen method's and the chosen optimizer's options.

    Raises:
        ConfigError: listing every fault found.
    """
    config = resolve(given, {name: m.Options for name, m in METHODS.items()}, OPTIMIZER_OPTIONS)
    views = sum(entry.num_crops for entry in config.augmentations)
    if views < METHODS[config.method].min_views:
        raise ConfigError(
            f"augmentations make one view an image; {config.method} compares views and needs at "
            "least 2 (augmentations.0.num_crops)"
        )
    return config


def build_method(config: Config, data: ImageData) -> SSLMethod:
    """The configured method, untrained, for this data."""
    normalize = Normalize(*normalisation(config.data))
    return METHODS[config.method](config, normalize, data.num_classes)
