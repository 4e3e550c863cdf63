"""Batched views against torchvision's, one image at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import v2
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from benchmarks.plain import view_transform
from solo import rng
from solo.config import Augmentation, Config
from solo.config.views import Chance
from solo.data import ImageData
from solo.data.batches import SampleKey, TrainingViews
from solo.data.crops import FLIP
from solo.data.deferred import Unfinished
from solo.data.operations import NUMBERS, OPERATIONS
from solo.data.operations.blur import blur
from solo.data.operations.color import JITTER, LUMINANCE, ORDERS, hue, to_grayscale
from solo.data.operations.tones import equalize, solarize
from solo.data.plans import plan_views
from solo.data.sources import ArraySource


def recipe(**keys: Any) -> Augmentation:
    return Augmentation.model_validate(keys)


FULL = recipe(
    crop_size=32,
    rrc={"crop_min_scale": 0.2},
    color_jitter={"prob": 0.8, "brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1},
    grayscale={"prob": 0.2},
    gaussian_blur={"prob": 0.5},
    solarization={"prob": 0.1},
    equalization={"prob": 0.1},
    horizontal_flip={"prob": 0.5},
)


def numbers(count: int, seed: int = 0) -> np.ndarray:
    return rng.uniforms(seed, "test", np.arange(count)[:, None], NUMBERS)


def blobs(count: int, height: int = 40, width: int = 48) -> torch.Tensor:
    """Smooth random colours, uint8."""
    coarse = torch.rand(count, 3, 6, 7) * 255
    smooth = TF.resize(coarse, [height, width], InterpolationMode.BICUBIC)
    return smooth.clamp(0, 255).to(torch.uint8)


def test_numbers_are_uniform_and_depend_on_their_row_alone() -> None:
    items = np.stack(np.meshgrid(np.arange(3), np.arange(400), np.arange(2)), -1).reshape(-1, 3)
    drawn = rng.uniforms(1, "views", items, 20)
    assert stats.kstest(drawn.ravel(), "uniform").pvalue > 0.01
    correlation = np.corrcoef(drawn.T) - np.eye(20)
    assert np.abs(correlation).max() < 4.5 / len(items) ** 0.5
    between = np.corrcoef(drawn[:-1].ravel(), drawn[1:].ravel())[0, 1]
    assert abs(between) < 4 / drawn.size**0.5
    np.testing.assert_array_equal(rng.uniforms(1, "views", items[7:8], 20)[0], drawn[7])
    for other in (rng.uniforms(2, "views", items, 20), rng.uniforms(1, "order", items, 20)):
        assert (other != drawn).all()


@pytest.mark.parametrize("size", [8, 32, 60])
def test_crops_are_torchvisions(size: int) -> None:
    images = blobs(50)
    plan = plan_views(
        recipe(crop_size=size, horizontal_flip={"prob": 0.5}),
        numbers(50),
        np.full(50, 40),
        np.full(50, 48),
    )
    got = plan.crop(images)
    for i, (top, left, height, width) in enumerate(plan.boxes.tolist()):
        box = images[i : i + 1, :, top : top + height, left : left + width].float()
        expected = TF.resize(box, [size, size], InterpolationMode.BICUBIC, antialias=True)[0]
        expected = expected.flip(-1) if plan.flip[i] else expected
        torch.testing.assert_close(got[i], expected, atol=0.05, rtol=0)
    assert 0 < plan.flip.sum() < 50


def test_operations_are_torchvisions() -> None:
    images = blobs(6)
    images[0] = images[0, :1]  # grey: no hue
    unit = images.float() / 255
    factors = torch.tensor([0.6, 0.8, 1.0, 1.2, 1.3, 1.4])
    for ours in JITTER:
        shift = (factors - 1) if ours is hue else factors
        got = ours(images.float(), shift) / 255
        for i in range(6):
            expected = getattr(TF, f"adjust_{ours.__name__}")(unit[i], shift[i].item())
            torch.testing.assert_close(got[i], expected, atol=2e-5, rtol=0)
    sigmas = torch.tensor([0.1, 0.5, 0.9, 1.3, 1.7, 2.0])
    for side in (40, 9):
        cut = images[..., :side, :side].float()
        got = blur(cut, sigmas)
        taps = min(13, 2 * ((side - 1) // 2) + 1)
        for i in range(6):
            expected = TF.gaussian_blur(cut[i], [taps, taps], [sigmas[i].item()] * 2)
            torch.testing.assert_close(got[i], expected, atol=2e-3, rtol=0)
    images[1] = images[1] // 4 + 100  # a narrow histogram
    images[2] = 7  # a single level
    expected = torch.stack([TF.equalize(image) for image in images])
    torch.testing.assert_close(equalize(images.float(), factors), expected.float())


def test_solarize_grayscale_and_rounding() -> None:
    images = blobs(4)
    sides = np.full(4, 40), np.full(4, 48)
    for name, expected in (
        ("solarization", torch.where(images >= 128, 255 - images, images)),
        ("grayscale", None),
    ):
        plan = plan_views(recipe(crop_size=8, **{name: {"prob": 1}}), numbers(4), *sides)
        got = plan.finish(images.float())
        if expected is None:
            luminance = (images.float() * torch.tensor(LUMINANCE)[:, None, None]).sum(1)
            assert (got - luminance[:, None]).abs().max() <= 0.51
        else:
            assert torch.equal(got, expected)


@pytest.mark.parametrize("height, width", [(32, 32), (300, 400), (50, 400)])
def test_boxes_have_torchvisions_law(height: int, width: int) -> None:
    count = 3000
    rrc = recipe(crop_size=8, rrc={"crop_min_scale": 0.2, "crop_max_scale": 0.9})
    ours = plan_views(rrc, numbers(count), np.full(count, height), np.full(count, width)).boxes
    crop = v2.RandomResizedCrop(8, scale=(0.2, 0.9))
    image = torch.zeros(3, height, width)
    keys = ("top", "left", "height", "width")
    drawn = [crop.make_params([image]) for _ in range(count)]
    theirs = np.array([[params[key] for key in keys] for params in drawn])
    for column in range(4):
        assert stats.ks_2samp(ours[:, column], theirs[:, column]).pvalue > 1e-3
    assert stats.ks_2samp(ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3]).pvalue > 1e-3
    assert (ours[:, 0] + ours[:, 2] <= height).all() and (ours[:, 1] + ours[:, 3] <= width).all()


def test_parameters_follow_the_recipe() -> None:
    count = 4000
    plan = plan_views(FULL, numbers(count), np.full(count, 32), np.full(count, 32))
    done = {turn.apply: turn for turn in plan.turns}
    for views, share in (
        (np.flatnonzero(plan.flip), 0.5),
        (done[to_grayscale].views, 0.2),
        (done[blur].views, 0.5),
        (done[solarize].views, 0.1),
        (done[equalize].views, 0.1),
    ):
        assert stats.binomtest(len(views), count, share).pvalue > 1e-3
    assert stats.kstest(done[blur].factors, stats.uniform(0.1, 1.9).cdf).pvalue > 1e-3
    limits = ((0.6, 1.4), (0.6, 1.4), (0.8, 1.2), (-0.1, 0.1))
    assert len(ORDERS) == 24 and len({tuple(order) for order in ORDERS}) == 24
    for operation, (low, high) in zip(JITTER, limits):
        turns = [turn for turn in plan.turns if turn.apply is operation]
        assert len(turns) == 4
        views = np.concatenate([turn.views for turn in turns])
        assert len(np.unique(views)) == len(views)  # once a view
        assert stats.binomtest(len(views), count, 0.8).pvalue > 1e-3
        assert stats.chisquare([len(turn.views) for turn in turns]).pvalue > 1e-3  # any turn
        factors = np.concatenate([turn.factors for turn in turns])
        assert stats.kstest(factors, stats.uniform(low, high - low).cdf).pvalue > 1e-3
    off = {"prob": 1.0, "enabled": False}
    nothing = recipe(crop_size=8, color_jitter=off, grayscale=off, horizontal_flip=off)
    plan = plan_views(nothing, numbers(9), np.full(9, 32), np.full(9, 32))
    assert not plan.turns and not plan.flip.any()


def test_operations_share_no_number_and_are_in_the_schema() -> None:
    used = [column for operation in OPERATIONS for column in operation.columns]
    assert len(set(used)) == len(used) and min(used) > FLIP
    for operation in OPERATIONS:
        assert isinstance(getattr(FULL, operation.name), Chance)


def test_views_have_the_statistics_of_the_per_image_pipeline() -> None:
    images = blobs(400, 32, 32)
    source = ArraySource(images, torch.zeros(400), ["all"])
    keys = [SampleKey(0, i) for i in range(400)]
    ours = TrainingViews(source, [FULL], seed=1)[keys].views[0].flatten(0, 1).float()
    plain = view_transform(FULL)
    theirs = torch.stack([plain(images[i % 400]) for i in range(800)]).float()

    def measures(views: torch.Tensor) -> dict[str, torch.Tensor]:
        flat = views.flatten(2)
        return {
            "mean": flat.mean((1, 2)),
            "contrast": flat.std(2).mean(1),
            "colour": (views.amax(1) - views.amin(1)).flatten(1).mean(1),
            "left minus right": (views[..., :16].mean((1, 2, 3)) - views[..., 16:].mean((1, 2, 3))),
            "roughness": (views[..., 1:] - views[..., :-1]).abs().flatten(1).mean(1),
            "red": flat[:, 0].mean(1),
        }

    for name, values in measures(ours).items():
        assert stats.ks_2samp(values, measures(theirs)[name]).pvalue > 1e-3, name


@pytest.mark.parametrize("files", [False, True])
def test_views_on_the_device_are_those_of_the_loader(files: bool, image_tree: Path) -> None:
    small = FULL.model_copy(update={"crop_size": 16, "num_crops": 3})
    options: dict[str, Any] = {
        "data": {"num_workers": 0},
        "optimizer": {"batch_size": 8},
        "augmentations": [FULL.model_dump(), small.model_dump()],
    }
    if files:
        options["data"] |= {"dataset": "custom", "train_path": str(image_tree / "train")}
    batches = []
    for place in ("loader", "device"):
        options["data"]["augment_on"] = place
        module = ImageData(Config.model_validate(options))
        batch = next(iter(module.train_dataloader()))
        assert isinstance(batch, Unfinished) == (place == "device")
        batches.append(module.transfer_batch_to_device(batch, torch.device("cpu"), 0))
    loader, device = batches
    assert [v.shape for v in loader.views] == [(2, 8, 3, 32, 32), (3, 8, 3, 16, 16)]
    for ours, theirs in zip(loader.views, device.views):
        assert (ours.int() - theirs.int()).abs().max() <= 1  # sums of another blocking
    assert torch.equal(loader.labels, device.labels)
