"""All runs below a folder, in a terminal."""

from __future__ import annotations

import csv
import io
import json
import shlex
import shutil
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import tiny
from hydra.core.override_parser.overrides_parser import OverridesParser

from solo import linear
from solo.config import RunError
from solo.methods import SSLMethod
from solo.pretrain import run
from solo.runs.__main__ import main
from solo.runs.checkpoint_files import LAST
from solo.runs.folder import RunFolder
from solo.runs.lease import claim
from solo.runs.overview import differing, overview, runs_below
from solo.runs.run import how_to_go_on
from solo.runs.saved import SavedRun

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
    (tmp_path / "metrics.csv").write_text("")  # just being written
    assert SavedRun(tmp_path).newest() == {}


def test_by_command(several: Path, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    done = command("-m", "solo.runs", several.parent, "--sort", "val_acc1")
    for said in (
        "done",
        "interrupted",
        "died: CUDA out of memory",
        "data: digits, backbone: resnet10t",
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
    assert main([str(several), "--diff", "done", "cut"]) == 0
    assert "77" in capsys.readouterr().out
    assert main(["--diff", str(several / "done"), str(several / "cut")]) == 0
    said = capsys.readouterr().out
    assert "seed" in said and "77" in said and "backbone" not in said
    (several / "empty").mkdir()
    assert main([str(several / "empty")]) == 1
    refused = {
        str(several / "empty"): ["--diff", str(several / "empty"), str(several / "done")],
        "names one run": ["--diff", str(several / "done")],
        "There is no run below": [str(several), "--diff", "done", "nobody"],
        str(several / "nowhere"): [str(several / "nowhere")],
        "did you mean val_acc1": [str(several), "--sort", "val_ac1"],
        "There is no metric 'nonsense'": [str(several), "--show", "val_acc1", "nonsense"],
    }
    for why, words in refused.items():
        with pytest.raises(SystemExit):
            main(words)
        assert why in capsys.readouterr().err


def test_order_and_damage(several: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (several / "gone/metrics.csv").write_bytes(b"epoch,step,val_acc1\n0,1,99.5\n" + b"\x00\xff" * 9)
    (several / "live/metrics.csv").write_text("epoch,step,val_acc1\n0,1,0.5\n")
    (several / "cut/metrics.csv").unlink()
    for more, expected in ([], "gone done live cut"), (["--reverse"], "live done gone cut"):
        assert main([str(several), "--sort", "val_acc1", *more]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in lines[2:]] == expected.split()
    (several / "cut/config.yaml").write_text("a: [")
    (several / "done/config.yaml").write_bytes(b"\x00\xff")
    assert main([str(several)]) == 0
    said = capsys.readouterr().out
    assert said.count("unreadable: config.yaml cannot be read") == 2 and "gone" in said


def test_a_terminal(
    several: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names are whole where there is little room; Ctrl-C ends a watch as it should."""
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes it for a terminal
    monkeypatch.setenv("COLUMNS", "80")
    watched: list[float] = []

    def sleep(seconds: float) -> None:
        watched.append(seconds)
        if len(watched) > 1:
            raise KeyboardInterrupt

    long = several / "done/environment.json"
    facts = json.loads(long.read_text()) | {"status": "running", "error": "too long " * 40}
    long.write_text(json.dumps(facts))
    monkeypatch.setattr("solo.runs.__main__.time", SimpleNamespace(sleep=sleep))
    assert main([str(several), "--watch", "3"]) == 0 and watched == [3.0, 3.0]
    said = capsys.readouterr().out
    assert "rectified_lpjepa" in said and said.count("too long") < 20


def test_what_evaluations_found(several: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content: dict[str, list[dict[str, Any]]] = {
        "done": [
            {"shots": 1, "model": "raw pixels", "digits": {"mean": 40.0, "std": 1.0}},
            {"shots": 1, "model": "mine", "digits": {"mean": 50.0, "std": None}},
        ],
        "cut": [{"k": 20, "temperature": 0.1, "acc1": 90.0}, {"k": 20, "acc1": 80.0}],
    }
    for name, rows in content.items():
        (several / name / "results.json").write_text(json.dumps(rows))
        file = several / name / "environment.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "model": "mine"}))
    (several / "gone/results.json").write_text('[{"acc1": 9')
    assert main([str(several), "--csv"]) == 0
    rows = {Path(r["folder"]).name: r for r in csv.DictReader(io.StringIO(capsys.readouterr().out))}
    assert rows["done"]["shots 1: digits"] == "50.0" and rows["cut"]["shots 1: digits"] == ""
    assert rows["done"]["shots 1, raw pixels: digits"] == "40.0"
    assert rows["cut"]["k 20: acc1"] == "90.0"
    assert rows["done"]["found"] == "shots 1: digits 50; shots 1, raw pixels: digits 40"
    assert rows["gone"]["found"] == ""
    assert main([str(several), "--sort", "k 20: acc1"]) == 0
    assert capsys.readouterr().out.splitlines()[2].startswith("cut")


def test_what_ended_a_run_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(*_: Any) -> None:
        raise RunError("first line\nthe disk is full")

    monkeypatch.setattr(SSLMethod, "training_step", step)
    with pytest.raises(RunError):
        run(tiny(tmp_path))
    (found,) = runs_below(tmp_path)
    assert (found.status, found.error) == ("died", "first line the disk is full")


def test_what_ended_an_evaluation_is_noted(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(linear, "write_table", fails)
    keys = {"mode": "fast", "pretrained": str(trained), "checkpoint": {"dir": str(tmp_path)}}
    with pytest.raises(OSError, match="no space"):
        linear.run(keys)
    (found,) = runs_below(tmp_path)
    assert (found.status, found.error) == ("died", "OSError: no space left")


@pytest.mark.parametrize("name", ["plain", "with spaces", "it's (1)=x"])
def test_how_to_go_on_can_be_typed(name: str, tmp_path: Path) -> None:
    """What is said goes through the shell, and through Hydra's grammar, as it stands."""
    folder = RunFolder(tmp_path / name)
    folder.checkpoints.mkdir(parents=True)
    (folder.checkpoints / LAST).touch()
    said = how_to_go_on(folder)
    word = said[said.index("so does ") + 8 : said.index(", in a new folder")]
    (typed,) = shlex.split(word)
    (override,) = OverridesParser.create().parse_overrides([typed])
    assert override.value() == str(folder.checkpoints / LAST)
