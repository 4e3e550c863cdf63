"""Whether features spread out or collapse, as they train."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from rich.console import Console
from torch import Tensor

from solo import distributed
from solo.data import Batch
from solo.evaluation.spread import (
    alignment,
    exact,
    moments_rank,
    rank_of_moments,
    spread,
    uniformity,
)
from solo.methods import SSLMethod

ROWS = 512
"""Images of the global batch that are looked at."""
LEAST_RANK = 1.5
"""Embeddings of a lower effective rank are all in one direction, or nearly."""
MOST_UNIFORMITY = -0.01
"""Embeddings of one above are one point and noise around it, which may have any rank."""
PATIENCE = 10
"""Logged values in a row that must say so, as networks may begin there."""
LEAST_PATIENCE = 3
"""Of embeddings that are the same for all images, and of runs that end."""


class CollapseMonitor(pl.Callback):
    """Log how backbone features and embeddings are spread, and warn once where they collapse.

    Of training batches at logging steps, the first view of at most ``ROWS`` images of the global
    batch (alignment: the first two views); and of the whole validation set, the effective rank.

    Args:
        console: for the warning.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._in_a_row = 0
        self._warned, self._warning = False, ""
        self._moments: list[Tensor] = []

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: SSLMethod, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Log and, where it is time, warn."""
        if not outputs["logged"]:
            return
        share = max(2, ROWS // distributed.world_size())
        h = distributed.gather(outputs["h"][0, :share].float(), dim=0)
        z = distributed.gather(outputs["z"][:2, :share].float(), dim=1)
        if len(h) < 2:
            return
        found = spread(z[0])
        values = {
            "train_effective_rank": moments_rank(h),
            "train_proj_effective_rank": found.effective_rank,
            "train_proj_std": found.mean_std,
            "train_proj_least_std": found.least_std,
            "train_proj_dead": found.dead,
            "train_uniformity": uniformity(z[0]),
        }
        if len(z) == 2 and pl_module.global_views > 1:
            values["train_alignment"] = alignment(z)
        pl_module.log_dict({name: value.float() for name, value in values.items()})
        self._look({name: float(value) for name, value in values.items()}, z.shape[-1], pl_module)

    def _look(self, values: dict[str, float], dimensions: int, method: SSLMethod) -> None:
        """Warn where embeddings have been of one direction for long."""
        rank, uniform = values["train_proj_effective_rank"], values["train_uniformity"]
        collapsed = dimensions > 1 and (rank < LEAST_RANK or uniform > MOST_UNIFORMITY)
        self._in_a_row = self._in_a_row + 1 if collapsed else 0
        self._warning = (
            f"warning: embeddings have collapsed: their effective rank is {rank:.2f} of "
            f"{dimensions}, their uniformity {uniform:.4f}, and "
            f"{100 * values['train_proj_dead']:.0f} % of dimensions are the same for all images "
            f"({self._in_a_row} logged values in a row). {method.against_collapse}"
        )
        if self._in_a_row >= (LEAST_PATIENCE if values["train_proj_dead"] == 1 else PATIENCE):
            self._warn()

    def _warn(self) -> None:
        if not self._warned:
            self._warned = True
            self.console.print(self._warning, soft_wrap=True)

    def on_train_end(self, trainer: pl.Trainer, pl_module: SSLMethod) -> None:
        """Of a run too short for ten values: what the last ones say."""
        if self._in_a_row >= LEAST_PATIENCE:
            self._warn()

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: SSLMethod, outputs: Any, batch: Batch, *args: Any
    ) -> None:
        """Second moments of a batch of the validation set."""
        parts = [exact(outputs[name]) for name in ("h", "z")]
        moments = [part.T @ part for part in parts]
        if self._moments:
            moments = [old + new for old, new in zip(self._moments, moments)]
        self._moments = moments

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: SSLMethod) -> None:
        """The effective rank of the validation set."""
        for name, moments in zip(("val_effective_rank", "val_proj_effective_rank"), self._moments):
            pl_module.log(name, rank_of_moments(distributed.all_sum(moments)).float())
        self._moments = []
