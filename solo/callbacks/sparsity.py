"""Sparsity and redundancy of the embedding, as it trains."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from solo import distributed
from solo.data import Batch
from solo.evaluation.sparsity import l0_sparsity, l1_sparsity
from solo.losses.vicreg import covariance_loss, variance_loss
from solo.methods import SSLMethod


class SparsityMonitor(pl.Callback):
    """Log l0, l1, variance and covariance of the global batch at each logging step, and l0 and l1
    of the validation set.

    Of a training batch, l0 and l1 are those of the first view, as in published logs. Variance and
    covariance are VICReg's losses, summed over two views (for more views, twice the mean): what
    they would be, whether or not the method uses them.
    """

    def __init__(self) -> None:
        self._val: list[Tensor] = []

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: SSLMethod, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Log the sparsity of a training batch's embeddings."""
        if not outputs["logged"]:
            return
        z = distributed.gather(outputs["z"], dim=1)  # [V, N, D]
        rows = z[0]
        pl_module.log_dict(
            {
                "train_l0_sparsity_metric": l0_sparsity(rows),
                "train_l1_sparsity_metric": l1_sparsity(rows),
                "train_variance_loss": 2 * variance_loss(z).mean(),
                "train_covariance_loss": 2 * covariance_loss(z).mean(),
            }
        )

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: SSLMethod, outputs: Any, batch: Batch, *args: Any
    ) -> None:
        """Validation batch. Padding of the last batches counts too: one image at most."""
        z = outputs["z"]
        weighted = torch.stack([l0_sparsity(z), l1_sparsity(z), z.new_ones(())]) * len(z)
        self._val.append(weighted)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: SSLMethod) -> None:
        """Mean over the validation set."""
        if self._val:
            l0, l1, count = distributed.all_sum(torch.stack(self._val).sum(0))
            pl_module.log_dict(
                {"val_l0_sparsity_metric": l0 / count, "val_l1_sparsity_metric": l1 / count}
            )
            self._val.clear()
