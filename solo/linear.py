"""``run(cfg)``: an evaluation from its config to its tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig
from rich.console import Console

from solo import distributed, rng
from solo.callbacks import Checkpoints, HealthMonitor, RunProgress
from solo.config import ConfigError
from solo.config.evaluation import LinearConfig
from solo.data import ImageData
from solo.evaluation.encoders import Encoder
from solo.evaluation.modes import MODES
from solo.evaluation.resolve import resolve_linear
from solo.evaluation.table import write_table
from solo.evaluation.training import TrainedProbe
from solo.runs import build_trainer, choose_folder, fit, loggers, prepare, run_folder


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
    if config.mode in ("linear", "mlp", "finetune"):
        return _train(config, encoder, console, options)
    if distributed.launched_by_cluster():
        raise ConfigError(
            f"mode {config.mode} runs in one process, but several were started; start one "
            "(srun --ntasks=1), or choose linear, mlp or finetune"
        )
    rng.seed_global(config.seed, "evaluation")
    rows = MODES[config.mode](config, encoder, console)
    folder = choose_folder(config, console.print)
    try:
        folder.create(config)
        write_table(folder.path, rows, console)
        folder.finish()
    finally:
        folder.release()
    return Result(folder.path, rows)


def _train(
    config: LinearConfig, encoder: Encoder, console: Console, options: dict[str, Any]
) -> Result:
    """Modes linear, mlp and finetune: resumable and logged like pretraining."""
    data = ImageData(config, labelled_only=True)
    if data.val is None:
        raise ConfigError("data.val_path is not set; there is nothing to score the probe on")
    if data.num_classes < 2:
        raise ConfigError(f"{config.data.dataset} has {data.num_classes} class; two are needed")
    probe = TrainedProbe(config, encoder, data.num_classes, data.multilabel)
    trainer, io = build_trainer(config, data, options, console)
    trainer.log_every_n_steps = data.logging_interval(  # type: ignore[attr-defined]
        config.logging_interval, trainer.world_size
    )
    with run_folder(config, trainer, console) as folder:
        console.print(f"folder: {folder.path}", soft_wrap=True)
        saving = Checkpoints(config, folder.checkpoints, io, console)
        trainer.callbacks += [HealthMonitor(), saving, RunProgress(console, sparse=False)]  # type: ignore[attr-defined]
        trainer.loggers = loggers(config, folder, trainer.is_global_zero, console)
        fit(trainer, probe, data, folder, console, "main_linear.py")
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        row: dict[str, Any] = {"model": encoder.name, "mode": config.mode}
        names = ("val_acc1", "val_acc5", "val_map")
        row |= {name: metrics[name] for name in names if name in metrics}
        rows = [row]
        if trainer.is_global_zero:
            write_table(folder.path, rows, console)
            folder.finish()
    return Result(folder.path, rows)
