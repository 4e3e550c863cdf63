"""Checkpoints: ``last.ckpt``, and each saved epoch where they are kept."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from solo import distributed
from solo.config import Config


class Checkpoints(pl.Callback):
    """Save every ``checkpoint.frequency`` epochs and at the end, after validation.

    A file is written under another name and renamed when it is whole. Checkpoints hold tensors
    and plain values only; ``config`` is the resolved config.
    """

    def __init__(self, config: Config, folder: Path) -> None:
        self.config = config
        self.folder = folder
        self._saved_step = -1

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the config."""
        checkpoint["config"] = self.config.to_dict()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """After the epoch's validation."""
        due = (trainer.current_epoch + 1) % self.config.checkpoint.frequency == 0
        if self.config.checkpoint.enabled and due:
            self._save(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The last state, always."""
        self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        if trainer.global_step == self._saved_step:
            return
        self._saved_step = trainer.global_step
        last = self.folder / "last.ckpt"
        partial = self.folder / "last.ckpt.partial"
        trainer.save_checkpoint(partial)
        if distributed.rank() == 0:
            os.replace(partial, last)
            if self.config.checkpoint.keep_prev:
                kept = self.folder / f"epoch={trainer.current_epoch:04d}.ckpt"
                kept.unlink(missing_ok=True)
                os.link(last, kept)  # the next save replaces last.ckpt, not this file
