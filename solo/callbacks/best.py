"""The best value of a metric: which epoch is kept, and when a run has no better one to come."""

from __future__ import annotations

import difflib
import math
from typing import Any

import pytorch_lightning as pl
from rich.console import Console

from solo import distributed
from solo.config import RunConfig, RunError
from solo.config.saving import Best


class BestValue:
    """Follow a metric from validation to validation.

    Args:
        key: of the config that names it, for messages.
        metric: its name in metrics.csv.
        mode: whether more or less is better.
        least: by how much a value must be better.
    """

    def __init__(self, key: str, metric: str, mode: Best = "auto", least: float = 0.0) -> None:
        falls = mode == "min" or (mode == "auto" and "loss" in metric)
        self.key, self.metric, self.least = key, metric, least
        self.sign = -1.0 if falls else 1.0
        self.best = -math.inf
        self.waited = 0
        self.missed = False

    def look(self, trainer: pl.Trainer) -> bool:
        """Whether the newest value is the best so far.

        Raises:
            RunError: where the run does not log the metric (missed twice), with the nearest that
                it does.
        """
        logged = trainer.callback_metrics
        if self.metric not in logged and not self.missed:
            self.missed = True  # of an epoch that was resumed at its end: no step was logged
            return False
        if self.metric not in logged:
            near = difflib.get_close_matches(self.metric, logged, 1, 0.5)
            there = f"Did you mean {near[0]}?" if near else f"It logs {', '.join(sorted(logged))}"
            raise RunError(f"{self.key} is {self.metric}, but this run logs no such value. {there}")
        # Of all processes one decides: they must save and stop together.
        value = distributed.broadcast_object(self.sign * float(logged[self.metric]))
        self.missed = False
        better = value > self.best + self.least or (self.best == -math.inf and value > self.best)
        self.best = value if better else self.best
        self.waited = 0 if better else self.waited + 1
        return better

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"metric": self.metric, "best": self.best, "waited": self.waited}

    def load(self, state: dict[str, Any]) -> None:
        """From one, where it followed the same metric."""
        if state.get("metric") == self.metric:
            self.best, self.waited = state["best"], state["waited"]


class EarlyStop(pl.Callback):
    """End the run after an epoch that is the last of too many without a better value."""

    def __init__(self, config: RunConfig, console: Console) -> None:
        options = config.early_stop
        assert options.monitor is not None
        self.value = BestValue(
            "early_stop.monitor", options.monitor, options.mode, options.min_delta
        )
        self.patience, self.console = options.patience, console

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the value."""
        value = self.value
        value.look(trainer)
        if value.waited >= self.patience and not trainer.should_stop:
            trainer.should_stop = True
            self.console.print(
                f"early stop: {value.metric} was best at {value.sign * value.best:.4g}, "
                f"{value.waited} validations ago",
                soft_wrap=True,
            )

    def state_dict(self) -> dict[str, Any]:
        """It goes on waiting after a resume."""
        return self.value.state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As it was."""
        self.value.load(state_dict)
