"""A run's folder: where it is, what is in it from the start, and which one a resumed run takes."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml

from solo.config import Config, ConfigError

HANDED_DOWN = "SOLO_RUN_FOLDER"  # how a launching process tells its children where their run is

# What may differ between a run and its continuation.
PLACEMENT = ("auto_resume", "resume_from_checkpoint", "wandb", "checkpoint")


class RunFolder:
    """``<checkpoint.dir>/<method>/<name>-<id>/``.

    Args:
        path: the folder.
        resume_from: a checkpoint to continue from, None for a fresh start.
    """

    def __init__(self, path: Path, resume_from: Path | None = None) -> None:
        self.path = path
        self.resume_from = resume_from

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints lie."""
        return self.path / "checkpoints"

    @classmethod
    def handed_down(cls) -> RunFolder | None:
        """The folder that the launching process chose, None where there was no such process."""
        if HANDED_DOWN not in os.environ:
            return None
        path, resume_from = json.loads(os.environ[HANDED_DOWN])
        return cls(Path(path), Path(resume_from) if resume_from else None)

    @contextlib.contextmanager
    def hand_down(self) -> Iterator[None]:
        """Let processes launched inside the block find this folder."""
        resume_from = str(self.resume_from) if self.resume_from else None
        os.environ[HANDED_DOWN] = json.dumps([str(self.path.absolute()), resume_from])
        try:
            yield
        finally:
            del os.environ[HANDED_DOWN]

    def create(self, config: Config) -> None:
        """Make the folder, with config.yaml and environment.json."""
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True)
        (self.path / "config.yaml").write_text(text)
        self.note(**describe_environment(), status="running", started=_now(), finished=None)

    def note(self, **facts: Any) -> None:
        """Add facts to environment.json."""
        file = self.path / "environment.json"
        known = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps({**known, **facts}, indent=2) + "\n")

    def finish(self) -> None:
        """Mark the run as complete."""
        self.note(status="finished", finished=_now())


def choose_folder(config: Config) -> RunFolder:
    """A new folder, or that of the newest unfinished run of this config (``auto_resume``).

    Raises:
        ConfigError: where the checkpoint to resume from is not there.
    """
    parent = Path(config.checkpoint.dir) / config.method
    new = parent / f"{config.name}-{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    if config.resume_from_checkpoint:
        checkpoint = Path(config.resume_from_checkpoint).expanduser()
        if not checkpoint.is_file():
            raise ConfigError(f"resume_from_checkpoint: there is no file {checkpoint}")
        return RunFolder(new, checkpoint)
    if config.auto_resume.enabled:
        oldest = time.time() - 3600 * config.auto_resume.max_hours
        checkpoints = parent.glob(f"{config.name}-*/checkpoints/last.ckpt")
        for checkpoint in sorted(checkpoints, key=lambda c: c.stat().st_mtime, reverse=True):
            folder = checkpoint.parents[1]
            if checkpoint.stat().st_mtime >= oldest and _continues(config, folder):
                return RunFolder(folder, checkpoint)
    return RunFolder(new)


def _continues(config: Config, folder: Path) -> bool:
    """Whether ``folder`` holds an unfinished run of the same config that nobody is running."""
    try:
        facts = json.loads((folder / "environment.json").read_text())
        saved = yaml.safe_load((folder / "config.yaml").read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return False
    if facts.get("status") == "finished" or _is_running(facts):
        return False
    ours = config.to_dict()
    return all(saved.get(key) == ours[key] for key in ours if key not in PLACEMENT)


def _is_running(facts: dict[str, Any]) -> bool:
    """Whether the process that wrote these facts is alive on this machine."""
    if facts.get("host") != platform.node() or facts.get("pid") == os.getpid():
        return False
    try:
        os.kill(int(facts["pid"]), 0)
    except (KeyError, ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return True


def describe_environment() -> dict[str, Any]:
    """Versions, device and git revision; no environment variables."""
    packages = ("torchvision", "pytorch-lightning", "timm", "numpy", "scipy")
    cuda = torch.cuda.is_available()
    return {
        "host": platform.node(),
        "pid": os.getpid(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name: metadata.version(name) for name in packages},
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or "cpu",
        "devices": torch.cuda.device_count() if cuda else 0,
        "cpus": os.cpu_count(),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "git": git_revision(),
    }


def git_revision() -> str | None:
    """The commit of the code that runs, with "+changes" where files differ from it."""
    here = Path(__file__).parent
    try:
        answers = [
            subprocess.run(
                ["git", *command], cwd=here, capture_output=True, text=True, timeout=10, check=True
            ).stdout.strip()
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "-uno"])
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    return answers[0] + ("+changes" if answers[1] else "")


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
