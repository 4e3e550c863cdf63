"""Tar shards give what the folder that they were made of gives."""

from __future__ import annotations

import io
import itertools
import tarfile
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import fsspec
import pytest
import torch
from helpers import slow, tiny

from solo.config import ConfigError
from solo.config.schema import Data
from solo.data import ImageData, shards
from solo.data.batches import Batch
from solo.data.datasets import load_splits
from solo.data.shards import shards_of, tar_shards
from solo.data.sources import BadImageError
from solo.methods import resolve_config

Command = Callable[..., CompletedProcess[str]]


@pytest.fixture
def packed(
    image_tree: Path, tmp_path: Path, script: Command, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Shards of some kilobytes, of both splits of a folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for split in ("train", "val"):
        words = (image_tree / split, tmp_path / f"shards/{split}", "--megabytes", "0.01")
        script("scripts/utils/images_to_tar.py", *words)
    assert len(list((tmp_path / "shards").glob("train-*.tar"))) > 2
    return tmp_path / "shards"


def batches(paths: dict[str, str], workers: int, start: int = 0, **data: Any) -> list[Batch]:
    """Of an epoch of training and of validation."""
    options = tiny(Path("unused"), optimizer={"batch_size": 5})
    options["data"] = {"dataset": "custom", "num_workers": workers, **paths, **data}
    module = ImageData(resolve_config(options))
    module.load_state_dict({"epoch": 0, "batch": start})
    return [*module.train_dataloader(), *module.val_dataloader()]


@pytest.mark.parametrize("workers", [0, slow(1), 3])
def test_batches_are_those_of_the_folder(workers: int, packed: Path, image_tree: Path) -> None:
    """Views, labels and order, from the start and from the middle of an epoch."""
    folder = {f"{split}_path": str(image_tree / split) for split in ("train", "val")}
    tar = {f"{split}_path": str(packed / f"{split}-*.tar") for split in ("train", "val")}
    for start in (0, 3):
        for one, two in itertools.zip_longest(
            batches(folder, 0, start), batches(tar, workers, start, format="webdataset")
        ):
            assert torch.equal(one.views[0], two.views[0])
            assert torch.equal(one.labels, two.labels) and torch.equal(one.indices, two.indices)


def test_parts_and_addresses(packed: Path, image_tree: Path) -> None:
    """A fraction, what is held out, preloaded files, and shards that are no local files."""
    plain = Data(dataset="custom", train_path=str(image_tree / "train"))
    system = fsspec.filesystem("memory")
    for path in packed.glob("train-*.tar"):
        system.pipe(f"/bucket/{path.name}", path.read_bytes())
    there = {"format": "webdataset", "train_path": "memory://bucket/train-*.tar"}
    for extra in ({}, {"fraction": 0.5}, {"held_out": 0.3}, {"preload": True}):
        one = load_splits(plain.model_copy(update=extra), 1)
        two = load_splits(plain.model_copy(update={**there, **extra}), 1)
        for ours, theirs in zip(one, two):
            if ours is None:
                assert theirs is None
                continue
            assert ours.classes == theirs.classes and torch.equal(ours.labels, theirs.labels)
            assert all(torch.equal(ours.image(i), theirs.image(i)) for i in range(len(ours)))
    assert "memory://" in two.train.where(0) and ".tar:n0" in two.train.where(0)
    system.rm("/bucket", recursive=True)
    numbers = shards_of("x/{08..10}-{0..1}.tar")
    assert numbers == [f"x/{a}-{b}.tar" for a in ("08", "09", "10") for b in (0, 1)]


def write(path: Path, members: dict[str, bytes]) -> str:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return str(path)


def test_labels_of_all_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers and names, before and after the image; other files are left alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    image = {"a.jpg": b"1", "a.cls": b"2\n", "b.cls": b"0", "b.seg.png": b"22", "b.json": b"{}"}
    source = tar_shards(write(tmp_path / "0.tar", image), "x")
    assert source.labels.tolist() == [2, 0] and source.classes == ["0", "1", "2"]
    assert [source.read(i) for i in range(2)] == [b"1", b"22"] and source.size(1) == 2
    assert tar_shards(str(tmp_path), "x", no_labels=True).labels.tolist() == [-1, -1]
    named = {"a.jpg": b"1", "a.cls": b"dog", "b.jpg": b"2", "b.cls": b"7"}
    source = tar_shards(write(tmp_path / "1.tar", named), "x")
    assert source.classes == ["7", "dog"] and source.labels.tolist() == [1, 0]
    for members, said in (
        ({"a.jpg": b"", "a.cls": b"1", "b.jpg": b""}, "b.jpg has no .cls file"),
        ({"a.txt": b""}, "hold no images"),
    ):
        with pytest.raises(ConfigError, match=said):
            tar_shards(write(tmp_path / "2.tar", members), "x")
    assert tar_shards(write(tmp_path / "3.tar", {"a.jpg": b""}), "x").labels.tolist() == [-1]


def test_shards_that_cannot_be_read(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Missing, compressed, cut short; a damaged image is named with its shard."""
    first = packed / "train-000000.tar"
    with tarfile.open(packed / "z.tar.gz", "w:gz") as tar:
        tar.add(first, "a.jpg")
    (packed / "cut.tar").write_bytes(first.read_bytes()[:1500])
    for path, said in (
        (None, "data.train_path is not set"),
        (str(tmp_path / "none-*.tar"), "there are no .tar files"),
        (str(tmp_path / "none.tar"), "none.tar is not there"),
        (str(packed / "z.tar.gz"), "cannot be read as a tar file without compression"),
        (str(packed / "cut.tar"), "cut.tar cannot be read as a tar file"),
    ):
        with pytest.raises(ConfigError, match=said):
            tar_shards(path, "data.train_path")
    scans: list[Any] = []
    plain = shards._scan
    monkeypatch.setattr(shards, "_scan", lambda file: scans.append(1) or plain(file))
    for _ in range(2):
        source = tar_shards(str(first), "x")
        assert len(scans) == 1
    content = bytearray(first.read_bytes())
    start, size = source.places[1, 1:].tolist()
    content[start : start + size] = bytes(size)
    first.write_bytes(content)
    source = tar_shards(str(first), "x")
    assert len(scans) == 2  # another file
    with pytest.raises(BadImageError, match=r"train-000000.tar:n01558993/.* cannot be read"):
        source.image(1)
