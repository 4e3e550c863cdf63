"""What saving costs: steps with a save among them, against steps without."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, median

from benchmarks.measure import Row, device, synchronise
from benchmarks.steps import Run, cifar_config, cifar_like
from solo.data.batches import TrainingViews
from solo.runs.checkpoint_files import LAST, SafeCheckpointIO

BLOCK, ROUNDS = 3, 8  # steps in which a save's background work ends, and how often it is measured


def rows() -> Iterator[Row]:
    """A minute of ResNet-18 steps that saves once."""
    batch = 256 if device().type == "cuda" else 16
    with cifar_config(batch) as config, tempfile.TemporaryDirectory() as folder:
        run = Run(config, TrainingViews)
        run.data.train = run.views.source = cifar_like()
        io = SafeCheckpointIO(print)
        run.step()
        stalls: list[float] = []
        pairs: list[float] = []
        for _ in range(ROUNDS):
            without = _block(run)
            start = time.perf_counter()
            state = {
                "state_dict": run.method.state_dict(),
                "optimizer_states": [run.optimizer.state_dict()],
            }
            io.save_checkpoint(state, Path(folder) / LAST)
            io.publish()
            stalls.append(time.perf_counter() - start)
            pairs.append(stalls[-1] + _block(run) - without)
            io.wait()
        size = (Path(folder) / LAST).stat().st_size / 2**20
        cost = mean(pairs)
        yield Row(
            f"a minute of ResNet-18 steps, one save of {size:.0f} MiB",
            60 + cost,
            60,
            "s",
            bound=f"{cost / 60:.2%} more; the step waits {1e3 * median(stalls):.0f} ms",
        )


def _block(run: Run) -> float:
    """Seconds for a few steps."""
    synchronise()
    start = time.perf_counter()
    for _ in range(BLOCK):
        run.step()
    synchronise()
    return time.perf_counter() - start
