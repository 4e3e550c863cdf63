"""All runs below a folder, in a terminal."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from helpers import tiny

from solo.config import RunError
from solo.methods import SSLMethod
from solo.pretrain import run
from solo.runs import SavedRun
from solo.runs.__main__ import main
from solo.runs.lease import claim
from solo.runs.overview import differing, overview, runs_below

Command = Callable[..., CompletedProcess[str]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    content = tiny(tmp_path_factory.mktemp("one"), mlp_probe={"enabled": False})
    return run(content).folder


@pytest.fixture
def several(trained: Path, tmp_path: Path) -> Path:
    """The finished run, and copies in other states."""
    states: dict[str, dict[str, Any]] = {
        "done": {},
        "cut": {"status": "interrupted"},
        "gone": {"status": "running", "error": "CUDA out of memory"},
        "live": {"status": "running"},
    }
    for name, facts in states.items():
        folder = tmp_path / "vicreg" / name
        shutil.copytree(trained, folder, ignore=shutil.ignore_patterns("checkpoints", ".lease*"))
        file = folder / "environment.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **facts}))
    return tmp_path / "vicreg"


def test_states(several: Path) -> None:
    started = datetime.now(timezone.utc) - timedelta(minutes=10)
    file = several / "live/environment.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "started": started.isoformat()}))
    lease = claim(several / "live")
    assert not isinstance(lease, str)
    try:
        found = {item.folder.name: item for item in runs_below(several.parent)}
    finally:
        lease.release()
    assert {name: item.status for name, item in found.items()} == {
        "done": "finished",
        "cut": "interrupted",
        "gone": "died",
        "live": "running",
    }
    assert found["gone"].error == "CUDA out of memory" and found["done"].error == ""
    done, live = found["done"], found["live"]
    assert (done.kind, done.dataset, done.backbone) == ("rectified_lpjepa", "digits", "resnet10t")
    assert (done.epoch, done.epochs) == (2, 2) and done.left is None
    assert live.epoch == 1 and live.left is not None and 0 < live.left < 601
    assert done.values["val_acc1"] == SavedRun(several / "done").metrics.last()["val_acc1"]
    assert overview(several / "live").status == "died"  # its lease is gone


def test_the_newest_values_of_a_long_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    rows = [
        f"{step // 100},{step},{step / 7},{step if step % 50 == 0 else ''}" for step in range(9000)
    ]
    path.write_text("epoch,step,train_loss,val_acc1\n" + "\n".join(rows) + "\n90,90")
    assert path.stat().st_size > 2**17
    found = SavedRun(tmp_path).newest()
    assert found == {"epoch": 90.0, "step": 90.0, "train_loss": 8999 / 7, "val_acc1": 8950.0}
    path.write_text("epoch,step\n0,1\n")
    assert SavedRun(tmp_path).newest() == {"epoch": 0.0, "step": 1.0}
    assert SavedRun(tmp_path / "none").newest() == {}


def test_by_command(several: Path, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    done = command("-m", "solo.runs", several.parent, "--sort", "val_acc1")
    for said in (
        "done",
        "interrupted",
        "died: CUDA out of memory",
        "linear probe, backbone",
        "2/2",
    ):
        assert said in " ".join(done.stdout.split()), done.stdout
    assert main([str(several), "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == 4 and {row["status"] for row in rows} == {"finished", "interrupted", "died"}
    assert all(0 <= float(row["val_acc1"]) <= 100 for row in rows)
    config = several / "cut/config.yaml"
    config.write_text(config.read_text().replace("seed: 5", "seed: 77"))
    assert differing([several / "done", several / "cut"]) == [("seed", [5, 77])]
    assert main(["--diff", str(several / "done"), str(several / "cut")]) == 0
    said = capsys.readouterr().out
    assert "seed" in said and "77" in said and "backbone" not in said
    (several / "empty").mkdir()
    assert main([str(several / "empty")]) == 1
    for words in (["--diff", str(several / "empty")], [str(several / "nowhere")]):
        with pytest.raises(SystemExit):
            main(words)
        assert str(several) in capsys.readouterr().err


def test_what_ended_a_run_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(*_: Any) -> None:
        raise RunError("first line\nthe disk is full")

    monkeypatch.setattr(SSLMethod, "training_step", step)
    with pytest.raises(RunError):
        run(tiny(tmp_path))
    (found,) = runs_below(tmp_path)
    assert (found.status, found.error) == ("died", "the disk is full")
