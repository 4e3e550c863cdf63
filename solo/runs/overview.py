"""All runs below a folder: how far each is, and what it reached."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from solo.config import ConfigError
from solo.runs.folder import flat
from solo.runs.lease import holder
from solo.runs.saved import SavedRun


class Overview(NamedTuple):
    """One run.

    ``status``: finished, running, interrupted (saved, by a signal) or died; ``error``: the last
    line of what ended it, where that is known; ``epoch``: how many are done; ``left``: seconds to
    the end of a running one, where that can be told; ``values``: the newest of each metric.
    """

    folder: Path
    kind: str
    dataset: str
    backbone: str
    status: str
    error: str
    epoch: int
    epochs: int
    left: float | None
    values: dict[str, float]


def runs_below(root: Path) -> Iterator[Overview]:
    """Every run, trainings and evaluations alike, the newest last."""
    files = root.glob("**/environment.json")
    for file in sorted(files, key=lambda path: path.stat().st_mtime):
        if (file.parent / "config.yaml").is_file():
            try:
                yield overview(file.parent)
            except ConfigError:  # just being written, or damaged
                continue


def overview(folder: Path) -> Overview:
    """Look at a run without disturbing it.

    Raises:
        ConfigError: where its config cannot be read.
    """
    saved = SavedRun(folder)
    config, facts = saved.config, saved.facts
    status, values = facts.get("status", "died"), saved.newest()
    if status in ("running", "trained"):
        status = "running" if holder(folder) else "died"
    epochs = int(config.get("max_epochs") or 0)
    epoch = int(values.pop("epoch", -1)) + 1
    trains = "method" in config or config.get("mode") in ("linear", "mlp", "finetune")
    if status == "running" and trains:
        epoch = max(0, epoch - 1)  # the one that it is in
    backbone = config.get("backbone") or {}
    return Overview(
        folder,
        config.get("method") or f"evaluation: {config.get('mode')}",
        (config.get("data") or {}).get("dataset", ""),
        backbone.get("name", ""),
        status,
        (facts.get("error") or "") if status == "died" else "",
        epoch,
        epochs,
        _left(saved, epoch, epochs) if status == "running" else None,
        values,
    )


def _left(saved: SavedRun, epoch: int, epochs: int) -> float | None:
    """By the epochs that are done; of a run that was gone on with nobody knows since when."""
    facts = saved.facts
    if not epoch or facts.get("continued") or "started" not in facts:
        return None
    started = datetime.fromisoformat(facts["started"]).timestamp()
    done = saved.table.stat().st_mtime
    return max(0.0, (done - started) / epoch * (epochs - epoch) - (time.time() - done))


def differing(folders: Sequence[Path]) -> list[tuple[str, list[Any]]]:
    """Keys in which configs differ, and each one's value.

    Raises:
        ConfigError: for a folder of no run.
    """
    trees = [flat(SavedRun(folder).config) for folder in folders]
    keys = dict.fromkeys(key for tree in trees for key in tree)
    rows = ((key, [tree.get(key) for tree in trees]) for key in keys)
    return [(key, values) for key, values in rows if any(v != values[0] for v in values)]
