"""Online k-nearest-neighbour accuracy."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from solo import distributed
from solo.config import Config
from solo.data import Batch
from solo.evaluation.knn import knn_predict
from solo.methods import SSLMethod


class KNNMonitor(pl.Callback):
    """Classify validation features by the newest training features.

    The bank holds the first view's backbone features of recent training batches, ``bank_size`` of
    them over all processes: no extra pass over the training set is made.
    """

    def __init__(self, config: Config, num_classes: int) -> None:
        self.options = config.knn_eval
        self.num_classes = num_classes
        self._bank: list[tuple[Tensor, Tensor]] = []
        self._queries: list[tuple[Tensor, Tensor]] = []

    def state_dict(self) -> dict[str, Any]:
        """The bank of every process, [W, …]: a resumed run's first validation needs it."""
        if not self._bank:
            return {}
        h = torch.cat([h for h, _ in self._bank])
        labels = torch.cat([labels for _, labels in self._bank])
        sizes = torch.tensor([len(h) for h, _ in self._bank])
        processes = distributed.world_size()
        return {
            "h": distributed.gather(h).unflatten(0, (processes, -1)),
            "labels": distributed.gather(labels).unflatten(0, (processes, -1)),
            "sizes": sizes,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """This process's part of each batch, however many processes saved them."""
        self._bank = []
        if not state_dict:
            return
        rank, processes = distributed.rank(), distributed.world_size()
        sizes = state_dict["sizes"].tolist()
        batches = zip(*(state_dict[key].split(sizes, dim=1) for key in ("h", "labels")))
        for saved in batches:  # [W, B, …] each: a global batch is all shares in turn
            whole = (part.flatten(0, 1) for part in saved)
            self._bank.append(tuple(part.tensor_split(processes)[rank] for part in whole))  # type: ignore[arg-type]

    def on_train_start(self, trainer: pl.Trainer, pl_module: SSLMethod) -> None:
        """A loaded bank goes where the features are."""
        self._bank = [(h.to(pl_module.device), y.to(pl_module.device)) for h, y in self._bank]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: SSLMethod, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Remember this batch, forget the oldest."""
        self._bank.append((outputs["h"][0].half(), batch.labels))
        wanted = self.options.bank_size // distributed.world_size()
        while len(self._bank) > 1 and sum(len(h) for h, _ in self._bank[1:]) >= wanted:
            self._bank.pop(0)

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: SSLMethod, outputs: Any, batch: Batch, *args: Any
    ) -> None:
        """Remember a validation batch's features as queries."""
        self._queries.append((outputs["h"], batch.labels))

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: SSLMethod) -> None:
        """Each process asks for its own queries against everybody's bank."""
        queries, self._queries = self._queries, []
        if not self._bank or not queries:
            return
        bank = distributed.gather(torch.cat([h for h, _ in self._bank])).to(queries[0][0].dtype)
        bank_labels = distributed.gather(torch.cat([labels for _, labels in self._bank]))
        known = bank_labels >= 0
        h = torch.cat([h for h, _ in queries])
        labels = torch.cat([labels for _, labels in queries])
        counted = labels >= 0
        h, labels = h[counted], labels[counted]
        guesses = knn_predict(
            bank[known],
            bank_labels[known],
            h,
            k=self.options.k,
            num_classes=self.num_classes,
            distance=self.options.distance_func,
        )
        hits = guesses == labels[:, None]
        found = [hits[:, :1].sum(), hits.sum(), labels.new_tensor(len(labels))]
        acc1, acc5, count = distributed.all_sum(torch.stack(found).float())
        pl_module.log("val_knn_acc1", 100 * acc1 / count)
        if self.num_classes >= 5:
            pl_module.log("val_knn_acc5", 100 * acc5 / count)
