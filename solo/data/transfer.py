"""The transfer sets of LeJEPA's tables, through torchvision: where their images and labels are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torchvision import datasets as tv

from solo.config import ConfigError
from solo.config.schema import Data
from solo.data.sources import FolderSource, fetched

Make = Callable[[str, str, bool], Any]  # root, split, download -> a torchvision data set
Files = Callable[[Any], tuple[Sequence[Any], Sequence[int]]]  # its image files and labels


def _plain(content: Any) -> tuple[Sequence[Any], Sequence[int]]:
    return content._image_files, content._labels


def _pairs(content: Any) -> tuple[Sequence[Any], Sequence[int]]:
    paths, labels = zip(*content._samples)
    return paths, labels


def _pets(content: Any) -> tuple[Sequence[Any], Sequence[int]]:
    return content._images, content._labels


# Splits to train on (several are joined), the split to test on, and how to make and read them.
SETS: dict[str, tuple[tuple[str, ...], str, Make, Files]] = {
    "dtd": (
        ("train", "val"),
        "test",
        lambda root, split, get: tv.DTD(root, split, download=get),
        _plain,
    ),
    "aircraft": (
        ("trainval",),
        "test",
        lambda root, split, get: tv.FGVCAircraft(root, split, download=get),
        _plain,
    ),
    "cars": (
        ("train",),
        "test",
        lambda root, split, get: tv.StanfordCars(root, split, download=get),
        _pairs,
    ),
    "flowers102": (
        ("train", "val"),
        "test",
        lambda root, split, get: tv.Flowers102(root, split, download=get),
        _plain,
    ),
    "food101": (
        ("train",),
        "test",
        lambda root, split, get: tv.Food101(root, split, download=get),
        _plain,
    ),
    "pets": (
        ("trainval",),
        "test",
        lambda root, split, get: tv.OxfordIIITPet(root, split, download=get),
        _pets,
    ),
}


def load_transfer(name: str, data: Data) -> tuple[FolderSource, FolderSource]:
    """Training and test images.

    Raises:
        ConfigError: where the files are not there.
    """
    train_splits, test_split, make, files = SETS[name]
    root = data.train_path or "datasets"
    try:
        *train, test = (
            fetched(root, partial(make, root, split), data.download)
            for split in (*train_splits, test_split)
        )
    except (RuntimeError, OSError, ValueError) as error:
        raise ConfigError(
            f"data.train_path: {name} was not found in {root} ({str(error).splitlines()[0]}). "
            "Name the folder that holds it with ++data.train_path=<folder>, or let torchvision "
            "fetch it: ++data.download=true"
        ) from error
    return _source(train, files), _source([test], files)


def _source(parts: list[Any], files: Files) -> FolderSource:
    paths: list[str] = []
    labels: list[int] = []
    for part in parts:
        found, numbers = files(part)
        paths += [str(path) for path in found]
        labels += [int(number) for number in numbers]
    classes = [str(name) for name in getattr(parts[0], "classes", sorted(set(labels)))]
    return FolderSource(Path(), paths, torch.tensor(labels), classes)
