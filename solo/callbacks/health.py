"""What goes wrong while a run trains: a loss that is no number, images that cannot be read."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from solo import distributed
from solo.config import RunError
from solo.methods import SSLMethod


class DivergedError(RunError):
    """The loss became NaN or infinite; the message names the step."""


class HealthMonitor(pl.Callback):
    """Stop at a loss that is no number, before a checkpoint is written; count skipped images.

    The check runs on the device at every step and is read where the host waits anyway: at logging
    steps, and before each save.
    """

    def __init__(self) -> None:
        self._first_bad: Tensor | None = None
        self._skipped = 0
        self._skipped_before = 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: SSLMethod, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Remember the first step whose loss is no number; look at logging steps."""
        loss = outputs["loss"].detach()
        step = trainer.global_step - 1
        if self._first_bad is None:
            self._first_bad = torch.full((), -1, dtype=torch.long, device=loss.device)
        is_first = ~torch.isfinite(loss) & (self._first_bad < 0)
        self._first_bad.masked_fill_(is_first, step)
        self._skipped += batch.skipped
        if outputs["logged"]:
            self._check()
            if skipped := self._all_skipped():
                pl_module.log("skipped_images", float(skipped))

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """A bad state is not saved."""
        self._check()

    def state_dict(self) -> dict[str, Any]:
        """The count goes on after a resume."""
        return {"skipped": self._all_skipped()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting skipped images from a checkpoint."""
        self._skipped, self._skipped_before = 0, state_dict["skipped"]

    def _all_skipped(self) -> int:
        """By all processes since the run began."""
        device = None if self._first_bad is None else self._first_bad.device
        own = torch.tensor(self._skipped, device=device)
        return self._skipped_before + int(distributed.all_sum(own))

    def _check(self) -> None:
        if self._first_bad is None:
            return
        step = int(distributed.all_max(self._first_bad))
        if step >= 0:
            raise DivergedError(
                f"The loss became NaN or infinite at step {step}. Checkpoints written before "
                "that are kept. Lower optimizer.lr, or find the operation with "
                "++detect_anomaly=true"
            )
