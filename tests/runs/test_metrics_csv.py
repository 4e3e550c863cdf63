"""metrics.csv."""

from __future__ import annotations

import csv
import resource
import signal
from pathlib import Path

import pytest

from solo.runs.metrics_csv import MetricsCSV


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return [{k: v for k, v in row.items() if v} for row in csv.DictReader(file)]


def test_rows_and_new_columns(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    log = MetricsCSV(path, pytest.fail)
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
        log = MetricsCSV(path, pytest.fail)
        for step in range(start, 5):
            log.log_metrics({"a": value}, step=step)
    assert [row["a"] for row in rows(path)] == ["1.0"] * 3 + ["2.0"] * 2


def test_a_line_that_a_crash_has_cut(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    log = MetricsCSV(path, pytest.fail)
    for step in range(15):
        log.log_metrics({"a": 1.0}, step=step)
    path.write_text(path.read_text()[:-5])  # "14," and so on becomes "1"
    MetricsCSV(path, pytest.fail).log_metrics({"a": 2.0}, step=14)
    assert [row["step"] for row in rows(path)] == [str(step) for step in range(15)]


def test_rows_wait_while_nothing_can_be_written(tmp_path: Path) -> None:
    """A file size limit stands in for the full disk: writing fails in the middle of a row."""
    path = tmp_path / "metrics.csv"
    said: list[str] = []
    log = MetricsCSV(path, said.append)
    log.log_metrics({"a": 1.0}, step=0)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 3, before[1]))
        for step in (1, 2):
            log.log_metrics({"a": 1.0, "b": 0.5}, step=step)
        log.log_metrics({"a": 1.0}, step=3)
        assert [row["step"] for row in rows(path)] == ["0"]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert len(said) == 1 and "cannot be written to" in said[0]
    log.log_metrics({"a": 1.0}, step=4)
    assert [row["step"] for row in rows(path)] == ["0", "1", "2", "3", "4"]
    assert not list(tmp_path.glob("*.partial"))
