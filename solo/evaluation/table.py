"""Rows of an evaluation as results.json, as table.md, and on the screen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from solo.evaluation.few_shot import Score


class Found(NamedTuple):
    """What a mode found: rows of its table, and a picture where there is one to look at."""

    rows: list[dict[str, Any]]
    picture: Figure | None = None


def write_table(folder: Path, rows: list[dict[str, Any]], console: Console) -> None:
    """Write both files and print the table (of a long one the first lines)."""
    plain = [
        {k: v._asdict() if isinstance(v, Score) else v for k, v in row.items()} for row in rows
    ]
    (folder / "results.json").write_text(json.dumps(plain, indent=1) + "\n")
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    single = len(rows) == 1
    table = Table(*([] if single else names), box=None, show_header=not single)
    for row in rows:
        cells = [_cell(row.get(name)) for name in names]
        lines.append("| " + " | ".join(cells) + " |")
        if single:
            for pair in zip(names, cells):
                table.add_row(*pair)
        elif len(lines) < 25:
            table.add_row(*cells)
    (folder / "table.md").write_text("\n".join(lines) + "\n")
    console.print(table)
    if not single and len(rows) > table.row_count:
        console.print(f"… and {len(rows) - table.row_count} more rows, in table.md")
    console.print(f"folder: {folder}", soft_wrap=True)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
