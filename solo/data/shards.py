"""Images in tar shards, in WebDataset's layout: read at random, never unpacked.

A shard holds ``<key>.<image suffix>`` and, for a label, ``<key>.cls`` with a number or a class's
name. Where each image begins is found once and remembered; from there on an image is one read at a
known place, so that order, views and resuming are those of a folder.
"""

from __future__ import annotations

import contextlib
import glob
import io
import os
import re
import tarfile
from collections.abc import Sequence
from typing import NamedTuple

import fsspec
import numpy as np
import torch
from fsspec.core import url_to_fs
from rich.console import Console
from rich.progress import track
from torch import Tensor

from solo.config import ConfigError
from solo.data.listing import UNUSABLE, note_of, read_names, write_note
from solo.data.sources import IMAGE_SUFFIXES, EncodedSource, Names


class Members(NamedTuple):
    """The images of one shard, in its order.

    ``names``: of the members; ``starts`` and ``sizes``: int64 [N], in bytes; ``labels``: each what
    its .cls file holds, "" without one.
    """

    names: Names
    starts: np.ndarray
    sizes: np.ndarray
    labels: Names


class TarSource(EncodedSource):
    """Encoded images in tar shards.

    Args:
        shards: paths or addresses.
        members: of each shard.
        labels: [N].
        classes: their names.
    """

    def __init__(
        self, shards: Sequence[str], members: Sequence[Members], labels: Tensor, classes: list[str]
    ) -> None:
        names = Names.of(m.names[i] for m in members for i in range(len(m.names)))
        super().__init__(names, labels, classes)
        self.shards = list(shards)
        self.places = np.concatenate(
            [
                np.column_stack((np.full(len(m.starts), number), m.starts, m.sizes))
                for number, m in enumerate(members)
            ]
        )
        """int64 [N, 3]: of each image its shard, first byte and number of bytes."""
        self._open: dict[int, int] = {}

    def read(self, index: int) -> bytes:
        """The member's bytes."""
        shard, start, size = self.places[index].tolist()
        address = self.shards[shard]
        if not _is_local(address):
            system, path = url_to_fs(address)
            return system.cat_file(path, start=start, end=start + size)
        if shard not in self._open:
            if len(self._open) >= OPEN_AT_ONCE:
                os.close(self._open.pop(next(iter(self._open))))
            self._open[shard] = os.open(address, os.O_RDONLY)
        return os.pread(self._open[shard], size, start)  # has no position that processes share

    def size(self, index: int) -> int:
        """The member's."""
        return int(self.places[index, 2])

    def where(self, index: int) -> str:
        """Shard and member."""
        return f"{self.shards[int(self.places[index, 0])]}:{self.names[index]}"

    def part(self, indices: Tensor) -> TarSource:
        """Some of the images, in the order of ``indices``."""
        chosen = super().part(indices)
        assert isinstance(chosen, TarSource)
        chosen.places = self.places[indices.numpy()]
        return chosen

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": {}}


VERSION = ("size", "mtime", "created", "ETag", "etag", "LastModified")
"""What file systems say of a file that changes with it."""

OPEN_AT_ONCE = 64
"""Shards that a process keeps open."""


