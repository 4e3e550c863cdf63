"""One setting for many architectures: which learn, which do not, and how sparse each becomes.

    python scripts/utils/architectures.py [--jobs 2] [--names lcnet_035 levit_128s …] [key=value …]

LeJEPA and Rectified LpJEPA are trained on the digits at 32 px with the same rate, weights and
number of epochs for every network: the smallest of its family in timm, of those up to 60 million
multiply-adds at that size. The command can be cut short and given again; a run that stops is a row
of the table like any other. Writes docs/architectures-table.md, docs/architectures.csv, and the
loss of every run on one page, docs/architectures.png.
"""

from __future__ import annotations

import argparse
import csv
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from reproduce import Job, Kept, finished, found_in, measure, overrides, side_by_side

from solo.report.tables import L0, Measured, Row, Table
from solo.runs import SavedRun

ROOT = Path(__file__).resolve().parents[2]
NAMES = """
    cait_xxs24_224 convit_tiny convnextv2_atto cpubone_nano cs3darknet_focus_s cspnext_tiny
    deit_tiny_patch16_224 densenet121 dla46x_c dpn48b edgenext_xx_small efficientformerv2_s0
    efficientvim_m1 efficientvit_b0 efficientvit_m0 ese_vovnet19b_slim_dw fasternet_t0
    fastvit_t8 gcvit_xxtiny ghostnet_050 gmlp_ti16_224 hardcorenas_b hgnetv2_b0
    hrnet_w18_small iformer_t inception_next_atto lcnet_035 lcnetv2_small legacy_seresnet18
    levit_128s lowformer_b0 mobilenetv3_small_050 mobilevit_xxs pit_ti_224 poolformerv2_s12
    pvt_v2_b0 regnetx_002 repghostnet_050 repvit_m1 resnest14d resnet10t resnetv2_18
    rexnet_100 shvit_s1 skresnet18 starnet_s050 swiftformer_xs test_byobnet test_coatnet
    test_convnext test_convnext2 test_convnext3 test_efficientnet test_efficientnet_evos
    test_efficientnet_gn test_efficientnet_ln test_mambaout test_maxvit test_nfnet
    test_resnet test_vit test_vit2 test_vit3 test_vit4 test_vit_relpos visformer_tiny
    vit_tiny_patch16_224 vit_tiny_patch16_dinov3_qkvb vit_tiny_r_s16_p8_224
    xcit_nano_12_p8_224
"""
METHODS = {"lejepa": "train_lejepa_loss", "rectified_lpjepa": "train_rectified_lp_jepa_loss"}
SETTING = [
    "augmentations.0.crop_size=32",
    "augmentations.1.crop_size=32",
    "optimizer.lr=1e-3",
    "max_epochs=10",
    "scheduler.warmup_epochs=1",
    "knn_eval.enabled=false",
]
SHOTS = ("shots/10", "untrained network/shots/10")


class Seen(NamedTuple):
    """What became of one architecture with one method."""

    measured: Measured | None
    stopped: str = ""
    """The last line of the error, where the run did not end."""

    def cell(self, source: str, digits: int = 1) -> str:
        """A number of the table, or why there is none."""
        if self.measured is None:
            return "stopped" if self.stopped else ""
        value = self.measured.get(source)
        return "" if value is None else f"{value:.{digits}f}"


def table_of(names: Sequence[str]) -> Table:
    """Every architecture with every method, as a table of reproduce.py."""
    rows = {
        f"{method} {name}": Row(
            recipe=method,
            overrides=[f"backbone.name={name}", "~backbone.kwargs"],
            floors={"untrained network": "untrained network"},
        )
        for name in names
        for method in METHODS
    }
    return Table(
        recipes="scripts/pretrain/digits",
        overrides=SETTING,
        seeds=[5],
        evaluation=["few_shot.shots=[10]"],
        columns={"10 shots": "shots/10"},
        rows=rows,
    )


def attempt(table: Table, job: Job, words: list[str], threads: int | None) -> None:
    """Measure a run; where it stops, keep the reason."""
    reason = job.folder / "stopped.txt"
    if reason.is_file():
        return
    try:
        measure(table, job, words, threads)
    except subprocess.CalledProcessError as error:
        lines = [line for line in (error.stderr or "").splitlines() if line.strip()]
        job.folder.mkdir(parents=True, exist_ok=True)
        reason.write_text(lines[-1].strip() if lines else f"exit status {error.returncode}")


def seen(jobs: Sequence[Job]) -> dict[str, dict[str, Seen]]:
    """What is there, by architecture and method."""
    measured = found_in(jobs, Kept({}, {})).found
    out: dict[str, dict[str, Seen]] = {}
    for job in jobs:
        method, name = job.name.split(" ")
        reason = job.folder / "stopped.txt"
        out.setdefault(name, {})[method] = Seen(
            measured[job.name][0] if measured[job.name] else None,
            reason.read_text() if reason.is_file() else "",
        )
    return out


