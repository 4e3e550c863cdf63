"""Resume, signals and damaged checkpoints."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from children import call
from helpers import cut_short, last, rows, state, tiny

from solo.methods import SSLMethod
from solo.pretrain import run
from solo.runs.checkpoint_files import (
    read_checkpoint,
)
from solo.runs.run import RunInterrupted

Command = Callable[..., "subprocess.CompletedProcess[str]"]
ROOT = Path(__file__).resolve().parents[2]


def options(folder: Path, **over: Any) -> dict[str, Any]:
    """A run of 3 epochs of 5 steps that finds its own unfinished state."""
    base: dict[str, Any] = {
        "auto_resume": {"enabled": True},
        "checkpoint": {"every_n_steps": 2},
        "max_epochs": 3,
        "limit_train_batches": 5,
        "optimizer": {"batch_size": 32},
        "mlp_probe": {"enabled": False},
    }
    content = tiny(folder, **{**base, **over})
    content["method_kwargs"]["logging_interval"] = 1
    return content


def in_a_child(content: dict[str, Any], before: Callable[[], None]) -> int:
    """The exit code of a run in a fork of this process."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    before()
    with open(os.devnull, "w") as sys.stdout:
        run(content)
    os._exit(0)


def deadly(step: int) -> None:
    """Let training kill its process inside a step."""
    plain = SSLMethod.training_step

    def training_step(self: SSLMethod, batch: Any, index: int) -> Any:
        if self.trainer.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(self, batch, index)

    SSLMethod.training_step = training_step  # type: ignore[method-assign]


def killed_at_steps(jobs: list[tuple[dict[str, Any], list[int]]]) -> None:
    torch.set_num_threads(1)
    for content, kills in jobs:
        for step in kills:
            assert in_a_child(content, partial(deadly, step)) == -signal.SIGKILL, (step, kills)
        assert in_a_child(content, lambda: None) == 0, kills


def kill_and_compare(folder: Path, plans: list[list[int]], **over: Any) -> None:
    """Every plan of kills ends like the first run, which nobody kills."""
    jobs = [
        (options(folder / str(index), **over), kills) for index, kills in enumerate([[], *plans])
    ]
    call(killed_at_steps, jobs)
    # A run killed before its first save leaves a folder without a checkpoint, and starts anew.
    folders = [
        next((folder / str(i)).glob("*/*/checkpoints/last.ckpt")).parents[1]
        for i in range(len(jobs))
    ]
    expected = torch.load(folders[0] / "checkpoints/last.ckpt", weights_only=True)
    table = (folders[0] / "metrics.csv").read_text()
    for path, kills in zip(folders[1:], plans):
        found = torch.load(path / "checkpoints/last.ckpt", weights_only=True)
        for part in ("state_dict", "optimizer_states", "lr_schedulers", "callbacks"):
            assert same(found[part], expected[part]), (part, kills)
        assert found["global_step"] == expected["global_step"]
        assert comparable(path / "metrics.csv") == comparable(folders[0] / "metrics.csv"), kills
    assert table.count("\n") > 15


def comparable(path: Path) -> list[dict[str, str]]:
    """Rows by column name; the order of columns depends on what was logged first."""
    with path.open() as file:
        return [{k: v for k, v in sorted(row.items()) if v} for row in csv.DictReader(file)]


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def killed_at_random(content: dict[str, Any], folder: str, count: int) -> None:
    """Print how often each of ``count`` runs was killed until it ended; the first is not."""
    torch.set_num_threads(1)
    random.seed(0)
    kills, whole = [], 0.0

    def kill_after(seconds: float) -> None:
        threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()

    for number in range(count + 1):
        content["checkpoint"]["dir"] = f"{folder}/{number}"
        kills.append(0)
        started = time.monotonic()
        # Over the whole course of a run, so that report and summary have their share.
        while code := in_a_child(
            content,
            partial(kill_after, random.uniform(0.05, 1) * whole) if number else lambda: None,
        ):
            assert code == -signal.SIGKILL, code
            kills[-1] += 1
            facts = Path(folder).glob(f"{number}/*/*/environment.json")
            if any(json.loads(file.read_text())["status"] == "finished" for file in facts):
                break  # it had ended; given again, the command would start another
        whole = whole or time.monotonic() - started
    print(json.dumps(kills))


