"""Tables of many runs: what a row is, how it is written, how it is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure
from pydantic import BaseModel, ConfigDict, Field

from solo.runs.metrics import describe
from solo.runs.saved import Metrics

Measured = dict[str, float]
"""What was found of one run, by name."""

L0 = "val_l0_sparsity_metric"


class Row(BaseModel):
    """One configuration; its name in the table is its key."""

    model_config = ConfigDict(extra="forbid")

    recipe: str | None = None
    """File name of the recipe without .yaml; the row's name if nothing is said."""
    overrides: list[str] = []
    floors: dict[str, str] = {}
    """Rows that need no training, measured in this one's evaluation: row to model there."""
    others: dict[str, str] = {}
    """Rows that follow this one, measured in its evaluation likewise (its teacher)."""
    published: dict[str, float] = {}
    """By column."""
    line: str | None = None
    """Rows of one line have one label in figures, and are joined in the order of the table."""


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
    curve: str | None = None
    """A metric to draw over the epochs."""
    rows: dict[str, Row]


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
        for other, model in table.rows[name].others.items():
            shown[other] = _cells(table, values, f"{model}/")
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


def markdown(table: Table, found: Mapping[str, Sequence[Measured]]) -> str:
    """Mean and standard deviation over seeds, a row a line."""
    names = ["", *headings(table)]
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for name, cells in rows(table, found).items():
        lines.append(f"| {name} | " + " | ".join(cells.get(c, "") for c in names[1:]) + " |")
    return "\n".join(lines)


Commits = Mapping[tuple[str, int], str]
"""Which code measured the run of a row and seed."""


def records(
    table: Table, found: Mapping[str, Sequence[Measured]], commits: Commits
) -> list[list[object]]:
    """Every run by itself, and what its evaluation measured beside it, under a line of headings."""
    lines: list[list[object]] = [["row", "seed", "commit", *table.columns]]
    for name, values in found.items():
        for value in values:
            seed = int(value["seed"])
            for shown, prefix in _shown(table, name).items():
                cells = [value.get(prefix + source, "") for source in table.columns.values()]
                if any(cell != "" for cell in cells):
                    lines.append([shown, seed, commits.get((name, seed), ""), *cells])
    return lines


def recorded(
    table: Table, lines: Sequence[Mapping[str, str]]
) -> tuple[dict[str, list[Measured]], dict[tuple[str, int], str]]:
    """What :func:`records` were of: what was found, and by which commits."""
    found: dict[str, list[Measured]] = {}
    commits = {}
    by_run = {(line["row"], line["seed"]): line for line in lines}
    for (name, seed), line in by_run.items():
        if name not in table.rows:  # measured beside another
            continue
        values: Measured = {"seed": int(seed)}
        for shown, prefix in _shown(table, name).items():
            beside = by_run.get((shown, seed), {})
            cells = ((source, beside.get(column)) for column, source in table.columns.items())
            values |= {prefix + source: float(cell) for source, cell in cells if cell}
        found.setdefault(name, []).append(values)
        commits[name, int(seed)] = line.get("commit", "")
    return found, commits


def _shown(table: Table, name: str) -> dict[str, str]:
    """Rows that a row's evaluation fills, and what their values begin with."""
    row = table.rows[name]
    return {name: "", **{key: f"{model}/" for key, model in (row.floors | row.others).items()}}


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
    alone = [name for name in ranked if table.rows[name].line is None]
    alike = [name for name in alone if mean(points[name][0]) > 0.99 * widest]
    lines = {name: table.rows[name].line or name for name in points}
    groups = {lines[name]: [n for n in points if lines[n] == lines[name]] for name in ranked}
    for number, (label, group) in enumerate(groups.items()):
        aside = 0.03 * widest * alike.index(label) if label in alike else 0.0
        spread = [
            [stdev(points[name][axis]) if len(points[name][axis]) > 1 else 0.0 for name in group]
            for axis in (0, 1)
        ]
        axes.errorbar(
            [mean(points[name][0]) + aside for name in group],
            [mean(points[name][1]) for name in group],
            xerr=spread[0],
            yerr=spread[1],
            fmt="os^D"[number % 4] + ("-" if table.rows[group[0]].line else ""),
            color=f"C{number % 10}",
            capsize=3,
            label=label,
        )
    axes.set(xlabel=names[0], ylabel=f"{names[1]}, %", xlim=(0, None))
    axes.grid(alpha=0.3)
    picture.legend(loc="outside right upper", fontsize=8)
    return picture


def curves(metric: str, drawn: Mapping[str, Sequence[Metrics]]) -> Figure:
    """A metric of every row over training, the mean of its runs; dashed, the l0 of the target."""
    picture = Figure((8, 4.6), layout="constrained")
    axes = picture.subplots()
    few = len(drawn) <= 10
    for number, (name, runs) in enumerate(drawn.items()):
        colour: Any = f"C{number}" if few else colormaps["turbo"]((number + 0.5) / len(drawn))
        least = min(len(metrics[metric]) for metrics in runs)
        mean_of_runs = sum(metrics[metric][:least, 1] for metrics in runs) / len(runs)
        axes.plot(runs[0][metric][:least, 0], mean_of_runs, color=colour, label=name)
        if metric == L0 and "expected_l0" in runs[0]:
            expected = runs[0].last()["expected_l0"]
            axes.axhline(expected, color=colour, linestyle="--", linewidth=1)
    axes.set(xlabel="step", ylabel=describe(metric).label)
    axes.grid(alpha=0.3)
    if drawn:
        picture.legend(loc="outside right upper", fontsize=8)
    return picture
