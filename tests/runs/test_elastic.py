"""A run goes on with another number of processes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import torch
import yaml
from helpers import ROOT, rows, tiny

from solo import distributed
from solo.callbacks import KNNMonitor
from solo.methods import resolve_config
from solo.runs.checkpoint_files import read_checkpoint
from solo.runs.folder import _differences

Command = Callable[..., CompletedProcess[str]]
STEPS = 15


def options(folder: Path, network: str = "vit") -> dict[str, Any]:
    """LeJEPA's loss, and a ViT (nothing normalises with a batch) or a ResNet with BatchNorm."""
    content = tiny(folder, method="lejepa", max_epochs=3, limit_train_batches=5)
    sizes: dict[str, Any] = {"depth": 2, "embed_dim": 24, "num_heads": 2, "patch_size": 2}
    content["backbone"] = {"name": "vit_tiny", "kwargs": sizes}
    if network == "resnet":
        sizes = {"channels": [8, 8, 16, 16]}
        content["backbone"] = {"name": "resnet10t", "kwargs": sizes}
        # In float32 rounding grows tenfold a step, as it moves activations across zero.
        content |= {"sync_batchnorm": True, "precision": "64"}
    content["method_kwargs"] = {"projector_type": "identity", "logging_interval": 1}
    # Adam would make whole steps of the rounding in gradients that are zero (biases of keys).
    content["optimizer"] = {"name": "sgd", "global_batch_size": 64, "lr": 0.4}
    content["checkpoint"] |= {"every_n_steps": 1}
    content |= {"auto_resume": {"enabled": True}, "mlp_probe": {"enabled": False}}
    return content


# The same command, but its first process stands still in the step HELD_AT; others wait for it.
HELD = """
import os, sys, time
from pathlib import Path

sys.path.insert(0, os.environ["ROOT"])
from main_pretrain import start
from solo.methods import SSLMethod

plain = SSLMethod.training_step

def training_step(self, batch, index):
    if self.trainer.is_global_zero and self.trainer.global_step == int(os.environ["HELD_AT"]):
        Path(__file__).with_name("held").touch()
        time.sleep(600)
    return plain(self, batch, index)

SSLMethod.training_step = training_step
start()
"""


def start(recipe: Path, devices: int, held_at: int | None) -> subprocess.Popen[bytes]:
    """``main_pretrain.py``, or the script above."""
    script = ROOT / "main_pretrain.py"
    if held_at is not None:
        script = recipe.with_name("held.py")
        script.write_text(HELD)
    words = ["--config-path", str(recipe.parent), "--config-name", recipe.stem]
    return subprocess.Popen(
        [sys.executable, str(script), *words, f"devices={devices}"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ROOT": str(ROOT), "HELD_AT": str(held_at)},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


def logged(folder: Path) -> list[int]:
    """Steps that the run's table has."""
    files = list(folder.glob("*/*/metrics.csv"))
    table = rows(files[0].parent) if files else []
    return [int(row["step"]) for row in table if row.get("train_lejepa_loss")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "parts"),
    [("vit", [(4, 3), (1, None)]), ("resnet", [(2, 3), (1, 6), (4, 11), (2, None)])],
)
def test_other_numbers_of_processes_end_as_one(
    network: str, parts: list[tuple[int, int | None]], tmp_path: Path
) -> None:
    """Killed in mid-epoch each time, and gone on with by another number of processes."""
    ends = {}
    whole: list[tuple[int, int | None]] = [(1, None)]
    for name, plan in (("whole", whole), ("parts", parts)):
        folder = tmp_path / name
        recipe = tmp_path / f"{name}.yaml"
        recipe.write_text(yaml.safe_dump(options(folder, network)))
        for devices, kill_at in plan:
            process = start(recipe, devices, kill_at)
            held = tmp_path / "held"
            try:
                if kill_at is None:
                    assert process.wait(300) == 0
                    continue
                deadline = time.monotonic() + 200
                while not held.exists():
                    assert time.monotonic() < deadline and process.poll() is None
                    time.sleep(0.1)
            finally:
                with contextlib.suppress(ProcessLookupError):  # all have ended
                    os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            held.unlink()
        (run_folder,) = folder.glob("*/*")
        assert logged(folder) == list(range(STEPS))
        ends[name] = read_checkpoint(run_folder / "checkpoints/last.ckpt")
        ends[f"{name} table"] = rows(run_folder)
    for name, value in ends["whole"]["state_dict"].items():
        torch.testing.assert_close(ends["parts"]["state_dict"][name], value, rtol=0, atol=1e-5)
    for one, other in zip(ends["whole table"], ends["parts table"]):
        for column, most in (("train_lejepa_loss", 1e-4), ("lr", 1e-9), ("val_knn_acc1", 2.0)):
            if column in one:
                assert float(other[column]) == pytest.approx(float(one[column]), abs=most)


def test_a_share_of_the_global_batch_is_no_difference(tmp_path: Path) -> None:
    config = resolve_config(options(tmp_path))
    config.optimizer.share(2)
    saved = config.to_dict()
    assert saved["optimizer"]["batch_size"] == 32 and not _differences(saved, saved, True)


def test_the_bank_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four processes get what two remembered: each batch's parts in the order of its images."""
    content = tiny(tmp_path)
    config = resolve_config(content)
    batches = [torch.arange(8.0)[:, None] + 8 * step for step in range(3)]  # [images, 1]
    shares = [[batch.chunk(2)[rank] for batch in batches] for rank in range(2)]
    state = {
        "h": torch.stack([torch.cat(own) for own in shares]),
        "labels": torch.stack([torch.cat(own)[:, 0].long() for own in shares]),
        "sizes": torch.tensor([4, 4, 4]),
    }
    for processes in (1, 2, 4):
        monkeypatch.setattr(distributed, "world_size", lambda n=processes: n)
        found = []
        for rank in range(processes):
            monkeypatch.setattr(distributed, "rank", lambda r=rank: r)
            monitor = KNNMonitor(config, 10)
            monitor.load_state_dict(state)
            found.append(monitor._bank)
        for step, batch in enumerate(batches):
            assert torch.equal(torch.cat([bank[step][0] for bank in found]), batch)
            labels = torch.cat([bank[step][1] for bank in found])
            assert torch.equal(labels, batch[:, 0].long())
