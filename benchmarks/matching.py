"""What a step costs by each way to match: the rows of scripts/tables/digits-matching.yaml.

Against the sliced form of its recipe, the first row there, in turns.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml

from benchmarks.measure import Row, side_by_side
from benchmarks.recipes import compose
from benchmarks.steps import Run
from solo.config.cli import arguments
from solo.data.batches import TrainingViews
from solo.report.tables import Table

TABLE = Path(__file__).resolve().parents[1] / "scripts/tables/digits-matching.yaml"


def rows(repeats: int = 20) -> Iterator[Row]:
    """Milliseconds of a whole step, views and probes included."""
    table = Table.model_validate(yaml.safe_load(TABLE.read_text()))
    sliced: dict[str, Run] = {}
    for name, row in table.rows.items():
        assert row.recipe is not None
        run = Run(compose(f"digits/{row.recipe}.yaml", arguments(row.overrides)), TrainingViews)
        if row.recipe not in sliced:
            sliced[row.recipe] = run
            continue
        ours, plain = side_by_side(run.step, sliced[row.recipe].step, repeats)
        yield Row(f"step of the digits recipe, {name}", 1e3 * ours, 1e3 * plain)
