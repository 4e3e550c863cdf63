"""``strategy: fsdp``: networks in shards, on gloo."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from children import fork, free_ports
from helpers import rows, tiny
from torch.distributed.device_mesh import init_device_mesh

from solo import distributed
from solo.backbones import build_backbone
from solo.backbones.sharding import blocks, shard
from solo.config import ConfigError
from solo.methods import resolve_config
from solo.pretrain import run
from solo.runs.checkpoint_files import read_checkpoint
from solo.runs.networks import load_encoder
from solo.runs.sharded import check_sharded

VIT = {
    "name": "vit_tiny",
    "kwargs": {"depth": 3, "embed_dim": 24, "num_heads": 2, "patch_size": 2},
}
MEAN = {"class_token": False, "global_pool": "avg"}


def options(folder: Path, **keys: Any) -> dict[str, Any]:
    """LeJEPA on a ViT, 20 steps of two processes."""
    content = tiny(folder, method="lejepa", max_epochs=4, limit_train_batches=5, devices=2)
    content |= {"backbone": VIT, "strategy": "fsdp"}
    content["method_kwargs"] = {"logging_interval": 1, "proj_hidden_dim": 32, "proj_output_dim": 16}
    # Adam would make whole steps of the rounding in gradients that are zero (biases of keys).
    content["optimizer"] = {"name": "sgd", "global_batch_size": 64, "lr": 0.4}
    for name, value in keys.items():
        content[name] = {**content[name], **value} if name == "method_kwargs" else value
    return content


def one_after_the_other(rank: int, ports: list[int], recipes: list[dict[str, Any]]) -> None:
    """Train each, as one of the processes that torchrun starts."""
    torch.set_num_threads(1)
    world = recipes[0]["devices"]
    for port, recipe in zip(ports, recipes):
        os.environ |= {
            "TORCHELASTIC_RUN_ID": "test",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "GROUP_RANK": "0",
            "WORLD_SIZE": str(world),
            "LOCAL_WORLD_SIZE": str(world),
        }
        run(recipe)
    os._exit(0)


def train(*recipes: dict[str, Any]) -> list[Path]:
    """The folders of runs, the newest of each recipe."""
    ports = free_ports(len(recipes))
    world = recipes[0]["devices"]
    for child in [fork(one_after_the_other, r, ports, list(recipes)) for r in range(world)]:
        _, errors = child.communicate(timeout=400)
        assert child.returncode == 0, errors[-4000:]
    parents = [Path(recipe["checkpoint"]["dir"]) for recipe in recipes]
    return [max(parent.glob("*/*/"), key=lambda found: found.stat().st_mtime) for parent in parents]


def same(one: Path, other: Path, most: float = 1e-5, ends: bool = True) -> None:
    """Two runs' curves, and their weights."""
    for number, (mine, theirs) in enumerate(zip(rows(one), rows(other), strict=True)):
        assert mine.keys() == theirs.keys()
        rel = min(most, 1e-5) if number < 4 and ends else most
        for column in (f"train_{one.parent.name}_loss", "train_class_loss", "val_loss"):
            if column in mine:
                assert float(mine[column]) == pytest.approx(float(theirs[column]), rel=rel)
    first, second = (read_checkpoint(run / "checkpoints/last.ckpt") for run in (one, other))
    states = [end["optimizer_states"][0]["state"] for end in (first, second)]
    assert [{key: value.shape for key, value in of.items()} for of in states[0].values()] == [
        {key: value.shape for key, value in of.items()} for of in states[1].values()
    ]
    if ends:
        torch.testing.assert_close(first["state_dict"], second["state_dict"], rtol=0, atol=most)


CASES: dict[str, dict[str, Any]] = {
    "lejepa": {},
    "tokens": {
        "linear_probe": {"features": "last_two_cls"},
        "gradient_clip_val": 0.1,
        "optimizer": {"name": "sgd", "global_batch_size": 64, "lr": 0.1},
    },
    "convnext": {
        "backbone": {"name": "convnext_atto", "kwargs": {"depths": [1, 1, 2, 1], "dims": [8] * 4}},
        "accumulate_grad_batches": 2,
        "augmentations": [{"crop_size": 32, "num_crops": 2}],
        "optimizer": {"name": "sgd", "batch_size": 8, "lr": 0.4},
    },
    "recomputed": {"backbone": {**VIT, "grad_checkpointing": True}},
    "resnet": {
        "backbone": {"name": "resnet10t", "kwargs": {"channels": [8] * 4}},
        "sync_batchnorm": True,
    },
    "byol": {"method": "byol"},
    "dino": {
        "method": "dino",
        "method_kwargs": {"num_prototypes": 33, "clip_grad": 0.3},
        "optimizer": {"name": "sgd", "global_batch_size": 64, "lr": 0.01},
    },
    "ijepa": {
        "method": "ijepa",
        "backbone": {"name": "vit_tiny", "kwargs": {**VIT["kwargs"], **MEAN}},
        "method_kwargs": {"pred_dim": 24, "pred_depth": 2, "pred_heads": 2},
    },
    "supervised": {"method": "supervised"},
}


@pytest.mark.slow
def test_it_is_what_ddp_is(tmp_path: Path) -> None:
    """Losses of 20 steps, probes, validation, weights and teachers."""
    recipes = [
        options(tmp_path / name / strategy, strategy=strategy, **keys)
        for name, keys in CASES.items()
        for strategy in ("ddp", "fsdp")
    ]
    folders = train(*recipes)
    for name, one, other in zip(CASES, folders[::2], folders[1::2]):
        same(one, other, 1e-5 if name == "lejepa" else 1e-3)  # rounding grows


