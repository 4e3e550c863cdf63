"""Tables of Hugging Face's datasets give what the folder that they were made of gives."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from types import ModuleType
from typing import Any

import pytest
import torch
from helpers import slow, tiny

from solo.config import ConfigError
from solo.config.schema import Data
from solo.data import ImageData
from solo.data.batches import Batch
from solo.data.datasets import load_splits
from solo.data.sources import BadImageError
from solo.methods import resolve_config

datasets = pytest.importorskip("datasets")
Command = Callable[..., CompletedProcess[str]]


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def batches(workers: int, start: int = 0, **data: Any) -> list[Batch]:
    options = tiny(Path("unused"), optimizer={"batch_size": 5})
    options["data"] = {"dataset": "custom", "num_workers": workers, **data}
    module = ImageData(resolve_config(options))
    module.load_state_dict({"epoch": 0, "batch": start})
    return [*module.train_dataloader(), *module.val_dataloader()]


@pytest.mark.parametrize(
    ("form", "workers"),
    [("parquet", 0), ("huggingface", 2), slow("parquet", 1), slow("parquet", 3)],
)
def test_batches_are_those_of_the_folder(
    form: str, workers: int, image_tree: Path, tmp_path: Path, script: Command
) -> None:
    """Views, labels and order, from the start and from the middle of an epoch; parts likewise."""
    folder = {f"{split}_path": str(image_tree / split) for split in ("train", "val")}
    suffix = ".parquet" if form == "parquet" else ""
    table = {f"{split}_path": str(tmp_path / f"{split}{suffix}") for split in ("train", "val")}
    for key, place in folder.items():
        script("scripts/utils/images_to_table.py", place, table[key])
    for start, more in ((0, {}), (3, {}), (0, {"fraction": 0.5}), (0, {"held_out": 0.3})):
        for one, two in itertools.zip_longest(
            batches(0, start, **folder, **more),
            batches(workers, start, format=form, **table, **more),
        ):
            assert torch.equal(one.views[0], two.views[0])
            assert torch.equal(one.labels, two.labels) and torch.equal(one.indices, two.indices)
    plain = load_splits(Data(dataset="custom", **folder), 0)
    splits = load_splits(Data(dataset="custom", format=form, **table), 0)
    assert plain.train.classes == splits.train.classes
    assert splits.train.where(2).endswith(f"train{suffix}, row 2")


def save(folder: Path, split: bool = True, **columns: Any) -> str:
    table = datasets.Dataset.from_dict(columns)
    if split:
        table = datasets.DatasetDict({"train": table, "test": table.select(range(2))})
    table.save_to_disk(str(folder))
    return str(folder)


def test_columns_splits_and_labels(image_tree: Path, tmp_path: Path) -> None:
    """A table's own splits; bytes and paths; names, numbers and missing labels."""
    files = sorted((image_tree / "train").rglob("*.*"))[:4]
    names = ["b", "a", None, "b"]
    path = save(tmp_path / "one", picture=[f.read_bytes() for f in files], what=names)
    data = Data(dataset="custom", format="huggingface", train_path=path, image_column="picture",
                label_column="what")  # fmt: skip
    train, val = load_splits(data, 0)
    assert train.labels.tolist() == [1, 0, -1, 1] and train.classes == ["a", "b"]
    assert val is not None and len(val) == 2
    paths = save(tmp_path / "two", False, image=[str(f) for f in files], label=[0, 2, 1, 0])
    other = load_splits(Data(dataset="custom", format="huggingface", train_path=paths), 0)
    assert other.val is None and other.train.classes == ["0", "1", "2"]
    assert all(torch.equal(train.image(i), other.train.image(i)) for i in range(4))
    blind = data.model_copy(update={"no_labels": True, "label_column": "none"})
    assert load_splits(blind, 0).train.labels.tolist() == [-1] * 4
    for change, said in (
        ({"image_column": "image"}, "has no column image, but picture, what"),
        ({"train_path": str(tmp_path)}, "is no table that datasets can read"),
        ({"train_path": "nobody/nothing"}, "is no table that datasets can read"),
        ({"train_path": None}, "data.train_path is not set"),
        ({"format": "parquet", "train_path": str(tmp_path / "x")}, "there are no .parquet files"),
    ):
        with pytest.raises(ConfigError, match=said):
            load_splits(data.model_copy(update=change), 0)
    empty = save(tmp_path / "three", False, image=[files[0].read_bytes(), None], label=[0, 1])
    source = load_splits(Data(dataset="custom", format="huggingface", train_path=empty), 0).train
    with pytest.raises(BadImageError, match=r"three, row 1 cannot be read .* the cell is empty"):
        source.image(1)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    for found in (None, ModuleType("datasets")):  # the second: torchvision's folder, once imported
        monkeypatch.setitem(sys.modules, "datasets", found)
        with pytest.raises(ConfigError, match=r"data.format=parquet needs .* pip install datasets"):
            load_splits(Data(dataset="custom", format="parquet", train_path="x"), 0)
