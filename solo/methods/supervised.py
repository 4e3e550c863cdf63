"""Supervised training with the same views: what labels are worth."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from solo import rng
from solo.config import ConfigError
from solo.data import Batch
from solo.losses import supervised_loss
from solo.methods.base import Loss, MethodOptions, SSLMethod
from solo.methods.probes import Encoded
from solo.rng import Step


class Supervised(SSLMethod):
    """Cross-entropy of a linear head on the embedding, over all views and labelled images."""

    loss_name: ClassVar[str] = "supervised_loss"
    Options: ClassVar[type[MethodOptions]] = MethodOptions
    min_views: ClassVar[int] = 1

    def __init__(self, config: Any, normalize: nn.Module, num_classes: int = 0) -> None:
        super().__init__(config, normalize, num_classes)
        if num_classes < 1:
            raise ConfigError("method supervised needs labels; data.no_labels leaves it none")
        rng.seed_global(self.config.seed, "head")
        self.head = nn.Linear(self.embedding_dim, num_classes)

    def compute_loss(self, encoded: Encoded, batch: Batch, step: Step) -> Loss:
        """Cross-entropy of the head's scores."""
        z, labels = encoded.z, batch.labels
        logits = self.head(z.flatten(0, 1))
        return Loss(supervised_loss(logits, labels.repeat(len(z), *[1] * (labels.ndim - 1))))