@pytest.mark.slow
def test_it_goes_on_bit_for_bit_and_with_any_strategy(tmp_path: Path, script: Any) -> None:
    """From the middle of an epoch: a teacher, Adam's state, the probes."""
    saving = {"dir": str(tmp_path / "whole"), "every_n_steps": 5, "frequency": 100}
    keys = {"method": "byol", "checkpoint": saving}
    keys |= {"optimizer": {"name": "adamw", "global_batch_size": 64, "lr": 1e-3}}
    keys |= {"sync_batchnorm": True}  # else one process normalises otherwise than two
    half = options(tmp_path / "half", precision="bf16-mixed")
    whole, in_half = train(options(tmp_path, **keys), half)
    start = whole / "checkpoints/previous.ckpt"
    assert read_checkpoint(start)["global_step"] % 5
    again = {
        strategy: options(tmp_path, **keys)
        | {"checkpoint": {"dir": str(tmp_path / strategy)}, "strategy": strategy}
        | {"resume_from_checkpoint": str(start)}
        for strategy in ("fsdp", "ddp", "alone")
    }
    shards, copies = train(again["fsdp"], again["ddp"])
    alone = run(again["alone"] | {"devices": 1, "strategy": "fsdp"}).folder
    first, second = (read_checkpoint(run / "checkpoints/last.ckpt") for run in (whole, shards))
    for part in ("state_dict", "optimizer_states"):
        torch.testing.assert_close(first[part], second[part], rtol=0, atol=0)
    tail = rows(whole)[-len(rows(shards)) :]
    for other, most in ((shards, 0.0), (copies, 1e-4), (alone, 1e-3)):
        assert [float(row["train_byol_loss"]) for row in rows(other) if "lr" in row] == (
            pytest.approx([float(row["train_byol_loss"]) for row in tail if "lr" in row], rel=most)
        )
    (usual,) = train(half | {"strategy": "ddp"})
    same(in_half, usual, 2e-3, ends=False)
    script("scripts/utils/export_backbone.py", whole, tmp_path / "out")
    encoder = load_encoder(str(tmp_path / "out"))
    for name, value in encoder.backbone.state_dict().items():
        assert torch.equal(value, first["state_dict"][f"backbone.{name}"])


def in_shards(rank: int, world: int) -> dict[str, torch.Tensor]:
    """Networks that share weights between blocks, in shards, and as they were: gradients."""
    mesh, made = init_device_mesh("cpu", (world,)), {}
    for name in ("coat_tiny", "test_vit", "test_efficientnet"):
        size = 224 if name == "coat_tiny" else 32
        torch.manual_seed(1)
        network = build_backbone(name, {}, size).eval()
        plain = copy.deepcopy(network)
        shard(network, mesh)
        images = torch.randn(2, 3, size, size)
        for each in (plain, network):
            each(images).square().mean().backward()
        pairs = zip(plain.parameters(), network.parameters(), strict=True)
        wrong = [
            (p.grad - distributed.whole(q.grad)).abs().max() / (p.grad.abs().max() + 1e-6)
            for p, q in pairs
            if p.grad is not None and q.grad is not None
        ]
        made[name] = torch.stack(wrong)
    return made


@pytest.mark.slow
def test_networks_that_share_weights(processes: Any) -> None:
    for found in processes(in_shards, 2):
        for name, wrong in found.items():
            assert len(wrong) > 10 and wrong.max() < 1e-3, name
    with pytest.raises(ConfigError, match="skipinit_gain is a number without dimensions"):
        shard(build_backbone("dm_nfnet_f0", {}, 64), None)


def test_what_does_not_go_with_it_is_refused(tmp_path: Path) -> None:
    lars = {"name": "lars", "global_batch_size": 64}
    wrong = {
        "precision 16-mixed": {"precision": "16-mixed"},
        "precision 64": {"precision": "64"},
        "optimizer.name lars": {"optimizer": lars},
        "compile true": {"compile": True},
        "micro_batch 8": {"micro_batch": 8},
    }
    for words, keys in wrong.items():
        with pytest.raises(ConfigError, match=f"fsdp, which does not go with {words}"):
            check_sharded(resolve_config(options(tmp_path, **keys)))
    both = options(tmp_path, precision="64-true", micro_batch=8)
    with pytest.raises(ConfigError, match=r"precision 64-true; .*; nor with micro_batch 8; "):
        check_sharded(resolve_config(both))
    check_sharded(resolve_config(options(tmp_path)))


@pytest.mark.parametrize(
    ("name", "size", "count"),
    [
        ("vit_tiny", 32, 12),
        ("resnet18", 32, 8),
        ("convnext_atto", 32, 16),
        ("swin_tiny_patch4_window7_224", 224, 16),
    ],
)
def test_what_is_gathered_at_a_time(name: str, size: int, count: int) -> None:
    """Blocks, and stages around them; no part of a block."""
    network = build_backbone(name, {}, size)
    found = blocks(network)
    assert len(found) == count
    held = {id(p) for block in found for p in block.parameters()}
    most = sum(p.numel() for p in network.parameters() if id(p) in held)
    assert most > 0.9 * sum(p.numel() for p in network.parameters())
