"""Loggers beside metrics.csv: TensorBoard's files read by its own reader, and anybody's logger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import cut_short, rows, tiny
from pytorch_lightning.loggers import CSVLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from solo.config import ConfigError
from solo.pretrain import run


class Kept(CSVLogger):
    """A user's own."""

    def __init__(self, save_dir: str, word: str) -> None:
        super().__init__(save_dir, name=word, version="")


def written(folder: Path) -> dict[str, dict[int, float]]:
    """Values of TensorBoard's files by name and step; each step must be there once."""
    reader = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    reader.Reload()
    found = {}
    for name in {*reader.Tags()["scalars"]} - {"epoch"}:  # that stands beside each row
        events = reader.Scalars(name)
        found[name] = {event.step: event.value for event in events}
        assert len(found[name]) == len(events), name
    return found


def logged(folder: Path, name: str) -> dict[int, float]:
    return {int(row["step"]): float(row[name]) for row in rows(folder) if row.get(name)}


def test_tensorboard_and_a_users_logger_have_what_metrics_csv_has(tmp_path: Path) -> None:
    own = {"path": "test_loggers.Kept", "word": "mine"}
    folder = run(tiny(tmp_path, loggers=["csv", "tensorboard", own])).folder
    assert (folder / "mine/metrics.csv").is_file()
    found = written(folder)
    for name, values in found.items():
        assert values == pytest.approx(logged(folder, name), rel=1e-6), name
    assert {"train_rdm_reg_loss", "val_acc1"} <= found.keys() and len(found) > 10


def test_a_continued_run_has_each_step_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content: dict[str, Any] = tiny(tmp_path, loggers=["tensorboard"], auto_resume={"enabled": True})
    content["checkpoint"]["every_n_steps"] = 3
    content["method_kwargs"]["logging_interval"] = 1
    folder = cut_short(monkeypatch, content, step=8)
    before = written(folder)
    again = run(content).folder
    assert again == folder
    name = "train_rdm_reg_loss"
    assert max(before[name]) >= 7
    assert written(folder)[name] == pytest.approx(logged(folder, name), rel=1e-6)
    assert len(logged(folder, name)) == 12


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("tensorbord", "tensorbord, which cannot be loaded"),
        ("pathlib.Path", "pathlib.Path, which is no logger"),
        ({"word": "mine"}, "give a name"),
        ({"path": "wandb", "project": "x"}, "keys of wandb"),
        ({"path": "test_loggers.Kept", "words": "mine"}, "cannot be made"),
    ],
)
def test_bad_loggers_are_told_before_any_work(entry: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=told):
        run(tiny(tmp_path / "runs", loggers=[entry]))
    assert not (tmp_path / "runs").exists()
