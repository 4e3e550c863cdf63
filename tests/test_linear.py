"""Whole evaluations: every mode on a digits run of seconds, and what stops them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from conftest import write_celeba, write_images, write_stl10
from helpers import rows, slow, state, tiny, words_of

from solo import linear
from solo.config import ConfigError, RunError
from solo.config.schema import Backbone, Data
from solo.data.datasets import load_splits
from solo.evaluation import features
from solo.evaluation.features import Pixels, extract, pixel_size
from solo.evaluation.training import TrainedProbe
from solo.linear import resolve_linear
from solo.losses import supervised_loss
from solo.pretrain import run as pretrain
from solo.runs.checkpoint_files import read_checkpoint
from solo.runs.networks import load_encoder
from solo.runs.run import RunInterrupted

Command = Callable[..., CompletedProcess[str]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("runs")
    return pretrain(tiny(folder, max_epochs=3, limit_train_batches=None)).folder


def evaluate(trained: Path, tmp_path: Path, **keys: Any) -> linear.Result:
    base = {"pretrained": str(trained), "checkpoint": {"dir": str(tmp_path)}, "accelerator": "cpu"}
    return linear.run({**base, **keys})


@pytest.mark.slow
def test_few_shots_by_command_line(trained: Path, command: Command) -> None:
    """Without an argument but the folder, the newest run is found, its data too."""
    done = command("main_linear.py", f"checkpoint.dir={trained.parents[1]}", "few_shot.draws=3")
    (folder,) = trained.parents[1].glob("linear/few-shot-*")
    table = json.loads((folder / "results.json").read_text())
    assert [row["shots"] for row in table] == [1, 1, 1, 10, 10, 10, "all", "all", "all"]
    assert [row["model"] for row in table[:3]] == ["raw pixels", "untrained network", trained.name]
    found = {(row["shots"], row["model"]): row["digits"] for row in table}
    assert found["all", "raw pixels"]["mean"] > 94 and found["all", "raw pixels"]["std"] is None
    for name in ("raw pixels", trained.name):
        assert found[1, name]["mean"] < found[10, name]["mean"] < found["all", name]["mean"]
        assert found[1, name]["std"] > 0
    text = (folder / "table.md").read_text()
    assert text.startswith("| shots | model | digits |") and trained.name in done.stdout
    assert "few_shot" in (folder / "config.yaml").read_text()


def test_modes_on_cached_features(trained: Path, tmp_path: Path) -> None:
    (fast,) = evaluate(trained, tmp_path, mode="fast").rows
    assert fast["acc1"] > 55 and fast["acc5"] > fast["acc1"]
    grid = evaluate(trained, tmp_path, mode="knn", features="projector").rows
    assert len(grid) == 7 * (3 + 1) + 1 and grid[0]["acc1"] >= grid[-2]["acc1"]
    assert grid[-1]["recall"] > 0.99 and grid[-1]["csr_bytes"] < grid[-1]["dense_bytes"] * 2
    (summary,) = evaluate(trained, tmp_path, mode="sparsity", features="projector").rows
    metrics = {k: float(v) for row in rows(trained) for k, v in row.items() if v}
    assert summary["expected_l0"] == pytest.approx(metrics["expected_l0"])
    assert 1 <= summary["effective_rank"] <= 16 and 0 < summary["marginal_gap"] < 1
    assert summary["variance_ratio"] > 0


@pytest.mark.parametrize(
    ("keys", "least"),
    [
        ({"mode": "linear", "optimizer": {"lr": 1.0, "batch_size": 64}}, 33),
        ({"mode": "mlp", "optimizer": {"name": "adamw", "lr": 4e-3, "batch_size": 64}}, 33),
        (
            {
                "mode": "finetune",
                "layer_decay": 0.8,
                "mixup": 0.2,
                "cutmix": 1.0,
                "label_smoothing": 0.1,
                "optimizer": {"name": "adamw", "lr": 8e-3, "batch_size": 64},
            },
            20,
        ),
    ],
)
def test_modes_that_train(
    keys: dict[str, Any],
    least: float,
    trained: Path,
    tmp_path: Path,
    recwarn: pytest.WarningsRecorder,
) -> None:
    result = evaluate(trained, tmp_path, **keys, max_epochs=4, norm="layer")
    assert not recwarn.list
    assert result.rows[0]["val_acc1"] > least
    logged = {name for row in rows(result.folder) for name in row}
    assert {"train_loss", "train_acc1", "val_loss", "val_acc1", "val_acc5", "lr"} <= logged
    before = read_checkpoint(trained / "checkpoints/last.ckpt")["state_dict"]
    after = read_checkpoint(result.folder / "checkpoints/last.ckpt")["state_dict"]
    moved = [
        name
        for name in before
        if name.startswith("backbone.") and not torch.equal(before[name], after[f"encoder.{name}"])
    ]
    assert bool(moved) == (keys["mode"] == "finetune")


def test_a_training_probe_resumes(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"mode": "linear", "max_epochs": 2, "optimizer": {"batch_size": 64}}
    keys |= {"auto_resume": {"enabled": True}}
    whole = evaluate(trained, tmp_path / "whole", **keys)
    plain = TrainedProbe.training_step

    def step(self: TrainedProbe, batch: Any, index: int) -> Any:
        if self.global_step == 30:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(TrainedProbe, "training_step", step)
        with pytest.raises(RunInterrupted):
            evaluate(trained, tmp_path / "cut", **keys)
    resumed = evaluate(trained, tmp_path / "cut", **keys)
    assert len(list((tmp_path / "cut/linear").iterdir())) == 1
    first, second = (
        read_checkpoint(r.folder / "checkpoints/last.ckpt")["state_dict"] for r in (whole, resumed)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert rows(whole.folder) == rows(resumed.folder)


def test_rates_fall_from_layer_to_layer(trained: Path) -> None:
    """Each layer's rate is the one above it times layer_decay, the head's is whole."""
    config, encoder = resolve_linear(
        {
            "pretrained": str(trained),
            "mode": "finetune",
            "layer_decay": 0.5,
            "optimizer": {"lr": 1.0, "batch_size": 256},
        }
    )
    probe = TrainedProbe(config, encoder, 10, multilabel=False)
    groups = probe._network_groups(1.0)
    found = sorted({group["lr"] for group in groups}, reverse=True)
    assert len(found) >= 3
    np.testing.assert_allclose(found, [0.5 ** (i + 1) for i in range(len(found))])
    assert sum(len(g["params"]) for g in groups) == len(list(encoder.backbone.parameters()))
    encoder.backbone.group_matcher = lambda coarse: {"blocks": [("^", (10**9, "x"))]}
    with pytest.raises(ConfigError, match=r"cannot say which layers .* has .*; give layer_decay=1"):
        probe._network_groups(1.0)


def test_another_normalisation(trained: Path) -> None:
    """The run's own, unless another is asked for; half of one is refused."""
    asked = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7]}
    own = resolve_linear({"pretrained": str(trained)})[1].normalize
    other = resolve_linear({"pretrained": str(trained), "data": asked})[1].normalize
    assert other.mean == (0.1, 0.2, 0.3) and other.std == (0.5, 0.6, 0.7) != own.std
    for data, said in (
        ({"mean": [0.1, 0.2, 0.3]}, "mean is given without std; give both, or neither"),
        ({**asked, "std": [0.5, 0, 0.7]}, "give numbers above 0, one a channel"),
        ({**asked, "std": [0.5]}, "mean has 3 numbers, std 1; give as many"),
    ):
        with pytest.raises(ConfigError, match=said):
            resolve_linear({"pretrained": str(trained), "data": data})


