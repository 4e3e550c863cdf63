"""Train the rows of a table, several seeds each, and put what came out beside what is published.

    python scripts/utils/reproduce.py <table> [--seeds 5 1 2] [--rows vicreg simclr …] [key=value …]

A table is a file of scripts/tables: recipes, overrides, how runs are evaluated, what its columns
are. Words of the form key=value go to every run (``devices=8``, ``data.train_path=…``). A finished
run is not repeated and an unfinished one is gone on with, so the command can be cut short and given
again; the table is written anew after every run.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev

from matplotlib.figure import Figure
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rich.progress import track
from yaml import safe_load

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from solo.runs import SavedRun

ROOT = Path(__file__).resolve().parents[2]
TABLES = ROOT / "scripts/tables"


class Row(BaseModel):
    """One configuration; its name in the table is its key."""

    model_config = ConfigDict(extra="forbid")

    recipe: str | None = None
    """File name of the recipe without .yaml; the row's name if nothing is said."""
    overrides: list[str] = []
    floors: dict[str, str] = {}
    """Rows that need no training, measured in this one's evaluation: row to model there."""
    published: dict[str, float] = {}
    """By column."""


class Table(BaseModel):
    """A file of scripts/tables."""

    model_config = ConfigDict(extra="forbid")

    recipes: str
    """Folder of the recipes."""
    overrides: list[str] = []
    """For every row."""
    seeds: list[int] = Field(min_length=1)
    evaluation: list[str] | None = None
    """Words for main_linear.py; no evaluation without."""
    columns: dict[str, str]
    """Heading to a metric of the run; ``shots/<number|all>``, of its few-shot evaluation; or
    ``linear/<metric>``, of its linear evaluation."""
    decimals: dict[str, int] = {}
    """By column, 1 if nothing is said."""
    figure: tuple[str, str] | None = None
    """Columns to draw one against the other."""
    rows: dict[str, Row]


Measured = dict[str, float]


def load(name: str) -> Table:
    """The table of that name."""
    path = TABLES / f"{name}.yaml"
    if not path.is_file():
        there = ", ".join(sorted(file.stem for file in TABLES.glob("*.yaml")))
        sys.exit(f"There is no table {name}; scripts/tables has {there}")
    try:
        return Table.model_validate(safe_load(path.read_text()))
    except ValidationError as error:
        sys.exit(f"{path}: {error}")


def measure(table: Table, row: Row, recipe: str, seed: int, folder: Path, words: list[str]) -> None:
    """Train and evaluate one run in its folder, unless that was done before."""
    done = folder / "measured.json"
    if done.is_file():
        return
    place = [f"checkpoint.dir='{folder}'", f"seed={seed}"]
    recipes = ["--config-path", str(ROOT / table.recipes), "--config-name", recipe]
    start, whole = time.monotonic(), not folder.exists()
    if not _finished(folder):
        chosen = [*table.overrides, *row.overrides, *words]
        _call("main_pretrain.py", *recipes, *place, "auto_resume.enabled=true", *chosen)
    times = {"minutes": (time.monotonic() - start) / 60} if whole else {}
    run = _finished(folder)
    assert run is not None, folder
    last = SavedRun(run).metrics.last()
    found = times | last
    if table.evaluation is not None:
        extra = [f"few_shot.baselines={bool(row.floors)}"] if _few_shot(table) else []
        _call("main_linear.py", *table.evaluation, *place, f"pretrained='{run}'", *extra)
        found |= _evaluated(folder, run.name)
    done.write_text(json.dumps(found))


def _few_shot(table: Table) -> bool:
    return any(source.startswith("shots/") for source in table.columns.values())


def _finished(folder: Path) -> Path | None:
    """The finished pretraining run below a folder, if there is one."""
    for file in sorted(folder.glob("*/*/environment.json")):
        saved = SavedRun(file.parent)
        if saved.facts.get("status") == "finished" and "method" in saved.config:
            return file.parent
    return None


def _evaluated(folder: Path, trained: str) -> Measured:
    """What the newest evaluation below a folder found: few-shot accuracies, or last metrics."""
    (*_, newest) = sorted(folder.glob("linear/*"), key=lambda path: path.stat().st_mtime)
    found: Measured = {}
    if (newest / "results.json").is_file():
        for entry in json.loads((newest / "results.json").read_text()):
            means = [v["mean"] for v in entry.values() if isinstance(v, dict) and "mean" in v]
            prefix = "" if entry["model"] == trained else f"{entry['model']}/"
            found[f"{prefix}shots/{entry['shots']}"] = mean(means)
    last = SavedRun(newest).metrics.last()
    return found | {f"linear/{name}": value for name, value in last.items()}


def _call(script: str, *words: str) -> None:
    command = [sys.executable, str(ROOT / script), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}", file=sys.stderr)
        sys.exit(done.returncode)


def rows(table: Table, found: Mapping[str, Sequence[Measured]]) -> dict[str, dict[str, str]]:
    """Cells by row and column: mean and standard deviation over seeds, and what is published."""
    shown: dict[str, dict[str, str]] = {}
    for name, row in table.rows.items():
        for floor, model in row.floors.items():
            shown[floor] = _cells(table, found.get(name, ()), f"{model}/")
    for name, values in found.items():
        shown[name] = _cells(table, values)
        for column, value in table.rows[name].published.items():
            shown[name][f"{column}, published"] = f"{value:g}"
    return {name: cells for name, cells in shown.items() if cells}


