"""BYOL (arXiv 2006.07733)."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor, nn

from solo import rng
from solo.losses import byol_loss
from solo.methods.base import Loss, MethodKwargs
from solo.methods.momentum import MomentumKwargs, MomentumMethod


class BYOLKwargs(MomentumKwargs):
    """``method_kwargs`` of ``byol``."""

    pred_hidden_dim: int = Field(512, ge=1)
    """Width of the predictor."""


class BYOL(MomentumMethod):
    """A predictor on the student's embedding guesses the teacher's of other views."""

    Kwargs: ClassVar[type[MethodKwargs]] = BYOLKwargs
    kwargs: BYOLKwargs

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        rng.seed_global(self.config.seed, "predictor")
        dim, hidden = self.embedding_dim, self.kwargs.pred_hidden_dim
        self.predictor = nn.Sequential(
            nn.Linear(dim, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, dim),
        )

    def compute_loss(self, h: Tensor, z: Tensor, step: tuple[int, ...]) -> Loss:
        """See the class."""
        prediction = self.predictor(z.flatten(0, 1)).unflatten(0, z.shape[:2])
        total = byol_loss(prediction, self.targets)
        return Loss(total, {"byol_loss": total})

    def learnable_parameters(self) -> list[Tensor]:
        """With the predictor."""
        return [*super().learnable_parameters(), *self.predictor.parameters()]
