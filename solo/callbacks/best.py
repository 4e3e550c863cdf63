"""The best value of a metric: which epoch is kept, and when a run has no better one to come."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
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
            raise not_logged(self.key, self.metric, logged)
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


def not_logged(key: str, metric: str, logged: Iterable[str]) -> RunError:
    """For a metric that a run is judged by and does not log, with those that it does."""
    alike = sorted(name for name in logged if name.startswith("train_"))
    if metric.startswith("train_") and alike:
        there = f"Of training steps there are {', '.join(alike)}"
    else:
        near = difflib.get_close_matches(metric, list(logged), 1, 0.5)
        there = f"Did you mean {near[0]}?" if near else f"It logs {', '.join(sorted(logged))}"
    return RunError(f"{key} is {metric}, but this run logs no such value. {there}")


class WatchedSteps(pl.Callback):
    """End a run after its first logged step, if that lacks a training metric that it is judged by.

    Others are known before the run begins; what a method calls its losses, once it logs them.

    Args:
        config: of the run.
    """

    def __init__(self, config: RunConfig) -> None:
        watched = ((key, getattr(config, key).monitor) for key in ("checkpoint", "early_stop"))
        self.watched = [(key, name) for key, name in watched if (name or "").startswith("train_")]
        self._logged = False

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *args: Any
    ) -> None:
        """Whether there is something to look at."""
        self._logged = self._logged or outputs["logged"]

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any
    ) -> None:
        """Look once, when all callbacks have logged what they do.

        Raises:
            RunError: for a metric that is not there, with those that are.
        """
        if self._logged and self.watched:
            for key, metric in self.watched:
                if metric not in trainer.callback_metrics:
                    raise not_logged(key, metric, trainer.callback_metrics)
            self.watched = []


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
