"""metrics.csv, by column."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np


class Metrics(dict[str, np.ndarray]):
    """Each metric's rows: [n, 2] of step and value."""


def read_metrics(folder: Path) -> Metrics:
    """metrics.csv by column."""
    path = folder / "metrics.csv"
    if not path.is_file():
        return Metrics()
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    found: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for name, value in row.items():
            if value and name not in ("step", "epoch"):
                found.setdefault(name, []).append((float(row["step"]), float(value)))
    return Metrics({name: np.array(values) for name, values in found.items()})
