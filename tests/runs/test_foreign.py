"""Checkpoints of other packages, and files that hold code."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf

from solo.backbones import build_backbone
from solo.config import ConfigError
from solo.config.schema import Backbone
from solo.linear import run as evaluate
from solo.runs.networks import load_encoder


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def theirs(path: Path, **more: Any) -> dict[str, torch.Tensor]:
    """A Lightning checkpoint as solo-learn writes it; its backbone's weights."""
    backbone = torch.nn.ModuleDict(
        {"backbone": build_backbone("resnet18", {}, 32), "projector": torch.nn.Linear(512, 8)}
    )
    config = OmegaConf.create({"backbone": {"name": "resnet18"}, "devices": [0, 1], "seed": None})
    torch.save(
        {
            "state_dict": backbone.state_dict(),
            "hyper_parameters": {"cfg": config, "path": Path("x"), **more},
            "callbacks": {"checkpoint": pl.callbacks.ModelCheckpoint(monitor="val_acc1")},
            "optimizer_states": [torch.optim.SGD(backbone.parameters(), lr=1.0).state_dict()],
            "pytorch-lightning_version": "2.1",
        },
        path,
    )
    return {k: v for k, v in backbone.state_dict().items() if k.startswith("backbone.")}


@pytest.mark.slow
def test_a_checkpoint_with_a_config_and_callbacks(tmp_path: Path) -> None:
    weights = theirs(tmp_path / "last.ckpt")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "last.ckpt", weights_only=True)
    encoder = load_encoder(
        str(tmp_path / "last.ckpt"), backbone=Backbone(name="resnet18"), image_size=32
    )
    for name, value in encoder.backbone.state_dict().items():
        assert torch.equal(value, weights[f"backbone.{name}"])
    result = evaluate(
        {
            "pretrained": str(tmp_path / "last.ckpt"),
            "backbone": {"name": "resnet18"},
            "image_size": 32,
            "mode": "fast",
            "data": {"dataset": "digits", "num_workers": 0},
            "checkpoint": {"dir": str(tmp_path / "runs")},
            "accelerator": "cpu",
        }
    )
    assert result.rows[0]["acc1"] > 50  # an untrained network's features


@pytest.mark.parametrize("place", ["hyper_parameters", "state_dict"])
def test_code_is_refused_and_does_not_run(place: str, tmp_path: Path) -> None:
    path, made = tmp_path / "evil.ckpt", tmp_path / "made"
    torch.save({"state_dict": {}, place: {"cfg": Trap(made)}}, path)
    with pytest.raises(ConfigError, match=r"posix.mkdir|os.mkdir"):
        load_encoder(str(path), backbone=Backbone(name="resnet18"))
    assert not made.exists()
    torch.load(path, weights_only=False)
    assert made.exists()  # so the trap was one


def test_what_numpy_leaves_is_passed_over(tmp_path: Path) -> None:
    network = build_backbone("resnet18", {}, 32)
    left = {"best": np.float64(0.5), "rng": np.random.default_rng(0).bit_generator.state}
    left |= {"history": np.arange(3.0)}
    torch.save({"state_dict": network.state_dict(), **left}, tmp_path / "last.ckpt")
    found = load_encoder(
        str(tmp_path / "last.ckpt"), backbone=Backbone(name="resnet18"), image_size=32
    )
    assert torch.equal(found.backbone.conv1.weight, network.conv1.weight)


def test_a_program_is_refused(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "program.pt")
    with pytest.raises(ConfigError):
        load_encoder(str(tmp_path / "program.pt"), backbone=Backbone(name="resnet18"))
