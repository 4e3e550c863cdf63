"""Every recipe that lies in scripts/pretrain: it builds and takes two steps on stand-in data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import RECIPE_FILES, write_celeba, write_cifar, write_images, write_mnist
from helpers import last, merged
from torchvision import datasets as tv

from benchmarks.recipes import compose
from solo.pretrain import run


def stand_in(
    recipe: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """Some images in the layout of the recipe's data set, and where they are."""
    name = recipe["data"]["dataset"]
    if name == "digits":
        return {}
    if name in ("cifar10", "cifar100"):
        cls = {"cifar10": tv.CIFAR10, "cifar100": tv.CIFAR100}[name]
        write_cifar(folder, monkeypatch, cls, coarse=name == "cifar100")
    elif name == "fashion_mnist":
        write_mnist(folder)
    elif name == "celeba":
        write_celeba(folder, 16, monkeypatch)
    else:
        for part in ("train", "val"):
            write_images(folder / part, ["n01558993", "n01692333", "n01729322"], 4)
        return {"train_path": str(folder / "train"), "val_path": str(folder / "val")}
    return {"train_path": str(folder), "val_path": str(folder)}


def small(recipe: dict[str, Any], paths: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The recipe with fewer layers and slices, on the CPU."""
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
    return merged(recipe, {**over, "data": {**paths, "num_workers": 0}})


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPE_FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_two_steps(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = compose(path)
    paths = stand_in(recipe, tmp_path / "data", monkeypatch)
    result = run(small(recipe, paths, tmp_path))
    assert last(result)["global_step"] == 2
    assert 0 <= result.metrics["val_acc1"] <= 100
