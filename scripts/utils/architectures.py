"""One setting for many architectures: which learn, which do not, and how sparse each becomes.

    python scripts/utils/architectures.py [--jobs 2] [--names lcnet_035 levit_128s …] [key=value …]
    python scripts/utils/architectures.py --on fashion-mnist data.train_path=<folder> […]

LeJEPA and Rectified LpJEPA are trained at 32 px with the same rate, weights and number of steps
(some 370) for every network: the smallest of its family in timm, of those up to 60 million
multiply-adds at that size, on the digits; some of them on a tenth of Fashion-MNIST. The command can
be cut short and given again, on another machine too: what docs/architectures.json has is not run
again. A run that stops is a row of the table like any other. Writes docs/architectures-table.md,
docs/architectures.csv, and the loss of every run on one page, docs/architectures.png (of other
images docs/architectures-fashion-mnist…).
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from reproduce import Job, finished, measure, overrides, side_by_side

from solo.report.tables import L0, Row, Table
from solo.runs.saved import SavedRun

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
SOME = """
    convnextv2_atto deit_tiny_patch16_224 efficientvit_b0 lcnet_035 levit_128s
    mobilenetv3_small_050 resnet10t test_mambaout test_nfnet test_vit visformer_tiny
    xcit_nano_12_p8_224
"""
SETTING = [
    "augmentations.0.crop_size=32",
    "optimizer.lr=2e-3",
    "optimizer.batch_size=32",
    "knn_eval.enabled=false",
]
DIGITS = ["max_epochs=8", "scheduler.warmup_epochs=1", "augmentations.1.crop_size=32"]
GARMENTS = ["max_epochs=2", "scheduler.warmup_epochs=0.25", "data.fraction=0.1", "precision=32"]
ON = {
    "digits": (NAMES, [*SETTING, *DIGITS]),
    "fashion-mnist": (SOME, [*SETTING, *GARMENTS]),
}
"""Networks, and the setting of all of them, by the recipes' folder."""
SOURCES = {"untrained": "untrained network/shots/10", "trained": "shots/10", "l0": L0}
POINTS = 60
"""Of a curve, at most."""


class Seen(NamedTuple):
    """What became of one architecture with one method.

    ``found``: accuracies with 10 shots, untrained and trained, and l0, where the run ended;
    ``curve``: steps and losses; ``commit``: of the code; ``stopped``: the last line of the error.
    """

    found: dict[str, float]
    curve: list[list[float]]
    commit: str = ""
    stopped: str = ""

    def cell(self, name: str, digits: int = 1) -> str:
        """A number of the table, or why there is none."""
        if name not in self.found:
            return "stopped" if self.stopped else ""
        return f"{self.found[name]:.{digits}f}"


Everything = Mapping[str, Mapping[str, Seen]]
NOTHING = Seen({}, [])


def table_of(names: Sequence[str], images: str) -> Table:
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
        recipes=f"scripts/pretrain/{images}",
        overrides=ON[images][1],
        seeds=[5],
        evaluation=["few_shot.shots=[10]"],
        columns={"10 shots": SOURCES["trained"]},
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


def seen(jobs: Sequence[Job], known: Everything) -> Everything:
    """What is there, by architecture and method: known before, or in the runs' folders; by name."""
    out: dict[str, dict[str, Seen]] = {name: dict(by) for name, by in known.items()}
    for job in jobs:
        method, name = job.name.split(" ")
        reason = job.folder / "stopped.txt"
        if job.measured.is_file():
            out.setdefault(name, {})[method] = _measured(job, METHODS[method])
        elif reason.is_file():
            out.setdefault(name, {})[method] = Seen({}, [], stopped=reason.read_text())
    return dict(sorted(out.items()))


def _among(known: Everything, job: Job) -> bool:
    method, name = job.name.split(" ")
    return method in known.get(name, {})


def _measured(job: Job, loss: str) -> Seen:
    content = json.loads(job.measured.read_text())
    folder = finished(job.folder)
    assert folder is not None, job.folder
    saved = SavedRun(folder)
    rows = saved.metrics.get(loss)
    curve = [] if rows is None else rows[:: math.ceil(len(rows) / POINTS)].tolist()
    found = {name: content[source] for name, source in SOURCES.items() if source in content}
    return Seen(found, [[x, float(f"{y:.5g}")] for x, y in curve], saved.facts.get("git") or "")


def read(file: Path) -> Everything:
    """What an earlier call found; nothing where there was none."""
    if not file.is_file():
        return {}
    content = json.loads(file.read_text())
    return {name: {m: Seen(**one) for m, one in by.items()} for name, by in content.items()}


