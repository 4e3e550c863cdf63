"""Job scripts on a real Slurm of one node, and of two; needs slurm-wlm and munge, and root."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from children import free_ports
from helpers import rows

from solo.runs.checkpoint_files import read_checkpoint

ROOT = Path(__file__).resolve().parents[2]
HAS_SLURM = all(map(shutil.which, ("slurmctld", "slurmd", "munged"))) and os.getuid() == 0
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not HAS_SLURM, reason="needs root, and packages slurm-wlm and munge"),
]


class Slurm:
    """Commands to the cluster of the tests."""

    def __init__(self, folder: Path) -> None:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.folder = folder
        self.env = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": path}
        self.env["OMP_NUM_THREADS"] = "1"

    def __call__(self, *words: str) -> str:
        done = subprocess.run(
            words, cwd=ROOT, env=self.env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout.strip()

    def submit(self, script: str, *options: str) -> str:
        """Options of sbatch, then "--", then arguments of the job script; the job's number."""
        at = options.index("--") if "--" in options else len(options)
        log = f"--output={self.folder}/%j.out"
        script = script if script == "--wrap=true" else f"sbatch_scripts/{script}"
        job = self("sbatch", "--parsable", log, *options[:at], script, *options[at + 1 :])
        return job

    def state(self, job: str) -> str:
        text = self("scontrol", "show", "job", job)
        return text.split("JobState=")[1].split()[0]

    def log(self, job: str) -> str:
        return "\n".join(file.read_text() for file in sorted(self.folder.glob(f"{job}*.out")))

    def wait(self, job: str, until: Callable[[], bool], seconds: float = 150) -> None:
        deadline = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < deadline, self.story(job)
            time.sleep(0.2)

    def story(self, job: str) -> str:
        """What Slurm knows of a job, the ends of its daemons' logs, and what the job printed."""
        logs = (self.folder / "slurmctld.log", *sorted(self.folder.glob("slurmd-*.log")))
        ends = ["\n".join(file.read_text().splitlines()[-40:]) for file in logs if file.exists()]
        return "\n\n".join((self("scontrol", "show", "job", job), *ends, self.log(job)))

    def restart(self, job: str) -> None:
        """Start a requeued job now, where Slurm would wait two minutes for its end to settle."""

        def begun() -> bool:
            if self.state(job) == "PENDING":
                if self("sinfo", "--noheader", "--format=%T") == "idle":
                    time.sleep(2)  # a job that starts in the second of its end is refused
                    words = ("scontrol", "update", f"JobId={job}", "StartTime=now")
                    subprocess.run(words, env=self.env, check=False)  # it may begin by itself
                return False
            return True

        self.wait(job, begun)

    def finish(self, job: str) -> str:
        self.wait(job, lambda: self.state(job) not in ("PENDING", "RUNNING", "COMPLETING"))
        return self.state(job)


@contextmanager
def cluster(nodes: int) -> Iterator[Slurm]:
    """In a folder of a short name: its sockets' paths have 108 characters at most."""
    place = tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp", ignore_cleanup_errors=True)
    folder, (port,) = Path(place.name), free_ports(1)
    script = str(ROOT / "tests/slurm/cluster.sh")
    subprocess.run([script, "start", str(folder), str(port), str(nodes)], check=True)
    made = Slurm(folder)
    made.env["MASTER_ADDR"] = "127.0.0.1"  # names of nodes lead nowhere here
    try:
        deadline = time.monotonic() + 60
        while made("sinfo", "--noheader", "--format=%T") != "idle":
            assert time.monotonic() < deadline, (folder / "slurmctld.log").read_text()
            time.sleep(0.2)
        yield made
    finally:
        subprocess.run([script, "stop", str(folder)], check=False, env=made.env)
        place.cleanup()


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    with cluster(nodes=1) as made:
        yield made


CPU = ("--gpus-per-node=0", "--cpus-per-task=1", "--time=20", "--mem=0")
SMALL = (
    "method_kwargs.num_projections=40",
    "method_kwargs.logging_interval=1",
    "data.num_workers=0",
    "optimizer.batch_size=32",
    "accelerator=cpu",
    "limit_train_batches=40",
)


