"""Views that are not square."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_images
from helpers import slow, state, tiny
from torchvision.transforms import v2
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from solo import rng
from solo.backbones import build_backbone
from solo.config import Augmentation, ConfigError, in_pixels
from solo.data.batches import Batch, SampleKey, TrainingViews, ValidationViews
from solo.data.deferred import Unfinished, finish_views
from solo.data.folders import class_folders
from solo.data.operations import NUMBERS
from solo.data.plans import plan_views
from solo.data.views import CentreCrop
from solo.evaluation.features import pixel_size
from solo.linear import run as evaluate
from solo.pretrain import run

BICUBIC = InterpolationMode.BICUBIC


def recipe(**keys: object) -> Augmentation:
    return Augmentation.model_validate({"crop_size": [24, 40], **keys})


def numbers(count: int) -> np.ndarray:
    return rng.uniforms(0, "test", np.arange(count)[:, None], NUMBERS)


def test_crops_are_torchvisions_and_shaped_as_the_view() -> None:
    images = torch.randint(0, 256, (30, 3, 60, 70), dtype=torch.uint8)
    heights, widths = np.full(30, 60), np.full(30, 70)
    rrc = {"crop_min_scale": 0.1, "crop_max_scale": 0.3}
    plan = plan_views(recipe(rrc=rrc), numbers(30), heights, widths)
    got = plan.crop(images)
    assert got.shape == (30, 3, 24, 40)
    for i, (top, left, height, width) in enumerate(plan.boxes.tolist()):
        box = images[i, :, top : top + height, left : left + width].float()
        expected = TF.resize(box, [24, 40], BICUBIC, antialias=True)
        torch.testing.assert_close(got[i], expected, atol=0.05, rtol=0)
    shape = plan.boxes[:, 3] / plan.boxes[:, 2] / (40 / 24)  # but for whole pixels
    assert 0.7 < shape.min() < 0.85 and 1.2 < shape.max() < 1.45
    assert abs(np.log(shape).mean()) < 0.1


@pytest.mark.parametrize("height, width", [(60, 70), (30, 200), (90, 31), (24, 40)])
def test_the_validation_view_is_the_middle(height: int, width: int) -> None:
    """7/8 of the side that fits; of a square view what torchvision's two steps give."""
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    steps = [v2.Resize(round(24 * 8 / 7), interpolation=BICUBIC), v2.CenterCrop(24)]
    assert torch.equal(CentreCrop(24)(image), v2.Compose(steps)(image))
    scale = 8 / 7 * max(24 / height, 40 / width)
    rows, columns = (torch.arange(n) + 0.5 for n in (height, width))
    ramp = (rows[:, None] * 1.0 + columns * 0.5).expand(1, -1, -1).contiguous()
    shown = CentreCrop((24, 40))(ramp)
    assert shown.shape == (1, 24, 40)
    middle = height / 2 + width / 4
    assert abs(shown.mean() - middle) < 1.0 / scale
    step = (shown[0, -3, 20] - shown[0, 2, 20]) / (24 - 5)
    assert step == pytest.approx(1 / scale, rel=0.12)


def test_every_path_gives_the_same_views(tmp_path: Path) -> None:
    """Files and memory, host and device; no kernel is asked for what it does not know."""
    source = class_folders(str(write_images(tmp_path, ["a", "b"], 3)), "data.train_path")
    jitter = {"prob": 1, "brightness": 0.4, "contrast": 0.4, "hue": 0.1}
    entries = [
        recipe(color_jitter=jitter, gaussian_blur={"prob": 1}, horizontal_flip={"prob": 0.5}),
        recipe(crop_size=16, rotation={"prob": 1}, random_erasing={"prob": 1}),
        recipe(crop_size=[40, 24]),
    ]
    keys = [SampleKey(0, i) for i in range(6)]
    made = TrainingViews(source, entries, 1)[keys]
    later = TrainingViews(source, entries, 1, defer=True)[keys]
    assert isinstance(made, Batch) and isinstance(later, Unfinished) and later.packed is None
    there = finish_views(later, None)
    assert [tuple(view.shape[-2:]) for view in there] == [(24, 40), (16, 16), (40, 24)]
    for ours, theirs in zip(made.views, there):
        assert torch.equal(ours, theirs)
    square = plan_views(recipe(crop_size=[8, 8]), numbers(2), np.full(2, 9), np.full(2, 9))
    assert square.size == 8  # as a number, which kernels know
    labels = torch.zeros(2, dtype=torch.long)
    assert Unfinished([square], labels, labels, []).packed is not None
    (view,) = ValidationViews(source, (24, 40), whole=True)[keys].views
    assert view.shape == (1, 6, 3, 24, 40)