@pytest.mark.slow
def test_runs_killed_at_random_moments(tmp_path: Path) -> None:
    """Training, saving, report and summary: the same end, and nothing trained twice."""
    count = int(os.environ.get("SOLO_KILLED_RUNS", "4"))
    content = options(tmp_path, checkpoint={"every_n_steps": 1})
    kills = json.loads(call(killed_at_random, content, str(tmp_path), count))
    print(f"{sum(kills)} kills in {count} runs")
    assert kills[0] == 0 and sum(kills) >= count // 2
    ends = []
    for number in range(count + 1):
        folders = [f.parent for f in (tmp_path / str(number)).glob("*/*/checkpoints/last.ckpt")]
        folders = [f.parent for f in folders]
        assert len(folders) == 1, folders  # what was killed before its first save has none
        ends.append(folders[0])
        facts = json.loads((ends[-1] / "environment.json").read_text())
        assert facts["status"] == "finished" and (ends[-1] / "report.html").is_file()
    expected = read_checkpoint(ends[0] / "checkpoints/last.ckpt")
    for folder in ends[1:]:
        found = read_checkpoint(folder / "checkpoints/last.ckpt")
        for part in ("state_dict", "optimizer_states", "lr_schedulers", "callbacks"):
            assert same(found[part], expected[part]), (part, folder)
        assert comparable(folder / "metrics.csv") == comparable(ends[0] / "metrics.csv"), folder


@pytest.mark.slow
def test_runs_killed_at_a_step_end_the_same(tmp_path: Path) -> None:
    """Before the first save, around epochs' ends and saves, with a second kill, near the end."""
    kill_and_compare(tmp_path, [[1], [4], [5], [10], [14], [3, 5], [7, 8]])
    kill_and_compare(
        tmp_path / "more",
        [[3], [7]],
        checkpoint={"every_n_steps": 3},
        accumulate_grad_batches=2,
        limit_train_batches=8,
        data={"num_workers": 2},
    )


@pytest.mark.slow
def test_two_processes_killed_at_a_step_end_the_same(tmp_path: Path) -> None:
    """Both are killed at once; the same command finds the run and finishes it."""

    def start(folder: Path) -> subprocess.Popen[bytes]:
        words = [
            "method_kwargs.num_projections=40",
            "method_kwargs.logging_interval=1",
            "data.num_workers=0",
            "optimizer.batch_size=32",
            "checkpoint.every_n_steps=1",
            "auto_resume.enabled=true",
            "accelerator=cpu",
            "devices=2",
            "max_epochs=3",
            "limit_train_batches=5",
            f"checkpoint.dir={folder}",
        ]
        return subprocess.Popen(
            [sys.executable, "main_pretrain.py", *words],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )

    whole = start(tmp_path / "whole")
    assert whole.wait(200) == 0
    expected = read_checkpoint(next((tmp_path / "whole").glob("*/*/checkpoints/last.ckpt")))
    folder = tmp_path / "cut"
    process = start(folder)
    deadline = time.monotonic() + 100
    while not any(",6," in f",{row['step']}," for f in folder.glob("*/*") for row in safe(f)):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert start(folder).wait(200) == 0
    (run_folder,) = folder.glob("*/*")
    found = read_checkpoint(run_folder / "checkpoints/last.ckpt")
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert same(found[part], expected[part]), part
    logged = [int(row["step"]) for row in rows(run_folder) if "train_class_loss" in row]
    assert logged == list(range(15))


