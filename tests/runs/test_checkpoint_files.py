"""Checkpoint files that are damaged, or hold code."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import tiny

from solo.config import ConfigError
from solo.pretrain import run
from solo.runs.checkpoint_files import (
    SafeCheckpointIO,
    checksum_of,
    fault_of,
    newest_sound,
    read_checkpoint,
    write_checkpoint,
)


def checkpoint(value: float = 1.0) -> dict[str, Any]:
    return {"state_dict": {"w": torch.full((1000,), value)}, "global_step": int(value)}


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "missing"])
def test_a_damaged_file_falls_back(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    for value in (1.0, 2.0):
        write_checkpoint(checkpoint(value), path)
    assert fault_of(path) is None and newest_sound(tmp_path, pytest.fail) == path
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    else:
        content[len(content) // 2] ^= 4
        cut = {"cut": content[:-100], "flipped": content, "empty": b""}[damage]
        path.write_bytes(cut)
    said: list[str] = []
    assert newest_sound(tmp_path, said.append) == tmp_path / "previous.ckpt"
    assert len(said) == 1 and "last.ckpt is passed over" in said[0]
    assert read_checkpoint(tmp_path / "previous.ckpt")["global_step"] == 1
    with pytest.raises(ConfigError, match=r"last\.ckpt cannot be used"):
        read_checkpoint(path)
    checksum_of(path).unlink(missing_ok=True)  # without a checksum, torch's own checks remain
    if damage == "cut":
        with pytest.raises(ConfigError, match="damaged"):
            read_checkpoint(path)


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def test_code_in_a_checkpoint_does_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    torch.save({"state_dict": Malicious(trace)}, tmp_path / "bad.ckpt")
    with pytest.raises(ConfigError, match="could run code"):
        run(tiny(tmp_path, resume_from_checkpoint=str(tmp_path / "bad.ckpt")))
    with (tmp_path / "old.ckpt").open("wb") as file:
        pickle.dump(Malicious(trace), file)
    with pytest.raises(ConfigError, match=r"refused|damaged"):
        run(tiny(tmp_path, resume_from_checkpoint=str(tmp_path / "old.ckpt")))
    assert not trace.exists()
    torch.save({"weights": torch.ones(1)}, tmp_path / "other.ckpt")
    with pytest.raises(ConfigError, match="no checkpoint of a run"):
        run(tiny(tmp_path, resume_from_checkpoint=str(tmp_path / "other.ckpt")))


def test_a_kept_epoch_is_the_state_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With and without hard links; after a failed write there is none."""
    said: list[str] = []
    io = SafeCheckpointIO(said.append)
    path = tmp_path / "last.ckpt"

    def save(value: float) -> None:
        io.save_checkpoint(checkpoint(value), path)
        io.publish()
        io.keep(path, f"epoch_{int(value):04d}.ckpt")

    save(1.0)
    with monkeypatch.context() as patch:

        def no_links(*_: Any) -> None:
            raise OSError(95, "Operation not supported")

        patch.setattr(os, "link", no_links)
        save(2.0)
        assert not said
    with monkeypatch.context() as patch:

        def no_space(_: int) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(os, "fsync", no_space)
        save(3.0)
        assert len(said) == 1 and "No space left" in said[0]
    save(4.0)
    for value in (1, 2, 4):
        kept = tmp_path / f"epoch_{value:04d}.ckpt"
        assert read_checkpoint(kept)["global_step"] == value
        assert checksum_of(kept).is_file() and fault_of(kept) is None
    assert not list(tmp_path.glob("epoch_0003*")) and not list(tmp_path.glob("*.partial"))


def test_the_disk_is_full_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    io = SafeCheckpointIO(said.append)
    io.save_checkpoint(checkpoint(), tmp_path / "last.ckpt")
    io.publish()

    def fails(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "link", fails)
    monkeypatch.setattr(shutil, "copyfile", fails)
    io.keep(tmp_path / "last.ckpt", "epoch_0000.ckpt")
    assert len(said) == 1 and "epoch_0000.ckpt could not be written" in said[0]
    assert {f.name for f in tmp_path.iterdir()} == {"last.ckpt", "last.ckpt.sha256"}
