"""Every method on the digits, one protocol: a table and a figure.

    python scripts/utils/compare.py [--seeds 5 1 2] [--epochs 30] [--methods vicreg simclr …]

Trains each recipe of scripts/pretrain/digits (same images and epochs; same backbone, views and
batch but for I-JEPA, which needs a ViT), then few-shot accuracy of its frozen features. A finished
run is not repeated, so the command can be cut short and given again. On 2 CPU cores a method takes
about 90 seconds for each seed.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from matplotlib.figure import Figure
from rich.progress import track

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from solo.runs import SavedRun

ROOT = Path(__file__).resolve().parents[2]

COLUMNS = ("1 shot", "10 shots", "all", "kNN", "l0", "minutes")

# What needs no training: the recipe whose evaluation measures it too, and its name there.
FLOORS = {
    "raw pixels": ("lejepa", "raw pixels"),
    "untrained ResNet": ("lejepa", "untrained network"),
    "untrained ViT": ("ijepa", "untrained network"),
}


def recipes() -> list[str]:
    """One for each method: the file named like it."""
    found = sorted((ROOT / "scripts/pretrain/digits").glob("*.yaml"))
    return [path.stem for path in found if "multicrop" not in path.stem]


def measure(recipe: str, seed: int, epochs: int, work: Path) -> dict[str, float]:
    """Train and evaluate, unless that was done before."""
    folder = work / f"{recipe}-{seed}-{epochs}"
    done = folder / "measured.json"
    if done.is_file():
        return dict(json.loads(done.read_text()))
    place = [f"checkpoint.dir={folder}", f"seed={seed}"]
    budget = [f"max_epochs={epochs}", f"scheduler.warmup_epochs={epochs / 6:g}"]
    start = time.monotonic()
    _call("main_pretrain.py", "--config-name", recipe, *place, *budget, "auto_resume.enabled=true")
    minutes = (time.monotonic() - start) / 60
    (run,) = (path.parent for path in folder.glob("*/*/report.html"))
    measures_floors = any(recipe == other for other, _ in FLOORS.values())
    _call("main_linear.py", *place, f"few_shot.baselines={measures_floors}")
    table = json.loads(next(folder.glob("linear/*/results.json")).read_text())
    last = SavedRun(run).metrics.last()
    row: dict[str, float] = {"minutes": minutes}
    row["kNN"] = last["val_knn_acc1"]
    row["l0"] = last["val_l0_sparsity_metric"]
    for entry in table:
        shots = {1: "1 shot", 10: "10 shots"}.get(entry["shots"], "all")
        prefix = "" if entry["model"] == run.name else f"{entry['model']}/"
        row[prefix + shots] = entry["digits"]["mean"]
    done.write_text(json.dumps(row))
    return row


def _call(script: str, *words: str) -> None:
    command = [sys.executable, str(ROOT / script), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")


def table(found: dict[str, list[dict[str, float]]]) -> list[dict[str, Any]]:
    """Mean and standard deviation over seeds."""
    rows: list[dict[str, Any]] = []
    for name, (recipe, prefix) in FLOORS.items():
        values = [{k: m[f"{prefix}/{k}"] for k in COLUMNS[:3]} for m in found.get(recipe, [])]
        if values:
            rows.append({"method": name, **_summary(values)})
    rows += [{"method": recipe, **_summary(values)} for recipe, values in found.items()]
    return rows


def _summary(values: list[dict[str, Any]]) -> dict[str, str]:
    cells = {}
    for column in COLUMNS:
        numbers = [v[column] for v in values if v.get(column) is not None]
        digits = 3 if column == "l0" else 1
        if numbers:
            cells[column] = f"{mean(numbers):.{digits}f}"
            if len(numbers) > 1 and column != "minutes":
                cells[column] += f" ± {stdev(numbers):.{digits}f}"
    return cells


def figure(found: dict[str, list[dict[str, float]]]) -> Figure:
    """Accuracy at 10 shots against sparsity, the best method first; dense ones side by side.

    Dotted lines are what there is without training.
    """
    picture = Figure((8, 4.6), layout="constrained")
    axes = picture.subplots()
    for name, (recipe, prefix) in FLOORS.items():
        values = [v[f"{prefix}/10 shots"] for v in found.get(recipe, [])]
        if values:
            axes.axhline(mean(values), color="grey", linestyle=":", linewidth=1)
            axes.annotate(name, (0.01, mean(values)), color="grey", fontsize=8, va="bottom")
    ranked = sorted(found, key=lambda recipe: -mean(v["10 shots"] for v in found[recipe]))
    dense = [r for r in ranked if mean(v["l0"] for v in found[r]) > 0.99]
    for number, recipe in enumerate(ranked):
        columns = [[v[name] for v in found[recipe]] for name in ("l0", "10 shots")]
        spread = [stdev(column) if len(column) > 1 else 0.0 for column in columns]
        aside = 0.03 * dense.index(recipe) if recipe in dense else 0.0
        axes.errorbar(
            mean(columns[0]) + aside,
            mean(columns[1]),
            xerr=spread[0],
            yerr=spread[1],
            fmt="os^D"[number % 4],
            color=f"C{number % 10}",
            capsize=3,
            label=recipe,
        )
    axes.set(xlabel="non-zero fraction of the embedding (l0)", ylabel="accuracy at 10 shots, %")
    axes.set_xlim(0, 1.05 + 0.03 * len(dense))
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1 (dense)"])
    axes.grid(alpha=0.3)
    picture.legend(loc="outside right upper", fontsize=8)
    return picture


def main() -> None:
    """Measure what is missing, write what is there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[5, 1, 2])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="for table and figure")
    parser.add_argument("--work", type=Path, default=ROOT / "trained_models/comparison")
    parser.add_argument("--methods", nargs="+", choices=recipes(), default=recipes())
    options = parser.parse_args()
    jobs = [(recipe, seed) for seed in options.seeds for recipe in options.methods]
    found: dict[str, list[dict[str, float]]] = {recipe: [] for recipe in options.methods}
    for recipe, seed in track(jobs, "Training"):
        row = measure(recipe, seed, options.epochs, options.work)
        found[recipe].append({"seed": seed, **row})
    options.out.mkdir(parents=True, exist_ok=True)
    rows = table(found)
    names = ["method", *COLUMNS]
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(row.get(name, "") for name in names) + " |" for row in rows]
    (options.out / "comparison.md").write_text("\n".join(lines) + "\n")
    with (options.out / "comparison.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["recipe", "seed", *COLUMNS], extrasaction="ignore")
        writer.writeheader()
        for recipe, values in found.items():
            writer.writerows({"recipe": recipe, **value} for value in values)
    figure(found).savefig(options.out / "comparison.png", dpi=110)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
