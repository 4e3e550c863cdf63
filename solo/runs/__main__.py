"""``python -m solo.runs <checkpoint.dir>``: all runs below a folder, in a terminal."""

from __future__ import annotations

import argparse
import contextlib
import csv
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten

from rich.console import Console
from rich.live import Live
from rich.table import Table

from solo.config import ConfigError, unknown_name
from solo.runs.metrics import METRICS, describe
from solo.runs.overview import SHOWN, Overview, differing, folders_below, runs_below


def main(arguments: Sequence[str] | None = None) -> int:
    """Show; 0, or 1 where there is no run."""
    parser = argparse.ArgumentParser(prog="python -m solo.runs", description=__doc__)
    parser.add_argument(
        "folder",
        type=Path,
        nargs="?",
        default=Path("trained_models"),
        help="with runs in it, or above such; checkpoint.dir, which is trained_models if not set",
    )
    parser.add_argument("--sort", metavar="METRIC", help="the largest value first; see --csv")
    parser.add_argument("--reverse", action="store_true", help="the smallest first")
    parser.add_argument(
        "--show", metavar="METRIC", nargs="+", help="columns in place of the usual; see --csv"
    )
    parser.add_argument("--csv", action="store_true", help="every value of every run, for scripts")
    parser.add_argument(
        "--watch",
        type=float,
        metavar="SECONDS",
        nargs="?",
        const=5.0,
        help="show it anew every so many seconds (5), until Ctrl-C",
    )
    parser.add_argument(
        "--diff",
        type=Path,
        metavar="RUN",
        nargs="+",
        help="keys in which runs' configs differ; folders, or names of runs below the folder",
    )
    options = parser.parse_args(arguments)
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 1000  # a line a run, whoever reads it
    if options.diff:
        if len(options.diff) < 2:
            parser.error(f"--diff names one run, {options.diff[0]}; give two or more")
        try:
            console.print(_differences([_folder_of(run, options.folder) for run in options.diff]))
        except ConfigError as error:
            parser.error(str(error))
        return 0
    if not options.folder.is_dir():
        parser.error(f"there is no folder {options.folder}")
    runs = _sorted(options)
    there = {name for run in runs for name in run.values}
    for name in (*(options.show or ()), *([options.sort] if options.sort else ())):
        if runs and name not in there and name not in METRICS:
            parser.error(str(unknown_name("metric", name, sorted(there))))
    if options.csv:
        _write(runs)
    elif options.watch:
        live = Live(_table(runs, options, console.width), console=console)
        with contextlib.suppress(KeyboardInterrupt), live:
            while True:
                time.sleep(options.watch)
                live.update(_table(_sorted(options), options, console.width))
    elif runs:
        console.print(_table(runs, options, console.width))
    if not runs:
        print(f"there is no run below {options.folder}", file=sys.stderr)
    return 0 if runs else 1


def _sorted(options: argparse.Namespace) -> list[Overview]:
    runs = list(runs_below(options.folder))
    if options.sort:
        sign = 1 if options.reverse else -1
        runs.sort(key=lambda run: sign * run.values.get(options.sort, sign * float("inf")))
    return runs


NARROW = 140
"""Columns of a terminal that has no room for everything."""


def _table(runs: Sequence[Overview], options: argparse.Namespace, width: int) -> Table:
    wanted = options.show or [*SHOWN, *([options.sort] if options.sort else [])]
    there = {name for run in runs for name in run.values}
    columns = [name for name in dict.fromkeys(wanted) if name in there]
    if width < NARROW and not options.show:
        fit = max(1, (width - 68) // 11)
        columns = [options.sort] if options.sort and fit == 1 else columns[:fit]
    texts: dict[str, list[str]] = {
        "run": [run.folder.name for run in runs],
        "what": [run.kind for run in runs],
        "data": [run.dataset for run in runs],
        "backbone": [run.backbone for run in runs],
        "status": [shorten(_status(run), 48 if width < NARROW else 2000) for run in runs],
        "epoch": [_epochs(run) for run in runs],
    }
    for name in columns:
        cells = [describe(name).text(r.values[name]) if name in r.values else "" for r in runs]
        texts[METRICS[name].label if name in METRICS else name] = cells
    texts["found"] = [run.found for run in runs]
    same = {}
    for name in ("data", "backbone", "found"):  # said once, or not at all, leaves room
        if len(set(texts[name])) == 1 and len(runs) > 1:
            same[name] = texts.pop(name)[0]
    if width < NARROW:
        texts.pop("found", None)  # an evaluation's values are columns too, by --show
    title = ", ".join(f"{name}: {text}" for name, text in same.items() if text)
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
    for name in texts:
        right = name not in ("run", "what", "data", "backbone", "status", "found")
        whole = name in ("run", "what", "epoch")
        table.add_column(name, overflow="fold", no_wrap=whole, justify="right" if right else "left")
    for row in zip(*texts.values()):
        table.add_row(*row)
    return table


def _folder_of(run: Path, root: Path) -> Path:
    """A run's folder, by its path or its name.

    Raises:
        ConfigError: where there is none.
    """
    if run.is_dir():
        return run
    there = {folder.name: folder for folder in folders_below(root)}
    if run.name not in there:
        raise unknown_name(f"run below {root}", run.name, there or ["(none)"])
    return there[run.name]


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
