"""metrics.csv."""

from __future__ import annotations

import csv
from pathlib import Path

from solo.callbacks import MetricsCSV


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return [{k: v for k, v in row.items() if v} for row in csv.DictReader(file)]


def test_rows_and_new_columns(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    log = MetricsCSV(path)
    log.log_metrics({"a": 1.0}, step=0)
    log.log_metrics({"b": 2.0}, step=1)
    log.log_metrics({"a": 3.0}, step=2)
    assert rows(path) == [
        {"step": "0", "a": "1.0"},
        {"step": "1", "b": "2.0"},
        {"step": "2", "a": "3.0"},
    ]


def test_a_resumed_run_continues_without_doubles(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    for start, value in ((0, 1.0), (3, 2.0)):
        log = MetricsCSV(path)
        for step in range(start, 5):
            log.log_metrics({"a": value}, step=step)
    assert [row["a"] for row in rows(path)] == ["1.0"] * 3 + ["2.0"] * 2
