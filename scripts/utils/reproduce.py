"""Train the rows of a table, several seeds each, and put what came out beside what is published.

    python scripts/utils/reproduce.py <table> [--seeds 5 1 2] [--rows vicreg simclr …] [key=value …]
    python scripts/utils/reproduce.py <table> --jobs 2                  # two runs at a time
    python scripts/utils/reproduce.py <table> --slurm="--partition=gpu" # a job for each run

A table is a file of scripts/tables: recipes, overrides, how runs are evaluated, what its columns
are. Words of the form key=value go to every run (``devices=8``, ``data.train_path=…``). A finished
run is not repeated and an unfinished one is gone on with, so the command can be cut short and given
again; the table is written anew after every run. With --slurm, what is neither measured nor in the
queue is submitted (sbatch_scripts/table_row.sh), and the table has what is there: give the same
command again to collect.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from pydantic import ValidationError
from rich.progress import track
from yaml import safe_load

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from solo.report.tables import (
    Measured,
    Table,
    curves,
    figure,
    markdown,
    recorded,
    records,
)
from solo.runs.saved import Metrics, SavedRun

ROOT = Path(__file__).resolve().parents[2]
TABLES = ROOT / "scripts/tables"


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


class Job(NamedTuple):
    """One run of a row."""

    name: str
    seed: int
    folder: Path

    @property
    def measured(self) -> Path:
        """What was found, once it was."""
        return self.folder / "measured.json"


def folder_name(row: str, seed: int) -> str:
    """Of a run: the row's words and signs, and the seed."""
    return "-".join([*re.findall(r"-?[\w.]+", row), str(seed)])


def measure(table: Table, job: Job, words: list[str], threads: int | None = None) -> None:
    """Train and evaluate one run in its folder, unless that was done before.

    Raises:
        CalledProcessError: where the training or the evaluation failed.
    """
    if job.measured.is_file():
        return
    row, folder = table.rows[job.name], job.folder
    recipe = row.recipe or job.name
    place = [f"checkpoint.dir='{folder}'", f"seed={job.seed}"]
    recipes = ["--config-path", str(ROOT / table.recipes), "--config-name", recipe]
    start, whole = time.monotonic(), not folder.exists()
    if not finished(folder):
        chosen = [*table.overrides, *row.overrides, *words]
        resume = "auto_resume.enabled=true"
        _call("main_pretrain.py", *recipes, *place, resume, *chosen, threads=threads)
    times = {"minutes": (time.monotonic() - start) / 60} if whole else {}
    run = finished(folder)
    assert run is not None, folder
    last = SavedRun(run).metrics.last()
    found = times | last
    if table.evaluation is not None:
        extra = [f"few_shot.baselines={bool(row.floors or row.others)}"] if _few_shot(table) else []
        chosen = [*table.evaluation, *place, f"pretrained='{run}'", *extra]
        _call("main_linear.py", *chosen, threads=threads)
        found |= _evaluated(folder, run.name)
    job.measured.write_text(json.dumps(found))


def _few_shot(table: Table) -> bool:
    return any(source.startswith("shots/") for source in table.columns.values())


def finished(folder: Path) -> Path | None:
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
    saved = SavedRun(newest)
    for entry in saved.results():
        if "shots" not in entry:  # of a trained probe: its values are its metrics
            continue
        scores = [value for value in entry.values() if isinstance(value, float)]
        prefix = "" if entry["model"] == trained else f"{entry['model']}/"
        found[f"{prefix}shots/{entry['shots']}"] = mean(scores)
    last = saved.metrics.last()
    return found | {f"linear/{name}": value for name, value in last.items()}


