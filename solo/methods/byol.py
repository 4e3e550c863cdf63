"""BYOL (arXiv 2006.07733)."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import nn

from solo import rng
from solo.data import Batch
from solo.losses import byol_loss
from solo.methods.base import Loss, MethodOptions
from solo.methods.momentum import MomentumMethod, MomentumOptions
from solo.methods.probes import Encoded
from solo.rng import Step


class BYOLOptions(MomentumOptions):
    """``method_kwargs`` of ``byol``."""

    pred_hidden_dim: int = Field(512, ge=1)
    """Width of the predictor."""


class BYOL(MomentumMethod):
    """A predictor on the student's embedding guesses the teacher's of other views."""

    loss_name: ClassVar[str] = "byol_loss"
    against_collapse: ClassVar[str] = "Raise method_kwargs.base_tau_momentum, or lower optimizer.lr"
    Options: ClassVar[type[MethodOptions]] = BYOLOptions
    options: BYOLOptions

    def build_heads(self) -> None:
        """The predictor; the teacher has none."""
        rng.seed_global(self.config.seed, "predictor")
        dim, hidden = self.embedding_dim, self.options.pred_hidden_dim
        self.predictor = nn.Sequential(
            nn.Linear(dim, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, dim),
        )

    def compute_loss(self, encoded: Encoded, batch: Batch, step: Step) -> Loss:
        """How far predictions are from the teacher's embeddings of other views."""
        predictions = [
            self.predictor(views.flatten(0, 1)).unflatten(0, views.shape[:2])
            for views in self.passes(self.predictor, encoded.z)
        ]
        return Loss(byol_loss(torch.cat(predictions), self.teach(batch)))
