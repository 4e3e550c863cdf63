"""Segmentation by frozen features of places."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import tiny
from PIL import Image
from rich.console import Console
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix
from torch import nn

from solo import linear
from solo.backbones import build_backbone
from solo.backbones.maps import feature_maps
from solo.config import ConfigError
from solo.data import Normalize
from solo.data.masks import IGNORED, VOC_CLASSES, MaskedImages, ade20k, folders, voc
from solo.data.sources import BadImageError
from solo.evaluation.encoders import Encoder
from solo.evaluation.logistic import fit_logistic
from solo.evaluation.segmentation import (
    Dense,
    Neighbours,
    Overlap,
    Patches,
    class_shares,
    fit_linear,
    measure,
    training_patches,
)
from solo.pretrain import run

COLOURS = np.array([[20, 20, 20], [220, 40, 40], [40, 200, 60]], np.uint8)
QUIET = Console(quiet=True)


def scene(seed: int, side: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of two colours on a dark ground, a little noise, and a rim without a class."""
    random = np.random.default_rng(seed)
    mask = np.zeros((side, side), np.uint8)
    for label in (1, 2):
        top, left = random.integers(0, side // 2, 2)
        tall, wide = random.integers(side // 4, side // 2, 2)
        mask[top : top + tall, left : left + wide] = label
    noise = random.integers(-12, 12, (side, side, 3))
    image = np.clip(COLOURS[mask].astype(int) + noise, 0, 255).astype(np.uint8)
    mask[:2] = IGNORED
    return image, mask


def scenes(root: Path, count: int, first: int = 0) -> Path:
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True, exist_ok=True)
    for index in range(count):
        image, mask = scene(first + index)
        Image.fromarray(image).save(root / f"images/{index}.png")
        Image.fromarray(mask).save(root / f"masks/{index}.png")
    return root


class Means(nn.Module):
    """The mean colour of each 2 x 2 patch: features that know the scene."""

    num_features = 3

    def __init__(self) -> None:
        super().__init__()
        self.layer4 = nn.AvgPool2d(2)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer4(x * self.scale).mean((2, 3))


def dense(side: int = 64) -> Dense:
    normalize = Normalize((0.5,) * 3, (0.25,) * 3)
    return Dense(Encoder(Means(), normalize, side, True, None, "backbone", "means"))


def test_a_scene_with_a_known_answer(tmp_path: Path) -> None:
    """Both ways exceed 95 % mean IoU; the ignored rim counts for nothing."""
    train, val = folders(scenes(tmp_path / "a", 12), scenes(tmp_path / "b", 6, 100))
    network = dense()
    patches = training_patches(network, train, 2000, 0, QUIET)
    assert len(patches.x) <= 2004 and patches.shares.shape[1] == 3
    torch.testing.assert_close(patches.shares.sum(1), torch.ones(len(patches.x)))
    for classifier in (fit_linear(patches, 0.1), Neighbours(patches, 10, 0.07)):
        if isinstance(classifier, Neighbours):  # cosine of centred colours
            assert classifier.k == 10
        overlap, shown = measure(network, classifier, val, QUIET, "")
        assert overlap.mean() > 95, overlap.by_class()
        assert len(shown) == 6 and int(overlap.counts.sum()) == 6 * 64 * 62


def test_overlap_is_scikit_learns() -> None:
    random = np.random.default_rng(0)
    truth, given = random.integers(0, 4, (2, 3, 20, 30))
    truth[:, :3] = IGNORED
    overlap = Overlap(6)
    for one, other in zip(truth, given):
        overlap.add(torch.from_numpy(one), torch.from_numpy(other))
    known = truth != IGNORED
    expected = confusion_matrix(truth[known], given[known], labels=range(6))
    np.testing.assert_array_equal(overlap.counts.numpy(), expected)
    hits = np.diag(expected)[:4]
    union = expected.sum(0)[:4] + expected.sum(1)[:4] - hits
    found = overlap.by_class()
    np.testing.assert_allclose(found[:4].numpy(), 100 * hits / union)
    assert found[4:].isnan().all()
    assert overlap.mean() == pytest.approx((100 * hits / union).mean())
    assert overlap.accuracy() == pytest.approx(100 * (truth == given)[known].mean())


def test_shares_of_classes() -> None:
    """Counted by hand, where sizes do not divide too."""
    mask = torch.full((6, 8), IGNORED)
    mask[:3, :4] = 1
    mask[3:, :2] = 0
    shares = class_shares(mask, 2, (2, 2))
    assert shares[1].tolist() == [[1, 0], [0, 0]] and shares[0].tolist() == [[0, 0], [0.5, 0]]
    odd = class_shares(torch.randint(0, 3, (7, 5)), 3, (3, 2))
    torch.testing.assert_close(odd.sum(0), torch.ones(3, 2))


def test_soft_labels_are_repeated_hard_ones() -> None:
    """Three copies of each row, labelled as its shares say, in thirds."""
    random = np.random.default_rng(0)
    x = random.normal(size=(60, 4))
    labels = random.integers(0, 3, (60, 3))
    shares = torch.zeros(60, 3, dtype=torch.double)
    for column in range(3):
        shares[torch.arange(60), torch.from_numpy(labels[:, column])] += 1 / 3
    ours = fit_logistic(torch.from_numpy(x), shares, 3, 2.0, soft=True)
    scaled = (x - x.mean(0)) / x.std(0)
    theirs = LogisticRegression(C=1 / 6, max_iter=5000, tol=1e-10).fit(
        np.repeat(scaled, 3, 0), labels.ravel()
    )
    found = ours.scores(torch.from_numpy(x)).softmax(-1).numpy()
    np.testing.assert_allclose(found, theirs.predict_proba(scaled), atol=1e-4)


def test_neighbours_vote_by_similarity() -> None:
    bank = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]])
    patches = Patches(bank, torch.eye(2).repeat_interleave(2, 0), torch.arange(4))
    scores = Neighbours(patches, 3, 0.5).scores(torch.tensor([[2.0, 0.0]]))
    votes = np.exp(np.array([1.0, 0.6, 0.0]) / 0.5)
    expected = np.array([votes[0] + votes[1], votes[2]]) / votes.sum()
    np.testing.assert_allclose(scores.exp().numpy()[0], expected, rtol=1e-5)


