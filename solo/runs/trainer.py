"""Lightning's trainer for a run, checked against the machine."""

from __future__ import annotations

import logging
import os
import warnings
from importlib.metadata import version
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from pytorch_lightning.plugins.layer_sync import LayerSync
from pytorch_lightning.strategies import StrategyRegistry
from rich.console import Console
from torch import nn

from solo import distributed
from solo.backbones.synchronised import synchronise_batchnorm
from solo.config import ConfigError, RunConfig, unknown_name
from solo.data import ImageData
from solo.runs.checkpoint_files import SafeCheckpointIO
from solo.runs.folder import check_writable
from solo.runs.monitors import check_monitors
from solo.runs.sharded import Sharded, check_sharded

SIGTERM_BROADCAST = "_broadcast_sigterm_tensor"


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
    for note in config.notes:
        console.print(note, soft_wrap=True)
    options = hardware_options(config, console)
    if distributed.is_first_launched():
        check_writable(config)
    return console, options


def build_trainer(
    config: RunConfig, data: ImageData, options: dict[str, Any], console: Console
) -> tuple[pl.Trainer, SafeCheckpointIO]:
    """The trainer, without callbacks and loggers, and what writes its checkpoints.

    Raises:
        ConfigError: for a metric to judge the run by that it will not log, and a global batch
            that the processes cannot share.
    """
    check_monitors(config, data)
    io = SafeCheckpointIO(lambda text: console.print(text, soft_wrap=True))
    options = dict(options)
    sync_batchnorm = options.pop("sync_batchnorm")
    trainer = pl.Trainer(
        **options,
        plugins=[io, *cluster_plugins(), *([SyncBatchNorm()] if sync_batchnorm else [])],
        max_epochs=config.max_epochs,
        max_steps=config.max_steps,
        num_nodes=config.num_nodes,
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
        # Weights that were first gathered in a validation would refuse to be trained.
        inference_mode=config.strategy != "fsdp",
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        default_root_dir=config.checkpoint.dir,
    )
    leave_out_sigterm_broadcast(trainer)
    config.optimizer.share(trainer.world_size)
    return trainer, io


def leave_out_sigterm_broadcast(trainer: pl.Trainer) -> None:
    """Keep Lightning from sending word of SIGTERM to all processes in every step.

    It reads the answer back from the device, so that each step of several processes waits for the
    GPU. The vote of our checkpoint callback, on the host, does the same work. Another version of
    Lightning, where this is made elsewhere, is left as it is.
    """
    loop = trainer.fit_loop.epoch_loop
    if callable(getattr(loop, SIGTERM_BROADCAST, None)):
        setattr(loop, SIGTERM_BROADCAST, lambda: None)
    else:
        warnings.warn(
            f"pytorch-lightning {version('pytorch-lightning')} has no {SIGTERM_BROADCAST} to leave "
            "out: with several GPUs each step may wait for the device",
            stacklevel=2,
        )


def hardware_options(config: RunConfig, console: Console) -> dict[str, Any]:
    """Trainer arguments that depend on the machine, checked against it.

    Raises:
        ConfigError: where a GPU is asked for that is not there, a precision that the CPU does
            not have, or a strategy that nobody knows.
    """
    accelerator = find_accelerator(config)
    devices = find_devices(config, accelerator)
    count = len(devices) if isinstance(devices, list) else devices
    cores = os.cpu_count() or 1
    if accelerator == "cpu" and isinstance(count, int) and count > cores:
        console.print(f"warning: devices is {count}, and there are {cores} cores to share")
    one_gpu = count in ("auto", -1) and torch.cuda.device_count() == 1
    alone = config.num_nodes == 1 and (count == 1 or one_gpu)
    return {
        "accelerator": accelerator,
        "devices": devices,
        "precision": find_precision(config, accelerator, console),
        "strategy": find_strategy(config, alone),
        "sync_batchnorm": config.sync_batchnorm and not alone,
    }


