"""MNIST's family: small files in both layouts that people have them in."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_idx

from solo.config import ConfigError
from solo.config.schema import Data
from solo.data.batches import SampleKey, ValidationViews
from solo.data.datasets import load_splits
from solo.data.parts import hold_out
from solo.data.sources import ArraySource

FOLDERS = {
    "mnist": "MNIST",
    "fashion_mnist": "FashionMNIST",
    "kmnist": "KMNIST",
    "emnist": "EMNIST",
}
COUNTS = {"train": 30, "test": 20}


def content(name: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(COUNTS[split])
    labels = np.arange(COUNTS[split]) % (47 if name == "emnist" else 10)
    return generator.integers(0, 256, (COUNTS[split], 28, 28)), labels


def make(root: Path, name: str, folder: str, end: str) -> None:
    for split in COUNTS:
        begin = "train" if split == "train" else "t10k"
        if name == "emnist":
            begin = f"emnist-balanced-{split}"
        images, labels = content(name, split)
        write_idx(root / folder / f"{begin}-images-idx3-ubyte{end}", images)
        write_idx(root / folder / f"{begin}-labels-idx1-ubyte{end}", labels)


@pytest.mark.parametrize("layout", ["torchvision", "bare", "bare, gzipped"])
@pytest.mark.parametrize("name", FOLDERS)
def test_both_layouts_hold_the_same_images(name: str, layout: str, tmp_path: Path) -> None:
    folder = f"{FOLDERS[name]}/raw" if layout == "torchvision" else ""
    make(tmp_path, name, folder, ".gz" if layout == "bare, gzipped" else "")
    splits = load_splits(Data(dataset=name, train_path=str(tmp_path)), seed=0)
    assert splits.val is not None
    for split, source in (("train", splits.train), ("test", splits.val)):
        images, labels = content(name, split)
        if name == "emnist":
            images = images.swapaxes(1, 2)  # stored with rows and columns exchanged
        assert source.labels.tolist() == labels.tolist()
        assert source.images is not None
        assert source.images.shape == (COUNTS[split], 1, 28, 28)
        assert np.array_equal(source.images[:, 0].numpy(), images)
        assert source.image(3).shape == (3, 28, 28)
    assert len(splits.train.classes) == (47 if name == "emnist" else 10)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda b: b[:300], "damaged"),
        (lambda b: gzip.compress(gzip.decompress(b)[:-1]), "holds 23519 values"),
        (lambda b: gzip.compress(b"\0\0\x0d" + gzip.decompress(b)[3:]), "no idx file"),
        (lambda b: gzip.compress(b"\0\0\x08"), "no idx file"),
        (lambda b: b"no gzip at all", "Not a gzipped file"),
    ],
)
def test_a_damaged_file_is_named(damage: object, says: str, tmp_path: Path) -> None:
    make(tmp_path, "mnist", "", ".gz")
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(ConfigError, match=says):
        load_splits(Data(dataset="mnist", train_path=str(tmp_path)), seed=0)


def test_missing_files_are_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"fashion_mnist was not found .*download=true"):
        load_splits(Data(dataset="fashion_mnist", train_path=str(tmp_path)), seed=0)


def test_a_held_out_part_is_the_same_for_every_seed(tmp_path: Path) -> None:
    make(tmp_path, "mnist", "", "")
    data = Data(dataset="mnist", train_path=str(tmp_path), held_out=0.34)
    one, other = load_splits(data, seed=1), load_splits(data, seed=2)
    images, _ = content("mnist", "train")
    assert one.val is not None and other.val is not None
    assert one.val.images is not None and one.train.images is not None
    assert other.val.images is not None
    assert torch.equal(one.val.images, other.val.images)
    assert one.val.labels.bincount().tolist() == [1] * 10  # a third of 3
    together = torch.cat([one.train.images, one.val.images])[:, 0].flatten(1).numpy()
    assert sorted(map(tuple, together)) == sorted(map(tuple, images.reshape(30, -1)))


def test_validation_batches_can_be_pinned(tmp_path: Path) -> None:
    """Memory that overlaps itself (a grey image shown three times) cannot."""
    make(tmp_path, "mnist", "", "")
    source = load_splits(Data(dataset="mnist", train_path=str(tmp_path)), seed=0).train
    batch = ValidationViews(source, 28, True)[[SampleKey(0, 0), SampleKey(1, 0)]]
    assert batch.views[0].shape == (1, 2, 3, 28, 28)
    assert torch._debug_has_internal_overlap(batch.views[0]) == 0


def test_only_labelled_images_are_held_out() -> None:
    images = torch.zeros(12, 1, 4, 4, dtype=torch.uint8)
    labels = torch.tensor([-1, -1, 0, 0, 0, 0, 1, 1, 1, 1, -1, 0])
    train, val = hold_out(ArraySource(images, labels, ["a", "b"]), 0.25)
    assert val is not None
    assert sorted(val.labels.tolist()) == [0, 1]
    assert train.labels.tolist().count(-1) == 3
    attributes = ArraySource(images, torch.ones(12, 3), ["x", "y", "z"])
    assert len(hold_out(attributes, 0.25).train) == 9
    with pytest.raises(ConfigError, match="no training image has a label"):
        hold_out(ArraySource(images, torch.full((12,), -1), ["a"]), 0.25)
    with pytest.raises(ConfigError, match="a class has a single image"):
        hold_out(ArraySource(images[:3], torch.tensor([0, 0, 1]), ["a", "b"]), 0.5)
