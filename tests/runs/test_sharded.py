"""``strategy: fsdp``: networks in shards, on gloo."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers import rows, tiny
from test_elastic import Command

from solo.runs.checkpoint_files import read_checkpoint


def options(folder: Path, **keys: Any) -> dict[str, Any]:
    """LeJEPA on a ViT, 20 steps of two processes."""
    content = tiny(folder, method="lejepa", max_epochs=4, limit_train_batches=5, devices=2)
    sizes = {"depth": 3, "embed_dim": 24, "num_heads": 2, "patch_size": 2}
    content["backbone"] = {"name": "vit_tiny", "kwargs": sizes}
    content["method_kwargs"] = {"projector_type": "mlp", "logging_interval": 1}
    content["method_kwargs"] |= {"proj_hidden_dim": 32, "proj_output_dim": 16}
    # Adam would make whole steps of the rounding in gradients that are zero (biases of keys).
    content["optimizer"] = {"name": "sgd", "global_batch_size": 64, "lr": 0.4}
    return {**content, "strategy": "fsdp", **keys}


def trained(command: Command, content: dict[str, Any]) -> Path:
    """The folder of a run."""
    folder = Path(content["checkpoint"]["dir"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
    words = ["--config-path", folder, "--config-name", "recipe"]
    command("main_pretrain.py", *words, OMP_NUM_THREADS="1")
    return max(folder.glob("*/*/"), key=lambda run: run.stat().st_mtime)


def same(one: Path, other: Path, loss: str, most: float) -> None:
    """Two runs' curves, probes and ends."""
    for mine, theirs in zip(rows(one), rows(other), strict=True):
        assert mine.keys() == theirs.keys()
        for column in (loss, "train_class_loss", "val_loss", "val_knn_acc1"):
            if mine.get(column):
                assert float(mine[column]) == pytest.approx(float(theirs[column]), rel=most)
    ends = [read_checkpoint(run / "checkpoints/last.ckpt") for run in (one, other)]
    for name, value in ends[0]["state_dict"].items():
        torch.testing.assert_close(ends[1]["state_dict"][name], value, rtol=0, atol=most)


def test_lejepa(command: Command, tmp_path: Path) -> None:
    folders = [
        trained(command, options(tmp_path / strategy, strategy=strategy))
        for strategy in ("ddp", "fsdp")
    ]
    same(*folders, "train_lejepa_loss", 1e-5)
