"""Whole runs on shards and tables end as those on the folder that they were made of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import torch
from helpers import cut_short, state, tiny, words_of

from solo.pretrain import run

Command = Callable[..., CompletedProcess[str]]
FORMS = ("webdataset", "parquet", "huggingface")


def places(form: str, folder: Path, tmp_path: Path, script: Command) -> dict[str, Any]:
    """The data of a run, in another format."""
    found: dict[str, Any] = {"dataset": "custom", "format": form, "num_workers": 2}
    for split in ("train", "val"):
        source, out = folder / split, tmp_path / f"{form}/{split}"
        if form == "webdataset":
            script("scripts/utils/images_to_tar.py", source, out, "--megabytes", "0.01")
            found[f"{split}_path"] = f"{out}-*.tar"
        else:
            name = f"{out}.parquet" if form == "parquet" else str(out)
            script("scripts/utils/images_to_table.py", source, name)
            found[f"{split}_path"] = name
    return found


def content(folder: Path, data: dict[str, Any], **over: Any) -> dict[str, Any]:
    options = tiny(folder, data=data, max_epochs=2, limit_train_batches=None, **over)
    options["optimizer"]["batch_size"] = 4
    options["augmentations"] = [{"crop_size": 16, "num_crops": 2}]
    return options


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_a_run_cut_in_mid_epoch(
    form: str,
    image_tree: Path,
    tmp_path: Path,
    script: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One process: ended inside an epoch and gone on with, it equals the folder's whole run."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = {f"{split}_path": str(image_tree / split) for split in ("train", "val")}
    plain = run(content(tmp_path / "plain", {"dataset": "custom", "num_workers": 0, **folder}))
    options = content(tmp_path / "other", places(form, image_tree, tmp_path, script))
    cut_short(monkeypatch, options, 3)
    other = run({**options, "auto_resume": {"enabled": True}})
    for name, value in state(plain).items():
        assert torch.equal(value, state(other)[name]), name


@pytest.mark.slow
def test_two_processes(image_tree: Path, tmp_path: Path, script: Command, command: Command) -> None:
    """Two processes on shards or a table equal two on the folder."""

    def trained(name: str, data: dict[str, Any]) -> dict[str, torch.Tensor]:
        command("main_pretrain.py", *words_of(content(tmp_path / name, data, devices=2)))
        (path,) = (tmp_path / name).glob("*/*/checkpoints/last.ckpt")
        state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
        return state

    folder = {f"{split}_path": str(image_tree / split) for split in ("train", "val")}
    plain = trained("plain", {"dataset": "custom", "num_workers": 0, **folder})
    for form in FORMS:
        other = trained(f"from {form}", places(form, image_tree, tmp_path, script))
        for name, value in plain.items():
            assert torch.equal(value, other[name]), (form, name)