def test_what_needs_a_square_says_so() -> None:
    with pytest.raises(ValueError, match=r"need a square view, and crop_size is \[24, 40\]"):
        recipe(quarter_turns={"prob": 0.5})
    with pytest.raises(ValueError):
        recipe(crop_size=[24])
    assert in_pixels((24, 40)) == "24 x 40 px" and in_pixels(24) == "24 px"


def test_raw_pixels_keep_the_shape() -> None:
    assert pixel_size(1000, (24, 40)) == (24, 40)
    assert pixel_size(126_689, (224, 448)) == (18, 37)
    assert pixel_size(10**7, (224, 448)) is None


@pytest.mark.parametrize(
    "name, kwargs",
    [
        ("resnet18", {}),
        ("vit_tiny", {"depth": 1}),
        ("test_convnext", {}),
        ("swin_tiny_patch4_window7_224", {"depths": [1, 1, 1, 1]}),
        ("mobilenetv3_small_050", {}),
        ("deit_tiny_patch16_224", {"depth": 1}),
    ],
)
def test_networks_take_them(name: str, kwargs: dict[str, object]) -> None:
    """Two shapes of view in one network, forward and backward."""
    network = build_backbone(name, kwargs, (64, 128), (64, 96))
    for shape in ((64, 128), (64, 96)):
        features = network(torch.randn(2, 3, *shape))
        assert features.shape == (2, network.num_features)
        features.sum().backward()


def test_the_nearest_shapes_are_named() -> None:
    with pytest.raises(ConfigError, match=r"60 x 100 px.*it takes: 48 x 96 px and 64 x 128 px"):
        build_backbone("maxvit_rmlp_pico_rw_256", {}, (60, 100))


@pytest.mark.usefixtures("reports")
@pytest.mark.parametrize("name", ["resnet", slow("vit"), slow("ijepa")])
def test_a_run_trains_evaluates_and_reports(name: str, tmp_path: Path) -> None:
    content = tiny(
        tmp_path / "runs",
        data={
            "dataset": "custom",
            "train_path": str(write_images(tmp_path / "images", ["a", "b"], 12)),
            "val_path": str(tmp_path / "images"),
        },
        augmentations=[{"crop_size": [16, 32], "num_crops": 2}],
        optimizer={"batch_size": 8},
        checkpoint={"keep_prev": True},
    )
    if name != "resnet":
        kwargs = {"depth": 2, "embed_dim": 16, "num_heads": 2}
        content["backbone"] = {"name": "vit_tiny", "kwargs": kwargs}
    if name == "ijepa":
        content |= {
            "method": "ijepa",
            "method_kwargs": {"pred_dim": 24, "pred_depth": 1, "pred_heads": 2},
        }
        content["augmentations"] = [{"crop_size": [32, 48], "num_crops": 1}]
        kwargs = {**kwargs, "patch_size": 4, "class_token": False, "global_pool": "avg"}
        content["backbone"]["kwargs"] = kwargs
    result = run(content)
    folder, whole = result.folder, state(result)
    assert (folder / "report.html").stat().st_size > 50_000
    few = {"shots": [1, "all"], "draws": 2}
    checkpoint = {"dir": str(tmp_path / "runs")}
    found = evaluate({"pretrained": str(folder), "few_shot": few, "checkpoint": checkpoint})
    assert {row["model"] for row in found.rows} >= {"raw pixels", "untrained network"}
    first = folder / "checkpoints/epoch_0000.ckpt"
    again = run({**content, "resume_from_checkpoint": str(first)})
    torch.testing.assert_close(state(again), whole, rtol=0, atol=0)
