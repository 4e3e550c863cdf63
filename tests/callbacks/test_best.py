"""The epoch that is kept, and the run that ends early."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from helpers import last, merged, rows, tiny

from solo.callbacks.best import BestValue
from solo.config import ConfigError, RunError
from solo.methods import SSLMethod
from solo.pretrain import run
from solo.runs.checkpoint_files import fault_of


class Logged(pl.Trainer):
    """A trainer that has logged one value."""

    def __init__(self, value: float) -> None:
        self.value = value

    @property
    def callback_metrics(self) -> dict[str, torch.Tensor]:  # type: ignore[override]
        return {"val_acc1": torch.tensor(self.value), "val_loss": torch.tensor(self.value)}


def test_which_value_is_best() -> None:
    values = [3.0, 4.0, 4.05, 2.0, 5.0]
    most = BestValue("key", "val_acc1", least=0.1)
    assert [most.look(Logged(v)) for v in values] == [True, True, False, False, True]
    least = BestValue("key", "val_loss")
    assert [least.look(Logged(v)) for v in values] == [True, False, False, True, False]
    assert least.waited == 1
    other = BestValue("key", "val_loss")
    other.load(least.state())
    assert other.best == -2.0 and other.waited == 1
    other.load(most.state())  # of another metric
    assert other.best == -2.0
    missing = BestValue("key", "val_lossy")
    assert not missing.look(Logged(1.0)) and missing.waited == 0  # an epoch resumed at its end
    with pytest.raises(RunError, match=r"key is val_lossy, but.*Did you mean val_loss"):
        missing.look(Logged(1.0))


def scripted(monkeypatch: pytest.MonkeyPatch, values: list[float]) -> None:
    """Validation says so, epoch after epoch."""

    def end(self: SSLMethod) -> None:
        self.tally.finish()
        self.log("val_acc1", values[self.trainer.current_epoch])

    monkeypatch.setattr(SSLMethod, "on_validation_epoch_end", end)


def test_the_best_epoch_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, [10.0, 30.0, 20.0])
    content = tiny(tmp_path, max_epochs=3, limit_train_batches=2)
    content["checkpoint"] |= {"monitor": "val_acc1", "frequency": 3, "keep_prev": True}
    folder = run(content).folder
    best = torch.load(folder / "checkpoints/best.ckpt", weights_only=True)
    assert best["epoch"] == 1 and fault_of(folder / "checkpoints/best.ckpt") is None
    assert sorted(path.name for path in (folder / "checkpoints").glob("*.ckpt")) == [
        "best.ckpt",
        "epoch_0002.ckpt",
        "last.ckpt",
        "previous.ckpt",
    ]


def test_a_run_ends_early_and_goes_on_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    scripted(monkeypatch, [10.0, 30.0, 20.0, 29.0, 40.0, 50.0])
    content = tiny(tmp_path, max_epochs=6, limit_train_batches=2)
    content["checkpoint"] |= {"keep_prev": True}
    content["early_stop"] = {"monitor": "val_acc1", "patience": 2}
    result = run(content)
    assert "early stop: val_acc1 was best at 30, 2 validations ago" in capsys.readouterr().out
    assert last(result)["epoch"] == 3 and len(rows(result.folder)) > 4
    before = result.folder / "checkpoints/epoch_0002.ckpt"  # one validation without a better one
    again = run({**content, "resume_from_checkpoint": str(before)})
    assert last(again)["epoch"] == 3


@pytest.mark.parametrize("key", ["checkpoint", "early_stop"])
@pytest.mark.parametrize(
    "metric, over, said",
    [
        ("val_acc", {}, "There is no metric for .*'val_acc'; did you mean val_acc5 or val_acc1"),
        ("val_knn_acc1", {}, "which needs knn_eval.enabled=true"),
        ("val_proj_acc1", {}, "which needs method_kwargs.add_projector_classifier=true"),
        ("val_acc1", {"data": {"no_labels": True}}, "which needs labels; without any there are"),
        ("val_map", {}, "which is for attributes"),
        ("val_held_out", {}, "which only a grid of probes logs"),
        ("val_acc1", {"limit_val_batches": 0}, "and there are no validation images"),
        ("val_acc1", {"check_val_every_n_epoch": 9}, "9 is more than the 2 epochs"),
    ],
)
def test_what_is_not_logged_is_refused(
    key: str, metric: str, over: dict[str, Any], said: str, tmp_path: Path
) -> None:
    content = merged(tiny(tmp_path, knn_eval={"enabled": False}), over)
    content["method_kwargs"]["add_projector_classifier"] = False
    content.setdefault(key, {})["monitor"] = metric
    with pytest.raises(ConfigError, match=said):
        run(content)
    assert not (tmp_path / "rectified_lpjepa").exists()


@pytest.mark.parametrize("key", ["checkpoint", "early_stop"])
def test_what_no_step_logs_ends_the_run_at_once(key: str, tmp_path: Path) -> None:
    """What a method calls its loss is not known before; an epoch can take hours."""
    content = tiny(tmp_path, max_epochs=1, limit_train_batches=4)
    content.setdefault(key, {})["monitor"] = "train_loss"
    with pytest.raises(RunError, match=r"train_loss, but .* there are .*train_rectified_lp_jepa"):
        run(content)
    assert not list(tmp_path.glob("*/*/checkpoints/*.ckpt"))
    content[key]["monitor"] = "train_effective_rank"  # logged by a callback
    assert run(content).metrics["train_effective_rank"] > 0


def test_without_labels_there_is_something_to_go_by(tmp_path: Path) -> None:
    content = tiny(tmp_path, data={"no_labels": True}, max_epochs=1, limit_train_batches=2)
    content["checkpoint"]["monitor"] = "val_effective_rank"
    folder = run(content).folder
    assert (folder / "checkpoints/best.ckpt").is_file()


def test_a_new_folder_gets_a_best_epoch_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gone on with elsewhere, the best so far is not there, and the next one counts."""
    scripted(monkeypatch, [50.0, 10.0])
    content = tiny(tmp_path, max_epochs=2, limit_train_batches=2)
    content["checkpoint"] |= {"monitor": "val_acc1", "keep_prev": True}
    folder = run(content).folder
    first = folder / "checkpoints/epoch_0000.ckpt"
    again = run({**content, "resume_from_checkpoint": str(first)}).folder
    best = torch.load(again / "checkpoints/best.ckpt", weights_only=True)
    assert best["epoch"] == 1
