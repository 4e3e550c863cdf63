"""Data sets by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from solo import rng
from solo.config import ConfigError, unknown_name
from solo.config.schema import Data
from solo.data.folders import class_folders, h5_file, imagenet100_classes, unlabelled_tree
from solo.data.parts import hold_out, take_fraction
from solo.data.shards import tar_shards
from solo.data.sources import ArraySource, EncodedSource, ImageSource, Splits
from solo.data.tables import load_tables
from solo.data.torchvision_sets import PUBLISHED, load_published

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class DatasetSpec:
    """How a data set is loaded and normalised.

    ``whole``: validation takes whole images (they are small) instead of a centre crop.
    """

    load: Callable[[Data], Splits]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    whole: bool = False


def load_splits(data: Data, seed: int) -> Splits:
    """Load the configured data set.

    Raises:
        ConfigError: for an unknown name, missing files, or classes that differ between the
            splits.
        BadImageError: where the first image cannot be read.
    """
    train, val = dataset_spec(data.dataset).load(data)
    if val is not None and train.classes != val.classes and not data.no_labels:
        odd = sorted(set(train.classes) ^ set(val.classes))
        raise ConfigError(
            f"data.train_path and data.val_path have different classes ({len(train.classes)} and "
            f"{len(val.classes)}); in one only: {', '.join(odd[:5])}"
        )
    if data.held_out:
        train, val = hold_out(train, data.held_out)
    if isinstance(train, EncodedSource):
        train.settle(data.channels, data.value_range, data.clip, data.on_bad_image == "skip")
        if isinstance(val, EncodedSource):
            val.layout = train.layout
    elif data.channels not in (None, 3) or data.value_range is not None:
        raise ConfigError(
            f"data.channels and data.value_range are for files; {data.dataset} has 3 channels of 8 "
            "bits"
        )
    train = take_fraction(train, data.fraction, rng.generator(seed, "fraction"))
    if data.preload:
        for source, what in ((train, "training images"), (val, "validation images")):
            if isinstance(source, EncodedSource):
                source.preload(what)
    return Splits(train, val)


def dataset_spec(name: str) -> DatasetSpec:
    """The entry of a data set.

    Raises:
        ConfigError: for an unknown name, with the nearest ones.
    """
    if name not in DATASETS:
        raise unknown_name("data.dataset", name, DATASETS)
    return DATASETS[name]


def normalisation(data: Data) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the channels of images in [0, 1]: the config's, or the set's.

    Other images than of three channels have none of their own: a half, and a quarter.

    Raises:
        ConfigError: for an unknown data set, or another number of channels.
    """
    spec, channels = dataset_spec(data.dataset), data.image_channels
    if data.mean is None or data.std is None:
        return (spec.mean, spec.std) if channels == 3 else ((0.5,) * channels, (0.25,) * channels)
    if len(data.mean) != channels:
        raise ConfigError(
            f"data.mean and data.std have {len(data.mean)} numbers, but images have {channels} "
            "channels; give as many"
        )
    return tuple(data.mean), tuple(data.std)


def _digits(data: Data) -> Splits:
    """scikit-learn's 1,797 8x8 digits (UCI): a fixed fifth of every class is for validation.

    They are enlarged to 32x32, so that a crop may begin between two of the few pixels.
    """
    from sklearn.datasets import load_digits  # a slow import that no other data set needs
    from sklearn.model_selection import train_test_split

    content = load_digits()
    small = torch.from_numpy(content.images)[:, None] * (255 / 16)
    large = F.interpolate(small, scale_factor=4, mode="bicubic")
    images = large.round().clamp(0, 255).to(torch.uint8)
    labels = torch.from_numpy(content.target)
    parts = train_test_split(
        np.arange(len(labels)), test_size=0.2, random_state=0, stratify=content.target
    )
    names = [str(digit) for digit in range(10)]
    train, val = (ArraySource(images[part], labels[part], names) for part in parts)
    return Splits(train, val)


def _images(only: Callable[[], list[str]] | None = None) -> Callable[[Data], Splits]:
    """Image folders or HDF5 files; ``only``: the classes to take of a larger tree."""

    def load(data: Data) -> Splits:
        if data.format in ("huggingface", "parquet"):
            return load_tables(data)

        def split(path: str | None, key: str) -> ImageSource:
            if data.format == "h5":
                return h5_file(path, key, data.no_labels)
            if data.format == "webdataset":
                return tar_shards(path, key, data.no_labels)
            if data.no_labels:
                return unlabelled_tree(path, key)
            return class_folders(path, key, only() if only else None)

        train = split(data.train_path, "data.train_path")
        val = split(data.val_path, "data.val_path") if data.val_path else None
        return Splits(train, val)

    return load


def _published(name: str) -> Callable[[Data], Splits]:
    return partial(load_published, name, PUBLISHED[name])


CIFAR10_STATS = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
CIFAR100_STATS = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
MNIST_STATS = {
    "mnist": (0.1307, 0.3081),
    "fashion_mnist": (0.2860, 0.3530),
    "kmnist": (0.1918, 0.3483),
    "emnist": (0.1751, 0.3332),
}
STL10_STATS = (0.4914, 0.4823, 0.4466), (0.247, 0.243, 0.261)

DATASETS: dict[str, DatasetSpec] = {
    # Mean and standard deviation of the training split.
    "digits": DatasetSpec(_digits, (0.312,) * 3, (0.356,) * 3, whole=True),
    "cifar10": DatasetSpec(_published("cifar10"), *CIFAR10_STATS, whole=True),
    "cifar100": DatasetSpec(_published("cifar100"), *CIFAR100_STATS, whole=True),
    "stl10": DatasetSpec(_published("stl10"), *STL10_STATS, whole=True),
    "imagenet": DatasetSpec(_images()),
    "imagenet100": DatasetSpec(_images(imagenet100_classes)),
    "imagenet10": DatasetSpec(_images()),
    "imagenette": DatasetSpec(_images()),
    "custom": DatasetSpec(_images()),
}
DATASETS |= {
    name: DatasetSpec(_published(name), (mean,) * 3, (std,) * 3, whole=True)
    for name, (mean, std) in MNIST_STATS.items()
}
DATASETS |= {name: DatasetSpec(_published(name)) for name in PUBLISHED if name not in DATASETS}


def label_facts(labels: Tensor, classes: list[str]) -> tuple[int, bool]:
    """How many outputs a probe needs (0: no labels), and whether they are binary attributes."""
    if labels.ndim > 1:
        return labels.shape[1], True
    return (len(classes) if bool((labels >= 0).any()) else 0), False
