"""The schema: what it accepts, what it refuses, and how it says so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from conftest import RECIPE_FILES
from omegaconf import OmegaConf

from benchmarks.recipes import compose
from solo.config import Config, ConfigError, Section, declared_keys, resolve
from solo.config.cli import arguments
from solo.config.published import UNUSED
from solo.methods import METHODS, resolve_config

ROOT = Path(__file__).resolve().parents[2]


def complaint(tree: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        resolve_config(tree)
    return str(caught.value)


def test_defaults_and_number_words() -> None:
    config = resolve_config(
        {"optimizer": {"name": "adamw", "lr": "5e-4"}, "seed": 7, "precision": 16}
    )
    assert config.method == "rectified_lpjepa"
    assert config.optimizer.lr == 5e-4
    assert config.optimizer.kwargs.betas == (0.9, 0.999)
    assert config.precision == "16-mixed"
    assert config.scheduler.warmup_epochs == 10
    assert config.method_kwargs.num_projections == 8192


def test_saved_config_reproduces_the_run() -> None:
    tree = compose("digits/rectified_lpjepa.yaml")
    once = resolve_config(tree).to_dict()
    again = yaml.safe_load(yaml.safe_dump(once))
    assert resolve_config(again).to_dict() == once


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        (
            {"method_kwarsg": {"rdm_reg_loss_weight": 1}},
            ["did you mean method_kwargs?"],
        ),
        ({"method_kwargs": {"rdm_reg_weight": 1}}, ["rdm_reg_weight", "rdm_reg_loss_weight"]),
        (
            {"optimizer": {"kwargs": {"etta": 1}}},
            ["etta", "optimizer.kwargs.eta?"],
        ),
        ({"augmentations": [{"rrc": {"min_scale": 0.1}}]}, ["augmentations.0.rrc.min_scale"]),
        (
            {"optimizer": {"batch_size": -4}},
            ["optimizer.batch_size", "-4", "greater than"],
        ),
        ({"optimizer": {"batch_size": "many"}}, ["optimizer.batch_size", "'many'", "integer"]),
        ({"optimizer": {"batch_size": True}}, ["batch_size is True"]),
        ({"optimizer": {"name": "lars", "lr": float("nan")}}, ["optimizer.lr", "nan"]),
        ({"optimizer": {"name": "lion"}}, ["optimizer.name", "'lion'", "adamw"]),
        ({"method_kwargs": {"lp_norm_parameter": 0}}, ["lp_norm_parameter", "greater than 0"]),
        (
            {"method_kwargs": {"target_distribution": "lp_distribution"}},
            ["rectified_mlp", "lp_distribution", "mlp"],
        ),
        (
            {"method_kwargs": {"target_l0": 0.25, "mean_shift_value": 0.0}},
            ["target_l0 0.25", "mean_shift_value"],
        ),
        ({"method_kwargs": {"target_l0": 1.5}}, ["target_l0", "1.5", "less than 1"]),
        ({"max_epochs": 20, "scheduler": {"warmup_epochs": 30}}, ["warmup_epochs is 30", "20"]),
        ({"devices": "several"}, ["devices is 'several'", "auto"]),
        ({"devices": 0}, ["devices is 0"]),
        ({"devices": []}, ["devices is an empty list"]),
        ({"precision": "8"}, ["precision is '8'", "bf16-mixed"]),
        ({"data": {"fraction": 0}}, ["fraction is 0", "-1"]),
        ({"augmentations": [{"num_crops": 1}]}, ["one view", "at least 2"]),
        ({"method": "byol", "augmentations": [{"num_crops": 1}]}, ["one view", "byol", "2"]),
        ({"scheduler": {"name": "step"}}, ["lr_decay_steps"]),
        ({"name": "a/b"}, ["name is 'a/b'"]),
        ({"method": "rectified_lpjep"}, ["rectified_lpjep", "did you mean rectified_lpjepa"]),
    ],
)
def test_faults_are_named(tree: dict[str, Any], words: list[str]) -> None:
    message = complaint(tree)
    for word in words:
        assert word in message


def test_all_faults_are_reported_at_once() -> None:
    message = complaint({"sed": 3, "optimizer": {"lr": 0}, "method_kwargs": {"num_projections": 0}})
    for word in ("did you mean seed", "optimizer.lr", "method_kwargs.num_projections"):
        assert word in message


def test_short_runs_shorten_the_default_warm_up_only() -> None:
    assert resolve_config({"max_epochs": 2}).scheduler.warmup_epochs == pytest.approx(0.2)
    assert resolve_config({"max_epochs": 11}).scheduler.warmup_epochs == 10
    complaint({"max_epochs": 2, "scheduler": {"warmup_epochs": 10}})


def test_an_interpolation_that_fails_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        resolve(OmegaConf.create({"name": "${nowhere}"}), {}, {})


def test_overrides_without_plus_signs() -> None:
    words = ["a.b=1", "++c=2", "+d=3", "~e", "--config-name=x", "hydra/launcher=basic", "-m"]
    assert arguments([*words, "hydra.mode=RUN"]) == ["++a.b=1", *words[1:], "hydra.mode=RUN"]


def test_a_key_given_twice_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """As a shell makes two words of a{1,2}."""
    words = ["data.train_path=a", "max_epochs=1", "data.train_path=b"]
    assert arguments(words) == [f"++{word}" for word in words]
    assert (
        capsys.readouterr().err
        == "data.train_path is given more than once: the last value counts\n"
    )


def sections(of: type[Section]) -> Iterator[type[Section]]:
    yield of
    for field in of.model_fields.values():
        for inner in (field.annotation, *get_args(field.annotation)):
            if isinstance(inner, type) and issubclass(inner, Section):
                yield from sections(inner)


def test_every_key_has_a_meaning() -> None:
    methods = [method.Options for method in METHODS.values()]
    for section in {*sections(Config), *methods}:
        for name, field in section.model_fields.items():
            assert field.description, f"{section.__name__}.{name}"
    assert "optimizer.classifier_lr" in declared_keys(Config)


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    found = {}
    for key, value in tree.items():
        found.update(flat(value, f"{prefix}.{key}" if prefix else key))
    return found


def as_number(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


GOLDEN = json.loads((ROOT / "tests/golden/recipes.json").read_text())


@pytest.mark.parametrize("name", [n for n, row in GOLDEN.items() if row["method"] in METHODS])
def test_recipes_hold_the_published_values(name: str) -> None:
    config = resolve_config(compose(ROOT / "scripts/pretrain" / name)).to_dict()
    ours = flat(config)
    for key, value in GOLDEN[name].items():
        if key in UNUSED:
            assert not UNUSED[key].values or value in UNUSED[key].values
        elif key != "augmentations":
            assert ours[key] == as_number(value), key
    for entry, published in zip(config["augmentations"], GOLDEN[name].get("augmentations", [])):
        ours = flat(entry)
        for key, value in published.items():
            switch = f"{key}.enabled" if isinstance(value, bool) else key
            assert ours[switch] == value, key
        for block in ("gaussian_blur", "solarization", "equalization", "grayscale"):
            if block not in published:
                assert ours[f"{block}.prob"] == 0


PUBLISHED_NAMES = {
    "cifar/ncl": "ncl_cifar100",
    "cifar/simclr": "simclr_cifar10",
    "cifar/vicreg": "vicreg_cifar10",
    "imagenet-100/rectified_lpjepa_imagenet": "rectified_lpjepa_resnet",
    "imagenet-100/simclr": "simclr_resnet",
    "imagenet-100/vicreg": "vicreg_resnet",
}


@pytest.mark.parametrize("published", PUBLISHED_NAMES)
def test_published_names_are_other_names(published: str) -> None:
    path = Path(f"{published}.yaml")
    assert compose(path) == compose(path.with_stem(PUBLISHED_NAMES[published]))


@pytest.mark.parametrize("path", RECIPE_FILES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_recipes_resolve_and_open_with_their_command(path: Path) -> None:
    resolve_config(compose(path))
    head = path.read_text().split("\n\n")[0]
    assert "main_pretrain.py" in head and "Cost:" in head
    assert (
        f"--config-name={path.name}" in head
        or f"--config-name {path.stem}" in head
        or (
            path.stem == "rectified_lpjepa"  # the default
        )
    )
