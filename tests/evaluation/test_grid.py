"""A grid of linear probes equals its probes one by one, in one pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from conftest import write_images
from helpers import state, tiny

from solo import linear
from solo.backbones import TOKENS, build_backbone, last_two_cls, token_features
from solo.config import ConfigError
from solo.config.schema import Data
from solo.data.datasets import load_splits
from solo.data.parts import Joined, hold_out, joined
from solo.pretrain import run
from solo.runs.saved import SavedRun

VIT = {"depth": 4, "embed_dim": 16, "num_heads": 2}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    content = tiny(tmp_path_factory.mktemp("runs"), max_epochs=1, limit_val_batches=1)
    content |= {"knn_eval": {"enabled": False}, "mlp_probe": {"enabled": False}}
    content["backbone"] = {"name": "vit_tiny", "kwargs": VIT}
    return run(content).folder


def evaluate(trained: Path, tmp_path: Path, **keys: Any) -> linear.Result:
    base = {
        "pretrained": str(trained),
        "checkpoint": {"dir": str(tmp_path)},
        "accelerator": "cpu",
        "mode": "linear",
        "max_epochs": 2,
        "optimizer": {"batch_size": 64, "lr": 0.3},
    }
    return linear.run({**base, **keys})


@pytest.mark.parametrize("kwargs", [{}, {"class_token": False, "global_pool": "avg"}])
def test_features_of_tokens(kwargs: dict[str, Any]) -> None:
    """Against timm's own passes, hooks on the blocks, and the network itself."""
    network = build_backbone("vit_tiny", {**VIT, **kwargs}, 16).eval()
    images = torch.randn(3, 3, 16, 16)
    seen: list[torch.Tensor] = []
    hooks = [b.register_forward_hook(lambda *a: seen.append(a[2])) for b in network.blocks]
    with torch.no_grad():
        plain = network(images)
        found = token_features(network, images, ["backbone", *TOKENS])
        tokens = network.forward_features(images)
    for hook in hooks:
        hook.remove()
    prefix = 0 if kwargs else 1
    patches = tokens[:, prefix:].mean(1)
    cls = patches if kwargs else tokens[:, 0]
    blocks = [x.mean(1) if kwargs else x[:, 0] for x in seen[:4]]
    expected = {
        "backbone": plain,
        "cls": cls,
        "patches": patches,
        "cls_patches": torch.cat((cls, patches), 1),
        "last_two_cls": torch.cat(blocks[-2:], 1),
        "last_four_cls": torch.cat(blocks, 1),
    }
    for kind, value in expected.items():
        torch.testing.assert_close(found[kind], value, msg=kind)
    torch.testing.assert_close(found["last_two_cls"], last_two_cls(network, images)[1])


def test_features_that_are_not_there() -> None:
    resnet = timm.create_model("resnet10t", num_classes=0).eval()
    with pytest.raises(ConfigError, match=r"features of tokens \(cls\) are for ViTs"):
        token_features(resnet, torch.randn(1, 3, 32, 32), ["cls"])
    short = build_backbone("vit_tiny", {**VIT, "depth": 3}, 16)
    with pytest.raises(ConfigError, match="last_four_cls are features of 4 blocks; there are 3"):
        token_features(short, torch.randn(1, 3, 16, 16), ["last_four_cls"])


def test_each_probe_is_what_it_is_alone(trained: Path, tmp_path: Path) -> None:
    """Weights equal those of single runs on the same images; the choice is by held-out images."""
    grid = {"lr": [0.03, 0.3], "weight_decay": [0.0, 0.01], "held_out": 0.2}
    result = evaluate(trained, tmp_path, grid=grid)
    rows = {(row["lr"], row["weight_decay"]): row for row in result.rows}
    assert len(rows) == 4
    held = [row["held-out acc1"] for row in result.rows]
    assert held == sorted(held, reverse=True)
    weights = state(result)
    data = Data()
    train, val = load_splits(data, 5)
    parts = hold_out(train, 0.2)
    order = [(lr, decay) for lr in grid["lr"] for decay in grid["weight_decay"]]
    for lr, decay in ((0.03, 0.01), (0.3, 0.0)):
        optimizer = {"batch_size": 64, "lr": lr, "weight_decay": decay}
        alone = evaluate(
            trained, tmp_path, optimizer=optimizer, data={"dataset": "digits", "held_out": 0.2}
        )
        number = order.index((lr, decay))
        for name, value in state(alone).items():
            if name.startswith("head."):
                ours = weights[f"heads.{number}.{name.removeprefix('head.')}"]
                torch.testing.assert_close(ours, value, rtol=1e-5, atol=1e-6)
        assert rows[lr, decay]["held-out acc1"] == pytest.approx(
            alone.rows[0]["val_acc1"], abs=1e-4
        )
    assert val is not None and parts.val is not None
    for row in rows.values():  # whole images of either set
        assert row["acc1"] * len(val) / 100 == pytest.approx(
            round(row["acc1"] * len(val) / 100), abs=1e-3
        )
        hits = row["held-out acc1"] * len(parts.val) / 100
        assert hits == pytest.approx(round(hits), abs=1e-3)
    last = SavedRun(result.folder).metrics.last()
    assert last["val_acc1"] == pytest.approx(result.rows[0]["acc1"])
    assert last["val_held_out"] == pytest.approx(held[0])


