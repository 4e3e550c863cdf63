"""``run(cfg)``: an evaluation from its config to its tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig
from rich.console import Console

from solo import distributed, rng
from solo.callbacks import watching
from solo.config import ConfigError, check, plain_tree, unknown_name
from solo.config.evaluation import LinearConfig
from solo.config.published import translate
from solo.data import ImageData, Normalize
from solo.data.datasets import normalisation
from solo.evaluation.encoders import Encoder
from solo.evaluation.grid import GridProbe
from solo.evaluation.modes import MODES, TRAINED
from solo.evaluation.table import write_table
from solo.evaluation.training import TrainedProbe
from solo.optim import OPTIMIZER_OPTIONS
from solo.runs.dashboard import Dashboard, show_rows
from solo.runs.folder import choose_folder
from solo.runs.networks import load_encoder, newest_run
from solo.runs.run import Run
from solo.runs.trainer import prepare


class Result(NamedTuple):
    """Where an evaluation's files are, and its rows as in results.json."""

    folder: Path
    rows: list[dict[str, Any]]


def run(cfg: DictConfig | Mapping[str, Any]) -> Result:
    """Evaluate the configured network and say where the results are.

    Raises:
        ConfigError: for anything in the config that cannot be run, before any long work.
        BadImageError: for an image that does not decode, with its path.
    """
    config, encoder = resolve_linear(cfg)
    console, options = prepare(config)
    console.print(f"evaluating {encoder.name} ({encoder.features} features)", soft_wrap=True)
    if config.mode in TRAINED:
        return _train(config, encoder, console, options)
    if distributed.launched_by_cluster():
        raise ConfigError(
            f"mode {config.mode} runs in one process, but several were started; start one "
            "(srun --ntasks=1), or choose linear, mlp or finetune"
        )
    rng.seed_global(config.seed, "evaluation")
    rows, picture = MODES[config.mode](config, encoder, console)
    folder = choose_folder(config, console.print)
    try:
        with folder.noting_errors():
            folder.create(config)
            folder.note(model=encoder.name)
            write_table(folder.path, rows, console)
            show_rows(config, folder, rows, console.print)
            if picture is not None:
                picture.savefig(folder.path / f"{config.mode}.png", dpi=110)
            folder.finish()
    finally:
        folder.release()
    return Result(folder.path, rows)


def _train(
    config: LinearConfig, encoder: Encoder, console: Console, options: dict[str, Any]
) -> Result:
    """Modes linear, mlp and finetune: resumable and logged like pretraining."""
    in_grid = config.grid.enabled
    if in_grid and config.mode != "linear":
        raise ConfigError(f"grid is for mode linear, and mode is {config.mode}; leave it out")
    some = config.limit_val_batches  # an int is a number of batches, a float a share
    if in_grid and some is not None and (isinstance(some, int) or some < 1):
        raise ConfigError(
            f"limit_val_batches is {some}, and a grid chooses by all held-out "
            "images and scores on all others; leave it out, or give smaller data"
        )
    if in_grid and config.check_val_every_n_epoch > config.max_epochs:
        raise ConfigError(
            f"check_val_every_n_epoch is {config.check_val_every_n_epoch}, more than the "
            f"{config.max_epochs} epochs: a grid would choose by nothing"
        )
    choose_on = config.grid.held_out if in_grid else 0.0
    data = ImageData(config, labelled_only=True, choose_on=choose_on)
    encoder.check_channels(data.train.layout.channels)
    if data.val is None:
        raise ConfigError("data.val_path is not set; there is nothing to score the probe on")
    if data.num_classes < 2:
        raise ConfigError(f"{config.data.dataset} has {data.num_classes} class; two are needed")
    probe: TrainedProbe | GridProbe
    if in_grid:
        probe = GridProbe(config, encoder, data.num_classes, data.held)
        console.print(f"{len(probe.settings)} probes, chosen by {data.held} held-out images")
    else:
        probe = TrainedProbe(config, encoder, data.num_classes, data.multilabel)
    with Run.start(config, data, console, options, config.logging_interval) as current:
        console.print(f"folder: {current.folder.path}", soft_wrap=True)
        current.fit(probe, watching(current, sparse=False), "main_linear.py")
        metrics = current.saved.metrics.last()
        names = ("val_acc1", "val_acc5", "val_map")
        found = {name: metrics[name] for name in names if name in metrics}
        what = {"model": encoder.name, "mode": config.mode}
        rows: list[dict[str, Any]] = [{**what, **found}]
        if current.is_first:
            current.folder.note(model=encoder.name)
            if in_grid:
                rows = [{**what, **row} for row in current.saved.checkpoint()["grid"]]
            write_table(current.folder.path, rows, console)
            for logger in current.trainer.loggers:
                if isinstance(logger, Dashboard):
                    logger.log_rows(rows)
            current.folder.finish()
    return Result(current.folder.path, rows)


def resolve_linear(cfg: DictConfig | Mapping[str, Any]) -> tuple[LinearConfig, Encoder]:
    """The checked config, and the network it names.

    What the config leaves open follows the network's own run: the data, and the size of images.

    Raises:
        ConfigError: listing every fault found.
    """
    tree, notes = translate(plain_tree(cfg))
    config = _check(tree)
    source = config.pretrained or str(newest_run(Path(config.checkpoint.dir)))
    encoder = load_encoder(
        source, features=config.features, backbone=config.backbone, image_size=config.image_size
    )
    tree |= {"pretrained": source, "image_size": encoder.image_size}
    if encoder.config is not None:
        own = encoder.config.data.model_dump(mode="json") | {"no_labels": False}
        given = tree.get("data") or {}
        same_set = given.get("dataset", own["dataset"]) == own["dataset"]
        tree["data"] = {**own, **given} if same_set else given
    elif encoder.value_range is not None:
        range_of = {"value_range": encoder.value_range, "clip": encoder.clip}
        tree["data"] = {**range_of, **(tree.get("data") or {})}
    if "augmentations" not in tree:
        tree["augmentations"] = [_crop_and_flip(config, encoder)]
    resolved = _check(tree)
    if resolved.data.mean is not None:
        own_channels = resolved.data.model_copy(update={"channels": encoder.channels})
        for network in (encoder, *encoder.beside):
            network.normalize = Normalize(*normalisation(own_channels))
    resolved.notes.extend(notes)
    return resolved, encoder


def _crop_and_flip(config: LinearConfig, encoder: Encoder) -> dict[str, Any]:
    """Training images: as the network's own run crops and flips them, without change of colour."""
    recipe = config.augmentations[0].model_dump(mode="json")
    if encoder.config is not None:
        entries = encoder.config.augmentations
        own = next((entry for entry in entries if entry.rrc.enabled), entries[0])
        for key in ("rrc", "horizontal_flip"):
            recipe[key] = getattr(own, key).model_dump(mode="json")
    return {**recipe, "crop_size": encoder.image_size}


def _check(tree: dict[str, Any]) -> LinearConfig:
    optimizer = tree.get("optimizer") or {}
    name = optimizer.get("name", "sgd") if isinstance(optimizer, Mapping) else "sgd"
    sections = {"optimizer.kwargs": OPTIMIZER_OPTIONS[name]} if name in OPTIMIZER_OPTIONS else {}
    config = check(tree, LinearConfig, sections)
    if config.mode not in (*TRAINED, *MODES):
        raise unknown_name("mode", config.mode, (*TRAINED, *MODES))
    return config
