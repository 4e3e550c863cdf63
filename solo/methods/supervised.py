"""Supervised training with the same views: what labels are worth."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from solo.config import ConfigError
from solo.data import Batch
from solo.losses import supervised_loss
from solo.methods.base import Loss, MethodKwargs, SSLMethod


class Supervised(SSLMethod):
    """Cross-entropy of a linear head on the embedding, over all views and labelled images."""

    Kwargs: ClassVar[type[MethodKwargs]] = MethodKwargs
    min_views: ClassVar[int] = 1

    def __init__(self, config: Any, normalize: nn.Module, num_classes: int = 0) -> None:
        super().__init__(config, normalize, num_classes)
        if num_classes < 1:
            raise ConfigError("method supervised needs labels; data.no_labels leaves it none")
        self.head = nn.Linear(self.embedding_dim, num_classes)

    def prepare(self, batch: Batch) -> None:
        """Keep the labels."""
        self._labels = batch.labels

    def compute_loss(self, h: Tensor, z: Tensor, step: tuple[int, ...]) -> Loss:
        """See the class."""
        labels = self._labels.repeat(len(z), *[1] * (self._labels.ndim - 1))
        total = supervised_loss(self.head(z.flatten(0, 1)), labels)
        return Loss(total, {"supervised_loss": total})

    def learnable_parameters(self) -> list[Tensor]:
        """With the head."""
        return [*super().learnable_parameters(), *self.head.parameters()]
