"""What methods with a momentum teacher share."""

from __future__ import annotations

import copy
import math
from contextlib import AbstractContextManager
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from solo.data import Batch
from solo.methods.base import MethodKwargs, SSLMethod
from solo.methods.probes import at_least_float32


class MomentumKwargs(MethodKwargs):
    """Options of the teacher."""

    base_tau_momentum: float = Field(0.99, ge=0, le=1)
    """How much of the teacher each step keeps, at the start."""
    final_tau_momentum: float = Field(1.0, ge=0, le=1)
    """At the end; cosine between."""


class MomentumMethod(SSLMethod):
    """A method whose teacher is a running mean of the student.

    ``self.targets`` holds the teacher's embeddings of the global views, [T, B, D], during
    ``compute_loss``.
    """

    kwargs: MomentumKwargs

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.targets: Tensor
        self._hold(self.backbone, self.projector)

    def _hold(self, *parts: nn.Module) -> None:
        """Make the teacher a copy of these, applied one after the other."""
        self._student = list(parts)  # a list: not registered a second time
        self.teacher = nn.Sequential(*(copy.deepcopy(part) for part in parts))
        self.teacher.requires_grad_(False)

    @torch.no_grad()
    def prepare(self, batch: Batch) -> None:
        """The teacher sees the global views; its BatchNorm normalises with the batch, as usual."""
        views = batch.views[0]
        self.targets = self.teach(self.images(views)).unflatten(0, views.shape[:2])

    def teach(self, images: Tensor) -> Tensor:
        """The teacher's answer to normalised images [N, 3, H, W], in float32 or better."""
        with self.network_precision():
            made = self.teacher(images)
        return at_least_float32(made)

    def compile_networks(self, **options: Any) -> None:
        """The teacher too."""
        super().compile_networks(**options)
        for part in self.teacher:
            part.compile(**options)

    def network_precision(self) -> AbstractContextManager[None]:
        """The precision in which Lightning runs the networks; losses have turned it off."""
        return self.trainer.precision_plugin.forward_context()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Move the teacher with each step, before anything is saved."""
        super().optimizer_step(*args, **kwargs)
        options = self.kwargs
        total = max(1, int(self.trainer.estimated_stepping_batches))
        progress = min(1.0, (self.global_step + 1) / total)
        low, high = options.base_tau_momentum, options.final_tau_momentum
        tau = high - (high - low) * (math.cos(math.pi * progress) + 1) / 2
        old: list[Tensor] = [p for part in self.teacher for p in part.parameters()]
        new: list[Tensor] = [p for part in self._student for p in part.parameters()]
        with torch.no_grad():
            torch._foreach_lerp_(old, new, 1 - tau)
