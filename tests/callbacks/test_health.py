"""Bad luck in mid-run: NaN, unreadable files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import rows, tiny

from solo.callbacks import HealthMonitor
from solo.callbacks.health import DivergedError
from solo.methods import SSLMethod
from solo.pretrain import run
from solo.runs.checkpoint_files import read_checkpoint


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number(
    value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = SSLMethod.training_step

    def step(self: SSLMethod, batch: Any, index: int) -> Any:
        outputs = plain(self, batch, index)
        if self.trainer.global_step == 8:
            outputs["loss"] = outputs["loss"] * value
        return outputs

    monkeypatch.setattr(SSLMethod, "training_step", step)
    options = tiny(tmp_path, max_epochs=4, checkpoint={"every_n_steps": 1})
    options["method_kwargs"]["logging_interval"] = 6  # the check must not wait for the log
    with pytest.raises(DivergedError, match=r"at step 8\..*optimizer\.lr"):
        run(options)
    (folder,) = tmp_path.glob("*/*")
    content = read_checkpoint(folder / "checkpoints/last.ckpt")
    assert content["global_step"] == 8  # eight good steps, 0 to 7
    assert all(torch.isfinite(v).all() for v in content["state_dict"].values())


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_file(
    workers: int, image_tree: Path, tmp_path: Path, command: Callable[..., CompletedProcess[str]]
) -> None:
    victim = sorted((image_tree / "train").rglob("*.JPEG"))[3]
    victim.write_bytes(victim.read_bytes()[:300])
    words = [
        "main_pretrain.py",
        "data.dataset=custom",
        f"data.train_path={image_tree / 'train'}",
        f"data.val_path={image_tree / 'val'}",
        f"data.num_workers={workers}",
        f"checkpoint.dir={tmp_path / 'runs'}",
        "optimizer.batch_size=24",
        "max_epochs=2",
        "accelerator=cpu",
        "knn_eval.k=3",
        "method_kwargs.num_projections=32",
    ]
    stopped = command(*words, check=False)
    assert stopped.returncode == 1
    message = stopped.stderr.strip().splitlines()[-1]
    assert message.startswith(str(victim)) and "data.on_bad_image=skip" in message
    if workers:
        return
    command(*words, "data.on_bad_image=skip")
    folders = (tmp_path / "runs/rectified_lpjepa").glob("*")
    written = [row for f in folders if (f / "metrics.csv").exists() for row in rows(f)]
    assert [float(row["skipped_images"]) for row in written if "skipped_images" in row] == [
        1.0,
        2.0,
    ]


def test_a_broken_validation_file(image_tree: Path, tmp_path: Path) -> None:
    victim = sorted((image_tree / "val").rglob("*.JPEG"))[0]
    victim.write_bytes(b"")
    data = {
        "dataset": "custom",
        "train_path": str(image_tree / "train"),
        "val_path": str(image_tree / "val"),
        "num_workers": 0,
        "on_bad_image": "skip",
    }
    options = tiny(tmp_path, data=data, optimizer={"batch_size": 8}, max_epochs=1)
    options |= {"limit_val_batches": None, "limit_train_batches": None}
    result = run(options)
    assert "val_acc1" in result.metrics
    # One of nine images does not count: accuracies are eighths.
    assert (result.metrics["val_acc1"] * 8 / 100) % 1 == pytest.approx(0, abs=1e-4)


def worker(rank: int, world: int) -> dict[str, torch.Tensor]:
    """Three images of two batches on one process, the same on two."""
    monitor, logged = HealthMonitor(), dict[str, float]()
    monitor.load_state_dict({"skipped": 10})
    module: Any = SimpleNamespace(log=lambda name, value: logged.update({name: value}))
    trainer: Any = SimpleNamespace(global_step=1)
    for skipped in (1, 2) if world == 1 else ((1, 0), (0, 2))[rank]:
        batch: Any = SimpleNamespace(skipped=skipped)
        outputs = {"loss": torch.ones(()), "logged": True}
        monitor.on_train_batch_end(trainer, module, outputs, batch, 0)
    found = {"logged": logged["skipped_images"], "saved": monitor.state_dict()["skipped"]}
    return {name: torch.tensor(value) for name, value in found.items()}


@pytest.mark.slow
def test_skipped_images_of_all_processes(agree: Callable[..., None], processes: Any) -> None:
    agree(worker)
    (one,) = processes(worker, 1)
    assert one["logged"] == 13 and one["saved"] == 13