def tar_shards(path: str | None, key: str, no_labels: bool = False) -> EncodedSource:
    """All images of some shards, in the order of shards and members.

    Args:
        path: a shard, a folder of them, or their names with ``{000..127}`` or ``*``; local, or an
            address that fsspec knows (s3://…, https://…).
        key: the config key that named it, for errors.
        no_labels: leave labels out.

    Raises:
        ConfigError: where there are no shards, one is damaged or compressed, or some images have
            labels and others have none.
    """
    if path is None:
        raise ConfigError(f"{key} is not set; add ++{key}=<shards, such as train-{{000..127}}.tar>")
    shards = shards_of(path)
    if not shards:
        raise ConfigError(f"{key}: there are no .tar files at {path}")
    console = Console(stderr=True)
    members = [
        _members(shard, key)
        for shard in track(shards, "Listing shards", console=console, disable=len(shards) < 32)
    ]
    found = [m.labels[i] for m in members for i in range(len(m.labels))]
    if not found:
        raise ConfigError(f"{key}: the shards at {path} hold no images")
    if no_labels or not any(found):
        return TarSource(shards, members, torch.full((len(found),), -1), [])
    if "" in found:
        source = TarSource(shards, members, torch.zeros(len(found)), [])
        raise ConfigError(
            f"{key}: {source.where(found.index(''))} has no .cls file, as others have; with "
            "++data.no_labels=true none is needed"
        )
    if all(re.fullmatch(r"\d+", label) for label in found):
        numbers = torch.tensor([int(label) for label in found])
        return TarSource(shards, members, numbers, [str(i) for i in range(int(numbers.max()) + 1)])
    classes = sorted(set(found))
    known = {name: number for number, name in enumerate(classes)}
    return TarSource(shards, members, torch.tensor([known[x] for x in found]), classes)


def shards_of(path: str) -> list[str]:
    """Paths or addresses, in order.

    Example:
        >>> shards_of("s3://bucket/train-{08..10}.tar")
        ['s3://bucket/train-08.tar', 's3://bucket/train-09.tar', 's3://bucket/train-10.tar']
    """
    if found := re.search(r"\{(\d+)\.\.(\d+)\}", path):
        first, last = found.groups()
        numbers = [str(n).zfill(len(first)) for n in range(int(first), int(last) + 1)]
        return [
            shard
            for number in numbers
            for shard in shards_of(path[: found.start()] + number + path[found.end() :])
        ]
    if not _is_local(path):
        if "*" not in path:
            return [path]
        system, inside = url_to_fs(path)
        return sorted(system.unstrip_protocol(name) for name in system.glob(inside))
    place = os.path.expanduser(path)
    if os.path.isdir(place):
        return sorted(glob.glob(os.path.join(glob.escape(place), "*.tar")))
    return sorted(glob.glob(place)) if "*" in place else [place]


def _is_local(path: str) -> bool:
    return "://" not in path


def _members(shard: str, key: str) -> Members:
    """What a shard holds, remembered as long as its size and time are as they were.

    Raises:
        ConfigError: where it is not there, damaged or compressed.
    """
    try:
        system, inside = url_to_fs(shard)
        facts = system.info(inside)
    except Exception as error:  # each file system has its own
        raise ConfigError(f"{key}: the shard {shard} is not there ({error})") from error
    version = [str(facts.get(name)) for name in VERSION]
    where = os.path.abspath(shard) if _is_local(shard) else shard
    note = note_of("shards", [where, *version])
    with contextlib.suppress(*UNUSABLE), np.load(note) as kept:
        names, labels = read_names(kept, "names"), read_names(kept, "labels")
        return Members(names, kept["starts"], kept["sizes"], labels)
    try:
        with fsspec.open(shard, "rb") as file:
            found = _scan(file)
    except (tarfile.TarError, OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{key}: {shard} cannot be read as a tar file without compression ({error}); images "
            "are read at random from it"
        ) from error
    write_note(note, **found._asdict())
    return found


def _scan(file: io.BufferedReader) -> Members:
    """Headers alone are read, and the .cls files."""
    names: list[str] = []
    places: list[tuple[int, int]] = []
    texts: dict[str, str] = {}
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            if not member.isfile():
                continue
            suffix = os.path.splitext(member.name)[1].lower()
            if suffix == ".cls":
                content = tar.extractfile(member)
                assert content is not None
                texts[sample_key(member.name)] = content.read().decode().strip()
            elif suffix in IMAGE_SUFFIXES and not os.path.basename(member.name).startswith("."):
                names.append(member.name)
                places.append((member.offset_data, member.size))
    starts, sizes = np.array(places, dtype=np.int64).reshape(-1, 2).T
    labels = Names.of(texts.get(sample_key(name), "") for name in names)
    return Members(Names.of(names), starts, sizes, labels)


def sample_key(name: str) -> str:
    """What the files of one sample have in common: all up to the first dot of the last part."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.split(".")[0]
