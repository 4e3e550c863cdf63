"""Data sets that torchvision knows: CIFAR, STL-10, CelebA, and LeJEPA's transfer sets.

A set is its splits, how torchvision makes one of them, and how its images are read. Everything
goes through one mechanism (:func:`load_published`) and torchvision's public attributes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torchvision import datasets as tv

from solo.config import ConfigError
from solo.config.schema import Data
from solo.data.sources import ArraySource, FolderSource, ImageSource, Splits, fetched


class Published(NamedTuple):
    """How one of torchvision's sets is made and read.

    ``train``: the splits to train on, joined; ``val``: the one for validation;
    ``make``: (root, split, download) -> a torchvision data set; ``read``: data sets -> images.
    """

    train: tuple[str, ...]
    val: str
    make: Callable[[str, str, bool], Any]
    read: Callable[[list[Any]], ImageSource]


def load_published(name: str, published: Published, data: Data) -> Splits:
    """Load both splits of one of torchvision's sets.

    Raises:
        ConfigError: where files are not there.
    """

    def load(splits: tuple[str, ...], path: str | None, key: str) -> ImageSource:
        root = path or "datasets"
        try:
            made = [fetched(root, partial(published.make, root, s), data.download) for s in splits]
            return published.read(made)
        except (RuntimeError, OSError, ValueError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise ConfigError(
                f"{key}: {name} was not found in {root} ({reason}). Name the folder that holds it "
                f"with ++{key}=<folder>, or let torchvision fetch it: ++data.download=true"
            ) from error

    return Splits(
        load(published.train, data.train_path, "data.train_path"),
        load((published.val,), data.val_path or data.train_path, "data.val_path"),
    )


class Listed(NamedTuple):
    """Image files with their labels, and what the labels are called."""

    pairs: list[tuple[Path, int]]
    classes: list[str]


def listed(cls: Any) -> Callable[[str, str, bool], Listed]:
    """How to list a set of image files: torchvision's own reading of a file is left out."""

    def make(root: str, split: str, download: bool) -> Listed:
        content = cls(root, split, download=download, loader=Path)
        pairs = [content[i] for i in range(len(content))]
        names = getattr(content, "classes", sorted({label for _, label in pairs}))
        return Listed(pairs, [str(name) for name in names])

    return make


def _pets(root: str, split: str, download: bool) -> Listed:
    """Torchvision reads these images itself; where they are is in the set's own lists."""
    content = tv.OxfordIIITPet(root, split, download=download)
    base = Path(content.root) / "oxford-iiit-pet"
    lines = (base / "annotations" / f"{split}.txt").read_text().splitlines()
    rows = [line.split() for line in lines]
    pairs = [(base / "images" / f"{name}.jpg", int(label) - 1) for name, label, *_ in rows]
    return Listed(pairs, [str(name) for name in content.classes])


def _files(parts: list[Listed]) -> ImageSource:
    paths, labels = zip(*(pair for part in parts for pair in part.pairs))
    return FolderSource(Path(), [str(path) for path in paths], torch.tensor(labels), parts[0][1])


def _cifar(parts: list[Any]) -> ImageSource:
    (content,) = parts
    images = torch.from_numpy(content.data).permute(0, 3, 1, 2).contiguous()
    return ArraySource(images, torch.tensor(content.targets), list(content.classes))


def _stl10(parts: list[Any]) -> ImageSource:
    """Unlabelled images have the label -1."""
    (content,) = parts
    labels = torch.from_numpy(content.labels.astype(np.int64))
    return ArraySource(torch.from_numpy(content.data), labels, list(content.classes))


def _celeba(parts: list[Any]) -> ImageSource:
    """Faces with 40 binary attributes each: labels [N, 40]."""
    (content,) = parts
    folder = Path(content.root) / content.base_folder / "img_align_celeba"
    names = [name for name in content.attr_names if name]
    return FolderSource(folder, list(content.filename), content.attr, names)


def _by_train_flag(cls: type[tv.CIFAR10]) -> Callable[[str, str, bool], Any]:
    return lambda root, split, download: cls(root, split == "train", download=download)


def _by_split(cls: Any) -> Callable[[str, str, bool], Any]:
    return lambda root, split, download: cls(root, split, download=download)


PUBLISHED: dict[str, Published] = {
    "cifar10": Published(("train",), "test", _by_train_flag(tv.CIFAR10), _cifar),
    "cifar100": Published(("train",), "test", _by_train_flag(tv.CIFAR100), _cifar),
    "stl10": Published(("train+unlabeled",), "test", _by_split(tv.STL10), _stl10),
    "celeba": Published(("train",), "valid", _by_split(tv.CelebA), _celeba),
    # LeJEPA's transfer sets.
    "dtd": Published(("train", "val"), "test", listed(tv.DTD), _files),
    "aircraft": Published(("trainval",), "test", listed(tv.FGVCAircraft), _files),
    "cars": Published(("train",), "test", listed(tv.StanfordCars), _files),
    "flowers102": Published(("train", "val"), "test", listed(tv.Flowers102), _files),
    "food101": Published(("train",), "test", listed(tv.Food101), _files),
    "pets": Published(("trainval",), "test", _pets, _files),
}
