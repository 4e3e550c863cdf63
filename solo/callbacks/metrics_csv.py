"""metrics.csv: every logged value of a run, one row a step."""

from __future__ import annotations

import csv
from argparse import Namespace
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only


class MetricsCSV(Logger):
    """Append each step's values to a CSV file; a new name adds a column.

    Every row is on disk when ``log_metrics`` returns. A resumed run drops the rows from its first
    step on, which it is about to write again.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._columns: list[str] | None = None

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
        """Write one row."""
        row = {"step": step, **metrics}
        if self._columns is None:
            kept = [old for old in self._read() if step is None or int(old["step"]) < step]
            self._columns = list(dict.fromkeys([*self._header(), "epoch", "step"]))
            self._rewrite(kept)
        new = [name for name in row if name not in self._columns]
        if new:
            old_rows = self._read()
            self._columns += new
            self._rewrite(old_rows)
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self._columns).writerow(row)

    def _read(self) -> list[dict[str, str]]:
        if not self.path.exists():
            return []
        with self.path.open(newline="") as file:
            return list(csv.DictReader(file))

    def _header(self) -> list[str]:
        if not self.path.exists():
            return []
        with self.path.open(newline="") as file:
            return next(csv.reader(file), [])

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        assert self._columns is not None
        partial = self.path.with_suffix(".csv.partial")
        with partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(rows)
        partial.replace(self.path)