def write(found: Everything, out: Path) -> str:
    """The table as .md and .csv, and everything as .json; what the first says."""
    titles = ["", "untrained", "LeJEPA", "Rectified LpJEPA", "l0 (asked: 0.25)"]
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    for name, by in found.items():
        lejepa, rectified = (by.get(method, NOTHING) for method in METHODS)
        cells = [
            lejepa.cell("untrained") or rectified.cell("untrained"),
            lejepa.cell("trained"),
            rectified.cell("trained"),
            rectified.cell("l0", 3),
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    commits = {one.commit[:10] for by in found.values() for one in by.values() if one.commit}
    lines += ["", f"Measured by {' and '.join(sorted(commits))}."] if commits else []
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_name(f"{out.name}-table.md").write_text("\n".join(lines) + "\n")
    with out.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["architecture", "method", *SOURCES, "commit", "stopped"])
        for name, by in found.items():
            for method, one in by.items():
                values = [one.found.get(column) for column in SOURCES]
                writer.writerow([name, method, *values, one.commit, one.stopped])
    entries = (
        f"{json.dumps(name)}: {json.dumps({m: one._asdict() for m, one in by.items()})}"
        for name, by in found.items()
    )
    part = out.with_suffix(".json.partial")
    part.write_text("{\n" + ",\n".join(entries) + "\n}\n")
    part.replace(out.with_suffix(".json"))  # what is known is never lost by a cut
    return "\n".join(lines)


def _diverged(curve: Sequence[Sequence[float]]) -> bool:
    """Whether the loss ends higher than it began, or as no number."""
    values = [value for _, value in curve]
    few = max(1, len(values) // 10)
    return bool(values) and not mean(values[-few:]) < mean(values[:few])


def summary(found: Everything) -> str:
    """How many learned, in a sentence a method."""
    said = []
    for method in METHODS:
        there = {n: by[method] for n, by in found.items() if method in by}
        ended = {n: one.found for n, one in there.items() if one.found}
        stopped = [n for n, one in there.items() if one.stopped]
        worse = [n for n, one in ended.items() if one["trained"] <= one["untrained"]]
        diverged = [n for n, one in there.items() if _diverged(one.curve)]
        said.append(
            f"{method}: {len(ended)} architectures ended, {len(ended) - len(worse)} better than "
            f"untrained with 10 shots; not better: {', '.join(worse) or 'none'}; diverged: "
            f"{', '.join(diverged) or 'none'}; stopped: {', '.join(stopped) or 'none'}"
        )
    return "\n".join(said)


def figure(found: Everything) -> Figure | None:
    """The loss of every run: a panel an architecture, each curve over its own largest value."""
    drawn = {name: by for name, by in found.items() if any(one.curve for one in by.values())}
    if not drawn:
        return None
    wide = min(8, len(drawn))
    tall = math.ceil(len(drawn) / wide)
    picture = Figure((1.6 * wide, 1.3 * tall + 0.4), layout="constrained")
    grid = picture.subplots(tall, wide, squeeze=False, sharex=True, sharey=True)
    for axes in grid.flat:
        axes.axis("off")
    for axes, (name, by) in zip(grid.flat, drawn.items()):
        axes.axis("on")
        axes.set_title(name.replace("_patch16_224", ""), fontsize=7)
        axes.tick_params(labelsize=6)
        for method, one in by.items():
            if not one.curve:
                continue
            steps, values = zip(*one.curve)
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
    parser.add_argument("--on", choices=list(ON), default="digits", help="the images (%(default)s)")
    parser.add_argument("--names", nargs="+", help="of timm's networks (all of NAMES, of SOME)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (%(default)s)")
    parser.add_argument("--out", type=Path, help="what files of the table begin with (docs/…)")
    parser.add_argument("--work", type=Path, help="the runs' folder (trained_models/…)")
    parser.add_argument("--again", action="store_true", help="forget what <out>.json has")
    options = parser.parse_args([word for word in sys.argv[1:] if word not in words])
    if options.jobs < 1:
        parser.error(f"--jobs is {options.jobs}; give 1 or more")
    here = "architectures" if options.on == "digits" else f"architectures-{options.on}"
    out = options.out or ROOT / "docs" / here
    work = (options.work or ROOT / "trained_models" / here).resolve()
    table = table_of(options.names or ON[options.on][0].split(), options.on)
    known = {} if options.again else read(out.with_suffix(".json"))
    jobs = [Job(name, 5, work / name.replace(" ", "-")) for name in table.rows]
    left = [job for job in jobs if not _among(known, job)]

    def run(job: Job, threads: int | None) -> None:
        attempt(table, job, words, threads)

    for _ in side_by_side(run, left, options.jobs):
        write(seen(left, known), out)
    found = seen(left, known)
    print(write(found, out), summary(found), sep="\n")
    if (picture := figure(found)) is not None:
        picture.savefig(out.with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()