def _cells(table: Table, values: Sequence[Measured], prefix: str = "") -> dict[str, str]:
    cells = {}
    for column, source in table.columns.items():
        numbers = [v[prefix + source] for v in values if v.get(prefix + source) is not None]
        digits = table.decimals.get(column, 1)
        if numbers:
            cells[column] = f"{mean(numbers):.{digits}f}"
            if len(numbers) > 1 and column != "minutes":
                cells[column] += f" ± {stdev(numbers):.{digits}f}"
    return cells


def headings(table: Table) -> list[str]:
    """Of the columns, published values after ours."""
    named = {column for row in table.rows.values() for column in row.published}
    pairs = [(c, f"{c}, published") if c in named else (c,) for c in table.columns]
    return [name for pair in pairs for name in pair]


def write(table: Table, found: Mapping[str, Sequence[Measured]], out: Path) -> str:
    """The table as .md, every run as .csv, the figure as .png; what the first says."""
    names = ["", *headings(table)]
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for name, cells in rows(table, found).items():
        lines.append(f"| {name} | " + " | ".join(cells.get(c, "") for c in names[1:]) + " |")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".md").write_text("\n".join(lines) + "\n")
    with out.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "seed", *table.columns])
        for name, values in found.items():
            for value in values:
                measured = (value.get(source, "") for source in table.columns.values())
                writer.writerow([name, int(value["seed"]), *measured])
    if table.figure is not None and any(found.values()):
        figure(table, found).savefig(out.with_suffix(".png"), dpi=110)
    return "\n".join(lines)


def figure(table: Table, found: Mapping[str, Sequence[Measured]]) -> Figure:
    """One column against another, the best row first; rows alike in the first side by side.

    Dotted lines are what there is without training.
    """
    assert table.figure is not None
    names = table.figure
    x, y = (table.columns[name] for name in names)
    picture = Figure((8, 4.6), layout="constrained")
    axes = picture.subplots()
    for name, row in table.rows.items():
        for floor, model in row.floors.items():
            values = [v[f"{model}/{y}"] for v in found.get(name, []) if f"{model}/{y}" in v]
            if values:
                axes.axhline(mean(values), color="grey", linestyle=":", linewidth=1)
                axes.annotate(floor, (0.01, mean(values)), color="grey", fontsize=8, va="bottom")
    points = {
        name: [([v[axis] for v in values if axis in v]) for axis in (x, y)]
        for name, values in found.items()
        if all(x in v and y in v for v in values) and values
    }
    ranked = sorted(points, key=lambda name: -mean(points[name][1]))
    widest = max((mean(point[0]) for point in points.values()), default=1.0)
    alike = [name for name in ranked if mean(points[name][0]) > 0.99 * widest]
    for number, name in enumerate(ranked):
        spread = [stdev(column) if len(column) > 1 else 0.0 for column in points[name]]
        aside = 0.03 * widest * alike.index(name) if name in alike else 0.0
        axes.errorbar(
            mean(points[name][0]) + aside,
            mean(points[name][1]),
            xerr=spread[0],
            yerr=spread[1],
            fmt="os^D"[number % 4],
            color=f"C{number % 10}",
            capsize=3,
            label=name,
        )
    axes.set(xlabel=names[0], ylabel=f"{names[1]}, %", xlim=(0, None))
    axes.grid(alpha=0.3)
    picture.legend(loc="outside right upper", fontsize=8)
    return picture


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing, write what is there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("table", help="a file of scripts/tables, without .yaml")
    parser.add_argument("words", nargs="*", metavar="key=value", help="overrides for every run")
    parser.add_argument("--seeds", type=int, nargs="+", help="the table's if nothing is said")
    parser.add_argument("--rows", nargs="+", help="all if nothing is said")
    parser.add_argument("--out", type=Path, help="path of table and figure, without suffix")
    parser.add_argument("--work", type=Path, help="folder of the runs")
    options = parser.parse_intermixed_args(arguments)
    table = load(options.table)
    if wrong := [word for word in options.words if "=" not in word]:
        parser.error(f"{wrong[0]} is no key=value")
    chosen = options.rows or list(table.rows)
    if missing := [name for name in chosen if name not in table.rows]:
        parser.error(f"the table has no row {missing[0]}, but {', '.join(table.rows)}")
    out = options.out or ROOT / "docs" / options.table
    work = options.work or ROOT / "trained_models/tables" / options.table
    found: dict[str, list[Measured]] = {name: [] for name in chosen}
    jobs = [(name, seed) for seed in options.seeds or table.seeds for name in chosen]
    text = ""
    for name, seed in track(jobs, "Training"):
        row = table.rows[name]
        folder = work / "-".join([*re.findall(r"[\w.]+", name), str(seed)])
        measure(table, row, row.recipe or name, seed, folder, options.words)
        found[name].append({"seed": seed, **json.loads((folder / "measured.json").read_text())})
        text = write(table, found, out)
    print(text)


if __name__ == "__main__":
    main()