def test_pascal_voc_and_ade20k(tmp_path: Path) -> None:
    """Small files in their layouts: palettes, splits, 0 for none in ADE20K."""
    base = tmp_path / "VOCdevkit/VOC2012"
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (base / part).mkdir(parents=True)
    for number, name in enumerate(("2007_1", "2007_2", "2007_3")):
        image, mask = scene(number, 40)
        Image.fromarray(image).save(base / f"JPEGImages/{name}.jpg")
        palette = Image.fromarray(mask, "P")
        palette.putpalette(list(range(256)) * 3)
        palette.save(base / f"SegmentationClass/{name}.png")
    (base / "ImageSets/Segmentation/train.txt").write_text("2007_1\n2007_3\n")
    (base / "ImageSets/Segmentation/val.txt").write_text("2007_2\n")
    train, val = voc(tmp_path)
    assert (len(train), len(val)) == (2, 1) and train.classes == VOC_CLASSES
    assert torch.equal(val[0][1], torch.from_numpy(scene(1, 40)[1]).long())
    assert train[1][0].shape == (3, 40, 40)
    for split in ("training", "validation"):
        for kind in ("images", "annotations"):
            (tmp_path / f"ade/{kind}/{split}").mkdir(parents=True)
        Image.fromarray(scene(0)[0]).save(tmp_path / f"ade/images/{split}/x.jpg")
        values = np.zeros((64, 64), np.uint8)
        values[0], values[1] = 150, 1
        Image.fromarray(values).save(tmp_path / f"ade/annotations/{split}/x.png")
    (_, mask), *_ = ade20k(tmp_path / "ade")[1]
    assert mask[0, 0] == 149 and mask[1, 0] == 0 and mask[2, 0] == IGNORED
    with pytest.raises(ConfigError, match="holds no VOCdevkit"):
        voc(tmp_path / "ade")
    with pytest.raises(ConfigError, match=r"there is no folder .*images/training"):
        ade20k(tmp_path)