def _call(script: str, *words: str, threads: int | None = None) -> None:
    command = [sys.executable, str(ROOT / script), *words]
    if "SLURM_JOB_ID" in os.environ:  # the steps of a job: a process a GPU, on every node
        tasks, nodes = os.environ.get("SLURM_NTASKS_PER_NODE", "1"), os.environ["SLURM_NNODES"]
        start = ["srun", "--kill-on-bad-exit=0", "--wait=600"]
        if script == "main_linear.py":
            start, tasks, nodes = [*start, "--nodes=1", "--ntasks=1"], "1", "1"
        command = [*start, *command, f"devices={tasks}", f"num_nodes={nodes}"]
    environment = dict(os.environ)
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    shown = "SLURM_JOB_ID" in os.environ  # in the job's log
    subprocess.run(command, capture_output=not shown, text=True, check=True, env=environment)


def side_by_side(
    run: Callable[[Job, int | None], None], jobs: Sequence[Job], at_once: int
) -> Iterator[Job]:
    """Each job as it ends; the first that fails ends the others' waiting.

    Args:
        run: does a job, with so many threads (None: as many as it likes).
        jobs: to do.
        at_once: how many at a time.
    """
    threads = max(1, (os.cpu_count() or 1) // at_once) if at_once > 1 else None
    with ThreadPoolExecutor(at_once) as pool:
        running = {pool.submit(run, job, threads): job for job in jobs}
        try:
            for done in track(as_completed(running), "Training", total=len(running)):
                done.result()
                yield running[done]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _submit(
    options: argparse.Namespace, jobs: Sequence[Job], work: Path, words: Sequence[str]
) -> str:
    """Put what is neither measured nor in the queue there; what to say of it."""
    if shutil.which("sbatch") is None:
        sys.exit("--slurm needs Slurm's sbatch, which is not here; leave it out to train locally")
    ask = ["squeue", "--noheader", "--format=%j", "--user", str(os.getuid())]
    queue = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.split()
    waiting = submitted = 0
    for job in jobs:
        if job.measured.is_file():
            continue
        name = f"{options.table}-{job.folder.name}"
        if name in queue:
            waiting += 1
            continue
        submitted += 1
        chosen = [options.table, "--rows", job.name, "--seeds", str(job.seed), "--work", str(work)]
        script = ["sbatch_scripts/table_row.sh", *chosen, "--no-table", *words]
        command = ["sbatch", f"--job-name={name}", *shlex.split(options.slurm), *script]
        subprocess.run(command, check=True, cwd=ROOT)
    measured = len(jobs) - waiting - submitted
    return (
        f"{measured} of {len(jobs)} runs are measured, {waiting} were in the queue, {submitted} "
        "were submitted; the same command collects what is done"
    )


def write(table: Table, jobs: Sequence[Job], out: Path, kept: Kept) -> str:
    """The table as .md, every run as .csv, the figures as .png; what the first says."""
    there, commits = found_in(jobs, kept)
    found = {name: there[name] for name in table.rows if name in there}
    text = markdown(table, found)
    if made := sorted({commit[:10] for commit in commits.values() if commit}):
        text += f"\n\nMeasured by {' and '.join(made)}."
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".md").write_text(text + "\n")
    with out.with_suffix(".csv").open("w", newline="") as file:
        csv.writer(file).writerows(records(table, found, commits))
    if table.figure is not None and any(found.values()):
        figure(table, found).savefig(out.with_suffix(".png"), dpi=110)
    if table.curve is not None and (drawn := _logged(table.curve, jobs)):
        picture = curves(table.curve, drawn)
        picture.savefig(out.with_name(f"{out.name}-curves.png"), dpi=110)
    return text


def _logged(metric: str, jobs: Sequence[Job]) -> dict[str, list[Metrics]]:
    """What runs logged, by row, where they logged the metric."""
    drawn: dict[str, list[Metrics]] = {}
    for job in jobs:
        run = finished(job.folder) if job.measured.is_file() else None
        if run is not None and metric in (metrics := SavedRun(run).metrics):
            drawn.setdefault(job.name, []).append(metrics)
    return drawn


