"""Flips, turns, noise, erased boxes and users' own operations, each formulated in another way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import tiny
from scipy import stats
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from solo import rng
from solo.config import Augmentation, ConfigError, RunError
from solo.data import ImageData
from solo.data.batches import Batch, SampleKey, TrainingViews
from solo.data.deferred import Unfinished, finish_views
from solo.data.operations.damage import add_noise, erase
from solo.data.operations.geometry import rotate
from solo.data.packing import pack
from solo.data.plans import ViewPlan, numbers_of, plan_views
from solo.data.sources import ArraySource
from solo.methods import resolve_config
from solo.pretrain import run

COUNT = 60


def planned(count: int = COUNT, size: int = 12, **keys: Any) -> ViewPlan:
    """Whole images, changed by the operation alone."""
    recipe = Augmentation.model_validate({"crop_size": size, "rrc": {"enabled": False}, **keys})
    u = rng.uniforms(0, "test", np.arange(count)[:, None], numbers_of(recipe))
    return plan_views(recipe, u, np.full(count, size), np.full(count, size))


def pixels(count: int = COUNT, size: int = 12) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, size, size)).float()


def test_turns_and_mirrors() -> None:
    """Each view is one of its image's turns; which, has the law that was asked for."""
    images = pixels(600)
    for keys, allowed in (
        ({"vertical_flip": {"prob": 0.5}}, [images, images.flip(-2)]),
        ({"quarter_turns": {"prob": 0.75}}, [torch.rot90(images, k, (-2, -1)) for k in range(4)]),
    ):
        made = planned(600, **keys).finish(images.clone()).float()
        found = torch.stack([(made == each).flatten(1).all(1) for each in allowed])
        assert found.sum(0).eq(1).all()
        assert stats.chisquare(found.sum(1).numpy()).pvalue > 1e-3


def test_rotation_is_torchvisions() -> None:
    plan = planned(rotation={"prob": 0.8, "degrees": 40})
    (turn,) = plan.turns
    assert 0.6 * COUNT < len(turn.views) < COUNT and turn.apply is rotate
    assert stats.kstest(turn.factors, stats.uniform(-40, 80).cdf).pvalue > 1e-3
    images = pixels()
    made = plan.finish(images.clone())
    for view, degrees in zip(turn.views, turn.factors):
        expected = TF.rotate(images[view], float(degrees), InterpolationMode.BILINEAR, fill=None)
        assert (made[view].float() - expected).abs().max() < 0.51
    wide = torch.rand(2, 3, 6, 10)
    angles = torch.tensor([25.0, -110.0])
    expected = torch.stack(
        [TF.rotate(x, float(a), InterpolationMode.BILINEAR) for x, a in zip(wide, angles)]
    )
    inside = rotate(torch.ones_like(wide), angles) > 0.999
    torch.testing.assert_close(rotate(wide, angles)[inside], expected[inside])


def test_erased_boxes() -> None:
    """One black box a view, of the area and the ratio that were drawn; the rest as it was."""
    size = 64
    plan = planned(400, size, random_erasing={"prob": 1.0, "min_scale": 0.05, "max_scale": 0.2})
    images = torch.full((400, 3, size, size), 200.0)
    erased = plan.finish(images) == 0
    (turn,) = plan.turns
    assert turn.apply is erase
    area, ratio = turn.factors[:, 0], turn.factors[:, 1]
    assert stats.kstest(area, stats.uniform(0.05, 0.15).cdf).pvalue > 1e-3
    assert stats.kstest(np.log(ratio), stats.uniform(np.log(0.3), np.log(11)).cdf).pvalue > 1e-3
    assert (erased == erased[:, :1]).all()
    rows, columns = erased[:, 0].any(2), erased[:, 0].any(1)
    tall, wide = rows.sum(1).numpy(), columns.sum(1).numpy()
    assert (erased[:, 0] == rows[:, :, None] & columns[:, None, :]).all()  # a box
    assert (np.diff(np.flatnonzero(rows[0])) == 1).all()
    np.testing.assert_allclose(tall, np.sqrt(area * size**2 / ratio).clip(max=size), atol=0.51)
    np.testing.assert_allclose(wide, np.sqrt(area * size**2 * ratio).clip(max=size), atol=0.51)
    top = rows.float().argmax(1).numpy()
    part = (top + 0.5) / (size - tall + 1)  # anywhere, to within a pixel
    assert stats.kstest(part, "uniform").pvalue > 1e-3
    one = erase(torch.ones(1, 3, 8, 8), torch.tensor([[1e-4, 1.0, 1.0, 0.0]]))
    assert one.eq(0).sum() == 3 and one[0, 0, 7, 0] == 0  # a pixel at least; 1.0 stays inside


