"""``run(cfg)``: a pretraining run from its config to its results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from solo.backbones import has_batchnorm
from solo.callbacks import CollapseMonitor, KNNMonitor, SparsityMonitor, watching
from solo.config import Config, ConfigError
from solo.data import ImageData
from solo.evaluation.encoders import Encoder
from solo.methods import SSLMethod, build_method, resolve_config
from solo.report.media import PicturesLogger
from solo.report.run import write_report
from solo.runs.folder import RunFolder
from solo.runs.initial import begin_with, begun_before, initial_network, take_normalisation
from solo.runs.metrics import METRICS
from solo.runs.run import Run
from solo.runs.trainer import prepare


class Result(NamedTuple):
    """Where a run's files are, its last metrics, and the one of them that it is judged by.

    ``objective``: ``checkpoint.monitor``, or the accuracy of the linear probe; None where no
    such value was logged.
    """

    folder: Path
    metrics: dict[str, float]
    objective: float | None


def run(cfg: DictConfig | Mapping[str, Any]) -> Result:
    """Train the configured method and say where the results are.

    Raises:
        ConfigError: for anything in the config that cannot be run, before any long work.
    """
    config = resolve_config(cfg)
    console, options = prepare(config)
    before = begun_before(config) if config.init_from else None
    start = initial_network(config) if config.init_from and before is None else None
    data = ImageData(config)
    if source := start or before:
        take_normalisation(config, source, data)
    method = build_method(config, data)
    check_micro_batch(config, method)
    if start is not None:
        begin(console, method, start)
    interval = config.method_kwargs.logging_interval
    with Run.start(config, data, console, options, interval) as current:
        folder = current.folder
        if before is not None and not (folder.resume_from or folder.done):
            begin(console, method, initial_network(config))  # it is another run after all
        if config.compile:
            method.compile_networks()
        announce(console, config, method, data, current)
        own: list[pl.Callback] = [SparsityMonitor(), CollapseMonitor(console)]
        if config.knn_eval.enabled and data.num_classes and not data.multilabel:
            own.append(KNNMonitor(config, data.num_classes))
        own.append(PicturesLogger(data, config.pictures_every_n_epochs))
        sparse = method.options.is_rectified
        current.fit(method, watching(current, own, sparse=sparse), "main_pretrain.py")
        metrics = current.saved.metrics.last()
        if current.is_first:
            summarize(console, metrics, folder, current.seconds(), sparse)
            if folder.done != "finished":
                report(console, folder)
                folder.finish()
    objective = metrics.get(config.checkpoint.monitor or "val_acc1")
    return Result(folder.path, metrics, objective)


def begin(console: Console, method: SSLMethod, start: Encoder) -> None:
    """With the weights of a network, and say what was taken."""
    for line in begin_with(method, start):
        console.print(line, soft_wrap=True)


def announce(
    console: Console, config: Config, method: SSLMethod, data: ImageData, current: Run
) -> None:
    """Say what is about to run."""
    folder = current.folder
    millions = sum(p.numel() for p in method.loss_parameters()) / 1e6
    views = sum(entry.num_crops for entry in config.augmentations)
    layout = data.train.layout
    kind = f" of {layout.channels} channels" if layout.channels != 3 or layout.deep else ""
    kind += ", more than 8 bits deep" if layout.deep else ""
    console.print(
        f"{config.method} on {config.data.dataset}: {len(data.train)} images{kind}, "
        f"{views} views each; {config.backbone.name} ({method.backbone.num_features} features) "
        f"and projector, {millions:.1f} M parameters",
        soft_wrap=True,
    )
    on_cpu = current.trainer.strategy.root_device.type != "cuda"
    if config.data.decode_on == "device" and config.data.augment_on == "auto" and on_cpu:
        console.print("files are decoded by the loader, as views are made there: data.augment_on")
    if "expected_l0" in method.facts:
        console.print(f"expected l0 {method.facts['expected_l0']:.3f}")
        if method.facts["expected_l0"] < 1e-4:
            console.print(
                "warning: the target is zero almost everywhere, so embeddings will be too; raise "
                "method_kwargs.mean_shift_value, or give method_kwargs.target_l0",
                soft_wrap=True,
            )
    for remark in method.remarks(config.optimizer.batch_size * current.trainer.world_size):
        console.print(remark, soft_wrap=True)
    if config.micro_batch and has_batchnorm(method):
        batch, processes = config.optimizer.batch_size, current.trainer.world_size
        part = -(-batch // config.parts(batch))
        seen = part * processes if config.sync_batchnorm else part
        console.print(
            f"micro_batch: BatchNorm normalises with {seen} images, the loss is of "
            f"all {batch * processes}",
            soft_wrap=True,
        )
    if data.num_classes == 1:
        console.print(
            f"warning: all training images are of one class ({data.train.classes[0]}), so probes "
            "have nothing to tell apart; with data.no_labels=true there are none",
            soft_wrap=True,
        )
    if folder.resume_from:
        console.print(f"continuing from {folder.resume_from}", soft_wrap=True)
    console.print(f"folder: {folder.path}", soft_wrap=True)


def check_micro_batch(config: Config, method: SSLMethod) -> None:
    """Whether networks can be run in such parts.

    Raises:
        ConfigError: where they cannot.
    """
    batch = config.optimizer.batch_size
    parts = config.parts(batch)
    if parts == 1:
        return
    if config.compile:
        raise ConfigError(
            "micro_batch runs networks again, which is not tried with compile=true; leave one out"
        )
    if has_batchnorm(method) and batch // parts < 2:
        raise ConfigError(
            f"micro_batch is {config.micro_batch}, but BatchNorm needs two images or more; set "
            "micro_batch=2"
        )


def summarize(
    console: Console, metrics: dict[str, float], folder: RunFolder, seconds: float, sparse: bool
) -> None:
    """Print the closing table."""
    table = Table(show_header=False, box=None)
    for name, metric in METRICS.items():
        if metric.summary and name in metrics and (sparse or not metric.sparse):
            table.add_row(f"{metric.label} ({name})", metric.text(metrics[name]))
    minutes, rest = divmod(round(seconds), 60)
    table.add_row("training time", f"{minutes} min {rest:02d} s")
    console.print(table)
    console.print(f"folder: {folder.path}", soft_wrap=True)


def report(console: Console, folder: RunFolder) -> None:
    """Write report.html; where that fails, say why: the run itself is done."""
    try:
        write_report(folder.path)
    except Exception as error:  # whatever it is, it must not fail a finished run
        console.print(f"No report was written ({error!r}); python -m solo.report {folder.path}")