def custom(image_tree: Path) -> dict[str, Any]:
    paths = {"train_path": str(image_tree / "train"), "val_path": str(image_tree / "val")}
    return {"data": {"dataset": "custom", "num_workers": 0, **paths}}


def test_another_data_set(trained: Path, image_tree: Path, tmp_path: Path) -> None:
    """And several at once: a column each, and their mean."""
    keys = custom(image_tree)
    few = {"shots": [1, 2], "draws": 2, "datasets": ["digits"]}
    result = evaluate(trained, tmp_path, **keys, few_shot=few)
    row = result.rows[-1]
    assert row["avg."].mean == pytest.approx((row["custom"].mean + row["digits"].mean) / 2)


def test_attributes_of_faces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CelebA: pretrain with online probes, then the probes that take attributes."""
    write_celeba(tmp_path, 24, monkeypatch)
    keys = {"data": {"dataset": "celeba", "train_path": str(tmp_path), "num_workers": 0}}
    views = [{"crop_size": 32, "num_crops": 2}]
    small = {"batch_size": 4}
    done = pretrain(tiny(tmp_path / "runs", **keys, augmentations=views, optimizer=small))
    assert {"val_map", "val_proj_map", "val_mlp_map", "val_proj_mlp_map"} <= set(done.metrics)
    assert 0 < done.metrics["val_map"] <= 100 and "val_knn_acc1" not in done.metrics
    (fast,) = evaluate(done.folder, tmp_path / "fast", mode="fast").rows
    (linear,) = evaluate(
        done.folder, tmp_path / "linear", mode="linear", optimizer=small, max_epochs=1
    ).rows
    for row, prefix in ((fast, ""), (linear, "val_")):
        assert 0 < row[f"{prefix}map"] <= 100 and 0 <= row[f"{prefix}acc1"] <= 100
        assert f"{prefix}acc5" not in row
    for mode in ("few_shot", "knn"):
        with pytest.raises(ConfigError, match="attributes"):
            evaluate(done.folder, tmp_path / "out", mode=mode)


def test_what_stops_an_evaluation(
    trained: Path, image_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = custom(image_tree)

    def complaint(**more: Any) -> str:
        with pytest.raises(RunError) as caught:
            evaluate(trained, tmp_path / "out", **{**keys, **more})
        assert not (tmp_path / "out").exists()
        return str(caught.value)

    text = complaint(few_shot={"shots": [9]})
    assert "n01558993 has 8" in text and "few_shot.shots=[8,all]" in text
    victim = sorted((image_tree / "train").rglob("*.JPEG"))[5]
    whole = victim.read_bytes()
    victim.write_bytes(whole[:200])
    assert str(victim) in complaint(mode="fast") and "on_bad_image=skip" in complaint(mode="fast")
    skipping = {"data": {**keys["data"], "on_bad_image": "skip"}}
    assert evaluate(trained, tmp_path / "skip", **skipping, mode="fast").rows
    victim.write_bytes(whole)
    for split in ("train", "val"):
        (image_tree / split / "n99999999").mkdir()
    assert "n99999999 holds no images" in complaint()
    one = (
        write_images(tmp_path / "one/train", ["dog"], 12),
        write_images(tmp_path / "one/val", ["dog"], 2),
    )
    single = {"dataset": "custom", "train_path": str(one[0]), "val_path": str(one[1])}
    assert "one class only (dog)" in complaint(data=single)
    assert "two are needed" in complaint(data=single, mode="linear", optimizer={"batch_size": 4})
    assert "did you mean few_shot" in complaint(few_shots={"shots": [1]})
    with monkeypatch.context() as patch:
        patch.setenv("SLURM_NTASKS", "2")
        assert "runs in one process" in complaint(mode="fast")
    with pytest.raises(ConfigError, match="no run under"):
        linear.run({"checkpoint": {"dir": str(tmp_path / "nowhere")}})


def test_recipes_resolve(trained: Path) -> None:
    import yaml

    recipes = sorted((Path(__file__).parents[1] / "scripts/linear").glob("*.yaml"))
    assert len(recipes) >= 8
    for path in recipes:
        tree = yaml.safe_load(path.read_text())
        tree |= {"pretrained": str(trained)}
        if tree.get("features") == "last_two_cls":
            with pytest.raises(ConfigError, match="is no ViT"):
                resolve_linear(tree)
            continue
        config, _ = resolve_linear(tree)
        assert config.image_size == 8
        assert path.read_text().startswith("# ") and "main_linear.py" in path.read_text()
        assert words_of(tree)


def test_images_without_labels_are_left_out(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """STL-10: half of the training images here have no label; every mode takes the others."""
    write_stl10(tmp_path, monkeypatch, 20)
    keys = {"data": {"dataset": "stl10", "train_path": str(tmp_path), "num_workers": 0}}
    keys |= {"optimizer": {"batch_size": 5}}
    table = evaluate(trained, tmp_path / "few", **keys, few_shot={"shots": [1, "all"], "draws": 2})
    assert [row["model"] for row in table.rows[:2]] == ["raw pixels", "untrained network"]
    for mode in ("fast", "knn"):
        assert evaluate(trained, tmp_path / mode, **keys, mode=mode).rows
    mixed = {"mixup": 0.2, "cutmix": 1.0, "label_smoothing": 0.1}
    result = evaluate(trained, tmp_path / "tune", **keys, **mixed, mode="finetune", max_epochs=1)
    assert read_checkpoint(result.folder / "checkpoints/last.ckpt")["global_step"] == 4


def test_finetuning_on_attributes(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_celeba(tmp_path, 24, monkeypatch)
    keys = {"data": {"dataset": "celeba", "train_path": str(tmp_path), "num_workers": 0}}
    keys |= {"mixup": 0.2, "cutmix": 1.0, "label_smoothing": 0.1, "optimizer": {"batch_size": 4}}
    (row,) = evaluate(trained, tmp_path / "out", **keys, mode="finetune", max_epochs=1).rows
    assert 0 < row["val_map"] <= 100


def test_smoothed_attributes() -> None:
    """Yes and no move towards one half; a class moves towards all of them evenly."""
    logits, labels = torch.randn(6, 4).double(), torch.randint(0, 2, (6, 4)).double()
    labels[2] = -1
    keep = torch.arange(6) != 2
    expected = F.binary_cross_entropy_with_logits(logits[keep], labels[keep] * 0.8 + 0.1)
    found = supervised_loss(logits, labels.long(), label_smoothing=0.2)
    torch.testing.assert_close(found, expected)
    classes = torch.tensor([0, 1, 2, 3, -1, 1])
    known = F.one_hot(classes[classes >= 0], 4).double() * 0.8 + 0.05
    wanted = -(known * logits[classes >= 0].log_softmax(-1)).sum(-1).mean()
    torch.testing.assert_close(supervised_loss(logits, classes, label_smoothing=0.2), wanted)


def test_broken_images_and_raw_pixels(trained: Path, image_tree: Path, tmp_path: Path) -> None:
    victim = sorted((image_tree / "train").rglob("*.JPEG"))[5]
    victim.write_bytes(victim.read_bytes()[:200])
    keys = custom(image_tree)
    keys["data"]["on_bad_image"] = "skip"
    few = {"shots": [1, "all"], "draws": 1}
    result = evaluate(trained, tmp_path, **keys, few_shot=few)
    assert result.rows[0]["model"] == "raw pixels"


def test_raw_pixels_that_would_not_fit(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """ImageNet-100 at 224 px would be 76 GB: they are shrunk, or left out, and it is said."""
    assert pixel_size(126_689, 224) == 26 and pixel_size(1797, 8) == 8
    assert pixel_size(10_000_000, 224) is None
    train = 1437 * 4  # grey digits
    few = {"shots": [1], "draws": 1}
    x = extract(Pixels(32, True, 8), load_splits(Data(), 0).val)
    assert x.x.shape == (360, 192) and float(x.x.min()) >= 0 and float(x.x.max()) <= 1
    big = {"image_size": 16, "few_shot": few}
    monkeypatch.setattr(features, "MOST_PIXEL_BYTES", train * 10**2)
    first = evaluate(trained, tmp_path, **big)
    assert "raw pixels of 1437 images are shrunk from 16 px to 10 px" in capfd.readouterr().out
    assert first.rows[0]["model"] == "raw pixels"
    monkeypatch.setattr(features, "MOST_PIXEL_BYTES", train * 7**2)
    second = evaluate(trained, tmp_path, **big)
    assert "raw pixels of 1437 images are left out" in capfd.readouterr().out
    assert [row["model"] for row in second.rows] == ["untrained network", trained.name]


@pytest.mark.slow
@pytest.mark.parametrize("chosen", ["backbone", "last_two_cls"])
def test_two_processes_finetune(
    chosen: str, trained: Path, tmp_path: Path, command: Command
) -> None:
    """What the features do not need asks for no gradient: DDP would wait for it."""
    source = trained
    if chosen == "last_two_cls":
        content = tiny(tmp_path / "vit", max_epochs=1, limit_train_batches=1)
        vit = {"patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2}
        content["backbone"] = {"name": "vit_tiny", "kwargs": vit}
        source = pretrain(content).folder
    words = {"pretrained": str(source), "checkpoint": {"dir": str(tmp_path)}, "accelerator": "cpu"}
    words |= {"mode": "finetune", "features": chosen, "devices": 2, "max_epochs": 1}
    words |= {"limit_train_batches": 3, "optimizer": {"batch_size": 16}}
    command("main_linear.py", *words_of(words))
    (folder,) = (tmp_path / "linear").iterdir()
    saved = read_checkpoint(folder / "checkpoints/last.ckpt")
    assert saved["global_step"] == 3 and saved["processes"] == 2


def test_probes_in_double_precision(trained: Path, tmp_path: Path) -> None:
    for mode in ("linear", "finetune"):
        keys = {"mode": mode, "precision": "64", "limit_train_batches": 2, "max_epochs": 1}
        assert evaluate(trained, tmp_path, **keys, mixup=0.2).rows


def test_a_network_that_was_trained_without_labels(
    trained: Path, image_tree: Path, tmp_path: Path
) -> None:
    """Its evaluation takes the labels that are there."""
    keys = custom(image_tree)
    content = tiny(tmp_path / "runs", max_epochs=1, optimizer={"batch_size": 8}, **keys)
    content["data"] |= {"no_labels": True, "val_path": None}
    content["knn_eval"] = {"enabled": False}
    free = pretrain(content).folder
    again = {"data": {"val_path": str(image_tree / "val")}, "optimizer": {"batch_size": 8}}
    (row,) = evaluate(free, tmp_path, **again, mode="linear", max_epochs=1).rows
    assert 0 <= row["val_acc1"] <= 100


@pytest.mark.parametrize("method", ["byol", slow("dino"), slow("ijepa")])
def test_a_teacher_is_evaluated(method: str, tmp_path: Path) -> None:
    """Its own weights, by itself or in a row beside the student's; others have none."""
    content = tiny(tmp_path, method=method, max_epochs=1, limit_train_batches=4)
    content |= {"knn_eval": {"enabled": False}, "mlp_probe": {"enabled": False}}
    content["method_kwargs"] = {"proj_hidden_dim": 32, "proj_output_dim": 16}
    if method == "ijepa":
        kwargs = {"depth": 1, "embed_dim": 16, "num_heads": 2, "class_token": False}
        content["backbone"] = {"name": "vit_tiny", "kwargs": {**kwargs, "global_pool": "avg"}}
        content["method_kwargs"] = {"pred_dim": 24, "pred_depth": 1, "pred_heads": 2}
    source = pretrain(content)
    saved = state(source)
    student, teacher = (
        load_encoder(str(source.folder), features=features) for features in ("backbone", "teacher")
    )
    for name, value in teacher.backbone.state_dict().items():
        assert torch.equal(value, saved[f"teacher.0.{name}"])
    assert any(
        not torch.equal(value, student.backbone.state_dict()[name])
        for name, value in teacher.backbone.state_dict().items()
    )
    few = {"shots": ["all"], "draws": 1}
    given = {"mean": [0.25] * 3, "std": [0.5] * 3}
    asked = {"pretrained": str(source.folder), "data": given, "few_shot": few}
    _, encoder = resolve_linear({**asked, "mode": "few_shot"})
    assert {n.normalize.mean for n in (encoder, *encoder.beside)} == {(0.25,) * 3}
    both = evaluate(source.folder, tmp_path, few_shot=few).rows
    assert [row["model"] for row in both][-2:] == [source.folder.name, "teacher"]
    (*_, alone) = evaluate(source.folder, tmp_path, few_shot=few, features="teacher").rows
    assert alone["digits"] == both[-1]["digits"]


def test_who_has_no_teacher(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="rectified_lpjepa trains none"):
        evaluate(trained, tmp_path, features="teacher")
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "w.pth")
    for source in (tmp_path / "w.pth", "resnet18"):
        with pytest.raises(ConfigError, match=r"features is teacher, but .*resnet18|w.pth"):
            load_encoder(str(source), features="teacher", backbone=Backbone(name="resnet18"))
