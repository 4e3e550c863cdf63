"""How far a run is: a bar in a terminal, a line an epoch in a log file."""

from __future__ import annotations

import time
from typing import Any

import pytorch_lightning as pl
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from solo import distributed
from solo.methods import SSLMethod
from solo.runs.metrics import METRICS


class RunProgress(pl.Callback):
    """Show epoch, speed, time left and the newest metrics.

    Values are read back from the device only at logging steps and after validation.

    Args:
        console: where to.
        sparse: also show the non-zero fraction (of dense embeddings it is always 1).
    """

    def __init__(self, console: Console, sparse: bool) -> None:
        self.console = console
        self._shown = {
            name: metric.short
            for name, metric in METRICS.items()
            if metric.short and (sparse or not metric.sparse)
        }
        self._bar: Progress | None = None
        self._task: Any = None
        self._seen = 0
        self._started = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: SSLMethod) -> None:
        """Open the progress bar."""
        self._started = time.monotonic()
        if distributed.rank() == 0 and self.console.is_terminal:
            self._bar = Progress(
                TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f} %"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[images]:.0f} img/s  {task.fields[metrics]}"),
                console=self.console,
            )
            self._task = self._bar.add_task(
                "",
                total=int(trainer.num_training_batches) * (trainer.max_epochs or 1),
                completed=trainer.current_epoch * int(trainer.num_training_batches),
                epoch=trainer.current_epoch + 1,
                epochs=trainer.max_epochs,
                images=0.0,
                metrics="",
            )
            self._bar.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: SSLMethod, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance the progress bar by a batch."""
        self._seen += len(batch.indices) * distributed.world_size()
        if self._bar is None:
            return
        fields: dict[str, Any] = {
            "epoch": trainer.current_epoch + 1,
            "images": self._seen / (time.monotonic() - self._started),
        }
        if outputs["logged"]:
            fields["metrics"] = self._metrics(trainer, pl_module)
        self._bar.update(self._task, advance=1, **fields)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: SSLMethod) -> None:
        """Where there is no terminal, one line; after validation."""
        if self._bar is not None:
            self._bar.update(self._task, metrics=self._metrics(trainer, pl_module))
        elif distributed.rank() == 0:
            speed = self._seen / (time.monotonic() - self._started)
            self.console.print(
                f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {speed:.0f} img/s  "
                f"{self._metrics(trainer, pl_module)}",
                soft_wrap=True,
            )

    def on_train_end(self, trainer: pl.Trainer, pl_module: SSLMethod) -> None:
        """Close the progress bar."""
        self._close()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Close the progress bar where training fails."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _metrics(self, trainer: pl.Trainer, method: SSLMethod) -> str:
        shown = {f"train_{method.loss_name}": "loss", **self._shown}
        values = trainer.callback_metrics
        return "  ".join(f"{short} {values[n]:.4g}" for n, short in shown.items() if n in values)