def overrides(given: Sequence[str]) -> list[str]:
    """Words of the form key=value, also after options that take several words."""
    return [word for word in given if re.match(r"[^-].*=", word)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing, write what is there."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    words = overrides(given)
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n", 1)[0],
        usage="%(prog)s <table> [options] [key=value …]",
        epilog="Words of the form key=value are overrides for every run.",
    )
    parser.add_argument("table", help="a file of scripts/tables, without .yaml")
    parser.add_argument("--seeds", type=int, nargs="+", help="the table's if nothing is said")
    parser.add_argument("--rows", nargs="+", help="all if nothing is said")
    parser.add_argument("--out", type=Path, help="path of table and figure, without suffix")
    parser.add_argument("--work", type=Path, help="folder of the runs")
    parser.add_argument(
        "--keep", action="store_true", help="what the table's .csv has is not measured again"
    )
    parser.add_argument("--no-table", action="store_true", help="measure only")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--jobs", type=int, default=1, help="runs at a time, on this machine")
    where.add_argument(
        "--slurm",
        nargs="?",
        const="",
        metavar="OPTIONS",
        help="a Slurm job a run; sbatch's options",
    )
    options = parser.parse_args([word for word in given if word not in words])
    table = load(options.table)
    chosen = options.rows or list(table.rows)
    if missing := [name for name in chosen if name not in table.rows]:
        parser.error(f"the table has no row {missing[0]}, but {', '.join(table.rows)}")
    if options.jobs < 1:
        parser.error(f"--jobs is {options.jobs}; give 1 or more")
    out = options.out or ROOT / "docs" / options.table
    work = (options.work or ROOT / "trained_models/tables" / options.table).resolve()
    kept = Kept({}, {})
    if options.keep and out.with_suffix(".csv").is_file():
        kept = Kept.of(table, out.with_suffix(".csv"))
    jobs = [
        Job(name, seed, work / folder_name(name, seed))
        for seed in options.seeds or table.seeds
        for name in chosen
    ]

    def run(job: Job, threads: int | None) -> None:
        measure(table, job, words, threads)

    left = [job for job in jobs if not kept.has(job)]
    ready = side_by_side(run, left, options.jobs) if options.slurm is None else ()
    try:
        for _ in ready:
            if not options.no_table:
                write(table, jobs, out, kept)
    except subprocess.CalledProcessError as error:
        command = shlex.join(error.cmd)
        tails = [(text or "")[-2000:] for text in (error.stdout, error.stderr)]
        print(command, *tails, sep="\n", file=sys.stderr)
        sys.exit(error.returncode)
    said = _submit(options, left, work, words) if options.slurm is not None else ""
    if not options.no_table:
        print(write(table, jobs, out, kept))
    print(said, end="\n" if said else "")


class Kept(NamedTuple):
    """Runs of an earlier table: what was found, by row, and the commits."""

    found: dict[str, list[Measured]]
    commits: dict[tuple[str, int], str]

    @classmethod
    def of(cls, table: Table, path: Path) -> Kept:
        """What a table's .csv holds."""
        with path.open(newline="") as file:
            return cls(*recorded(table, list(csv.DictReader(file))))

    def has(self, job: Job) -> bool:
        """Whether a run is among them."""
        return any(int(value["seed"]) == job.seed for value in self.found.get(job.name, ()))


def found_in(jobs: Sequence[Job], kept: Kept) -> Kept:
    """What was measured so far, by row."""
    names = dict.fromkeys([*kept.found, *(job.name for job in jobs)])
    found = {name: list(kept.found.get(name, ())) for name in names}
    commits = dict(kept.commits)
    for job in jobs:
        if job.measured.is_file() and not kept.has(job):
            content = json.loads(job.measured.read_text())
            found[job.name].append({"seed": job.seed, **content})
            run = finished(job.folder)
            commits[job.name, job.seed] = (SavedRun(run).facts.get("git") or "") if run else ""
    return Kept(found, commits)


if __name__ == "__main__":
    main()
