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
from solo.methods.base import MethodOptions, SSLMethod
from solo.methods.probes import at_least_float32


class MomentumOptions(MethodOptions):
    """Options of the teacher."""

    base_tau_momentum: float = Field(0.99, ge=0, le=1)
    """How much of the teacher each step keeps, at the start."""
    final_tau_momentum: float = Field(1.0, ge=0, le=1)
    """At the end; cosine between."""


class MomentumMethod(SSLMethod):
    """A method whose teacher is a running mean of the student."""

    options: MomentumOptions

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.build_heads()
        self.teacher = nn.ModuleList(copy.deepcopy(part) for part in self.student())
        self.teacher.requires_grad_(False)

    def build_heads(self) -> None:
        """What a method has beside backbone and projector; called before the teacher is copied."""

    def student(self) -> list[nn.Module]:
        """What the teacher is a copy of: parts applied one after the other."""
        return [self.backbone, self.projector]

    def weights_changed(self) -> None:
        """The teacher begins as its student."""
        for old, new in zip(self.teacher, self.student()):
            old.load_state_dict(new.state_dict())

    @torch.no_grad()
    def teach(self, batch: Batch) -> Tensor:
        """The teacher's answer to the global views, [T, B, D], in float32 or better.

        Its BatchNorm normalises with the batch, as usual.
        """
        return torch.cat(self.in_parts(self._taught, batch.views[0], dim=1), dim=1)

    def _taught(self, views: Tensor) -> Tensor:
        """Of a part of the images."""
        made = []
        for some in self.passes(self.teacher, views):
            with self.network_precision():
                answer = self.images(some)
                for part in self.teacher[:2]:
                    answer = part(answer)
            for head in self.teacher[2:]:  # heads compute in float32, as the student's do
                answer = head(at_least_float32(answer))
            made.append(at_least_float32(answer).unflatten(0, some.shape[:2]))
        return torch.cat(made)

    def compile_networks(self, **options: Any) -> None:
        """Compile the student's networks and the teacher's."""
        super().compile_networks(**options)
        for part in self.teacher:
            part.compile(**options)

    def network_precision(self) -> AbstractContextManager[None]:
        """The precision in which Lightning runs the networks; losses have turned it off."""
        return self.trainer.precision_plugin.forward_context()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Move the teacher with each step, before anything is saved."""
        super().optimizer_step(*args, **kwargs)
        options = self.options
        total = max(1, int(self.trainer.estimated_stepping_batches))
        progress = min(1.0, (self.global_step + 1) / total)
        low, high = options.base_tau_momentum, options.final_tau_momentum
        tau = high - (high - low) * (math.cos(math.pi * progress) + 1) / 2
        old: list[Tensor] = [p for part in self.teacher for p in part.parameters()]
        new: list[Tensor] = [p for part in self.student() for p in part.parameters()]
        with torch.no_grad():
            torch._foreach_lerp_(old, new, 1 - tau)
