"""Which images a tree of folders holds: remembered, so that a large one is walked through once."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from solo.data.sources import IMAGE_SUFFIXES, Names

ENDINGS = tuple(IMAGE_SUFFIXES)
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
    note = note_of("listings", [os.path.abspath(root), *folders, *sorted(IMAGE_SUFFIXES)])
    known = _remembered(note)
    if known is not None:
        return known
    started = time.time()
    parts: list[list[str]] = []
    seen: dict[str, int] = {}
    for folder in folders:
        found, times = _walk(root, root / folder)
        parts.append(found)
        seen |= times
    arrays = sum(name.lower().endswith(".npy") for part in parts for name in part)
    if 0 < arrays < sum(map(len, parts)):
        parts = [[name for name in part if not name.lower().endswith(".npy")] for part in parts]
    names, counts = [name for part in parts for name in part], [len(part) for part in parts]
    listing = Listing(Names.of(names), counts)
    newest = max(seen.values(), default=0) / 1e9
    if len(names) >= REMEMBERED and newest < started - SETTLED:
        write_note(
            note,
            names=listing.names,
            counts=np.array(counts),
            folders=Names.of(seen),
            times=np.array(list(seen.values())),
        )
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
        below = os.path.relpath(place, root)
        prefix = "" if below == "." else f"{below}/"
        found += [
            prefix + name
            for name in files
            if name.lower().endswith(ENDINGS) and not name.startswith(".")
        ]
    return sorted(found), times


UNUSABLE = (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile)
"""What a note that is not there, or damaged, raises."""


def note_of(kind: str, asked: Iterable[str]) -> Path:
    """Where the answer to a question is kept.

    Args:
        kind: the folder, of questions of one kind.
        asked: all that the answer depends on.
    """
    home = os.environ.get("XDG_CACHE_HOME")
    folder = (Path(home) if home else Path.home() / ".cache") / "solo" / kind
    return folder / f"{hashlib.sha256(os.fsencode(chr(0).join(asked))).hexdigest()[:24]}.npz"


def write_note(note: Path, **values: Names | np.ndarray) -> None:
    """Keep an answer; a full or read-only home is no reason to stop."""
    arrays: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Names):
            arrays |= {name: value.text, f"{name}_ends": value.ends}
        else:
            arrays[name] = value
    part = note.with_name(f"{note.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            np.savez(file, **arrays)
        os.replace(part, note)  # processes that write at once write the same


def read_names(kept: Mapping[str, np.ndarray], name: str) -> Names:
    """Names of a note."""
    return Names(kept[name], kept[f"{name}_ends"])


def _remembered(note: Path) -> Listing | None:
    """What is kept there; None where it is not, or any of its folders was changed since."""
    with contextlib.suppress(*UNUSABLE), np.load(note) as kept:
        folders = read_names(kept, "folders")
        for index, before in enumerate(kept["times"].tolist()):
            if os.stat(folders[index]).st_mtime_ns != before:
                return None
        return Listing(read_names(kept, "names"), kept["counts"].tolist())
    return None
