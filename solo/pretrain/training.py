"""What every kind of training run does alike: trainer, folder, loggers, and a clean end."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from pytorch_lightning.loggers import Logger
from rich.console import Console

from solo import distributed
from solo.callbacks import (
    MetricsCSV,
    RunFolder,
    check_writable,
    choose_folder,
    close_dashboard,
    open_dashboard,
)
from solo.callbacks.checkpoint import RunInterrupted
from solo.callbacks.checkpoint_io import LAST, SafeCheckpointIO
from solo.callbacks.health import explain
from solo.config import ConfigError, RunConfig, RunError
from solo.data import ImageData

ROOT = Path(__file__).resolve().parents[2]


def prepare(config: RunConfig) -> tuple[Console, dict[str, Any]]:
    """What can be checked before anything is built: the machine, and where results will go.

    Returns:
        A console (silent on other processes than the first), and the trainer's arguments that
        depend on the machine.

    Raises:
        ConfigError: where the config asks for what is not there.
    """
    _quiet()
    console = Console(quiet=not distributed.is_first_launched(), highlight=False, markup=False)
    options = hardware_options(config, console)
    if distributed.is_first_launched():
        check_writable(config)
    return console, options


def build_trainer(
    config: RunConfig, data: ImageData, options: dict[str, Any], console: Console
) -> tuple[pl.Trainer, SafeCheckpointIO]:
    """The trainer, without callbacks and loggers, and what writes its checkpoints."""
    io = SafeCheckpointIO(lambda text: console.print(text, soft_wrap=True))
    trainer = pl.Trainer(
        **options,
        plugins=[io, *cluster_plugins()],
        max_epochs=config.max_epochs,
        max_steps=config.max_steps,
        num_nodes=config.num_nodes,
        precision=config.precision,  # type: ignore[arg-type]
        accumulate_grad_batches=config.accumulate_grad_batches,
        gradient_clip_val=config.gradient_clip_val,
        gradient_clip_algorithm=config.gradient_clip_algorithm,
        check_val_every_n_epoch=config.check_val_every_n_epoch,
        limit_train_batches=config.limit_train_batches,
        limit_val_batches=config.limit_val_batches if data.val is not None else 0,
        deterministic=config.deterministic,
        benchmark=config.benchmark,
        detect_anomaly=config.detect_anomaly,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        default_root_dir=config.checkpoint.dir,
    )
    return trainer, io


@contextlib.contextmanager
def run_folder(config: RunConfig, trainer: pl.Trainer, console: Console) -> Iterator[RunFolder]:
    """The run's folder, filled, and this run's until the block ends."""
    folder = agree_on_folder(config, trainer, console)
    try:
        if trainer.is_global_zero:
            folder.create(config)
        yield folder
    finally:
        if config.wandb.enabled:
            close_dashboard()
        folder.release()


def fit(
    trainer: pl.Trainer,
    module: pl.LightningModule,
    data: ImageData,
    folder: RunFolder,
    console: Console,
    script: str,
) -> None:
    """Train; where that ends early, say why and how the run goes on.

    Raises:
        RunInterrupted: after a signal, the state saved.
        RunError: where the loss is no number, or another process of the run is gone.
    """
    try:
        with distributed.closed_afterwards(), folder.hand_down(), _children_read(folder, script):
            trainer.fit(module, datamodule=data, ckpt_path=folder.resume_from, weights_only=True)
    except RunInterrupted as interruption:
        if trainer.is_global_zero:
            say_how_to_go_on(console, interruption, folder)
        interruption.pass_on()
        raise
    except RuntimeError as error:
        reason = explain(error)
        if reason is None:
            raise
        raise RunError(f"{reason} {how_to_go_on(folder)}") from error


def hardware_options(config: RunConfig, console: Console) -> dict[str, Any]:
    """Trainer arguments that depend on the machine, checked against it.

    Raises:
        ConfigError: where a GPU is asked for that is not there, or a precision that the CPU
            does not have.
    """
    accelerator = "gpu" if config.accelerator == "cuda" else config.accelerator
    gpus = torch.cuda.device_count()
    has_mps = torch.backends.mps.is_available()
    if accelerator == "auto":
        accelerator = "gpu" if gpus else "mps" if has_mps else "cpu"
    if (accelerator == "gpu" and not gpus) or (accelerator == "mps" and not has_mps):
        raise ConfigError(
            f"accelerator is {config.accelerator}, but there is none on this machine; "
            "to run on the CPU add ++accelerator=cpu ++devices=1 ++precision=32"
        )
    devices = int(config.devices) if config.devices == "-1" else config.devices
    if accelerator == "gpu":
        wanted = max(devices) + 1 if isinstance(devices, list) else devices
        if isinstance(wanted, int) and wanted > gpus:
            raise ConfigError(f"devices is {devices}, but this machine has {gpus} GPU(s)")
    else:
        devices = len(devices) if isinstance(devices, list) else devices
        devices = 1 if devices in ("auto", -1) else devices
    if accelerator == "cpu" and config.precision == "16-mixed":
        raise ConfigError(
            "precision is 16-mixed, which needs a GPU; on the CPU use ++precision=32 "
            "(or bf16-mixed)"
        )
    count = len(devices) if isinstance(devices, list) else devices
    alone = config.num_nodes == 1 and (count == 1 or (count in ("auto", -1) and gpus == 1))
    sync_batchnorm = config.sync_batchnorm
    if sync_batchnorm and accelerator != "gpu":
        console.print("sync_batchnorm is a GPU feature: each process normalises its own batch.")
        sync_batchnorm = False
    return {
        "accelerator": accelerator,
        "devices": devices,
        "strategy": "auto" if alone else "ddp" if config.strategy == "auto" else config.strategy,
        "sync_batchnorm": sync_batchnorm and not alone,
    }


def agree_on_folder(config: RunConfig, trainer: pl.Trainer, console: Console) -> RunFolder:
    """The same folder on every process, whoever launched them."""

    def warn(text: str) -> None:
        console.print(text, soft_wrap=True)

    handed_down = RunFolder.handed_down()
    if handed_down is not None:
        return handed_down
    if trainer.world_size > 1 and distributed.launched_by_cluster():
        trainer.strategy.setup_environment()  # brings up the process group
        folder = choose_folder(config, warn) if trainer.is_global_zero else None
        words = distributed.broadcast_object(folder.to_words() if folder else None)
        return folder or RunFolder.from_words(words)
    return choose_folder(config, warn)


def loggers(config: RunConfig, folder: RunFolder, is_first: bool, console: Console) -> list[Logger]:
    """metrics.csv always, Weights & Biases where it is enabled."""

    def say(text: str) -> None:
        console.print(text, soft_wrap=True)

    chosen: list[Logger] = [MetricsCSV(folder.path / "metrics.csv", say)]
    if config.wandb.enabled:
        chosen.append(open_dashboard(config, folder, is_first, say))
    return chosen


def cluster_plugins() -> list[SLURMEnvironment]:
    """Under srun, Lightning's own environment without its own way to requeue."""
    return [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []


def say_how_to_go_on(console: Console, interruption: RunInterrupted, folder: RunFolder) -> None:
    """After a signal: what was saved, and how the run continues."""
    folder.note(status="interrupted")
    console.print(
        f"{interruption.signal.name}: saved {folder.checkpoints / LAST}. {how_to_go_on(folder)}",
        soft_wrap=True,
    )


def how_to_go_on(folder: RunFolder) -> str:
    """The two ways to continue a run."""
    last = folder.checkpoints / LAST
    if not last.exists():
        return "Nothing was saved yet."
    return (
        "The same command with ++auto_resume.enabled=true goes on from its last checkpoint; so "
        f"does ++resume_from_checkpoint={last}, in a new folder."
    )


@contextlib.contextmanager
def _children_read(folder: RunFolder, script: str) -> Iterator[None]:
    """Let the processes that Lightning launches run the saved config.

    It would repeat this process's command line, which in a multirun is the whole sweep.
    """
    argv, hydra = sys.argv, HydraConfig.instance().cfg
    HydraConfig.instance().cfg = None
    sys.argv = [str(ROOT / script), "--config-path", str(folder.path.absolute())]
    sys.argv += ["--config-name", "config"]
    try:
        yield
    finally:
        sys.argv, HydraConfig.instance().cfg = argv, hydra


def _quiet() -> None:
    """Leave out what Lightning says about choices that are made here on purpose."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*LeafSpec.*is deprecated.*",
        ".*`srun` command.*",
        ".*in eval mode at the start of training.*",
    ):
        warnings.filterwarnings("ignore", message)
