"""Every recipe that lies in scripts/pretrain: it builds and takes two steps on small images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import RECIPES, compose, write_images
from test_pretrain import last, merged

from solo.pretrain import run


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of four images."""
    return write_images(tmp_path_factory.mktemp("images"), ["a", "b", "c"], 4)


def small(recipe: dict[str, Any], images: Path, folder: Path) -> dict[str, Any]:
    """The recipe with fewer layers, images and slices, on the CPU."""
    name = recipe["backbone"]["name"]
    kwargs: dict[str, Any] = {}
    if "vit" in name:
        kwargs = {"depth": 2, "embed_dim": 48, "num_heads": 3}
    elif "convnext" in name:
        kwargs = {"depths": [1, 1, 1, 1], "dims": [16, 16, 16, 16]}
    own = recipe.get("method_kwargs", {})
    sizes = {"proj_hidden_dim": 16, "proj_output_dim": 16, "num_projections": 32, "num_slices": 16}
    sizes |= {"num_prototypes": 16, "pred_hidden_dim": 16}
    sizes |= {"pred_dim": 16, "pred_depth": 1, "pred_heads": 2}
    over = {
        "backbone": {"kwargs": kwargs},
        "method_kwargs": {key: value for key, value in sizes.items() if key in own},
        "optimizer": {"batch_size": 4},
        "scheduler": {"warmup_epochs": 0},
        "checkpoint": {"dir": str(folder)},
        "knn_eval": {"k": 2},
        "auto_resume": {"enabled": False},
        "accelerator": "cpu",
        "devices": 1,
        "num_nodes": 1,
        "precision": "32",
        "strategy": "auto",
        "sync_batchnorm": False,
        "max_epochs": 1,
        "limit_train_batches": 2,
        "accumulate_grad_batches": 1,
    }
    small = merged(recipe, over)
    paths = {"train_path": str(images), "val_path": str(images), "num_workers": 0}
    small["data"] = {"dataset": "custom", **paths}
    return small


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_two_steps(path: Path, images: Path, tmp_path: Path) -> None:
    result = run(small(compose(path), images, tmp_path))
    assert last(result)["global_step"] == 2
    assert 0 <= result.metrics["val_acc1"] <= 100
