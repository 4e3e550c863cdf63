"""Where images come from: arrays in memory, files in folders, or bytes in an HDF5 file.

Every source answers ``len``, ``image(i)`` ([C, H, W], uint8; or float32 in [0, 255], where files
have more than 8 bits), ``layout`` and ``labels`` (int64, [N], or [N, A] for A binary attributes;
-1 where there is no label). Sources in memory have all their images as one tensor besides.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import h5py
import numpy as np
import torch
from filelock import FileLock
from rich.progress import track
from torch import Tensor

from solo.config import ConfigError, RunError
from solo.data.decode import UNREADABLE, Jpeg, Layout, decode, jpeg_of, layout_of, reason_of

IMAGE_SUFFIXES = {
    ".jpg",
    ".jpeg",
    ".png",
    ".bmp",
    ".webp",
    ".tif",
    ".tiff",
    ".ppm",
    ".pgm",
    ".gif",
    ".npy",
}


class BadImageError(RunError, RuntimeError):
    """A file that does not decode; the message holds its path."""


class ImageSource(Protocol):
    """What the rest of the data path needs of a data set."""

    labels: Tensor
    classes: list[str]
    images: Tensor | None
    """All images, uint8 [N, C, H, W] with C of 1 or 3, where they are in memory."""

    @property
    def layout(self) -> Layout:
        """What every image is like."""
        ...

    def __len__(self) -> int: ...

    def image(self, index: int) -> Tensor:
        """[C, H, W], uint8; or float32 in [0, 255]."""
        ...


class Splits(NamedTuple):
    """Training images, and validation images where there are any."""

    train: ImageSource
    val: ImageSource | None


class ArraySource:
    """A data set that fits in memory.

    Args:
        images: uint8 [N, C, H, W], C of 1 or 3.
        labels: [N] or [N, A].
        classes: their names.

    Raises:
        ValueError: for images of another type or layout, or another number of labels.

    Example:
        >>> images = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
        >>> source = ArraySource(images, torch.tensor([0, 1, 0]), ['a', 'b'])
        >>> len(source), source.image(2).shape
        (3, torch.Size([3, 8, 8]))
    """

    layout = Layout()

    def __init__(self, images: Tensor, labels: Tensor, classes: list[str]) -> None:
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(
                f"images are {images.dtype} {list(images.shape)}; they must be uint8 [N, C, H, W] "
                "with C of 1 or 3, in 0 to 255"
            )
        if len(labels) != len(images):
            raise ValueError(f"there are {len(images)} images, but {len(labels)} labels")
        self.images: Tensor | None = images
        self.labels = labels.long()
        self.classes = classes

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Tensor:
        """uint8 [3, H, W]."""
        assert self.images is not None
        return self.images[index].expand(3, -1, -1)


class Names:
    """Many strings in two arrays: a third of what a list takes, and no reference counts that
    loader processes would touch.

    Args:
        text: all of them one after the other, uint8, as the file system has them.
        ends: int64 [N], where each ends.

    Example:
        >>> names = Names.of(["a/1.png", "b/22.png"])
        >>> len(names), names[1]
        (2, 'b/22.png')
    """

    def __init__(self, text: np.ndarray, ends: np.ndarray) -> None:
        self.text, self.ends = text, ends

    @classmethod
    def of(cls, names: Iterable[str]) -> Names:
        """From strings."""
        names = list(names)
        content, lengths = os.fsencode("".join(names)), [len(name) for name in names]
        if sum(lengths) != len(content):  # letters of several bytes
            lengths = [len(os.fsencode(name)) for name in names]
        return cls(np.frombuffer(content, dtype=np.uint8), np.cumsum(lengths, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        start = self.ends[index - 1] if index else 0
        return os.fsdecode(self.text[start : self.ends[index]].tobytes())

    def part(self, indices: np.ndarray) -> Names:
        """Some of them, in the order of ``indices``."""
        lengths = np.diff(self.ends, prepend=0)[indices]
        ends = np.cumsum(lengths)
        shift = self.ends[indices] - ends  # from a new place to the old one
        return Names(self.text[np.arange(lengths.sum()) + np.repeat(shift, lengths)], ends)


class EncodedSource:
    """Base of sources whose images are decoded on demand, from ``read(index)``."""

    images: Tensor | None = None
    layout = Layout()

    def __init__(self, names: Sequence[str] | Names, labels: Tensor, classes: list[str]) -> None:
        self.names = names if isinstance(names, Names) else Names.of(names)
        self.labels = labels.long()
        self.classes = classes
        self._bytes: Tensor | None = None
        self._spans: Tensor | None = None

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> bytes:
        """The encoded image."""
        raise NotImplementedError

    def size(self, index: int) -> int:
        """Bytes of the encoded image."""
        raise NotImplementedError

    def where(self, index: int) -> str:
        """What to call this image in an error."""
        return self.names[index]

    def image(self, index: int) -> Tensor:
        """[C, H, W], uint8 or, of deeper files, float32 in [0, 255], as ``layout`` says.

        Raises:
            BadImageError: where the image does not decode, or is not of the layout.
        """
        try:
            return decode(self._encoded(index), self.layout)
        except UNREADABLE as error:
            raise self._unusable(index, error) from error

    def undecoded(self, index: int) -> Jpeg | Tensor:
        """The file, where the training device can decode it; else the image.

        Raises:
            BadImageError: as :meth:`image`.
        """
        try:
            content = self._encoded(index)
            jpeg = jpeg_of(content, self.layout)
            return decode(content, self.layout) if jpeg is None else jpeg
        except UNREADABLE as error:
            raise self._unusable(index, error) from error

    def settle(
        self, channels: int | None, value_range: list[float] | None, clip: bool, skip_bad: bool
    ) -> None:
        """Take the layout of the first image (with ``skip_bad``, of the first that can be read).

        Args:
            channels: as of :func:`solo.data.decode.layout_of`, with the two that follow.
            value_range: see there.
            clip: see there.
            skip_bad: whether images that cannot be read are passed over.

        Raises:
            BadImageError: where it cannot be read.
            ConfigError: where its values have no range.
        """
        for index in range(len(self)):
            try:
                self.layout = layout_of(self._encoded(index), channels, value_range, clip)
                return
            except ConfigError as error:
                raise ConfigError(f"{self.where(index)}: {error}") from error
            except UNREADABLE as error:
                if not skip_bad:
                    raise self._unusable(index, error) from error
        raise BadImageError(f"none of the {len(self)} images can be read")

    def _unusable(self, index: int, error: Exception) -> BadImageError:
        return BadImageError(
            f"{self.where(index)} cannot be read as an image: {reason_of(error)}. "
            "Repair or remove the file, or set ++data.on_bad_image=skip"
        )

    def part(self, indices: Tensor) -> EncodedSource:
        """Some of the images, in the order of ``indices``."""
        chosen = copy.copy(self)
        chosen.labels = self.labels[indices]
        if len(self.names):  # tables have none
            chosen.names = self.names.part(indices.numpy())
        if self._spans is not None:
            chosen._spans = self._spans[indices]
        return chosen

    def preload(self, what: str) -> None:
        """Read everything into one buffer, still encoded, with a progress bar."""
        ends = torch.tensor([self.size(i) for i in range(len(self))]).cumsum(0)
        # One buffer, filled in place. Workers are forked and see the same pages: nobody writes.
        buffer = torch.empty(int(ends[-1]), dtype=torch.uint8)
        start = 0
        for index in track(range(len(self)), f"Reading {what} into memory"):
            content, end = self.read(index), int(ends[index])
            if len(content) != end - start:
                raise BadImageError(f"{self.where(index)} changed while it was read")
            buffer[start:end] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
            start = end
        starts = torch.cat((ends.new_zeros(1), ends[:-1]))
        self._bytes, self._spans = buffer, torch.stack((starts, ends), dim=1)

    def _encoded(self, index: int) -> bytes:
        if self._bytes is None or self._spans is None:
            return self.read(index)
        start, end = self._spans[index].tolist()
        return self._bytes[start:end].numpy().tobytes()


class FolderSource(EncodedSource):
    """Image files; ``names`` are their paths below ``root``."""

    def __init__(
        self, root: Path, names: Sequence[str] | Names, labels: Tensor, classes: list[str]
    ) -> None:
        super().__init__(names, labels, classes)
        self.root = root

    def read(self, index: int) -> bytes:
        """The file's bytes."""
        return (self.root / self.names[index]).read_bytes()

    def size(self, index: int) -> int:
        """The file's."""
        return (self.root / self.names[index]).stat().st_size

    def where(self, index: int) -> str:
        """The file's path."""
        return str(self.root / self.names[index])


