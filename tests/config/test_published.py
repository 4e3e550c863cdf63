"""Configs in solo-learn's layout: every key of theirs that is called otherwise here."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from conftest import write_images
from helpers import merged, slow

from benchmarks.recipes import compose
from solo.config import ConfigError
from solo.config.published import READ_AS, RENAMED, UNUSED
from solo.methods import METHODS, resolve_config
from solo.methods.dino import Prototypes
from solo.optim import build_optimizer
from solo.pretrain import run


def view(probability: float, **over: Any) -> dict[str, Any]:
    base = {
        "rrc": {"enabled": True, "crop_min_scale": 0.08, "crop_max_scale": 1.0},
        "color_jitter": {"prob": 0.8, "brightness": 0.4, "contrast": 0.4, "saturation": 0.2},
        "grayscale": {"prob": 0.2},
        "gaussian_blur": {"prob": 0.0},
        "solarization": {"prob": probability},
        "equalization": {"prob": 0.0},
        "horizontal_flip": {"prob": 0.5},
        "crop_size": 32,
        "num_crops": 1,
    }
    return {**base, **over}


def write(folder: Path, name: str, own: dict[str, Any]) -> Path:
    """A recipe as solo-learn lays it out: views and dashboard in files of their own."""
    (folder / "augmentations").mkdir(exist_ok=True)
    (folder / "wandb").mkdir(exist_ok=True)
    views = [view(0.0), view(0.2)]
    (folder / "augmentations/asymmetric.yaml").write_text(yaml.safe_dump(views))
    dashboard = "enabled: False\nentity: None\nproject: solo-learn\n"
    (folder / "wandb/private.yaml").write_text(dashboard)
    tree = merged(
        {
            "defaults": [
                "_self_",
                {"augmentations": "asymmetric.yaml"},
                {"wandb": "private.yaml"},
                {"override hydra/hydra_logging": "disabled"},
                {"override hydra/job_logging": "disabled"},
            ],
            "hydra": {"output_subdir": None, "run": {"dir": "."}},
            "name": name,
            "backbone": {"name": "resnet18"},
            "method_kwargs": {"proj_hidden_dim": 16, "proj_output_dim": 8},
            "data": {
                "dataset": "custom",
                "train_path": str(folder / "images"),
                "val_path": str(folder / "images"),
                "format": "dali",
                "num_workers": 0,
            },
            "optimizer": {
                "name": "lars",
                "batch_size": 4,
                "lr": 0.3,
                "classifier_lr": 0.1,
                "weight_decay": 1e-4,
                "kwargs": {"clip_lr": True, "eta": 0.02, "exclude_bias_n_norm": True},
            },
            "scheduler": {"name": "warmup_cosine"},
            "checkpoint": {"enabled": True, "dir": str(folder / "runs"), "frequency": 1},
            "auto_resume": {"enabled": True},
            "max_epochs": 1,
            "devices": 1,
            "sync_batchnorm": False,
            "accelerator": "cpu",
            "strategy": None,
            "precision": 32,
            "limit_train_batches": 2,
        },
        own,
    )
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


TEACHER = {"base_tau": 0.99, "final_tau": 1.0, "classifier": False}
FILES: dict[str, dict[str, Any]] = {
    "barlow": {"method": "barlow_twins", "method_kwargs": {"scale_loss": 0.1, "lamb": 0.0051}},
    "byol": {
        "method": "byol",
        "method_kwargs": {"pred_hidden_dim": 16},
        "momentum": TEACHER,
        "auto_umap": {"enabled": False},
        "debug_augmentations": False,
    },
    "dino": {
        "method": "dino",
        "method_kwargs": {
            "num_prototypes": 8,
            "norm_last_layer": False,
            "clip_grad": 0.3,
            "freeze_last_layer": 0,
        },
        "momentum": {"base_tau": 0.9995, "final_tau": 1.0},
        "performance": {"disable_channel_last": True},
    },
    "simclr": {
        "method": "simclr",
        "method_kwargs": {"temperature": 0.2},
        "dali": {"device": "gpu"},
    },
    "vicreg": {"method": "vicreg", "method_kwargs": {"sim_loss_weight": 25.0}},
    "ncl": {
        "method": "ncl",
        "method_kwargs": {
            "drop": 0,
            "loss_type": "xent",
            "tau": 1,
            "gsize": 256,
            "normalize": "dim",
        },
        "data": {"extra_data": "None", "dup": 1},
    },
}


@pytest.mark.parametrize(
    "name", [name if name in ("byol", "simclr") else slow(name) for name in FILES]
)
def test_two_steps_of_each_file(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "images", ["a", "b", "c"], 4)
    tree = compose(write(tmp_path, name, FILES[name]))
    config = resolve_config(tree)
    assert config.data.format == "image_folder" and config.wandb.entity is None
    assert [entry.solarization.prob for entry in config.augmentations] == [0, 0.2]
    if "momentum" in FILES[name]:
        assert config.method_kwargs.base_tau_momentum == FILES[name]["momentum"]["base_tau"]
    assert config.channels_last is (name != "dino")
    if name == "dino":  # their default, in their file
        assert config.method_kwargs.teacher_temperature == 0.07
    assert resolve_config(config.to_dict()).to_dict() == config.to_dict()
    assert run(tree).metrics["val_acc1"] >= 0
    assert capsys.readouterr().out.count("data.format dali: the same images") == 1


@pytest.mark.parametrize(
    ("over", "words"),
    [
        (
            {"momentum": {"classifier": True}},
            "momentum.classifier: True .* no probe on the",
        ),
        ({"data": {"dup": 2}}, "data.dup: 2 was given, but raise max_epochs"),
        ({"method_kwargs": {"tau": 1}}, "method_kwargs.tau: there is no such key"),
        (
            {"method": "ncl", "method_kwargs": {"tau": 2}},
            "method_kwargs.tau: 2 .* only the published variant",
        ),
        (
            {"momentum": {"base_tau": 0.9}, "method_kwargs": {"base_tau_momentum": 0.9}},
            "momentum.base_tau is method_kwargs.base_tau_momentum here, and both are given",
        ),
        ({"momentum": {"base_tau": 0.9}}, "base_tau_momentum: there is no such key"),
        ({"momentum": {"queue": 3}}, "momentum: there is no such key"),
        ({"augmentations_cfg": "a.yaml"}, "augmentations_cfg: there is no such key"),
    ],
)
def test_what_has_no_counterpart_is_named(over: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        resolve_config({"method": "simclr", **over})


def test_the_tables_hold_no_key_of_ours() -> None:
    ours = {key for method in METHODS.values() for key in method.Options.model_fields}
    for key in (*RENAMED, *UNUSED):
        assert key.split(".")[-1] not in ours or not key.startswith("method_kwargs")
    assert set(READ_AS) & set(UNUSED) == set()


@pytest.mark.parametrize("clip", [0.0, 0.3])
def test_clipping_under_a_gradient_scaler(clip: float) -> None:
    """Optimizers that unscale 16-bit gradients themselves would do so after the clipping."""
    config = resolve_config(
        {
            "method": "dino",
            "backbone": {"name": "resnet10t"},
            "method_kwargs": {"clip_grad": clip, "num_prototypes": 4, "proj_output_dim": 4},
            "optimizer": {"name": "adamw"},
            "precision": "16-mixed",
            "augmentations": [{"crop_size": 32}],
        }
    )
    method = METHODS["dino"](config, torch.nn.Identity(), 3)
    assert method.clips_gradients() is bool(clip)
    optimizer = build_optimizer(config, [{"params": [*method.parameters()]}], bool(clip))
    assert hasattr(optimizer, "_step_supports_amp_scaling") is not bool(clip)
    method.backbone.requires_grad_(True)
    for parameter in method.backbone.parameters():
        parameter.grad = torch.randn_like(parameter)
    before = [p.grad.clone() for p in method.backbone.parameters() if p.grad is not None]
    method.trainer = SimpleNamespace(current_epoch=5)  # type: ignore[assignment]
    method.on_before_optimizer_step(optimizer)
    for old, parameter in zip(before, method.backbone.parameters()):
        assert parameter.grad is not None
        scale = min(1.0, clip / float(old.norm())) if clip else 1.0
        torch.testing.assert_close(parameter.grad, old * scale, rtol=1e-4, atol=1e-6)


def test_prototypes_with_a_length() -> None:
    """Against torch's own weight normalisation."""
    plain = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(6, 5, bias=False))
    ours = Prototypes(6, 5, unit=False)
    z = torch.randn(7, 6)
    with torch.no_grad():
        plain.parametrizations.weight.original1.copy_(ours.weight)
        plain.parametrizations.weight.original0.copy_(torch.arange(1.0, 6.0)[:, None])
        assert ours.length is not None
        ours.length.copy_(torch.arange(1.0, 6.0))
    torch.testing.assert_close(ours(z), plain(torch.nn.functional.normalize(z, dim=-1)))
