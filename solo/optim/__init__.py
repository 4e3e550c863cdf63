"""Optimizers and learning-rate schedules by name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ExponentialLR, LRScheduler, MultiStepLR

from solo.config import RunConfig, Section
from solo.optim.lars import LARS
from solo.optim.schedule import LinearWarmupCosineAnnealingLR

__all__ = [
    "LARS",
    "OPTIMIZER_OPTIONS",
    "LinearWarmupCosineAnnealingLR",
    "build_optimizer",
    "build_scheduler",
    "clip_gradients",
    "parameter_groups",
    "scheduled",
]


class LARSOptions(Section):
    """Options of LARS."""

    momentum: float = Field(0.9, ge=0, lt=1)
    """Of the velocity."""
    eta: float = Field(1e-3, gt=0)
    """Trust coefficient."""
    eps: float = Field(1e-8, ge=0)
    """Keeps the trust ratio finite."""
    clip_lr: bool = False
    """Cap the trust ratio so that no layer's rate exceeds lr."""
    exclude_bias_n_norm: bool = False
    """One-dimensional parameters get neither trust ratio nor weight decay."""


class SGDOptions(Section):
    """Options of SGD."""

    momentum: float = Field(0.9, ge=0, lt=1)
    """Of the velocity."""
    nesterov: bool = False
    """Look ahead along the velocity."""


class AdamOptions(Section):
    """Options of Adam and AdamW."""

    betas: tuple[float, float] = (0.9, 0.999)
    """How much of the running means of gradient and squared gradient each step keeps."""
    eps: float = Field(1e-8, gt=0)
    """Added to the root of the squared gradient's mean."""


OPTIMIZERS: dict[str, type[Optimizer]] = {
    "lars": LARS,
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}
OPTIMIZER_OPTIONS: dict[str, type[Section]] = {
    "lars": LARSOptions,
    "sgd": SGDOptions,
    "adam": AdamOptions,
    "adamw": AdamOptions,
}


def parameter_groups(
    parameters: Iterable[Tensor], lr: float, weight_decay: float, exclude_bias_n_norm: bool
) -> list[dict[str, Any]]:
    """One group, or two where one-dimensional parameters go without weight decay."""
    parameters = [p for p in parameters if p.requires_grad]
    if not exclude_bias_n_norm:
        return [{"params": parameters, "lr": lr, "weight_decay": weight_decay}]
    matrices = [p for p in parameters if p.ndim > 1]
    vectors = [p for p in parameters if p.ndim <= 1]
    groups = [
        {"params": matrices, "lr": lr, "weight_decay": weight_decay},
        {"params": vectors, "lr": lr, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def build_optimizer(
    config: RunConfig, groups: list[dict[str, Any]], clips: bool = False
) -> Optimizer:
    """The configured optimizer over groups that carry their own rate and weight decay.

    Args:
        config: of the run.
        groups: with their parameters.
        clips: whether gradients are clipped before the step.
    """
    kwargs = config.optimizer.kwargs.model_dump()
    # They unscale 16-bit gradients themselves then, too late for clipping; and torch has no fused
    # SGD of shards.
    in_shards = config.strategy == "fsdp" and config.optimizer.name == "sgd"
    if not (clips and config.precision == "16-mixed") and not in_shards:
        kwargs["unscales" if config.optimizer.name == "lars" else "fused"] = True
    optimizer = OPTIMIZERS[config.optimizer.name]
    built = optimizer(groups, lr=config.optimizer.lr, **kwargs)  # type: ignore[call-arg]
    if isinstance(built, torch.optim.SGD) and built.defaults["momentum"]:
        # As its first step would; fused, it fails where a gradient came later than others.
        for group in built.param_groups:
            for parameter in group["params"]:
                built.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return built


def clip_gradients(parameters: Iterable[Tensor], limit: float, algorithm: str | None) -> None:
    """Clip in place: each value to ``limit`` ("value"), else the norm of all together."""
    if algorithm == "value":
        torch.nn.utils.clip_grad_value_(parameters, limit)
    else:
        torch.nn.utils.clip_grad_norm_(parameters, limit)


def scheduled(config: RunConfig, optimizer: Optimizer, trainer: Any) -> Any:
    """What ``configure_optimizers`` returns: the optimizer, with its schedule where it has one.

    Args:
        config: of the run.
        optimizer: of the run.
        trainer: Lightning's, which knows how many steps there will be.
    """
    total = int(trainer.estimated_stepping_batches)  # first: it counts the batches
    per_epoch = -(-trainer.num_training_batches // config.accumulate_grad_batches)
    scheduler = build_scheduler(config, optimizer, per_epoch, total)
    if scheduler is None:
        return optimizer
    schedule = {"scheduler": scheduler, "interval": config.scheduler.interval}
    return {"optimizer": optimizer, "lr_scheduler": schedule}


def build_scheduler(
    config: RunConfig, optimizer: Optimizer, steps_per_epoch: float, total_steps: int
) -> LRScheduler | None:
    """The configured schedule, None for constant rates.

    Args:
        config: of the run.
        optimizer: whose groups are scheduled.
        steps_per_epoch: optimizer steps (not batches) an epoch.
        total_steps: optimizer steps of the whole run.
    """
    options = config.scheduler
    # In epochs where the schedule moves by epochs, else in steps.
    unit = steps_per_epoch if options.interval == "step" else 1.0
    accumulated = config.accumulate_grad_batches
    if options.name == "warmup_cosine":
        length = total_steps if options.interval == "step" else config.max_epochs
        return LinearWarmupCosineAnnealingLR(
            optimizer,
            warmup_epochs=min(round(options.warmup_epochs * unit), length),
            max_epochs=length,
            warmup_start_lr=options.warmup_start_lr * accumulated,
            eta_min=options.min_lr * accumulated,
        )
    if options.name == "step":
        milestones = [round(epoch * unit) for epoch in options.lr_decay_steps]
        return MultiStepLR(optimizer, milestones, gamma=0.1)
    if options.name == "exponential":
        return ExponentialLR(optimizer, gamma=options.gamma ** (1 / unit))
    return None
