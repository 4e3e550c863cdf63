"""All runs below a folder: how far each is, and what it reached."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from solo.config import ConfigError
from solo.runs.lease import holder
from solo.runs.saved import SavedRun, flat

SHOWN = ("val_acc1", "val_knn_acc1", "val_l0_sparsity_metric", "expected_l0", "val_effective_rank")
"""Metrics that a table of runs has unless told otherwise."""


class Overview(NamedTuple):
    """One run.

    ``status``: finished, running, interrupted (saved, by a signal), died, or unreadable;
    ``error``: what ended it, where that is known; ``epoch``: how many are done; ``left``: seconds
    to the end of a running one, and ``speed`` in images a second, where they can be told;
    ``recipe`` and ``changes``: what Hydra read, and the words that changed it; ``values``: the
    newest of each metric, and what an evaluation found; ``found``: the latter in words;
    ``config``: its keys, dotted.
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
    speed: float | None
    recipe: str
    changes: str
    values: dict[str, float]
    found: str
    config: dict[str, Any]


def runs_below(root: Path) -> Iterator[Overview]:
    """Every run, trainings and evaluations alike, the newest last."""
    for folder in folders_below(root):
        try:
            yield overview(folder)
        except ConfigError:  # just being written, or damaged
            yield _unreadable(folder, "config.yaml cannot be read")
        except csv.Error as error:
            yield _unreadable(folder, str(error))


def folders_below(root: Path) -> list[Path]:
    """Of runs, the newest last."""
    files = sorted(root.glob("**/environment.json"), key=lambda path: path.stat().st_mtime)
    return [file.parent for file in files if (file.parent / "config.yaml").is_file()]


def _unreadable(folder: Path, error: str) -> Overview:
    return Overview(folder, "", "", "", "unreadable", error, 0, 0, None, None, "", "", {}, "", {})


def overview(folder: Path) -> Overview:
    """Look at a run without disturbing it.

    Raises:
        ConfigError: where its config cannot be read.
    """
    saved = SavedRun(folder)
    config, facts = saved.config, saved.facts
    model = facts.get("model") or Path(config.get("pretrained") or "").name
    found = _named(saved.results(), model)
    status, values = facts.get("status", "died"), saved.newest()
    if status in ("running", "trained"):
        status = "running" if holder(folder) else "died"
    epochs = int(config.get("max_epochs") or 0)
    epoch = int(values.pop("epoch", -1)) + 1
    trains = "method" in config or config.get("mode") in ("linear", "mlp", "finetune")
    if status == "running" and trains:
        epoch = max(0, epoch - 1)  # the one that it is in
    backbone = config.get("backbone") or {}
    each = _seconds_an_epoch(saved, facts, epoch)
    images = facts.get("images_an_epoch")
    return Overview(
        folder,
        config.get("method") or f"evaluation: {config.get('mode')}",
        (config.get("data") or {}).get("dataset", ""),
        backbone.get("name", ""),
        status,
        (facts.get("error") or "") if status == "died" else "",
        epoch,
        epochs if trains else 0,
        _left(saved, each, epochs - epoch) if status == "running" and each else None,
        images / each if images and each else None,
        facts.get("recipe") or "",
        " ".join(_last_said(facts.get("overrides") or ())),
        values | found,
        "; ".join(f"{name} {value:.4g}" for name, value in list(found.items())[:4]),
        flat(config),
    )


def _named(rows: Sequence[Mapping[str, Any]], model: str | None) -> dict[str, float]:
    """Numbers of an evaluation's table, called after what tells their rows apart.

    The network's own rows need not say its name, so that two networks' are called alike; of rows
    that are called alike, such as temperatures of kNN, the first is the best.
    """
    found: dict[str, float] = {}
    for row in sorted(rows, key=lambda row: row.get("model", model) != model):
        texts = [v for v in row.values() if isinstance(v, str) and v != model]
        counts = [f"{k} {v}" for k, v in row.items() if isinstance(v, int)]
        place = ", ".join((*counts, *texts))
        for name, value in row.items():
            if isinstance(value, float):
                found.setdefault(f"{place}: {name}" if place else name, value)
    return found


def _last_said(words: Sequence[str]) -> list[str]:
    """Overrides as they hold: the last of each key; where a run lies, its folder says."""
    last = {word.lstrip("+~").partition("=")[0]: word.lstrip("+") for word in words}
    return [word for key, word in last.items() if key != "checkpoint.dir"]


def _seconds_an_epoch(saved: SavedRun, facts: Mapping[str, Any], epoch: int) -> float | None:
    """By the epochs that are done; of a run that was gone on with nobody knows since when."""
    if not epoch or facts.get("continued") or "started" not in facts:
        return None
    started = datetime.fromisoformat(facts["started"]).timestamp()
    if facts.get("finished"):  # a copy has other times of files
        return max(1e-9, datetime.fromisoformat(facts["finished"]).timestamp() - started) / epoch
    return max(1e-9, saved.table.stat().st_mtime - started) / epoch


def _left(saved: SavedRun, each: float, epochs: int) -> float:
    return max(0.0, each * epochs - (time.time() - saved.table.stat().st_mtime))


def differing(folders: Sequence[Path]) -> list[tuple[str, list[Any]]]:
    """Keys in which configs differ, and each one's value.

    Raises:
        ConfigError: for a folder of no run.
    """
    trees = [flat(SavedRun(folder).config) for folder in folders]
    keys = dict.fromkeys(key for tree in trees for key in tree)
    rows = ((key, [tree.get(key) for tree in trees]) for key in keys)
    return [(key, values) for key, values in rows if any(v != values[0] for v in values)]
