"""Linear warm-up, then a half cosine."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class LinearWarmupCosineAnnealingLR(LRScheduler):
    """Rates of all groups: linear up to the base rate, then a half cosine down.

    With ``w = warmup_epochs`` and ``T = max_epochs`` (both counted in calls of ``step``), the rate
    rises from ``warmup_start_lr`` at step 0 to the base rate at step ``w - 1``, stays there for
    step ``w``, and falls to ``eta_min`` at step ``T``. A closed form of the step: nothing
    accumulates.

    Args:
        optimizer: whose groups' ``lr`` are the base rates.
        warmup_epochs: length of the warm-up, in steps.
        max_epochs: length of the run, in steps.
        warmup_start_lr: rate of step 0.
        eta_min: rate of the end.

    Raises:
        ValueError: for a warm-up longer than the run.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        >>> schedule = LinearWarmupCosineAnnealingLR(optimizer, warmup_epochs=2, max_epochs=4)
        >>> rates = []
        >>> for _ in range(5):
        ...     rates.append(round(schedule.get_last_lr()[0], 3))
        ...     optimizer.step()
        ...     schedule.step()
        >>> rates
        [0.0, 1.0, 1.0, 0.5, 0.0]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_epochs: int,
        max_epochs: int,
        warmup_start_lr: float = 0.0,
        eta_min: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        if warmup_epochs > max_epochs:
            raise ValueError(f"warm-up of {warmup_epochs} does not fit in a run of {max_epochs}")
        self.warmup_epochs = warmup_epochs
        self.max_epochs = max_epochs
        self.warmup_start_lr = warmup_start_lr
        self.eta_min = eta_min
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """The rate of each group at this step."""
        return [self._rate(float(base)) for base in self.base_lrs]

    def _rate(self, base: float) -> float:
        step = self.last_epoch
        if step < self.warmup_epochs:
            part = step / max(1, self.warmup_epochs - 1)
            return self.warmup_start_lr + part * (base - self.warmup_start_lr)
        length = max(1, self.max_epochs - self.warmup_epochs)
        done = min(1.0, (step - self.warmup_epochs) / length)
        return self.eta_min + (base - self.eta_min) * (1 + math.cos(math.pi * done)) / 2