def find_accelerator(config: RunConfig) -> str:
    """What to compute on: "gpu", "mps" or "cpu".

    Raises:
        ConfigError: where it is not there, or lacks the precision.
    """
    accelerator = "gpu" if config.accelerator == "cuda" else config.accelerator
    gpus, has_mps = torch.cuda.device_count(), torch.backends.mps.is_available()
    if accelerator == "auto":
        accelerator = "gpu" if gpus else "mps" if has_mps else "cpu"
    if (accelerator == "gpu" and not gpus) or (accelerator == "mps" and not has_mps):
        raise ConfigError(
            f"accelerator is {config.accelerator}, but there is none on this machine; "
            "to run on the CPU add ++accelerator=cpu ++devices=1 ++precision=32"
        )
    if accelerator == "cpu" and config.precision == "16-mixed":
        raise ConfigError(
            "precision is 16-mixed, which needs a GPU; on the CPU use ++precision=32 "
            "(or bf16-mixed)"
        )
    return accelerator


def find_precision(config: RunConfig, accelerator: str, console: Console) -> str:
    """The config's; for "auto", what is fast on this machine, and said."""
    if config.precision == "auto":
        chosen = "bf16-mixed" if has_bfloat16(accelerator) else "32"
        console.print(f"precision is auto: {chosen} on this machine")
        return chosen
    if config.precision == "bf16-mixed" and accelerator == "cpu" and not has_bfloat16("cpu"):
        console.print(
            "precision is bf16-mixed, but this processor has no instructions for bfloat16; "
            "++precision=32 is several times as fast here",
            soft_wrap=True,
        )
    return config.precision


def has_bfloat16(accelerator: str) -> bool:
    """Whether a device computes in bfloat16, rather than by way of float32."""
    if accelerator == "gpu":
        return torch.cuda.get_device_capability() >= (8, 0)
    if accelerator != "cpu":
        return False
    if hasattr(torch.cpu, "get_capabilities"):
        has = torch.cpu.get_capabilities()
        return any(has.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def find_devices(config: RunConfig, accelerator: str) -> int | list[int] | str:
    """How many devices, or which GPUs.

    Raises:
        ConfigError: for a GPU that this machine does not have.
    """
    devices = int(config.devices) if config.devices == "-1" else config.devices
    if accelerator != "gpu":
        devices = len(devices) if isinstance(devices, list) else devices
        return 1 if devices in ("auto", -1) else devices
    gpus = torch.cuda.device_count()
    wanted = max(devices) + 1 if isinstance(devices, list) else devices
    if isinstance(wanted, int) and wanted > gpus:
        raise ConfigError(f"devices is {devices}, but this machine has {gpus} GPU(s)")
    return devices


def find_strategy(config: RunConfig, alone: bool) -> str | Sharded:
    """How processes work together; one that is ``alone`` needs no strategy.

    Raises:
        ConfigError: for a strategy that nobody knows or that does not go with other keys, and for
            nodes that nobody started.
    """
    known = StrategyRegistry.available_strategies()
    strategies = ["auto", *(name for name in known if name.startswith("ddp")), "fsdp"]
    if config.strategy not in strategies:
        raise unknown_name("strategy", config.strategy, strategies)
    started = distributed.launched_by_cluster() or "NODE_RANK" in os.environ
    if config.num_nodes > 1 and not started:
        raise ConfigError(
            f"num_nodes is {config.num_nodes}, but this process was started by neither srun nor "
            "torchrun, and would wait for the others; see docs/cluster.md"
        )
    if config.strategy == "fsdp":
        check_sharded(config)
    if alone:
        return "auto"
    if config.strategy == "fsdp":
        return Sharded()
    return "ddp" if config.strategy == "auto" else config.strategy


class SyncBatchNorm(LayerSync):
    """BatchNorm over all processes, for Lightning to put in before DDP."""

    def apply(self, model: nn.Module) -> nn.Module:
        """Convert every BatchNorm of the model."""
        return synchronise_batchnorm(model)

    def revert(self, model: nn.Module) -> nn.Module:
        """Nothing: a converted layer works as before where there is one process."""
        return model


def cluster_plugins() -> list[SLURMEnvironment]:
    """Under srun, Lightning's own environment without its own way to requeue."""
    return [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []


def _quiet() -> None:
    """Leave out what Lightning says about choices that are made here on purpose."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*LeafSpec.*is deprecated.*",
        ".*`srun` command.*",
        ".*recommended to use `self.log.*sync_dist=True.*",  # what is logged is global already
        ".*in eval mode at the start of training.*",
        ".*FSDP2-wrapped module .* returned a view tensor.*",  # nothing here changes it in place
    ):
        warnings.filterwarnings("ignore", message)
