"""A run's folder: where it is, what is in it from the start, and which one a resumed run takes."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml

from solo.callbacks.checkpoint_io import newest_sound, read_checkpoint
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
        # Made anew where the run is new: two runs never share a folder.
        self.path.mkdir(parents=True, exist_ok=self.resume_from is not None)
        self.checkpoints.mkdir(exist_ok=True)
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


def choose_folder(config: Config, warn: Callable[[str], None]) -> RunFolder:
    """A new folder, or that of the newest unfinished run of this config (``auto_resume``).

    Args:
        config: of the run.
        warn: told of runs that were not continued, and of damaged checkpoints.

    Raises:
        ConfigError: where the checkpoint to resume from is not there, or damaged.
    """
    parent = Path(config.checkpoint.dir) / config.method
    new = parent / f"{config.name}-{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    if config.resume_from_checkpoint:
        checkpoint = Path(config.resume_from_checkpoint).expanduser()
        if not checkpoint.is_file():
            raise ConfigError(f"resume_from_checkpoint: there is no file {checkpoint}")
        read_checkpoint(checkpoint)  # says what is wrong with it, before anything is built
        return RunFolder(new, checkpoint)
    if config.auto_resume.enabled:
        oldest = time.time() - 3600 * config.auto_resume.max_hours
        times = {
            folder: max(c.stat().st_mtime for c in checkpoints)
            for folder in parent.glob(f"{config.name}-*")
            if (checkpoints := list(folder.glob("checkpoints/*.ckpt")))
        }
        for folder in sorted(times, key=lambda f: times[f], reverse=True):
            if times[folder] < oldest or not _is_unfinished(folder):
                continue
            differences = _differences(config, folder)
            if differences:
                warn(f"{folder} is not continued: another {', '.join(differences)}.")
                continue
            sound = newest_sound(folder / "checkpoints", warn)
            if sound is not None:
                return RunFolder(folder, sound)
    return RunFolder(new)


def _is_unfinished(folder: Path) -> bool:
    """Whether a run was cut short here and nobody is running it now."""
    try:
        facts = json.loads((folder / "environment.json").read_text())
    except (OSError, ValueError):
        return False
    return facts.get("status") != "finished" and not _is_running(facts)


def _differences(config: Config, folder: Path) -> list[str]:
    """Keys of another value in the folder's config that change what comes out."""
    try:
        saved = yaml.safe_load((folder / "config.yaml").read_text())
    except (OSError, yaml.YAMLError):
        return ["config.yaml, which cannot be read"]
    ours, theirs = (_flat(tree) for tree in (config.to_dict(), saved))
    return sorted(
        f"{key} ({theirs.get(key)}, now {ours.get(key)})"
        for key in {*ours, *theirs}
        if key.split(".")[0] not in PLACEMENT and ours.get(key) != theirs.get(key)
    )


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """A nested config as dotted keys."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return found


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
