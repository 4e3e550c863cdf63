"""Data sets that torchvision knows: MNIST's family, CIFAR, STL-10, CelebA, LeJEPA's transfer sets.

A set is its splits, how torchvision makes one of them, and how its images are read. Everything
goes through one mechanism (:func:`load_published`) and torchvision's public attributes.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision import datasets as tv

from solo.config import ConfigError, first_line
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
            reason = first_line(error)
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


class Bare(NamedTuple):
    """A split of MNIST's family, from its two files."""

    data: Tensor
    targets: Tensor
    classes: list[str]


def read_idx(path: Path) -> Tensor:
    """A file of MNIST's format, gzipped or not: two zero bytes, the type (8: bytes), the number of
    dimensions, their sizes (big-endian, 4 bytes each), then the values.

    Returns:
        uint8, of the sizes that the file names.

    Raises:
        ValueError: for a file of another kind, or one cut short.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read()
    except (EOFError, zlib.error) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    start = 4 + 4 * content[3] if len(content) > 4 else 0
    if content[:3] != b"\0\0\x08" or not 4 < start <= len(content):
        raise ValueError(f"{path} is no idx file of bytes")
    sizes = np.frombuffer(content[4:start], dtype=">i4").tolist()
    if len(content) - start != math.prod(sizes):
        raise ValueError(
            f"{path} holds {len(content) - start} values where its head says {math.prod(sizes)}"
        )
    return torch.tensor(np.frombuffer(content[start:], dtype=np.uint8)).reshape(sizes)


def _mnist(
    cls: type[tv.MNIST], stem: str = "", **options: str
) -> Callable[[str, str, bool], Bare | tv.MNIST]:
    """One of MNIST's family: torchvision's folders, or its files alone in one folder.

    ``stem``: how the files' names begin, with {split} of train and test where they have one.
    """

    def make(root: str, split: str, download: bool) -> Bare | tv.MNIST:
        begin = stem.format(split=split) or ("train" if split == "train" else "t10k")
        images = _bare(root, f"{begin}-images-idx3-ubyte")
        labels = _bare(root, f"{begin}-labels-idx1-ubyte")
        if images is None or labels is None:
            return cls(root, train=split == "train", download=download, **options)
        names = cls.classes_split_dict[options["split"]] if options else cls.classes
        return Bare(read_idx(images), read_idx(labels), list(names))

    return make


def _bare(root: str, name: str) -> Path | None:
    there = (Path(root) / f"{name}{end}" for end in ("", ".gz"))
    return next((path for path in there if path.is_file()), None)


def _gray(parts: list[Any]) -> ImageSource:
    (content,) = parts
    return ArraySource(content.data[:, None], content.targets, list(content.classes))


def _upright(parts: list[Any]) -> ImageSource:
    """EMNIST is stored with rows and columns exchanged."""
    (content,) = parts
    images = content.data.transpose(1, 2)[:, None].contiguous()
    return ArraySource(images, content.targets, list(content.classes))


def _by_train_flag(cls: type[tv.CIFAR10]) -> Callable[[str, str, bool], Any]:
    return lambda root, split, download: cls(root, split == "train", download=download)


def _by_split(cls: Any) -> Callable[[str, str, bool], Any]:
    return lambda root, split, download: cls(root, split, download=download)


EMNIST = _mnist(tv.EMNIST, "emnist-balanced-{split}", split="balanced")

PUBLISHED: dict[str, Published] = {
    "mnist": Published(("train",), "test", _mnist(tv.MNIST), _gray),
    "fashion_mnist": Published(("train",), "test", _mnist(tv.FashionMNIST), _gray),
    "kmnist": Published(("train",), "test", _mnist(tv.KMNIST), _gray),
    "emnist": Published(("train",), "test", EMNIST, _upright),
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
