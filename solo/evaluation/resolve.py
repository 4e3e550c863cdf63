"""The checked config of an evaluation, and the network that it names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from solo.config import check, plain_tree
from solo.config.evaluation import LinearConfig
from solo.evaluation.encoders import Encoder
from solo.evaluation.loading import load_encoder, newest_run
from solo.optim import OPTIMIZER_KWARGS


def resolve_linear(cfg: DictConfig | Mapping[str, Any]) -> tuple[LinearConfig, Encoder]:
    """The checked config, and the network it names.

    What the config leaves open follows the network's own run: the data, and the size of images.

    Raises:
        ConfigError: listing every fault found.
    """
    tree = plain_tree(cfg)
    config = _check(tree)
    source = config.pretrained or str(newest_run(Path(config.checkpoint.dir)))
    encoder = load_encoder(
        source, features=config.features, backbone=config.backbone, image_size=config.image_size
    )
    tree |= {"pretrained": source, "image_size": encoder.image_size}
    if encoder.config is not None:
        own = encoder.config.data.model_dump(mode="json") | {"no_labels": False}
        given = tree.get("data") or {}
        same_set = given.get("dataset", own["dataset"]) == own["dataset"]
        tree["data"] = {**own, **given} if same_set else given
    if "augmentations" not in tree:
        tree["augmentations"] = [_crop_and_flip(config, encoder)]
    return _check(tree), encoder


def _crop_and_flip(config: LinearConfig, encoder: Encoder) -> dict[str, Any]:
    """Training images: as the network's own run crops and flips them, without change of colour."""
    recipe = config.augmentations[0].model_dump(mode="json")
    if encoder.config is not None:
        entries = encoder.config.augmentations
        own = next((entry for entry in entries if entry.rrc.enabled), entries[0])
        for key in ("rrc", "horizontal_flip"):
            recipe[key] = getattr(own, key).model_dump(mode="json")
    return {**recipe, "crop_size": encoder.image_size}


def _check(tree: dict[str, Any]) -> LinearConfig:
    optimizer = tree.get("optimizer") or {}
    name = optimizer.get("name", "sgd") if isinstance(optimizer, Mapping) else "sgd"
    sections = {"optimizer.kwargs": OPTIMIZER_KWARGS[name]} if name in OPTIMIZER_KWARGS else {}
    return check(tree, LinearConfig, sections)
