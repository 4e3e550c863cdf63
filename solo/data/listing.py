"""Which images a tree of folders holds: remembered, so that a large one is walked through once."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from solo.data.sources import IMAGE_SUFFIXES, Names

REMEMBERED = 20_000
"""Images from which a listing is kept."""

SETTLED = 2.0
"""Seconds for which a folder has to be unchanged: times of folders are no finer on some disks."""


class Listing(NamedTuple):
    """Images of some folders, one after the other.

    ``names``: paths below the root; ``counts``: how many of them each folder has.
    """

    names: Names
    counts: list[int]


def list_images(root: Path, folders: Sequence[str]) -> Listing:
    """All images below each of some folders, sorted within each.

    Arrays (.npy) are images where there are no others: beside images they are something else.

    Linked folders are entered, each once a folder. The listing of a large tree is kept in
    ``~/.cache/solo`` (``XDG_CACHE_HOME``), and taken from there as long as no folder in it was
    changed.

    Args:
        root: what names are relative to.
        folders: below it, "" for itself.
    """
    place = _cache(root, folders)
    known = _remembered(place)
    if known is not None:
        return known
    started = time.time()
    parts: list[list[str]] = []
    seen: dict[str, int] = {}
    for folder in folders:
        found, times = _walk(root, root / folder)
        parts.append(found)
        seen |= times
    if not all(name.lower().endswith(".npy") for part in parts for name in part):
        parts = [[name for name in part if not name.lower().endswith(".npy")] for part in parts]
    names, counts = [name for part in parts for name in part], [len(part) for part in parts]
    listing = Listing(Names.of(names), counts)
    newest = max((time_ns for time_ns in seen.values()), default=0) / 1e9
    if len(names) >= REMEMBERED and newest < started - SETTLED:
        with contextlib.suppress(OSError):  # a full or read-only home is no reason to stop
            _remember(place, listing, seen)
    return listing


def _walk(root: Path, folder: Path) -> tuple[list[str], dict[str, int]]:
    """Sorted paths of images, relative to the root, and when each folder there was changed."""
    found: list[str] = []
    times: dict[str, int] = {}
    entered = {os.path.realpath(folder)}
    for place, folders, files in os.walk(folder, followlinks=True):
        times[place] = os.stat(place).st_mtime_ns
        real = {os.path.realpath(f"{place}/{name}"): name for name in sorted(folders, reverse=True)}
        folders[:] = sorted(name for path, name in real.items() if path not in entered)
        entered |= set(real)
        prefix = os.path.relpath(place, root)
        found += [
            os.path.join(prefix, name) if prefix != "." else name
            for name in files
            if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith(".")
        ]
    return sorted(found), times


def cache_folder() -> Path:
    """Where listings are kept."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "solo"


def _cache(root: Path, folders: Iterable[str]) -> Path:
    asked = "\0".join([os.path.abspath(root), *folders, *sorted(IMAGE_SUFFIXES)])
    name = hashlib.sha256(os.fsencode(asked)).hexdigest()[:24]
    return cache_folder() / "listings" / f"{name}.npz"


def _remember(place: Path, listing: Listing, times: dict[str, int]) -> None:
    places = Names.of(times)
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_name(f"{place.name}.{os.getpid()}")
    with part.open("wb") as file:
        np.savez(
            file,
            text=listing.names.text,
            ends=listing.names.ends,
            counts=np.array(listing.counts),
            folders=places.text,
            folder_ends=places.ends,
            times=np.array(list(times.values())),
        )
    os.replace(part, place)  # processes that write at once write the same


def _remembered(place: Path) -> Listing | None:
    """What is kept there; None where it is not, or any of its folders was changed since."""
    try:
        with np.load(place) as kept:
            folders = Names(kept["folders"], kept["folder_ends"])
            for index, before in enumerate(kept["times"].tolist()):
                if os.stat(folders[index]).st_mtime_ns != before:
                    return None
            return Listing(Names(kept["text"], kept["ends"]), kept["counts"].tolist())
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        return None