def write(found: Mapping[str, Mapping[str, Seen]], out: Path) -> str:
    """The table as .md and .csv; what the first says."""
    titles = ["", "untrained", "LeJEPA", "Rectified LpJEPA", "l0 (asked: 0.25)"]
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    trained, untrained = SHOTS
    for name, by in found.items():
        lejepa, rectified = by["lejepa"], by["rectified_lpjepa"]
        cells = [
            lejepa.cell(untrained) or rectified.cell(untrained),
            lejepa.cell(trained),
            rectified.cell(trained),
            rectified.cell(L0, 3),
        ]
        if any(cells):
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_name(f"{out.name}-table.md").write_text("\n".join(lines) + "\n")
    with out.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["architecture", "method", "untrained", "trained", "l0", "stopped"])
        for name, by in found.items():
            for method, one in by.items():
                if one.measured is not None or one.stopped:
                    values = [(one.measured or {}).get(s) for s in (untrained, trained, L0)]
                    writer.writerow([name, method, *values, one.stopped])
    return "\n".join(lines)


def summary(found: Mapping[str, Mapping[str, Seen]]) -> str:
    """How many learned, in a sentence a method."""
    trained, untrained = SHOTS
    said = []
    for method in METHODS:
        there = {n: by[method] for n, by in found.items() if by[method].measured is not None}
        gains = {
            n: s.measured[trained] - s.measured[untrained] for n, s in there.items() if s.measured
        }
        stopped = [n for n, by in found.items() if by[method].stopped]
        worse = [n for n, gain in gains.items() if gain <= 0]
        said.append(
            f"{method}: {len(there)} architectures ended, {len(gains) - len(worse)} better than "
            f"untrained with 10 shots; not better: {', '.join(worse) or 'none'}; stopped: "
            f"{', '.join(stopped) or 'none'}"
        )
    return "\n".join(said)


def figure(jobs: Sequence[Job]) -> Figure | None:
    """The loss of every run: a panel an architecture, each curve over its own largest value."""
    curves: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
    for job in jobs:
        method, name = job.name.split(" ")
        folder = finished(job.folder)
        if folder is not None and METHODS[method] in (metrics := SavedRun(folder).metrics):
            steps, values = metrics[METHODS[method]].T.tolist()
            curves.setdefault(name, {})[method] = (steps, values)
    if not curves:
        return None
    wide = min(8, len(curves))
    tall = math.ceil(len(curves) / wide)
    picture = Figure((1.6 * wide, 1.3 * tall + 0.4), layout="constrained")
    grid = picture.subplots(tall, wide, squeeze=False, sharex=True, sharey=True)
    for axes in grid.flat:
        axes.axis("off")
    for axes, (name, by) in zip(grid.flat, curves.items()):
        axes.axis("on")
        axes.set_title(name.replace("_patch16_224", ""), fontsize=7)
        axes.tick_params(labelsize=6)
        for method, (steps, values) in by.items():
            largest = max((abs(v) for v in values if math.isfinite(v)), default=1.0) or 1.0
            colour = f"C{list(METHODS).index(method)}"
            axes.plot(steps, [v / largest for v in values], color=colour, linewidth=1)
        axes.set_ylim(0, 1.05)
    handles = [grid.flat[0].plot([], [], color=f"C{i}")[0] for i in range(len(METHODS))]
    picture.legend(handles, list(METHODS), loc="outside lower right", ncols=2, fontsize=8)
    return picture


def main() -> None:
    """Measure what is missing, write what is there."""
    words = overrides(sys.argv[1:])
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n", 1)[0],
        usage="%(prog)s [options] [key=value …]",
        epilog="Words of the form key=value are overrides for every run.",
    )
    parser.add_argument("--names", nargs="+", default=NAMES.split(), help="of timm's networks")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/architectures")
    parser.add_argument("--work", type=Path, default=ROOT / "trained_models/architectures")
    options = parser.parse_args([word for word in sys.argv[1:] if word not in words])
    if options.jobs < 1:
        parser.error(f"--jobs is {options.jobs}; give 1 or more")
    table, work = table_of(options.names), options.work.resolve()
    jobs = [Job(name, 5, work / name.replace(" ", "-")) for name in table.rows]

    def run(job: Job, threads: int | None) -> None:
        attempt(table, job, words, threads)

    for _ in side_by_side(run, jobs, options.jobs):
        write(seen(jobs), options.out)
    found = seen(jobs)
    print(write(found, options.out), summary(found), sep="\n")
    if (picture := figure(jobs)) is not None:
        picture.savefig(options.out.with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()