def test_files_that_are_wrong_are_named(tmp_path: Path) -> None:
    root = scenes(tmp_path, 2)
    Image.fromarray(scene(0)[0]).save(root / "masks/1.png")  # in colours
    with pytest.raises(BadImageError, match=r"masks/1.png.*RGB colours"):
        folders(root, root)
    two = scenes(tmp_path / "two", 2)
    for number in range(2):  # as most programs write foreground
        Image.fromarray(np.eye(64, dtype=np.uint8) * 255).save(two / f"masks/{number}.png")
    with pytest.raises(ConfigError, match=r"have one class, 0 \(255 stands for none"):
        folders(two, two)
    Image.fromarray(np.full((8, 8), 1, np.uint8)).save(root / "masks/1.png")
    other = scenes(tmp_path / "other", 1)
    Image.fromarray(np.full((64, 64), 7, np.uint8)).save(other / "masks/0.png")
    assert len(folders(other, root)[0].classes) == len(folders(root, other)[0].classes) == 8
    with pytest.raises(BadImageError, match=r"masks/1.png is 8 x 8 px, its image 64 x 64"):
        folders(root, root)[0][1]
    images = MaskedImages([(root / "images/0.png", root / "masks/0.png")], ["only"])
    with pytest.raises(BadImageError, match=r"masks/0.png has the class 2, but there are 1"):
        images[0]
    (root / "masks/1.png").unlink()
    with pytest.raises(ConfigError, match=r"images/1.png has no mask"):
        folders(root, root)
    (root / "images/0.png").write_bytes(b"no image")
    with pytest.raises(BadImageError, match=r"images/0.png cannot be read"):
        images[0]


@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny"])
def test_by_command(name: str, tmp_path: Path) -> None:
    """An evaluation with its table and picture; what is missing is said."""
    content = tiny(tmp_path / "runs", max_epochs=1, limit_train_batches=2, limit_val_batches=1)
    if name == "vit_tiny":
        kwargs = {"depth": 1, "embed_dim": 16, "num_heads": 2}
        content["backbone"] = {"name": name, "kwargs": kwargs}
    content |= {"knn_eval": {"enabled": False}, "mlp_probe": {"enabled": False}}
    source = run(content).folder
    place = str(scenes(tmp_path / "scenes", 4))
    keys: dict[str, Any] = {
        "pretrained": str(source),
        "mode": "segmentation",
        "image_size": 32,
        "l2": "auto",
        "checkpoint": {"dir": str(tmp_path)},
        "segmentation": {"train_path": place, "val_path": place, "patches": 500},
    }
    result = linear.run(keys)
    assert [row["method"] for row in result.rows] == ["linear", "knn"]
    assert all(20 < row["mIoU"] <= 100 and "2" in row for row in result.rows)
    assert (result.folder / "segmentation.png").stat().st_size > 5_000
    assert "mIoU" in (result.folder / "table.md").read_text()
    with pytest.raises(ConfigError, match=r"needs images with masks: \+\+segmentation.train_path"):
        linear.run({**keys, "segmentation": {}})
    with pytest.raises(ConfigError, match=r"features is projector, and segmentation takes"):
        linear.run({**keys, "features": "projector"})


def test_a_network_whose_norm_is_not_for_places() -> None:
    hiera = build_backbone("hiera_tiny_224", {"embed_dim": 16, "num_heads": 1}, 224).eval()
    assert feature_maps(hiera, torch.zeros(1, 3, 224, 224)).shape == (1, 128, 7, 7)