class H5Source(EncodedSource):
    """Encoded images in an HDF5 file: one group a class, one uint8 array an image."""

    def __init__(
        self, path: Path, names: Sequence[str], labels: Tensor, classes: list[str]
    ) -> None:
        super().__init__(names, labels, classes)
        self.path = path
        self._file: h5py.File | None = None

    def read(self, index: int) -> bytes:
        """The stored bytes. Each process opens the file for itself, at its first image."""
        return bytes(np.asarray(self._dataset(index)).tobytes())

    def size(self, index: int) -> int:
        """Of the stored array."""
        return int(self._dataset(index).nbytes)

    def settle(self, *args: Any, **kwargs: Any) -> None:
        """As others; then the file is closed, so that no process inherits it."""
        super().settle(*args, **kwargs)
        if self._file is not None:
            self._file.close()
            self._file = None

    def _dataset(self, index: int) -> h5py.Dataset:
        if self._file is None:
            self._file = h5py.File(self.path, "r")
        return self._file[self.names[index]]

    def where(self, index: int) -> str:
        """File and key."""
        return f"{self.path}:{self.names[index]}"

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_file": None}


Found = TypeVar("Found")


def fetched(root: str, make: Callable[[bool], Found], download: bool) -> Found:
    """A data set that may have to be downloaded; of several processes one does, the others wait.

    Args:
        root: where it is, or will be.
        make: builds it; told whether to download, raises RuntimeError where files are missing.
        download: whether that is allowed.
    """
    if not download:
        return make(False)
    try:
        return make(False)  # it is there: no turns to take
    except (RuntimeError, OSError):
        place = Path(root).expanduser()
        place.mkdir(parents=True, exist_ok=True)
        with FileLock(place / ".download.lock"):
            return make(True)
