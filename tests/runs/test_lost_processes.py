"""Processes that are killed under a run: a loader's worker, or one of several ranks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import rows

from solo.runs.checkpoint_files import read_checkpoint

ROOT = Path(__file__).resolve().parents[2]


def start(folder: Path, *more: str) -> subprocess.Popen[str]:
    words = [
        "method_kwargs.num_projections=40",
        "method_kwargs.logging_interval=1",
        "optimizer.batch_size=32",
        "checkpoint.every_n_steps=1",
        "accelerator=cpu",
        "max_epochs=500",
        f"checkpoint.dir={folder}",
        *more,
    ]
    process = subprocess.Popen(
        [sys.executable, "main_pretrain.py", *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 100
    while not any(len(rows(file.parent)) > 5 for file in folder.glob("*/*/metrics.csv")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    return process


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


def is_gone(pid: int) -> bool:
    """No such process, or one that only waits for its parent to look."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def check_what_is_left(folder: Path) -> None:
    (run,) = folder.glob("*/*")
    assert read_checkpoint(run / "checkpoints/last.ckpt")["global_step"] > 0
    assert [int(row["step"]) for row in rows(run)][:5] == [0, 1, 2, 3, 4]


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
@pytest.mark.slow
def test_a_loader_process_is_killed(tmp_path: Path) -> None:
    process = start(tmp_path, "data.num_workers=1")
    workers = [
        child
        for child in children(process.pid)
        if "main_pretrain.py" in Path(f"/proc/{child}/cmdline").read_text()
    ]
    assert len(workers) == 1
    os.kill(workers[0], signal.SIGKILL)
    text = process.communicate(timeout=60)[0]
    assert process.returncode == 1
    assert text.strip().splitlines()[-1].startswith("A loader process was killed"), text
    assert "data.num_workers" in text and "++auto_resume.enabled=true" in text
    check_what_is_left(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_is_killed(rank: int, tmp_path: Path) -> None:
    """The other one ends within a minute, and says why."""
    process = start(tmp_path, "devices=2", "data.num_workers=0")
    (second,) = [
        child
        for child in children(process.pid)
        if "main_pretrain.py" in Path(f"/proc/{child}/cmdline").read_text()
    ]
    killed, other = (process.pid, second) if rank == 0 else (second, process.pid)
    at = time.monotonic()
    os.kill(killed, signal.SIGKILL)
    while not is_gone(other):
        assert time.monotonic() < at + 60
        time.sleep(0.1)
    text = process.communicate(timeout=60)[0]
    assert process.returncode
    assert "Another process of this run is gone" in text, text
    check_what_is_left(tmp_path)
