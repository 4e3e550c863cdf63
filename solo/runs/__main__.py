"""``python -m solo.runs <checkpoint.dir>``: all runs below a folder, in a terminal."""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from solo.config import ConfigError
from solo.runs.metrics import METRICS, describe
from solo.runs.overview import SHOWN, Overview, differing, runs_below


def main(arguments: Sequence[str] | None = None) -> int:
    """Show; 0, or 1 where there is no run."""
    parser = argparse.ArgumentParser(prog="python -m solo.runs", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("trained_models"))
    parser.add_argument("--sort", metavar="METRIC", help="the largest value first")
    parser.add_argument("--show", metavar="METRIC", nargs="+", help="columns of metrics.csv")
    parser.add_argument("--csv", action="store_true", help="every value of every run, for scripts")
    parser.add_argument("--watch", type=float, metavar="SECONDS", nargs="?", const=5.0)
    parser.add_argument(
        "--diff", type=Path, metavar="RUN", nargs="+", help="what differs in configs"
    )
    options = parser.parse_args(arguments)
    console = Console(highlight=False, markup=False)
    if options.diff:
        try:
            console.print(_differences(options.diff))
        except ConfigError as error:
            parser.error(str(error))
        return 0
    if not options.folder.is_dir():
        parser.error(f"there is no folder {options.folder}")
    runs = _sorted(options)
    if options.csv:
        _write(runs)
    elif options.watch:
        with Live(_table(runs, options), console=console) as live:
            while True:
                time.sleep(options.watch)
                live.update(_table(_sorted(options), options))
    elif runs:
        console.print(_table(runs, options))
    if not runs:
        print(f"there is no run below {options.folder}", file=sys.stderr)
    return 0 if runs else 1


def _sorted(options: argparse.Namespace) -> list[Overview]:
    runs = list(runs_below(options.folder))
    if options.sort:
        lowest = float("-inf")
        runs.sort(key=lambda run: -run.values.get(options.sort, lowest))
    return runs


def _table(runs: Sequence[Overview], options: argparse.Namespace) -> Table:
    wanted = options.show or [*SHOWN, *([options.sort] if options.sort else [])]
    there = {name for run in runs for name in run.values}
    columns = [name for name in dict.fromkeys(wanted) if name in there]
    table = Table(box=None, pad_edge=False)
    for name in ("run", "what", "data", "backbone", "status", "epoch"):
        table.add_column(name, overflow="fold")
    for name in columns:
        table.add_column(METRICS[name].label if name in METRICS else name, justify="right")
    for run in runs:
        cells = [
            describe(name).text(run.values[name]) if name in run.values else "" for name in columns
        ]
        what = (run.folder.name, run.kind, run.dataset, run.backbone, _status(run), _epochs(run))
        table.add_row(*what, *cells)
    return table


def _status(run: Overview) -> str:
    if run.left is not None:
        minutes = round(run.left / 60)
        return f"{run.status}, {minutes // 60} h {minutes % 60:02d} min left"
    return f"{run.status}: {run.error}" if run.error else run.status


def _epochs(run: Overview) -> str:
    return f"{run.epoch}/{run.epochs}" if run.epoch else ""


def _write(runs: Sequence[Overview]) -> None:
    """As CSV on the standard output."""
    names = sorted({name for run in runs for name in run.values})
    fields = [name for name in Overview._fields if name not in ("values", "config")]
    writer = csv.writer(sys.stdout)
    writer.writerow([*fields, *names])
    for run in runs:
        own = [getattr(run, name) for name in fields]
        writer.writerow(
            ["" if v is None else v for v in own] + [run.values.get(n, "") for n in names]
        )


def _differences(folders: Sequence[Path]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("key", *(folder.name for folder in folders)):
        table.add_column(name, overflow="fold")
    for key, values in differing(folders):
        table.add_row(key, *(str(value) for value in values))
    return table


if __name__ == "__main__":
    sys.exit(main())
