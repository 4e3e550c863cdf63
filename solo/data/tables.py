"""Images in the tables of Hugging Face's ``datasets``: on disk, in Parquet files, or by name."""

from __future__ import annotations

import glob
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from solo.config import ConfigError, first_line
from solo.config.schema import Data
from solo.data.sources import EncodedSource, Splits

VALIDATION = ("validation", "valid", "val", "test")
"""What the split is called that validates, where none is named."""


class TableSource(EncodedSource):
    """Encoded images in a column of a table.

    Args:
        table: a ``datasets.Dataset`` whose images are not decoded.
        column: of the images.
        where: the table's name, for errors.
        labels: [N].
        classes: their names.
    """

    def __init__(
        self, table: Any, column: str, where: str, labels: Tensor, classes: list[str]
    ) -> None:
        super().__init__([], labels, classes)
        self.table, self.column, self.place = table, column, where
        self.rows = np.arange(len(labels))

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: int) -> bytes:
        """The cell's bytes, or those of the file that it names."""
        cell = self.table[int(self.rows[index])][self.column]
        content = cell.get("bytes") if isinstance(cell, dict) else cell
        if isinstance(content, bytes):
            return content
        path = cell.get("path") if isinstance(cell, dict) else cell
        if not isinstance(path, str):
            raise ValueError("the cell is empty")
        return Path(path).read_bytes()

    def size(self, index: int) -> int:
        """Of the encoded image."""
        return len(self.read(index))

    def where(self, index: int) -> str:
        """The table and the row."""
        return f"{self.place}, row {int(self.rows[index])}"

    def part(self, indices: Tensor) -> TableSource:
        """Some of the images, in the order of ``indices``."""
        chosen = super().part(indices)
        assert isinstance(chosen, TableSource)
        chosen.rows = self.rows[indices.numpy()]
        return chosen


def library(what: str) -> Any:
    """Hugging Face's ``datasets``.

    Args:
        what: needs it, for the error.

    Raises:
        ConfigError: where it is not installed (a folder of that name, as torchvision's, is not it).
    """
    try:
        import datasets
    except ModuleNotFoundError:
        datasets = None
    if not hasattr(datasets, "load_from_disk"):
        raise ConfigError(f"{what} needs Hugging Face's datasets: pip install datasets")
    return datasets


def load_tables(data: Data) -> Splits:
    """Both splits: those that are named, or the table's own.

    Raises:
        ConfigError: where ``datasets`` is not installed, a table is not there, or it has no such
            columns.
    """
    datasets = library(f"data.format={data.format}")
    datasets.disable_progress_bars()
    train, others = _load(datasets, data, data.train_path, "data.train_path", "train")
    if data.val_path is not None:
        val, _ = _load(datasets, data, data.val_path, "data.val_path", *VALIDATION, "train")
    else:
        val = next((others[name] for name in VALIDATION if name in others), None)
    return Splits(
        _source(datasets, train, data, f"{data.train_path}"),
        None
        if val is None
        else _source(datasets, val, data, f"{data.val_path or data.train_path}"),
    )


def _load(
    datasets: Any, data: Data, path: str | None, key: str, *splits: str
) -> tuple[Any, dict[str, Any]]:
    """The first of some splits that a table has, and all that it has, by name.

    Raises:
        ConfigError: where there is none.
    """
    if path is None:
        raise ConfigError(f"{key} is not set; add ++{key}=<folder, .parquet files or name>")
    place = os.path.expanduser(path)
    try:
        if data.format == "parquet":
            files = sorted(glob.glob(f"{glob.escape(place)}/*.parquet")) or sorted(glob.glob(place))
            if not files:
                raise ConfigError(f"{key}: there are no .parquet files at {path}")
            found = datasets.load_dataset("parquet", data_files=files, split="train")
        elif os.path.isdir(place):
            found = datasets.load_from_disk(place)
        else:
            found = datasets.load_dataset(path)
    except ConfigError:
        raise
    except Exception as error:  # of the library, the network or the disk
        raise ConfigError(
            f"{key}: {path} is no table that datasets can read ({first_line(error)}). A "
            "folder of save_to_disk is expected, a name of the hub, or data.format=parquet"
        ) from error
    if isinstance(found, datasets.Dataset):
        return found, {}
    for split in splits:
        if split in found:
            return found[split], dict(found)
    raise ConfigError(f"{key}: {path} has the splits {', '.join(found)}, but none of {splits}")


def _source(datasets: Any, table: Any, data: Data, where: str) -> TableSource:
    """Images and labels of the columns that the config names.

    Raises:
        ConfigError: where there is no such column.
    """
    image, label = data.image_column, data.label_column
    wanted = [image] if data.no_labels else [image, label]
    if missing := [name for name in wanted if name not in table.column_names]:
        raise ConfigError(
            f"{where} has no column {missing[0]}, but {', '.join(table.column_names)}; name them "
            "with ++data.image_column=… ++data.label_column=…"
        )
    if isinstance(table.features[image], datasets.Image):
        table = table.cast_column(image, datasets.Image(decode=False))
    plain = table.select_columns([image])
    if data.no_labels:
        return TableSource(plain, image, where, torch.full((len(table),), -1), [])
    values = table.with_format(None)[label][:]
    kind = table.features[label]
    names = getattr(kind, "names", None)
    if any(isinstance(value, str) for value in values):
        names = sorted({value for value in values if value is not None})
        known = {name: number for number, name in enumerate(names)}
        values = [None if value is None else known[value] for value in values]
    numbers = torch.tensor([-1 if value is None else int(value) for value in values])
    if names is None:
        names = [str(number) for number in range(int(numbers.max()) + 1)]
    return TableSource(plain, image, where, numbers, list(names))
