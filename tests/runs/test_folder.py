"""Which folder a run takes, and that nobody else has it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from children import start
from helpers import tiny

from solo.config import Config, ConfigError
from solo.methods import resolve_config
from solo.runs.checkpoint_files import write_checkpoint
from solo.runs.folder import RunFolder, check_writable, choose_folder
from solo.runs.lease import STALE, Lease, claim

ROOT = Path(__file__).resolve().parents[2]


def config(folder: Path, **over: Any) -> Config:
    return resolve_config(tiny(folder, **{"auto_resume": {"enabled": True}, **over}))


def unfinished(folder: Path) -> Path:
    """What a killed run leaves: its folder, a checkpoint, and a claim of a process that is gone."""
    chosen = choose_folder(config(folder), pytest.fail)
    chosen.create(config(folder))
    write_checkpoint({"state_dict": {}}, chosen.checkpoints / "last.ckpt")
    assert chosen.lease is not None
    gone = subprocess.Popen(["true"])
    gone.wait()
    chosen.lease.release()
    chosen.lease.path.write_text(
        f'{{"host": "{os.uname().nodename}", "pid": {gone.pid}, "slurm_job": null}}'
    )
    return chosen.path


def choose(folder: str) -> None:
    """Wait for a moment that all know, choose, and hold on to the folder for a while."""
    print("ready", flush=True)
    sys.stdin.readline()
    chosen = choose_folder(config(Path(folder)), lambda text: None)
    print(chosen.path, bool(chosen.resume_from), flush=True)
    sys.stdin.readline()


def line(child: subprocess.Popen[str]) -> str:
    """The next that it prints."""
    assert child.stdout is not None
    return child.stdout.readline().strip()


@pytest.mark.slow
def test_runs_started_at_the_same_moment(tmp_path: Path) -> None:
    """Of four, one continues the unfinished run; all have folders of their own."""
    path = unfinished(tmp_path)
    starters = [start(choose, str(tmp_path)) for _ in range(4)]
    assert [line(starter) for starter in starters] == ["ready"] * 4
    for starter in starters:
        print(file=starter.stdin, flush=True)
    answers = [line(starter).split() for starter in starters]
    for starter in starters:
        starter.communicate("\n")
    assert len({folder for folder, _ in answers}) == 4
    assert [folder for folder, continued in answers if continued == "True"] == [str(path)]


def test_who_holds_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = claim(tmp_path)
    assert isinstance(first, Lease)
    other = tmp_path / ".lease-7"

    def held_by(host: str, pid: int, age: float, job: str | None = None) -> Lease | str:
        for file in tmp_path.glob(".lease-*"):
            file.unlink()
        slurm = f'"{job}"' if job else "null"
        other.write_text(f'{{"host": "{host}", "pid": {pid}, "slurm_job": {slurm}}}')
        os.utime(other, (time.time() - age,) * 2)
        found = claim(tmp_path)
        if isinstance(found, Lease):
            assert sorted(tmp_path.glob(".lease-*")) == [tmp_path / ".lease-8"]
            found.release()
        return found

    here, parent = os.uname().nodename, os.getppid()
    assert held_by(here, parent, 0) == f"process {parent} on {here}"
    assert held_by("elsewhere", 1, STALE - 10) == "process 1 on elsewhere"
    assert isinstance(held_by("elsewhere", 1, STALE + 10), Lease)
    assert isinstance(held_by(here, 2**22 + 1, 0), Lease)
    # A requeued job is its own successor, on whatever machine.
    assert held_by("elsewhere", 1, 0, "17") == "process 1 on elsewhere"
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert isinstance(held_by("elsewhere", 1, 0, "17"), Lease)
    assert held_by("elsewhere", 1, 0, "18") == "process 1 on elsewhere"
    first.release()


def test_an_old_run_is_named_and_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = unfinished(tmp_path)
    old = time.time() - 40 * 3600
    os.utime(path / "checkpoints/last.ckpt", (old, old))
    said: list[str] = []
    chosen = choose_folder(config(tmp_path), said.append)
    assert chosen.path != path and chosen.resume_from is None
    chosen.release()
    assert len(said) == 1 and "40 hours ago" in said[0] and "auto_resume.max_hours=41" in said[0]
    longer = config(tmp_path, auto_resume={"enabled": True, "max_hours": 41})
    chosen = choose_folder(longer, pytest.fail)
    assert chosen.path == path
    chosen.release()
    # A Slurm job that waited in the queue for longer goes on with its own run.
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    RunFolder(path).note(slurm_job="17")
    chosen = choose_folder(config(tmp_path), pytest.fail)
    assert chosen.path == path
    chosen.release()


@pytest.mark.parametrize("kind", ["read-only", "a file"])
def test_a_folder_that_cannot_be_written_to(kind: str, tmp_path: Path) -> None:
    place = tmp_path / "place"
    if kind == "a file":
        place.write_text("x")
    else:
        place.mkdir(mode=0o555)
    wanted = config(place / "runs")
    pid = os.fork()
    if not pid:  # root may write anywhere: try as nobody
        code = 1
        try:
            if kind == "read-only" and os.getuid() == 0:
                os.setuid(65534)
            check_writable(wanted)
        except ConfigError as error:
            code = 0 if f"{place}/runs" in str(error) and "++checkpoint.dir=" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert not place.is_dir() or not list(place.iterdir())


def test_a_run_from_before_a_key_was_declared_goes_on(tmp_path: Path) -> None:
    """What the saved config lacks has its default; another value is another config."""
    path = unfinished(tmp_path)
    saved = yaml.safe_load((path / "config.yaml").read_text())
    del saved["augmentations"][0]["equalization"], saved["method_kwargs"]["views_together"]
    (path / "config.yaml").write_text(yaml.safe_dump(saved))
    said: list[str] = []
    chosen = choose_folder(config(tmp_path), said.append)
    assert chosen.path == path and not said
    assert chosen.lease is not None
    chosen.lease.release()
    saved["augmentations"][0]["solarization"] = {"prob": 0.3}
    (path / "config.yaml").write_text(yaml.safe_dump(saved))
    assert choose_folder(config(tmp_path), said.append).path != path
    assert "augmentations.0.solarization.prob (0.3, now 0.0)" in said[0] and len(said[0]) < 400
