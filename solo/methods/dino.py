"""DINO (arXiv 2104.14294)."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from solo import rng
from solo.data import Batch
from solo.losses import dino_loss
from solo.losses.dino import updated_center
from solo.losses.unit import unit_rows
from solo.methods.base import Loss, MethodOptions
from solo.methods.momentum import MomentumMethod, MomentumOptions
from solo.methods.probes import Encoded
from solo.rng import Step


class DINOOptions(MomentumOptions):
    """``method_kwargs`` of ``dino``."""

    num_prototypes: int = Field(4096, ge=2)
    """Scores K that student and teacher give each view."""
    student_temperature: float = Field(0.1, gt=0)
    """Divides the student's scores."""
    teacher_temperature: float = Field(0.04, gt=0)
    """Divides the teacher's, after its warm-up."""
    warmup_teacher_temperature: float = Field(0.04, gt=0)
    """Divides them in the first epoch of the warm-up, which is linear in epochs."""
    warmup_teacher_temperature_epochs: int = Field(0, ge=0)
    """Length of that warm-up; 0 for none."""
    norm_last_layer: bool = True
    """Prototypes have length 1; false lets each learn its length."""
    clip_grad: float = Field(0.0, ge=0)
    """Largest norm of the gradient of each of the backbone's parameters; 0 for none."""
    freeze_prototypes_epochs: int = Field(1, ge=0)
    """Prototypes keep their first values for so many epochs."""
    center_momentum: float = Field(0.9, ge=0, le=1)
    """How much of the center each step keeps."""


class Prototypes(nn.Module):
    """Cosines with K learned prototypes: [.., D] -> [.., K].

    Args:
        dim: D.
        count: K.
        unit: whether prototypes have length 1; otherwise each cosine has a learned factor.
    """

    def __init__(self, dim: int, count: int, unit: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(count, dim) / dim**0.5)
        self.length = None if unit else nn.Parameter(torch.ones(count))

    def forward(self, z: Tensor) -> Tensor:
        """[.., D] -> [.., K]."""
        scores = F.linear(unit_rows(z), unit_rows(self.weight))
        return scores if self.length is None else scores * self.length


class DINO(MomentumMethod):
    """The student's distribution over prototypes matches the teacher's of other views."""

    loss_name: ClassVar[str] = "dino_loss"
    against_collapse: ClassVar[str] = (
        "Lower method_kwargs.teacher_temperature, or raise base_tau_momentum"
    )
    Options: ClassVar[type[MethodOptions]] = DINOOptions
    options: DINOOptions
    center: Tensor

    def build_heads(self) -> None:
        """The prototypes, which the teacher has too, and the center."""
        rng.seed_global(self.config.seed, "prototypes")
        options = self.options
        self.prototypes = Prototypes(
            self.embedding_dim, options.num_prototypes, options.norm_last_layer
        )
        self.register_buffer("center", torch.zeros(options.num_prototypes))

    def student(self) -> list[nn.Module]:
        """Backbone, projector and prototypes."""
        return [*super().student(), self.prototypes]

    def compute_loss(self, encoded: Encoded, batch: Batch, step: Step) -> Loss:
        """Cross-entropy of the student's scores and the teacher's of other views."""
        options, targets = self.options, self.teach(batch)
        total = dino_loss(
            self.prototypes(encoded.z),
            targets,
            self.center,
            student_temperature=options.student_temperature,
            teacher_temperature=self.teacher_temperature(),
        )
        with torch.no_grad():
            self.center.copy_(updated_center(self.center, targets, options.center_momentum))
        return Loss(total)

    def teacher_temperature(self) -> float:
        """The teacher's temperature in this epoch."""
        options = self.options
        start, end = options.warmup_teacher_temperature, options.teacher_temperature
        length = options.warmup_teacher_temperature_epochs
        if self.current_epoch >= length:
            return end
        return start + (end - start) * self.current_epoch / length

    def clips_gradients(self) -> bool:
        """With ``clip_grad`` as well."""
        return super().clips_gradients() or self.options.clip_grad > 0

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip, and freeze prototypes: optimizers pass over what has no gradient."""
        if self.options.clip_grad:
            grads = [p.grad for p in self.backbone.parameters() if p.grad is not None]
            limit = self.options.clip_grad
            scales = [limit / (norm + 1e-6) for norm in torch._foreach_norm(grads)]
            torch._foreach_clamp_max_(scales, 1.0)
            torch._foreach_mul_(grads, scales)
        if self.current_epoch < self.options.freeze_prototypes_epochs:
            for parameter in self.prototypes.parameters():
                parameter.grad = None