def test_a_preempted_job_is_requeued_and_ends_the_same(slurm: Slurm, tmp_path: Path) -> None:
    """Two processes; a job of higher priority takes the node in the middle of the run."""

    def submit(folder: Path) -> str:
        two = ("--nodes=1", "--ntasks-per-node=2", "--partition=low", *CPU)
        words = (*SMALL, "max_epochs=3", f"checkpoint.dir={folder}")
        return slurm.submit("multi_node.sh", *two, "--", *words)

    whole = submit(tmp_path / "whole")
    assert slurm.finish(whole) == "COMPLETED", slurm.log(whole)

    job = submit(tmp_path / "cut")
    slurm.wait(job, lambda: len(list((tmp_path / "cut").glob("*/*/metrics.csv"))) == 1)
    (cut,) = (tmp_path / "cut").glob("*/*")
    slurm.wait(job, lambda: len(rows(cut)) > 10)
    urgent = slurm.submit("--wrap=true", "--partition=high", "--ntasks=2")
    assert slurm.finish(urgent) == "COMPLETED"
    slurm.wait(job, lambda: slurm.state(job) == "PENDING")
    assert "SIGTERM: saved" in slurm.log(job)
    saved = int(read_checkpoint(cut / "checkpoints/last.ckpt")["global_step"])
    assert 0 < saved < 120
    slurm.restart(job)
    assert slurm.finish(job) == "COMPLETED", slurm.log(job)
    assert "continuing from" in slurm.log(job)

    (expected,) = (tmp_path / "whole").glob("*/*")
    contents = [read_checkpoint(run / "checkpoints/last.ckpt") for run in (expected, cut)]
    for name, value in contents[0]["state_dict"].items():
        assert value.equal(contents[1]["state_dict"][name]), name
    assert rows(cut) == rows(expected)


def test_two_nodes_and_one_is_lost(tmp_path: Path) -> None:
    """Two slurmd; Slurm takes one for lost, and the job goes on when it is back."""
    with cluster(nodes=2) as two:
        words = (*SMALL, "max_epochs=3", "checkpoint.every_n_steps=10")
        both = ("--nodes=2", "--ntasks-per-node=1", *CPU)

        def submit(folder: Path) -> str:
            return two.submit("multi_node.sh", *both, "--", *words, f"checkpoint.dir={folder}")

        whole = submit(tmp_path / "whole")
        assert two.finish(whole) == "COMPLETED", two.log(whole)
        job = submit(tmp_path / "cut")
        two.wait(job, lambda: any(rows(f.parent) for f in tmp_path.glob("cut/*/*/metrics.csv")))
        (cut,) = (tmp_path / "cut").glob("*/*")
        two.wait(job, lambda: len(rows(cut)) > 15)
        two("scontrol", "update", "NodeName=node2", "State=DOWN", "Reason=lost")
        two.wait(job, lambda: two.state(job) in ("PENDING", "REQUEUED"))
        # It comes back when it next registers, at once or minutes later.
        back = ("scontrol", "update", "NodeName=node2", "State=RESUME")
        subprocess.run(back, env=two.env, check=False, capture_output=True)
        two.restart(job)
        assert two.finish(job) == "COMPLETED", two.log(job)
        assert "continuing from" in two.log(job)
    (expected,) = (tmp_path / "whole").glob("*/*")
    assert rows(cut) == rows(expected)


def test_the_end_of_its_time_and_a_cancelled_job(slurm: Slurm, tmp_path: Path) -> None:
    """SIGUSR1 before the end of its time requeues a job; scancel does not."""
    words = (*SMALL, "max_epochs=100", "scheduler.warmup_epochs=1", f"checkpoint.dir={tmp_path}")
    job = slurm.submit("one_gpu.sh", *CPU, "--", *words)

    def training() -> bool:
        return any(
            len(rows(run)) > 5 for run in tmp_path.glob("*/*") if (run / "metrics.csv").exists()
        )

    slurm.wait(job, training)
    slurm("scancel", "--signal=USR1", job)  # what --signal=USR1@120 does, without the wait
    slurm.wait(job, lambda: slurm.state(job) == "PENDING")
    assert "SIGUSR1: saved" in slurm.log(job)
    slurm.restart(job)
    slurm.wait(job, lambda: "continuing from" in slurm.log(job))
    slurm("scancel", job)
    assert slurm.finish(job) == "CANCELLED"