def test_noise_is_normal_and_each_views_own() -> None:
    plan = planned(size=40, gaussian_noise={"prob": 1.0, "sigma": 0.05})
    (turn,) = plan.turns
    grey = torch.full((COUNT, 3, 40, 40), 127.0)
    factors = torch.from_numpy(turn.factors)
    noise = (add_noise(grey.clone(), factors) - 127).double()
    assert stats.kstest(noise.flatten()[::7].numpy(), stats.norm(0, 0.05 * 255).cdf).pvalue > 1e-3
    flat = noise.flatten(1).numpy()
    apart = np.corrcoef(np.concatenate((flat, flat[:, ::-1]))) - np.eye(2 * COUNT)
    apart[np.arange(2 * COUNT), (np.arange(2 * COUNT) + COUNT) % (2 * COUNT)] = 0
    assert np.abs(apart).max() < 5 / flat.shape[1] ** 0.5
    neighbours = np.corrcoef(flat[:, 1:].ravel(), flat[:, :-1].ravel())[0, 1]
    assert abs(neighbours) < 4 / flat.size**0.5
    # The generator of solo.rng, in NumPy.
    first, second = (int(x * 2**24) for x in turn.factors[7, 1:])
    golden = 0x9E3779B97F4A7C15
    with np.errstate(over="ignore"):
        state = rng._mix(np.array([(first << 24) + second + golden & 2**64 - 1], np.uint64))
        bits = rng._mix(state + np.uint64(golden) * np.arange(1, 4801, dtype=np.uint64))
    u, v = (((bits >> np.uint64(s) & np.uint64(0xFFFFFF)) + 0.5) / 2**24 for s in (40, 8))
    expected = 0.05 * 255 * np.sqrt(-2 * np.log(u)) * np.cos(2 * np.pi * v)
    np.testing.assert_allclose(flat[7], expected, atol=2e-4)
    alone = add_noise(grey[:1].clone(), factors[7:8])
    assert torch.equal(alone[0].double() - 127, noise[7])


def test_a_users_operation(tmp_path: Path) -> None:
    """By its path, with numbers of each view's own, in the loader and on the device alike."""
    images = torch.full((8, 3, 8, 8), 200, dtype=torch.uint8)
    source = ArraySource(images, torch.zeros(8), ["all"])
    recipe = Augmentation.model_validate(
        {"crop_size": 8, "num_crops": 3, "extra": ["helpers.Fade", "helpers.Fade"]}
    )
    keys = [SampleKey(2, i) for i in range(8)]
    made = TrainingViews(source, [recipe], seed=3)[keys]
    assert isinstance(made, Batch)
    shades = made.views[0].float().mean((2, 3, 4))
    items = np.array([(2, image, view) for view in range(3) for image in range(8)])
    u = rng.uniforms(3, "views", items, numbers_of(recipe))
    expected = 200 * u[:, -32] * u[:, -16]
    np.testing.assert_allclose(shades.flatten(), expected, atol=0.6)
    later = TrainingViews(source, [recipe], seed=3, defer=True)[keys]
    assert isinstance(later, Unfinished) and later.packed is None  # kernels do not know it
    assert torch.equal(finish_views(later, images)[0], made.views[0])
    part = TrainingViews(source, [recipe], seed=3)[keys[5:]]
    assert torch.equal(part.views[0], made.views[0][:, 5:])
    options = tiny(tmp_path, max_epochs=1, limit_train_batches=2)
    options["augmentations"][0]["extra"] = ["helpers.Fade"]
    assert run(options).folder.exists()


def test_operations_that_cannot_be_used() -> None:
    for path, said in (
        ("helpers.Fad", "has helpers.Fad, which cannot be loaded .*no attribute 'Fad'"),
        ("no_such_module.x", "cannot be loaded .*no_such_module"),
        ("Fade", "cannot be loaded"),
        ("helpers.ROOT", "is a PosixPath"),
    ):
        options = tiny(Path("unused"))
        options["augmentations"][0]["extra"] = [path]
        with pytest.raises(ConfigError, match=said):
            ImageData(resolve_config(options))
    plan = planned(extra=["helpers.halve"])
    with pytest.raises(
        RunError, match=r"halve was given images \[60, 3, 12, 12\] and returned \[6"
    ):
        plan.finish(pixels())
    with pytest.raises(ValueError, match=r"min_scale 0\.5 is above max_scale 0\.33; swap them"):
        Augmentation.model_validate({"random_erasing": {"min_scale": 0.5}})


def test_kernels_are_left_out_only_where_they_must_be() -> None:
    assert pack([planned()]) is not None
    for name in ("vertical_flip", "quarter_turns", "rotation", "gaussian_noise", "random_erasing"):
        assert pack([planned(**{name: {"prob": 0.5}})]) is None
