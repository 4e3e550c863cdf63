"""Small runs, and what they left: shared by tests, which never import each other."""

from __future__ import annotations

import csv
import inspect
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from solo.methods import SSLMethod
from solo.pretrain import Result, run
from solo.runs.run import RunInterrupted

ROOT = Path(__file__).resolve().parents[1]


def slow(*values: Any) -> Any:
    """A parameter of a test that takes long (a whole test is marked: ``@pytest.mark.slow``)."""
    assert not any(inspect.isfunction(value) for value in values), "the test would not be found"
    return pytest.param(*values, marks=pytest.mark.slow)


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in over.items():
        out[key] = merged(out.get(key, {}), value) if isinstance(value, dict) else value
    return out


def tiny(folder: Path, **over: Any) -> dict[str, Any]:
    """A digits run of seconds."""
    base = {
        "backbone": {"name": "resnet10t", "kwargs": {"channels": [8] * 4, "stem_type": ""}},
        "method_kwargs": {
            "proj_hidden_dim": 32,
            "proj_output_dim": 16,
            "num_projections": 40,
            "add_projector_classifier": True,
            "logging_interval": 2,
        },
        "data": {"num_workers": 0},
        "augmentations": [{"crop_size": 8, "num_crops": 2}],
        "optimizer": {"name": "adamw", "batch_size": 64, "lr": 4e-3},
        "checkpoint": {"dir": str(folder)},
        "knn_eval": {"enabled": True},
        "mlp_probe": {"enabled": True},
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 2,
        "limit_train_batches": 6,
        "limit_val_batches": 2,
    }
    return merged(base, over)


def state(result: Result) -> dict[str, torch.Tensor]:
    return last(result)["state_dict"]


def last(result: Result) -> dict[str, Any]:
    return torch.load(result.folder / "checkpoints/last.ckpt", weights_only=True)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if v} for row in csv.DictReader(file)]


def cut_short(monkeypatch: pytest.MonkeyPatch, content: dict[str, Any], step: int) -> Path:
    """Run until a SIGTERM arrives inside ``step``; the run's folder."""
    plain = SSLMethod.training_step

    def training_step(self: SSLMethod, batch: Any, index: int) -> Any:
        if self.trainer.global_step == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(SSLMethod, "training_step", training_step)
        with pytest.raises(RunInterrupted) as caught:
            run(content)
    assert caught.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    (folder,) = Path(content["checkpoint"]["dir"]).glob("*/*")
    return folder


def statistics_of_share(
    rank: int, world: int, tests: dict[str, Callable[[torch.Tensor], torch.Tensor]], *shape: int
) -> dict[str, torch.Tensor]:
    """Statistics, and gradients, of one sample that the processes share."""
    torch.manual_seed(0)
    x, results = torch.randn(*shape, dtype=torch.float64), {}
    for text, test in tests.items():
        scale = torch.nn.Parameter(torch.ones_like(x))
        value = test((x * scale).chunk(world)[rank])
        value.sum().backward()
        assert scale.grad is not None
        dist.all_reduce(scale.grad)
        results |= {text: value.detach(), f"{text} gradient": scale.grad / world}
    return results


def words_of(options: dict[str, Any], prefix: str = "") -> list[str]:
    """A config as command-line overrides."""
    out = []
    for key, value in options.items():
        if isinstance(value, dict):
            out += words_of(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            out.append(f"++{prefix}{key}={json.dumps(value)}".replace('"', ""))
        else:
            out.append(f"++{prefix}{key}={json.dumps(value)}")
    return out


def features_without_solo(folder: Path, images: torch.Tensor, work: Path) -> torch.Tensor:
    """Float64 features of an exported network, from a process that cannot import this package."""
    torch.save(images, work / "images.pt")
    words = [str(folder), str(work / "images.pt"), str(work / "features.pt")]
    done = subprocess.run(
        [sys.executable, ROOT / "tests/scripts/without_solo.py", *words],
        cwd=work,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    features: torch.Tensor = torch.load(work / "features.pt")
    return features


class Fade:
    """A user's operation: each view by a factor of its own."""

    def __call__(self, images: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        return images * numbers[:, :1, None, None]


def halve(images: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """A user's operation that changes the size."""
    return images[..., ::2]


def below(pid: int, wanted: int) -> set[int]:
    """Processes below one, once there are so many."""
    end, found = time.monotonic() + 60, set()
    while len(found) < wanted and time.monotonic() < end:
        found, level = set(), {pid}
        while level:
            level = {child for parent in level for child in children(parent)} - found
            found |= level
        time.sleep(0.1)
    assert len(found) >= wanted
    return found


def children(pid: int) -> set[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    return {int(word) for word in listed.read_text().split()} if listed.is_file() else set()


def alive(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat")
    return state.is_file() and state.read_text().rpartition(")")[2].split()[0] != "Z"