def test_an_array_sweeps_mu_and_p(slurm: Slurm, tmp_path: Path) -> None:
    words = (*SMALL, "max_epochs=1", "limit_train_batches=2", f"checkpoint.dir={tmp_path}")
    job = slurm.submit("sweep_mu_p.sh", "--array=0,10", *CPU, "--", *words)
    for task in (f"{job}_0", f"{job}_10"):
        assert slurm.finish(task) == "COMPLETED", slurm.log("")
    names = sorted(path.name.rsplit("-", 3)[0] for path in tmp_path.glob("*/sweep-*"))
    assert names == [f"sweep-{job}-mu-3-p0.5", f"sweep-{job}-mu0-p1"]

    slurm.env["RUNS"] = str(tmp_path)
    words = ("--config-name", "fast", "accelerator=cpu")
    linear = slurm.submit("linear_array.sh", "--array=0-2", *CPU, "--", job, *words)
    for task in range(3):  # the third finds nothing left to do
        assert slurm.finish(f"{linear}_{task}") == "COMPLETED", slurm.log("")
    results = [json.loads(file.read_text()) for file in tmp_path.glob("linear/*/results.json")]
    assert len(results) == 2 and all(rows[0]["acc1"] > 50 for rows in results)


def test_a_table_is_a_job_for_each_run(slurm: Slurm, tmp_path: Path) -> None:
    """Submitted once, gone on with after its time was over, and collected by the same command."""
    options = " ".join((*CPU, f"--output={tmp_path}/%j.out"))
    places = ("--work", str(tmp_path / "work"), "--out", str(tmp_path / "table"))
    words = ("--rows", "vicreg", "lejepa", "--seeds", "3", "max_epochs=12", "accelerator=cpu")

    def give() -> str:
        table = ("scripts/utils/reproduce.py", "digits", *places, f"--slurm={options}")
        return slurm(sys.executable, *table, *words, "scheduler.warmup_epochs=0")

    first = give()
    assert "0 of 2 runs are measured, 0 were in the queue, 2 were submitted" in first
    job, other = sorted(line.split()[-1] for line in first.splitlines() if "Submitted" in line)
    logs = (tmp_path / "work/vicreg-3").glob
    slurm.wait(job, lambda: any(rows(log.parent) for log in logs("vicreg/*/metrics.csv")))
    slurm("scancel", "--signal=USR1", job)  # what --signal=USR1@120 does, without the wait
    slurm.wait(job, lambda: slurm.state(job) == "PENDING")
    assert "2 were in the queue, 0 were submitted" in give()
    slurm.finish(other)
    slurm.restart(job)
    assert slurm.finish(job) == "COMPLETED", (tmp_path / f"{job}.out").read_text()
    assert "continuing from" in (tmp_path / f"{job}.out").read_text()
    last = give()
    assert "2 of 2 runs are measured" in last
    assert "| vicreg |" in last and "| raw pixels |" in last  # of lejepa's evaluation


def test_a_sweep_from_the_login_node(slurm: Slurm, tmp_path: Path) -> None:
    """Hydra's submitit launcher: one job for each value; this command waits for all."""
    launcher = (
        "hydra/launcher=submitit_slurm",
        "hydra.launcher.partition=high",
        "hydra.launcher.timeout_min=10",
        "hydra.launcher.cpus_per_task=1",
        "hydra.launcher.mem_gb=1",
    )
    words = ("max_epochs=1", "limit_train_batches=2", f"checkpoint.dir={tmp_path}", *SMALL[:-1])
    sweep = ("-m", "method_kwargs.target_l0=0.25,0.5")
    slurm(sys.executable, "main_pretrain.py", *sweep, *launcher, *words)
    found = sorted(tmp_path.glob("rectified_lpjepa/*/config.yaml"))
    assert len(found) == 2
    texts = "".join(file.read_text() for file in found)
    assert "target_l0: 0.25" in texts and "target_l0: 0.5" in texts
