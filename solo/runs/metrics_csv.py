"""metrics.csv: every logged value of a run, one row a step."""

from __future__ import annotations

import csv
import os
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only


class MetricsCSV(Logger):
    """Append each step's values to a CSV file; a new name adds a column.

    Every row is on disk when ``log_metrics`` returns, unless the disk is full: then rows wait, and
    are written with the next one that fits. A resumed run drops the rows from its first step on,
    which it is about to write again.

    Args:
        path: the file.
        warn: told once that it cannot be written.
    """

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        super().__init__()
        self.path = path
        self.warn = warn
        self._columns: list[str] | None = None
        self._waiting: list[dict[str, Any]] = []
        self._warned = False

    @property
    def name(self) -> str:
        """Of the logger, for Lightning."""
        return "csv"

    @property
    def version(self) -> str:
        """Of the logger, for Lightning."""
        return ""

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kw: Any) -> None:
        """The config has a file of its own."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Write one row of metrics.csv."""
        self._waiting.append({"step": step, **metrics})
        try:
            self._write()
        except OSError as error:
            if not self._warned:
                self._warned = True
                self.warn(
                    f"{self.path} cannot be written to ({error}); training goes on, and its rows "
                    "are written as soon as they can be."
                )

    def _write(self) -> None:
        """Append the rows that wait: all of them or, where that fails, none."""
        if self._columns is None:
            start = self._waiting[0]["step"]
            kept = [old for old in self._read() if start is None or int(old["step"]) < start]
            columns = list(dict.fromkeys([*self._header(), "epoch", "step"]))
            self._rewrite(kept, columns)
        assert self._columns is not None
        new = [name for row in self._waiting for name in row if name not in self._columns]
        if new:
            self._rewrite(self._read(), [*self._columns, *dict.fromkeys(new)])
        size = self.path.stat().st_size
        try:
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, self._columns).writerows(self._waiting)
        except OSError:
            os.truncate(self.path, size)  # no half a row
            raise
        self._waiting.clear()

    def _read(self) -> list[dict[str, str]]:
        return list(csv.DictReader(self._lines()))

    def _header(self) -> list[str]:
        return next(csv.reader(self._lines()), [])

    def _lines(self) -> list[str]:
        """Whole lines; a crash may have cut the last one."""
        if not self.path.exists():
            return []
        with self.path.open(newline="") as file:
            return [line for line in file if line.endswith("\n")]

    def _rewrite(self, rows: list[dict[str, str]], columns: list[str]) -> None:
        partial = self.path.with_suffix(".csv.partial")
        try:
            with partial.open("w", newline="") as file:
                writer = csv.DictWriter(file, columns)
                writer.writeheader()
                writer.writerows(rows)
            partial.replace(self.path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
        self._columns = columns
