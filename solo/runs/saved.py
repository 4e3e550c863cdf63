"""A run's files, read: the only place that knows how they are laid out."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from solo.config import ConfigError

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Both are safe; the first is the faster."""
TAIL = 2**16
"""Bytes at the end of metrics.csv that are read for the newest values."""


def _mean(value: Any) -> Any:
    return value["mean"] if isinstance(value, dict) and "mean" in value else value


class Metrics(dict[str, np.ndarray]):
    """Each metric's rows: [n, 2] of step and value."""

    def last(self) -> dict[str, float]:
        """The newest value of each."""
        return {name: float(rows[-1, 1]) for name, rows in self.items()}


class SavedRun:
    """``config.yaml``, ``checkpoints/``, ``metrics.csv`` and ``environment.json`` of a folder.

    Args:
        folder: the run's.
        warn: told of a damaged checkpoint that is passed over.
    """

    def __init__(self, folder: Path, warn: Callable[[str], None] = print) -> None:
        self.folder, self.warn = folder, warn

    @classmethod
    def around(cls, path: Path) -> SavedRun | None:
        """The run whose folder this is, or that has this file; None where there is none."""
        above = (p for p in (path, *path.parents) if (p / "config.yaml").is_file())
        folder = next(above, None)
        return None if folder is None else cls(folder)

    @property
    def config(self) -> dict[str, Any]:
        """The resolved config, as plain values.

        Raises:
            ConfigError: where there is none, or it cannot be read.
        """
        try:
            content = yaml.load((self.folder / "config.yaml").read_text(), LOADER)
        except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: not UTF-8
            raise ConfigError(
                f"{self.folder} is no run's folder: its config.yaml cannot be read"
            ) from error
        return dict(content)

    @property
    def facts(self) -> dict[str, Any]:
        """What environment.json says; nothing where there is none."""
        try:
            content: dict[str, Any] = json.loads((self.folder / "environment.json").read_text())
        except (OSError, ValueError):
            return {}
        return content

    def results(self) -> list[dict[str, Any]]:
        """Rows that an evaluation found, a score being its mean; none of any other run."""
        try:
            rows = json.loads((self.folder / "results.json").read_text())
        except (OSError, ValueError):
            return []
        return [{name: _mean(value) for name, value in row.items()} for row in rows]

    def checkpoint(self) -> dict[str, Any]:
        """The newest state whose file is sound: where last.ckpt is damaged, the one before.

        Raises:
            ConfigError: where there is none.
        """
        # Here: whoever shows runs need not wait for torch.
        from solo.runs.checkpoint_files import newest_sound, read_checkpoint

        path = newest_sound(self.folder / "checkpoints", self.warn)
        if path is None:
            raise ConfigError(
                f"the run {self.folder} has no checkpoint yet, or none that can be read"
            )
        return read_checkpoint(path)

    @property
    def table(self) -> Path:
        """Where logged values are."""
        return self.folder / "metrics.csv"

    def rows(self) -> list[dict[str, str]]:
        """Rows of metrics.csv, as they stand; of a run that has logged nothing, none."""
        if not self.table.is_file():
            return []
        with self.table.open(newline="") as file:
            return list(csv.DictReader(file))

    def newest(self) -> dict[str, float]:
        """The last value of each column, step and epoch too, that is among the last rows.

        Of a long table this reads the end alone.
        """
        try:
            with self.table.open("rb") as file:
                head = file.readline()
                start = file.tell()
                file.seek(max(start, file.seek(0, 2) - TAIL))
                rows = file.read().decode(errors="replace")
                if file.tell() - len(rows) > start:
                    rows = rows.partition("\n")[2]  # the first is cut
        except OSError:
            return {}
        lines = list(csv.reader(io.StringIO(head.decode(errors="replace") + rows)))
        names = lines[0] if lines else []
        found: dict[int, float] = {}
        for line in reversed(lines[1:]):
            for place, text in enumerate(line[: len(names)]):
                if text and place not in found:
                    with contextlib.suppress(ValueError):  # a row that is just being written
                        found[place] = float(text)
            if len(found) == len(names):
                break
        return {names[place]: found[place] for place in sorted(found)}

    @property
    def metrics(self) -> Metrics:
        """Columns of metrics.csv, as numbers."""
        return Metrics(
            {
                name: np.array([(step, float(text)) for step, _, text in rows], dtype=float)
                for name, rows in self.columns().items()
            }
        )

    def columns(self, most: int | None = None) -> dict[str, list[tuple[int, float, str]]]:
        """Of each metric: step, epoch and value, as it stands, where it was logged.

        Args:
            most: values of a metric, two or more; longer ones are thinned out.
        """
        if not self.table.is_file():
            return {}
        with self.table.open(newline="") as file:
            lines = csv.reader(file)
            names = next(lines, [])
            if not {"step", "epoch"} <= set(names):
                return {}
            step, epoch = names.index("step"), names.index("epoch")
            whole = [line for line in lines if len(line) >= len(names)]  # the last may be a part
        places = [(int(line[step]), float(line[epoch] or "nan")) for line in whole]
        found = {}
        for name, texts in zip(names, zip(*whole)):
            rows = [row for row, text in enumerate(texts) if text]
            if most is not None and len(rows) > most:
                rows = [rows[i * (len(rows) - 1) // (most - 1)] for i in range(most)]
            if rows and name not in ("step", "epoch"):
                found[name] = [(*places[row], texts[row]) for row in rows]
        return found


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """A nested config as dotted keys, lists of sections with the number of the entry."""
    sections = isinstance(tree, list) and all(isinstance(entry, dict) for entry in tree)
    if not isinstance(tree, dict) and not (sections and tree):
        return {prefix: tree}
    found: dict[str, Any] = {}
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        found |= flat(value, f"{prefix}.{key}" if prefix else str(key))
    return found
