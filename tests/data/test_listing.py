"""Large trees: walked through once, remembered as long as they are as they were."""

from __future__ import annotations

import os
import pickle
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from solo.data import listing
from solo.data.folders import class_folders, unlabelled_tree
from solo.data.sources import FolderSource, Names

ODD = ["a/1.png", "é/ü.png", "b\udcff/x.png", "", "long" * 50]


def test_names_are_strings_in_two_arrays() -> None:
    names = Names.of(ODD)
    assert [names[i] for i in range(len(names))] == ODD
    order = np.array([4, 0, 0, 3, 2])
    part = names.part(order)
    assert [part[i] for i in range(len(part))] == [ODD[i] for i in order]
    assert len(names.part(np.array([], dtype=np.int64))) == 0 == len(Names.of([]))


def test_a_million_names_take_little() -> None:
    """ImageNet's, made up: in one copy, 40 bytes each; a list of strings takes 90."""
    count = 1_281_167
    names = Names.of(f"n{i % 1000:08}/n{i % 1000:08}_{i}.JPEG" for i in range(count))
    source = FolderSource(Path("x"), names, torch.zeros(count, dtype=torch.long), ["all"])
    size = len(pickle.dumps(names))
    as_list = sum(sys.getsizeof(names[i]) + 8 for i in range(0, count, 100)) * 100
    assert size < 40 * count < 0.5 * as_list
    assert source.names is names and source.where(count - 1) == f"x/{names[count - 1]}"
    blocks = sys.getallocatedblocks()
    for index in range(0, count, 1001):  # what a loader process does: nothing of it stays
        source.where(index)
    assert sys.getallocatedblocks() - blocks < 100


def tree(root: Path) -> None:
    for name in ("a", "b/deep", "b"):
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in (2, 10, 1):
            (root / name / f"{number}.png").write_bytes(b"")
    past = time.time() - 60
    for place, _, _ in os.walk(root):
        os.utime(place, (past, past))


def test_a_tree_is_walked_through_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until something in it changes; a damaged note of it is passed over."""
    monkeypatch.setattr(listing, "REMEMBERED", 9)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "images"
    tree(root)
    walked: list[Path] = []
    plain = listing._walk
    monkeypatch.setattr(
        listing, "_walk", lambda root, folder: walked.append(folder) or plain(root, folder)
    )

    def found() -> list[str]:
        source = class_folders(str(root), "data.train_path")
        assert source.labels.tolist() == [0] * 3 + [1] * (len(source) - 3)
        return [source.names[i] for i in range(len(source))]

    expected = [*(f"a/{n}.png" for n in (1, 10, 2)), *(f"b/{n}.png" for n in (1, 10, 2))]
    expected += [f"b/deep/{n}.png" for n in (1, 10, 2)]
    assert found() == expected and walked == [root / "a", root / "b"]
    assert found() == expected and len(walked) == 2
    (root / "b/deep/3.png").write_bytes(b"")
    assert found() == [*expected, "b/deep/3.png"] and len(walked) == 4
    assert found() == [*expected, "b/deep/3.png"] and len(walked) == 6  # too fresh to be kept
    tree(root)
    found()
    assert len(found()) == 10 and len(walked) == 8
    (note,) = (tmp_path / "cache/solo/listings").iterdir()
    note.write_bytes(note.read_bytes()[:100])
    assert len(found()) == 10 and len(walked) == 10
    assert len(unlabelled_tree(str(root), "images")) == 10 and len(walked) == 11  # another question


def test_small_trees_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tree(tmp_path / "images")
    assert len(class_folders(str(tmp_path / "images"), "x")) == 9
    assert not (tmp_path / "cache").exists()


def test_a_home_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "REMEMBERED", 1)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    tree(tmp_path / "images")
    assert len(class_folders(str(tmp_path / "images"), "x")) == 9
