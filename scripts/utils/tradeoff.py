"""The sparsity-performance curve of finished runs: a table, a figure, and a ranking.

    python scripts/utils/tradeoff.py trained_models [--out docs] [--metric val_acc1] [--select]

Takes every finished pretraining run below the folder. Rectified LpJEPA runs make one line for each
shape p of the target; all others are points. With --select, runs of the same loss (method, target,
weights, data set) are listed by its training value, which needs no labels; rank correlations of it,
and of features' effective rank (RankMe), with the metric follow.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from scipy.stats import spearmanr

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from solo.config import unknown_name
from solo.methods import METHODS
from solo.runs.metrics import describe
from solo.runs.saved import Metrics, SavedRun

L0 = "val_l0_sparsity_metric"


class Run(NamedTuple):
    """A finished run: what was asked for, and its last values (None where not logged)."""

    name: str
    method: str
    dataset: str
    mu: float | None
    p: float | None
    expected_l0: float | None
    l0: float | None
    score: float | None
    loss: float | None
    rank: float | None
    objective: str
    images: str
    """What else a loss depends on: the images, how they are changed, and how many there are at a
    time."""


# Options of a method that do not change what its loss measures.
NOT_OF_THE_LOSS = (
    "proj_hidden_dim",
    "add_projector_classifier",
    "logging_interval",
    "num_projections",
    "projection_vectors_type",
)


def read_run(folder: Path, metric: str) -> Run | None:
    """A run from its folder, None for one that is unfinished or no pretraining run."""
    saved = SavedRun(folder)
    if saved.facts.get("status") != "finished" or "method" not in saved.config:
        return None
    config, metrics = saved.config, saved.metrics
    last = metrics.last()
    kwargs = config["method_kwargs"]
    sparse = "expected_l0" in metrics
    return Run(
        folder.name,
        config["method"],
        config["data"]["dataset"],
        kwargs.get("mean_shift_value") if sparse and kwargs.get("target_l0") is None else None,
        kwargs.get("lp_norm_parameter") if sparse else None,
        last.get("expected_l0"),
        last.get(L0),
        last.get(metric),
        _recent_loss(metrics, config["method"]),
        last.get("val_effective_rank"),
        ", ".join(
            [
                f"{config['method']} on {config['data']['dataset']}",
                *(f"{k} {v}" for k, v in kwargs.items() if k not in NOT_OF_THE_LOSS and v != {}),
            ]
        ),
        repr(
            [config["data"].get("train_path"), config["augmentations"], _batch(config, saved.facts)]
        ),
    )


def _batch(config: Mapping[str, Any], facts: Mapping[str, Any]) -> int:
    """Images of a step on all processes."""
    own = config["optimizer"]["batch_size"] * int(facts.get("processes") or 1)
    return int(config["optimizer"].get("global_batch_size") or own)


def _recent_loss(metrics: Metrics, method: str) -> float | None:
    """Mean over the last tenth of the logged values of the method's own loss."""
    values = metrics.get(f"train_{METHODS[method].loss_name}") if method in METHODS else None
    return None if values is None else float(values[-max(1, len(values) // 10) :, 1].mean())


def write_table(runs: Sequence[Run], path: Path) -> None:
    """One row a run."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Run._fields[:-1])
        writer.writerows(run[:-1] for run in runs)


def figure(runs: Sequence[Run], metric: str) -> Figure:
    """The metric against measured l0: a line for each p, other methods as points."""
    picture = Figure((7, 4.4), layout="constrained")
    axes = picture.subplots()
    drawn = [run for run in runs if run.l0 is not None and run.score is not None]
    for p in sorted({run.p for run in drawn if run.p is not None}):
        line = sorted((run.l0, run.score, run.expected_l0) for run in drawn if run.p == p)
        xs, ys, expected = zip(*line)
        (mark,) = axes.plot(xs, ys, "o-", label=f"Rectified LpJEPA, p = {p:g}")
        axes.scatter(expected, ys, marker="|", s=90, color=mark.get_color())
    for number, method in enumerate(sorted({run.method for run in drawn if run.p is None})):
        points = [(run.l0, run.score) for run in drawn if run.method == method and run.p is None]
        xs, ys = zip(*points)
        axes.scatter(xs, ys, marker="*", s=110, color=f"C{4 + number}", label=method)
    axes.set(
        xlabel="non-zero fraction of the embedding (l0), validation set",
        ylabel=describe(metric).label,
    )
    axes.plot([], [], "|", color="grey", markersize=9, label="expected l0")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return picture


def select(runs: Sequence[Run], metric: str) -> str:
    """Runs by training loss, method by method, with the rank correlation where labels exist."""
    lines = []
    for objective, images in sorted({(run.objective, run.images) for run in runs}):
        group = [run for run in runs if (run.objective, run.images) == (objective, images)]
        known = sorted((run for run in group if run.loss is not None), key=lambda r: r.loss or 0.0)
        others = {run.images for run in runs if run.objective == objective} - {images}
        apart = " (other images, views or batch than another group)" if others else ""
        lines.append(f"{objective}{apart}; lowest training loss first:")
        for run in known:
            score = "" if run.score is None else f"  {metric} {run.score:.2f}"
            lines.append(f"  {run.loss:.4g}  {run.name}{score}")
        for label, values in (
            ("-loss", [-(run.loss or 0.0) for run in known]),
            ("effective rank of features", [run.rank for run in known]),
        ):
            pairs = [(v, r.score) for v, r in zip(values, known) if None not in (v, r.score)]
            if len(pairs) > 2:
                lines.append(f"  rank correlation of {label} with {metric}: {_correlation(pairs)}")
    return "\n".join(lines)


def _correlation(pairs: Sequence[tuple[float | None, float | None]]) -> str:
    """Spearman's, in words."""
    first, second = zip(*pairs)
    if len(set(first)) < 2 or len(set(second)) < 2:
        return "undefined, all are alike"
    return f"{spearmanr(first, second).statistic:.2f}"


def main() -> None:
    """Read, write, say."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("folder", type=Path, help="where runs are, for example trained_models")
    parser.add_argument("--out", type=Path, default=Path(), help="where tradeoff.csv and .png go")
    parser.add_argument("--metric", default="val_acc1", help="a column of metrics.csv")
    parser.add_argument("--select", action="store_true", help="list runs by training loss")
    options = parser.parse_args()
    folders = sorted(file.parent for file in options.folder.rglob("config.yaml"))
    runs = [run for run in (read_run(f, options.metric) for f in folders) if run is not None]
    if not runs:
        parser.error(f"there is no finished pretraining run below {options.folder}")
    if all(run.score is None for run in runs):
        there = {name for folder in folders for name in SavedRun(folder).metrics}
        parser.error(str(unknown_name("metric", options.metric, sorted(there))))
    if options.select:
        print(select(runs, options.metric))
        return
    runs.sort(key=lambda run: (run.method, run.p or 0.0, run.l0 or 0.0))
    options.out.mkdir(parents=True, exist_ok=True)
    write_table(runs, options.out / "tradeoff.csv")
    figure(runs, options.metric).savefig(options.out / "tradeoff.png", dpi=110)
    print(f"{len(runs)} runs: {options.out / 'tradeoff.csv'}, {options.out / 'tradeoff.png'}")


if __name__ == "__main__":
    main()