def test_kinds_of_features_and_a_table_of_what_was_done(trained: Path, tmp_path: Path) -> None:
    kinds = ["backbone", "patches", "last_four_cls"]
    keys: dict[str, Any] = {"grid": {"features": kinds, "lr": [0.1]}, "norm": "layer"}
    result = evaluate(trained, tmp_path, **keys)
    assert sorted(row["features"] for row in result.rows) == sorted(kinds)
    table = (result.folder / "table.md").read_text()
    assert "held-out acc1" in table and "last_four_cls" in table
    with pytest.raises(ConfigError, match="grid is for mode linear, and mode is mlp"):
        evaluate(trained, tmp_path, **keys | {"mode": "mlp"})
    with pytest.raises(ConfigError, match="and features is projector"):
        evaluate(trained, tmp_path, **keys, features="projector")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"limit_val_batches": 1}, "limit_val_batches is 1, and a grid chooses by all"),
        ({"check_val_every_n_epoch": 3}, "check_val_every_n_epoch is 3, more than the 2 epochs"),
    ],
)
def test_a_grid_that_would_choose_by_nothing(
    keys: dict[str, Any], said: str, trained: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=said):
        evaluate(trained, tmp_path, grid={"lr": [0.1, 1.0]}, **keys)


def test_sources_are_joined(tmp_path: Path) -> None:
    """In memory, and files."""
    train, val = load_splits(Data(), 0)
    assert val is not None
    both = joined(val, train)
    assert both.images is not None and len(both) == 1797
    assert torch.equal(both.image(400), train.image(40))
    files = load_splits(
        Data(dataset="custom", train_path=str(write_images(tmp_path, ["a", "b"], 3))), 0
    ).train
    pair = joined(files, files)
    assert isinstance(pair, Joined) and pair.images is None and pair.classes == ["a", "b"]
    np.testing.assert_array_equal(pair.labels, [0, 0, 0, 1, 1, 1] * 2)
    assert torch.equal(pair.image(8), files.image(2)) and torch.equal(pair.image(1), files.image(1))


def test_a_setting_that_diverges_ends_no_other(trained: Path, tmp_path: Path) -> None:
    """Its neighbour is what it is without it, clipped or not; and it is the last of the table."""
    for clip in (None, 0.1):
        keys: dict[str, Any] = {"gradient_clip_val": clip}
        calm = evaluate(trained, tmp_path, **keys, grid={"lr": [0.1]})
        wild = evaluate(trained, tmp_path, **keys, grid={"lr": [0.1, 1e30], "weight_decay": [0.5]})
        alone = evaluate(trained, tmp_path, **keys, grid={"lr": [0.1], "weight_decay": [0.5]})
        assert [row["lr"] for row in wild.rows] == [0.1, 1e30]
        for name in ("acc1", "loss", "held-out acc1"):
            assert wild.rows[0][name] == pytest.approx(alone.rows[0][name], rel=1e-6)
        assert len(calm.rows) == 1


def test_registers_are_no_cls_token() -> None:
    kwargs = {**VIT, "reg_tokens": 3, "class_token": False, "global_pool": "avg"}
    network = build_backbone("vit_tiny", kwargs, 16).eval()
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        found = token_features(network, images, ["cls", "patches", "last_two_cls"])
        tokens = network.forward_features(images)
        _, last = last_two_cls(network, images)
    torch.testing.assert_close(found["cls"], tokens[:, 3:].mean(1))
    torch.testing.assert_close(found["cls"], found["patches"])
    torch.testing.assert_close(found["last_two_cls"], last)
