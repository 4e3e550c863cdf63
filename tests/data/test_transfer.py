"""LeJEPA's transfer sets, small, in the layout that torchvision unpacks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision
from PIL import Image
from scipy.io import savemat

from solo.config import ConfigError
from solo.config.schema import Data
from solo.data.datasets import load_splits


def picture(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 16), (value, value, value)).save(path)


def dtd(root: Path) -> None:
    base = root / "dtd/dtd"
    (base / "labels").mkdir(parents=True)
    for number, split in enumerate(("train", "val", "test")):
        names = [f"{kind}/{kind}_{split}.jpg" for kind in ("banded", "dotted")]
        (base / f"labels/{split}1.txt").write_text("\n".join(names) + "\n")
        for name in names:
            picture(base / "images" / name, 10 * number)


def aircraft(root: Path) -> None:
    base = root / "fgvc-aircraft-2013b/data"
    base.mkdir(parents=True)
    (base / "variants.txt").write_text("707-320\nDR-400\n")
    for number, split in enumerate(("trainval", "test")):
        lines = [f"{number}{i} {kind}" for i, kind in enumerate(("707-320", "DR-400"))]
        (base / f"images_variant_{split}.txt").write_text("\n".join(lines) + "\n")
        for i in range(2):
            picture(base / f"images/{number}{i}.jpg", 10 * number)


def cars(root: Path) -> None:
    base = root / "stanford_cars"
    (base / "devkit").mkdir(parents=True)
    names = np.array(["Acura", "BMW"], dtype=object)
    savemat(base / "devkit/cars_meta.mat", {"class_names": names})
    kind = np.dtype([("fname", object), ("class", object)])
    content = np.array([("1.jpg", 1), ("2.jpg", 2)], dtype=kind)
    savemat(base / "devkit/cars_train_annos.mat", {"annotations": content})
    savemat(base / "cars_test_annos_withlabels.mat", {"annotations": content})
    for number, split in enumerate(("train", "test")):
        for name in ("1.jpg", "2.jpg"):
            picture(base / f"cars_{split}" / name, 10 * number)


def flowers102(root: Path) -> None:
    base = root / "flowers-102"
    base.mkdir(parents=True)
    savemat(base / "imagelabels.mat", {"labels": np.array([1, 2, 1, 2, 1, 2])})
    parts = {"trnid": np.array([1, 2]), "valid": np.array([3, 4]), "tstid": np.array([5, 6])}
    savemat(base / "setid.mat", parts)
    for i in range(1, 7):
        picture(base / f"jpg/image_{i:05d}.jpg", i)


def food101(root: Path) -> None:
    base = root / "food-101"
    (base / "meta").mkdir(parents=True)
    for split in ("train", "test"):
        content = {kind: [f"{kind}/{split}"] for kind in ("pizza", "ramen")}
        (base / f"meta/{split}.json").write_text(json.dumps(content))
        for names in content.values():
            picture(base / f"images/{names[0]}.jpg", 7)


def pets(root: Path) -> None:
    base = root / "oxford-iiit-pet"
    (base / "annotations").mkdir(parents=True)
    for split in ("trainval", "test"):
        lines = [f"Abyssinian_{split} 1 1 1", f"beagle_{split} 2 2 1"]
        (base / f"annotations/{split}.txt").write_text("\n".join(lines) + "\n")
        for line in lines:
            picture(base / f"images/{line.split()[0]}.jpg", 7)


MAKERS = {f.__name__: f for f in (dtd, aircraft, cars, flowers102, food101, pets)}


@pytest.mark.parametrize("name", MAKERS)
def test_transfer_sets(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def anything(path: Any, md5: str | None = None) -> bool:
        return Path(path).exists()

    monkeypatch.setattr(torchvision.datasets.flowers102, "check_integrity", anything)
    data = Data(dataset=name, train_path=str(tmp_path))
    with pytest.raises(ConfigError, match=f"{name} was not found in .*data.download=true"):
        load_splits(data, seed=0)
    MAKERS[name](tmp_path)
    train, val = load_splits(data, seed=0)
    assert val is not None
    joined = 4 if name in ("dtd", "flowers102") else 2  # training and validation together
    assert (len(train), len(val)) == (joined, 2)
    assert train.labels.tolist() == [0, 1] * (joined // 2) and val.labels.tolist() == [0, 1]
    assert len(train.classes) == (102 if name == "flowers102" else 2)
    assert train.image(0).shape == (3, 16, 20) == val.image(1).shape
