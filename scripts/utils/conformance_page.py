"""Examine every method, and other packages' losses where they are installed: docs/conformance.md.

    python scripts/utils/conformance_page.py [names …]

Names are methods, or <package>/<loss> as in scripts/conformance.yaml; what is not named
keeps its row of docs/conformance.csv. A package that is not installed is passed over.
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import platform
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.progress import track
from yaml import safe_load

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from solo.conformance import LINES, Examination, Pool, Subject, measured  # noqa: E402
from solo.methods import METHODS  # noqa: E402

LIST = ROOT / "scripts/conformance.yaml"
OURS = "ours"
FIELDS = ("package", "version", "date", "loss", "call", "line", "figure", "verdict", "detail")
BEGIN, END = "<!-- table: written by scripts/utils/conformance_page.py -->", "<!-- end -->"
SHOWN = ("value", "gradient", "built first", "same draws", "bfloat16")
"""Lines with a column of their own."""


class Entry(NamedTuple):
    """A loss of the table."""

    package: str
    name: str
    subject: Subject

    @property
    def key(self) -> tuple[str, str]:
        """Its rows in the CSV."""
        return self.package, self.name


def entries() -> list[Entry]:
    """All of the table."""
    found = [Entry(OURS, name, Subject(name)) for name in METHODS]
    for package, losses in safe_load(LIST.read_text()).items():
        for name, options in losses.items():
            given: dict[str, Any] = dict(options)
            given["ordered"] = tuple(given.get("ordered", ()))
            found.append(Entry(package, name, Subject(given.pop("loss"), **given)))
    return found


def examined(entry: Entry, version: str) -> list[dict[str, str]]:
    """Its rows."""
    subject = entry.subject
    call = " ".join(word for word in (subject.make, subject.call) if word)
    day = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    common = (entry.package, version, day, entry.name, call)
    with Pool() as pool:
        lines = list(measured(Examination(subject, pool)))
    return [dict(zip(FIELDS, (*common, *line[:4]))) for line in lines]


def table(rows: Iterable[dict[str, str]]) -> str:
    """The rows as Markdown, a row a loss."""
    losses: dict[tuple[str, str], dict[str, dict[str, str]]] = {}
    for row in rows:
        losses.setdefault((row["package"], row["loss"]), {})[row["line"]] = row
    text = [
        f"| loss | {' | '.join(SHOWN)} | four parts | other lines that fail |",
        f"| --- |{' --- |' * (len(SHOWN) + 2)}",
    ]
    for (package, name), lines in losses.items():
        first = next(iter(lines.values()))
        where = "" if package == OURS else f", {package} {first['version']} ({first['date']})"
        cells = [_cell(lines[line]) for line in SHOWN]
        parts = lines["accumulation"]
        cells.append(_cell(parts) if parts["verdict"] == "FAIL" else parts["figure"])
        failed = [
            f"{line} ({row['figure']})"
            for line, row in lines.items()
            if row["verdict"] == "FAIL" and line not in (*SHOWN, "accumulation")
        ]
        text.append(f"| {name}{where} | {' | '.join(cells)} | {', '.join(failed)} |")
    return "\n".join(text)


def _cell(row: dict[str, str]) -> str:
    figure = row["figure"].split(" (")[0]
    if row["verdict"] == "FAIL":
        return f"**{figure}**"
    return figure or "–"


def write(page: Path, rows: Sequence[dict[str, str]]) -> None:
    """The CSV, and the page's table."""
    with page.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    head, _, rest = page.read_text().partition(BEGIN)
    _, _, tail = rest.partition(END)
    about = f"torch {torch.__version__}, Python {platform.python_version()}, on CPUs with gloo."
    made = f"{len(LINES)} lines a loss, {about}"
    page.write_text(f"{head}{BEGIN}\n\n{table(rows)}\n\n{made}\n\n{END}{tail}")


def main() -> None:
    """Examine, and write page and CSV."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("names", nargs="*", help="some losses only")
    parser.add_argument("--page", type=Path, default=ROOT / "docs/conformance.md")
    options = parser.parse_args()
    everything = entries()
    named = {"/".join(e.key).removeprefix(f"{OURS}/"): e for e in everything}
    if unknown := [name for name in options.names if name not in named]:
        parser.error(f"there is no {unknown[0]}, but {', '.join(named)}")
    path = options.page.with_suffix(".csv")
    rows: dict[tuple[str, str], list[dict[str, str]]] = {}
    if path.is_file():
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                rows.setdefault((row["package"], row["loss"]), []).append(row)
    for entry in track([named[name] for name in options.names or named], "Examining"):
        try:
            version = "" if entry.package == OURS else importlib.metadata.version(entry.package)
        except importlib.metadata.PackageNotFoundError:
            print(f"{entry.package} is not installed; {entry.name} passed over")
            continue
        rows[entry.key] = examined(entry, version)
        write(options.page, [row for e in everything for row in rows.get(e.key, ())])


if __name__ == "__main__":
    main()
