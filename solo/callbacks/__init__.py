"""What watches a run and never changes its mathematics."""

from collections.abc import Sequence

import pytorch_lightning as pl

from solo.callbacks.best import EarlyStop, WatchedSteps
from solo.callbacks.checkpoint import Checkpoints
from solo.callbacks.collapse import CollapseMonitor
from solo.callbacks.health import HealthMonitor
from solo.callbacks.knn import KNNMonitor
from solo.callbacks.progress import RunProgress
from solo.callbacks.sparsity import SparsityMonitor
from solo.runs.run import Run

__all__ = [
    "Checkpoints",
    "CollapseMonitor",
    "EarlyStop",
    "HealthMonitor",
    "KNNMonitor",
    "RunProgress",
    "SparsityMonitor",
    "WatchedSteps",
    "watching",
]


def watching(run: Run, own: Sequence[pl.Callback] = (), *, sparse: bool) -> list[pl.Callback]:
    """What watches a run, in the order in which it must: a bad state is seen before it is saved.

    Args:
        run: the run.
        own: what this kind of run has besides.
        sparse: whether the progress line shows the non-zero fraction.
    """
    saving = Checkpoints(run.config, run.folder.checkpoints, run.io, run.console)
    stopping = [EarlyStop(run.config, run.console)] if run.config.early_stop.monitor else []
    first = [HealthMonitor(), WatchedSteps(run.config)]
    return [*first, *own, *stopping, saving, RunProgress(run.console, sparse)]