def safe(folder: Path) -> list[dict[str, str]]:
    """Rows of a table that is being written."""
    return rows(folder) if (folder / "metrics.csv").exists() else []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, 143),
        (signal.SIGUSR1, 138),
        (signal.SIGINT, 130),
    ],
)
def test_what_a_signal_does(number: signal.Signals, code: int, tmp_path: Path) -> None:
    """SIGTERM, SIGUSR1 and Ctrl-C save after the step and end with the scheduler's exit code."""
    folder = tmp_path / number.name
    words = ["max_epochs=500", f"checkpoint.dir={folder}", "optimizer.batch_size=64"]
    words += ["accelerator=cpu", "backbone.name=resnet10t", "data.num_workers=0"]
    process = subprocess.Popen(
        [sys.executable, "main_pretrain.py", *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 100
    while not list(folder.glob("*/*/metrics.csv")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.2)
    process.send_signal(number)
    text = process.communicate(timeout=60)[0]
    assert process.returncode == code, text
    assert f"{number.name}: saved" in text and "auto_resume.enabled=true" in text
    (path,) = folder.glob("*/*")
    content = read_checkpoint(path / "checkpoints/last.ckpt")
    assert content["global_step"] > 0
    assert json.loads((path / "environment.json").read_text())["status"] == "interrupted"


def test_a_signal_inside_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state after the signal's step; the run goes on from there to the same end."""
    whole = run(options(tmp_path / "whole"))
    folder = cut_short(monkeypatch, options(tmp_path / "cut"), 7)
    assert read_checkpoint(folder / "checkpoints/last.ckpt")["global_step"] == 8
    resumed = run(options(tmp_path / "cut"))
    assert resumed.folder == folder
    assert same(state(resumed), state(whole))
    assert comparable(folder / "metrics.csv") == comparable(whole.folder / "metrics.csv")


def test_a_launcher_that_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """submitit's way: SIGUSR2 requeues once the state is saved; at SIGTERM the run only saves."""
    heard: list[tuple[int, int]] = []

    def launcher(number: int, frame: Any) -> None:
        newest = read_checkpoint(next(tmp_path.glob("*/*/checkpoints/last.ckpt")))
        heard.append((number, newest["global_step"]))

    plain = SSLMethod.training_step
    signals = {2: signal.SIGTERM, 7: signal.SIGUSR2}

    def training_step(self: SSLMethod, batch: Any, index: int) -> Any:
        if self.trainer.global_step in signals:
            os.kill(os.getpid(), signals[self.trainer.global_step])
        return plain(self, batch, index)

    monkeypatch.setattr(SSLMethod, "training_step", training_step)
    before = [signal.signal(number, launcher) for number in signals.values()]
    try:
        with pytest.raises(RunInterrupted) as caught:
            run(options(tmp_path, checkpoint={"every_n_steps": None, "frequency": 100}))
    finally:
        for number, handler in zip(signals.values(), before):
            signal.signal(number, handler)
    assert caught.value.code == 128 + signal.SIGUSR2 and heard == [(signal.SIGUSR2, 8)]
    previous = read_checkpoint(next(tmp_path.glob("*/*/checkpoints/previous.ckpt")))
    assert previous["global_step"] == 3  # after the step of the SIGTERM


@pytest.mark.slow
def test_a_run_goes_on_from_the_file_before_a_damaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = run(options(tmp_path / "whole"))
    cut = cut_short(monkeypatch, options(tmp_path / "cut"), 7)
    # Another config makes a new run, and says why.
    other = run(options(tmp_path / "cut", max_epochs=1))
    assert other.folder != cut
    said = capfd.readouterr().out
    assert "is not continued" in said and "max_epochs (3, now 1)" in said
    (cut / "checkpoints/last.ckpt").write_bytes(b"")
    resumed = run(options(tmp_path / "cut"))
    assert resumed.folder == cut
    said = capfd.readouterr().out
    assert "last.ckpt is passed over: it is empty" in said and "previous.ckpt" in said
    assert same(state(resumed), state(whole))


def test_a_full_disk_costs_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The second save finds no space; the first stays, and training goes on."""
    import solo.runs.checkpoint_files as io

    saves = []
    plain = os.fsync

    def fsync(descriptor: int) -> None:
        saves.append(descriptor)
        if len(saves) == 2:
            raise OSError(28, "No space left on device")
        plain(descriptor)

    monkeypatch.setattr(io.os, "fsync", fsync)
    result = run(tiny(tmp_path, max_epochs=2))
    said = capfd.readouterr().out
    assert "No space left on device" in said and "training goes on" in said
    assert last(result)["global_step"] == 6
    assert not list(result.folder.glob("checkpoints/*.partial"))
    assert len([row for row in rows(result.folder) if "val_acc1" in row]) == 2


def test_saving_by_steps_and_minutes(tmp_path: Path) -> None:
    result = run(options(tmp_path, checkpoint={"enabled": True, "every_n_minutes": 1e-6}))
    names = {file.name for file in (result.folder / "checkpoints").iterdir()}
    assert names == {"last.ckpt", "last.ckpt.sha256", "previous.ckpt", "previous.ckpt.sha256"}
    content = torch.load(result.folder / "checkpoints/previous.ckpt", weights_only=True)
    assert content["global_step"] == 14  # the step before the last
    position = next(v for k, v in content.items() if "ImageData" in k)
    assert position == {"epoch": 2, "batch": 4}
