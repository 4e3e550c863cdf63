"""Images with a class for each pixel."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.progress import track
from torch import Tensor
from torchvision.datasets import VOCSegmentation

from solo.config import ConfigError
from solo.data.decode import UNREADABLE, Layout, decode, reason_of
from solo.data.sources import IMAGE_SUFFIXES, BadImageError

IGNORED = 255
"""The class of pixels that count for nothing."""

VOC_CLASSES = [
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat"),
    *("chair", "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant"),
    *("sheep", "sofa", "train", "tvmonitor"),
]
ADE20K_CLASSES = 150


class MaskedImages:
    """Images and their masks, read on demand.

    Args:
        pairs: an image's file and its mask's.
        classes: names; a mask holds their numbers, or 255 where a pixel has none.
        shift: what is subtracted from a mask's values (1 where 0 means none, as in ADE20K).
    """

    def __init__(self, pairs: list[tuple[Path, Path]], classes: list[str], shift: int = 0) -> None:
        self.pairs, self.classes, self.shift = pairs, classes, shift

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """uint8 [3, H, W], and int64 [H, W] with 255 where there is no class.

        Raises:
            BadImageError: for a file that does not decode, a mask of another size or with colours,
                or a class that is none.
        """
        place, other = self.pairs[index]
        try:
            image = decode(place.read_bytes(), Layout())
        except UNREADABLE as error:
            raise BadImageError(f"{place} cannot be read: {reason_of(error)}") from error
        mask = self._mask(other)
        if mask.shape != image.shape[1:]:
            raise BadImageError(
                f"{other} is {mask.shape[0]} x {mask.shape[1]} px, its image "
                f"{image.shape[1]} x {image.shape[2]}"
            )
        return image, mask

    def _mask(self, path: Path) -> Tensor:
        values = read_mask(path).long()
        if self.shift:
            values = torch.where(values < self.shift, IGNORED, values - self.shift)
        known = values[values != IGNORED]
        if len(known) and int(known.max()) >= len(self.classes):
            raise BadImageError(
                f"{path} has the class {int(known.max()) + self.shift}, but there are "
                f"{len(self.classes)} classes"
            )
        return values


def read_mask(path: Path) -> Tensor:
    """A mask's own values, [H, W].

    Raises:
        BadImageError: for one that cannot be read, or whose pixels are colours and no numbers.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in ("1", "L", "P", "I", "I;16"):
                raise ValueError(
                    f"its pixels are {image.mode} colours, and a class is one number: save it with "
                    "one channel, or a palette"
                )
            return torch.from_numpy(np.array(image).astype(np.int64))
    except UNREADABLE as error:
        raise BadImageError(f"the mask {path} cannot be read: {reason_of(error)}") from error


def voc(root: Path) -> tuple[MaskedImages, MaskedImages]:
    """Pascal VOC 2012, train and val, as torchvision lays it out: ``root/VOCdevkit/VOC2012``.

    Raises:
        ConfigError: where it is not there.
    """
    splits = []
    for name in ("train", "val"):
        try:
            found = VOCSegmentation(root, year="2012", image_set=name)
        except (RuntimeError, OSError, AssertionError) as error:
            raise ConfigError(
                f"segmentation.train_path: {root} holds no VOCdevkit/VOC2012 with the "
                f"segmentation's {name} set ({error})"
            ) from error
        pairs = [(Path(i), Path(m)) for i, m in zip(found.images, found.masks)]
        splits.append(MaskedImages(pairs, VOC_CLASSES))
    return splits[0], splits[1]


def ade20k(root: Path) -> tuple[MaskedImages, MaskedImages]:
    """ADE20K of the scene parsing challenge: ``root/{images,annotations}/{training,validation}``.

    Raises:
        ConfigError: where it is not there.
    """
    classes = [str(number) for number in range(1, ADE20K_CLASSES + 1)]
    splits = []
    for name in ("training", "validation"):
        pairs = _pairs(root / "images" / name, root / "annotations" / name)
        splits.append(MaskedImages(pairs, classes, shift=1))
    return splits[0], splits[1]


def folders(train: Path, val: Path) -> tuple[MaskedImages, MaskedImages]:
    """Each split's ``images/`` and ``masks/``, files of the same name but for its suffix.

    Classes are the numbers up to the largest of all masks, which are all read.

    Raises:
        ConfigError: where a folder or a mask is missing, or masks have one class alone.
        BadImageError: for a mask that cannot be read.
    """
    first, second = (_pairs(root / "images", root / "masks") for root in (train, val))
    highest = 0
    for _, path in track([*first, *second], "Reading masks"):
        values = read_mask(path)
        known = values[values != IGNORED]
        highest = max(highest, int(known.max()) if len(known) else 0)
    if not highest:
        raise ConfigError(
            f"segmentation: masks of {train} and {val} have one class, 0 (255 stands for none, and "
            "is not counted); foreground and background are 1 and 0"
        )
    classes = [str(number) for number in range(highest + 1)]
    return MaskedImages(first, classes), MaskedImages(second, classes)


def _pairs(images: Path, masks: Path) -> list[tuple[Path, Path]]:
    for folder in (images, masks):
        if not folder.is_dir():
            raise ConfigError(f"segmentation: there is no folder {folder}")
    known = {path.stem: path for path in sorted(masks.iterdir())}
    files = sorted(p for p in images.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise ConfigError(f"segmentation: there are no images in {images}")
    if missing := [path for path in files if path.stem not in known]:
        raise ConfigError(f"segmentation: {missing[0]} has no mask in {masks}")
    return [(path, known[path.stem]) for path in files]
