"""What is saved of a run, and when it ends or goes on."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from solo.config.section import Section
from solo.config.views import Positive

Best = Literal["auto", "max", "min"]


class Checkpoint(Section):
    """What is saved, and where."""

    enabled: bool = True
    """Save during training; last.ckpt is written at the end of a run in any case."""
    dir: str = "trained_models"
    """Runs go to <dir>/<method>/<name>-<id>/."""
    frequency: Positive = 1
    """Epochs between saves."""
    every_n_steps: Positive | None = None
    """Optimizer steps between saves, besides."""
    every_n_minutes: float | None = Field(None, gt=0)
    """Minutes between saves, besides."""
    keep_prev: bool = False
    """Keep every saved epoch beside last.ckpt."""
    monitor: str | None = None
    """A metric of metrics.csv: the epoch in which it was best is kept as best.ckpt."""
    mode: Best = "auto"
    """Whether the best value is the largest (max) or the smallest (min); auto: the smallest of
    losses, the largest of all else."""


class EarlyStop(Section):
    """End a run that does not get better."""

    monitor: str | None = None
    """A metric of metrics.csv; without it a run ends where max_epochs says."""
    patience: Positive = 10
    """After so many validations without a better value."""
    min_delta: float = Field(0.0, ge=0)
    """By how much a value must be better to count."""
    mode: Best = "auto"
    """As checkpoint.mode."""


class AutoResume(Section):
    """Continue the newest unfinished run of the same config."""

    enabled: bool = False
    """Look for one."""
    max_hours: float = Field(36, gt=0)
    """How old its last checkpoint may be."""
