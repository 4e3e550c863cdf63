"""``micro_batch``: the batch's own loss and gradient, with the activations of a part of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers import merged, rows, slow, state, tiny
from torch import nn

from solo.config import ConfigError
from solo.data import ImageData
from solo.methods import METHODS, build_method, resolve_config
from solo.pretrain import run

VIT = {"depth": 2, "embed_dim": 24, "num_heads": 2, "patch_size": 2}


def options(folder: Path, method: str, **over: Any) -> dict[str, Any]:
    """One step of plain gradient descent, in float64: weights tell the gradient."""
    content = tiny(folder, method=method, max_epochs=1, limit_train_batches=1)
    content |= {"knn_eval": {"enabled": False}, "mlp_probe": {"enabled": False}, "precision": "64"}
    content["optimizer"] = {"name": "sgd", "batch_size": 64, "lr": 0.4, "weight_decay": 0}
    content["optimizer"]["kwargs"] = {"momentum": 0}
    content["scheduler"] = {"name": "none"}
    content["backbone"] = {"name": "vit_tiny", "kwargs": VIT}
    # Two sizes of views, the second not divided by anything.
    content["augmentations"] = [
        {"crop_size": 8, "num_crops": 2},
        {"crop_size": 6, "num_crops": 1},
    ]
    content["method_kwargs"] = {"proj_hidden_dim": 32, "proj_output_dim": 16}
    if method == "rectified_lpjepa":
        content["method_kwargs"] |= {"num_projections": 40, "projector_type": "rectified_mlp"}
    if method == "dino":
        content["method_kwargs"] |= {"num_prototypes": 32, "freeze_prototypes_epochs": 0}
    if method == "ijepa":
        vit = {**VIT, "class_token": False, "global_pool": "avg"}
        content["backbone"] = {"name": "vit_tiny", "kwargs": vit}
        content["method_kwargs"] = {"pred_dim": 16, "pred_depth": 1, "pred_heads": 2}
        content["augmentations"] = [{"crop_size": 8, "num_crops": 1}]
    return merged(content, over)


def without_batchnorm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Projectors with LayerNorm: BatchNorm would see each part by itself."""
    monkeypatch.setattr(nn, "BatchNorm1d", nn.LayerNorm)


@pytest.mark.parametrize("micro", [24, slow(16), slow(1)])
@pytest.mark.parametrize("method", METHODS)
def test_the_step_is_the_batchs(
    method: str, micro: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_batchnorm(monkeypatch)
    expected = state(run(options(tmp_path / "whole", method)))
    found = state(run(options(tmp_path / "parts", method, micro_batch=micro)))
    moved = 0
    begun = build_method(*_built(options(tmp_path, method))).state_dict()
    for name, value in expected.items():
        if value.is_floating_point():
            step = (value - begun[name]).abs().max()
            # timm resizes positions in float32
            assert (found[name] - value).abs().max() <= 1e-6 * step + 1e-12, name
            moved += bool(step > 0)
    assert moved > 20


def _built(content: dict[str, Any]) -> Any:
    config = resolve_config(content)
    return config, ImageData(config)


def test_batchnorm_sees_parts_and_counts_images_once(tmp_path: Path) -> None:
    """Running statistics are those of the parts in turn: the second pass leaves them alone."""
    resnet = {"name": "resnet10t", "kwargs": {"channels": [8] * 4, "stem_type": ""}}
    content = options(tmp_path, "vicreg", augmentations=[{"crop_size": 8, "num_crops": 2}])
    content["backbone"] = resnet
    method = build_method(*_built({**content, "micro_batch": 16})).double()
    views = [torch.randint(0, 256, (2, 64, 3, 8, 8), dtype=torch.uint8)]
    twin = build_method(*_built(content)).double()
    twin.load_state_dict(method.state_dict())
    encoded = method.encode_batch(views)
    encoded.z.square().mean().backward()
    parts = [twin.encode([part]) for part in views[0].split(16, dim=1)]
    torch.cat([part.z for part in parts], dim=1).square().mean().backward()
    for (name, ours), theirs in zip(method.named_parameters(), twin.parameters()):
        if ours.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, msg=name)
    for (name, ours), theirs in zip(method.named_buffers(), twin.buffers()):
        if "running" in name:
            torch.testing.assert_close(ours, theirs, msg=name)


class Held:
    """The most bytes that are kept for the backward pass at any time."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def pack(self, x: torch.Tensor) -> Any:
        size = x.numel() * x.element_size()
        self.now += size
        self.most = max(self.most, self.now)
        return _Kept(x, size, self)

    @staticmethod
    def unpack(kept: Any) -> torch.Tensor:
        return kept.x


class _Kept:
    def __init__(self, x: torch.Tensor, size: int, owner: Held) -> None:
        self.x, self.size, self.owner = x, size, owner

    def __del__(self) -> None:
        self.owner.now -= self.size


def test_activations_of_one_part_are_held(tmp_path: Path) -> None:
    """Outside of the parts nothing but embeddings is kept."""
    views = [torch.randint(0, 256, (2, 64, 3, 8, 8), dtype=torch.uint8)]
    most = {}
    for micro in (None, 8):
        content = options(tmp_path, "vicreg", augmentations=[{"crop_size": 8, "num_crops": 2}])
        method = build_method(*_built({**content, "micro_batch": micro}))
        held = Held()
        with torch.autograd.graph.saved_tensors_hooks(held.pack, held.unpack):
            method.encode_batch(views).z.square().mean().backward()
        most[micro] = held.most
    assert most[8] < most[None] / 4


def test_parts_that_cannot_be(tmp_path: Path) -> None:
    """Told before anything is trained."""
    for over, said in (
        ({"compile": True}, "not tried with compile=true"),
        ({"micro_batch": 1}, "BatchNorm needs two images or more"),
    ):
        with pytest.raises(ConfigError, match=said):
            run(options(tmp_path, "vicreg", **{"micro_batch": 16, **over}))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_two_processes(tmp_path: Path, command: Any) -> None:
    """Each process's share in parts: the loss logged is that of the whole."""
    found = []
    for name, micro in (("whole", None), ("parts", 16)):
        content = options(tmp_path / name, "lejepa", limit_train_batches=3, devices=2)
        content["optimizer"]["batch_size"] = 32
        content |= {"micro_batch": micro, "precision": "32"}
        content["method_kwargs"] |= {"logging_interval": 1, "projector_type": "identity"}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
        command("main_pretrain.py", "--config-path", tmp_path, "--config-name", name)
        (folder,) = (tmp_path / name).glob("*/*")
        found.append(
            [float(r["train_lejepa_loss"]) for r in rows(folder) if "train_lejepa_loss" in r]
        )
    assert len(found[0]) == 3
    torch.testing.assert_close(torch.tensor(found[0]), torch.tensor(found[1]), rtol=1e-5, atol=0)
