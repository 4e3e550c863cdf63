"""What a run runs on: versions, device, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig

from solo.runs.lease import slurm_job


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
        "slurm_job": slurm_job(),
        "git": git_revision(),
    }


def asked_for() -> dict[str, Any]:
    """The recipe that Hydra read and the words that changed it, where it was Hydra."""
    if not HydraConfig.initialized():
        return {}
    hydra = HydraConfig.get()
    return {"recipe": hydra.job.config_name, "overrides": list(hydra.overrides.task)}


def git_revision() -> str | None:
    """The commit of the code that runs, with "+changes" where files differ from it."""
    here = Path(__file__)
    commands = (
        ["ls-files", "--error-unmatch", here.name],  # fails in a repository that is not ours
        ["rev-parse", "HEAD"],
        ["status", "--porcelain", "-uno"],
    )
    try:
        _, *answers = (
            subprocess.run(
                ["git", *command],
                cwd=here.parent,
                capture_output=True,
                text=True,
                timeout=10,
                check=True,
            ).stdout.strip()
            for command in commands
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answers[0] + ("+changes" if answers[1] else "")
