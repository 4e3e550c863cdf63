"""Many files: how long a set takes to start, and what a loader process adds by looking through it.

Plain is torchvision's ``ImageFolder``, which walks through the tree at every start and keeps a list
of paths. The files are empty: nothing is decoded.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

from torchvision.datasets import ImageFolder

from benchmarks.measure import Row, timed
from solo.data.folders import class_folders
from solo.data.listing import SETTLED

COUNT, CLASSES = 1_300_000, 1_000
"""Of ImageNet-1k."""


def rows(count: int = COUNT, classes: int = CLASSES) -> Iterator[Row]:
    """First and second start; memory of a process."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "train"
        make_tree(root, count, classes)
        time.sleep(SETTLED + 1)  # a tree that has just been changed is not remembered
        for start in ("first", "second"):
            plain, paths = timed(lambda: ImageFolder(str(root)).samples)
            with patch.dict(os.environ, XDG_CACHE_HOME=f"{place}/cache"):
                ours, source = timed(lambda: class_folders(str(root), "data.train_path"))
            assert len(source) == len(paths) == count
            yield Row(f"{start} start of a set of {count:,} files", ours, plain, "s")

        def look(name: Callable[[int], object]) -> Callable[[], None]:
            def all_of_them() -> None:
                for index in range(0, 7 * count, 7):
                    name(index % count)

            return all_of_them

        yield Row(
            f"what a loader process adds once it has seen {count:,} names",
            in_a_process(look(lambda i: (source.where(i), source.labels[i]))),
            in_a_process(look(paths.__getitem__)),
            "MiB",
        )


def make_tree(root: Path, count: int, classes: int) -> None:
    """Empty files, named as ImageNet's."""
    for number in range(classes):
        folder = root / f"n{number:08}"
        folder.mkdir(parents=True)
        for image in range(number, count, classes):
            os.close(os.open(folder / f"{folder.name}_{image}.JPEG", os.O_CREAT))


def in_a_process(look: Callable[[], object]) -> float:
    """MiB that are no longer shared with this process after a fork of it has looked."""
    end, begin = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            before = _own()
            look()
            os.write(begin, str(_own() - before).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(begin)
    with os.fdopen(end) as answer:
        text = answer.read()
    if os.waitpid(child, 0)[1]:
        raise RuntimeError("the process that looked through the names failed")
    return float(text)


def _own() -> float:
    """MiB of memory that this process shares with no other (Linux)."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024
