"""JPEG files that the training device decodes; here the device is a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import rows, tiny
from PIL import Image

from solo.config import Config, ConfigError
from solo.data import ImageData
from solo.data import decode as decoding
from solo.data.deferred import Unfinished
from solo.data.encoded import check_decoder
from solo.data.sources import BadImageError
from solo.pretrain import run

CPU = torch.device("cpu")
SIDES = [(40, 33), (16, 51), (64, 64), (9, 70), (47, 21), (30, 30)]


def smooth(number: int, mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(number)
    coarse = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize(SIDES[number % len(SIDES)], Image.Resampling.BICUBIC)
    return picture.convert(mode)


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Twelve images of many sizes: RGB, grey and CMYK JPEGs, and what is none."""
    (tmp_path / "train/a").mkdir(parents=True)
    (tmp_path / "train/b").mkdir()
    for number in range(12):
        mode = {3: "L", 5: "CMYK", 7: "RGBA"}.get(number, "RGB")
        suffix = "png" if number in (7, 8) else "jpg"
        folder = tmp_path / "train" / "ab"[number % 2]
        smooth(number, mode).save(folder / f"{number:02}.{suffix}", quality=90)
    return tmp_path


def options(folder: Path, **data: Any) -> dict[str, Any]:
    common = {"dataset": "custom", "train_path": str(folder / "train"), "num_workers": 0}
    return {
        "data": {**common, **data},
        "optimizer": {"batch_size": 12},
        "augmentations": [
            {"crop_size": 24, "num_crops": 2, "rrc": {"crop_min_scale": 0.2}},
            {"crop_size": [8, 13], "num_crops": 3, "horizontal_flip": {"prob": 0.5}},
        ],
    }


def batch_of(module: ImageData) -> Unfinished:
    batch = next(iter(module.train_dataloader()))
    assert isinstance(batch, Unfinished)
    return batch


@pytest.mark.parametrize("workers", [0, 2])
def test_views_are_those_of_the_loader(mixed: Path, workers: int) -> None:
    made = []
    for place in ("loader", "device"):
        keys = {"augment_on": "device", "decode_on": place, "num_workers": workers}
        module = ImageData(Config.model_validate(options(mixed, **keys)))
        batch = batch_of(module)
        assert (batch.files is None, len(batch.crops)) == (
            (True, 2) if place == "loader" else (False, 0)
        )
        if batch.files is not None:  # the CMYK file and two PNGs are the loader's
            assert batch.files.encoded.sum() == 9
        made.append(module.transfer_batch_to_device(batch, CPU, 0))
    for ours, theirs in zip(*(batch.views for batch in made)):
        assert (ours.int() - theirs.int()).abs().max() <= 1  # crops were rounded
        assert ours.float().std() > 20
    assert torch.equal(made[0].labels, made[1].labels)
    assert torch.equal(made[0].indices, made[1].indices)


def test_the_users_operation_comes_after_it(mixed: Path) -> None:
    """One that kernels do not know."""
    content = options(mixed, augment_on="device", decode_on="device")
    content["augmentations"][0]["extra"] = ["helpers.Fade"]
    views = []
    for each in (content, options(mixed, augment_on="device", decode_on="device")):
        module = ImageData(Config.model_validate(each))
        views.append(module.transfer_batch_to_device(batch_of(module), CPU, 0).views[0])
    faded, plain = (made.flatten(2).double() for made in views)
    factor = faded.sum(-1, keepdim=True) / plain.sum(-1, keepdim=True)
    assert (faded - factor * plain).abs().max() <= 1 and factor.std() > 0.1


def test_a_damaged_file_is_named(mixed: Path) -> None:
    """Cut off: by the loader. Whole to look at, but without a picture: after the device refused."""
    module = ImageData(
        Config.model_validate(options(mixed, augment_on="device", decode_on="device"))
    )
    file = mixed / "train/a/02.jpg"
    whole = file.read_bytes()
    file.write_bytes(whole[:-200])
    with pytest.raises(BadImageError, match=r"02\.jpg cannot be read"):
        batch_of(module)
    scan = whole.index(b"\xff\xda")
    file.write_bytes(whole[:scan] + b"\xff\xd9")
    batch = batch_of(module)
    with pytest.raises(BadImageError, match=r"02\.jpg cannot be read"):
        module.transfer_batch_to_device(batch, CPU, 0)


def test_colours_stored_as_they_are_stay_with_the_loader(tmp_path: Path) -> None:
    """Adobe's marker with a transform of 0."""
    smooth(0).save(tmp_path / "plain.jpg")
    content = (tmp_path / "plain.jpg").read_bytes()
    marker = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
    layout = decoding.Layout()
    assert decoding.jpeg_of(content, layout) is not None
    assert decoding.jpeg_of(content[:2] + marker + b"\x00" + content[2:], layout) is None
    assert decoding.jpeg_of(content[:2] + marker + b"\x01" + content[2:], layout) is not None
    assert decoding.jpeg_of(content, layout._replace(channels=1)) is None
    assert decoding.jpeg_of(content + bytes(7), layout) is not None  # padded by some cameras


def test_what_cannot_be_is_refused(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for keys, message in (
        ({"augment_on": "loader"}, "views must be made there too"),
        ({"on_bad_image": "skip"}, "cannot take another image"),
    ):
        with pytest.raises(ValueError, match=message):
            Config.model_validate(options(mixed, decode_on="device", **keys))
    check_decoder(CPU)
    monkeypatch.setattr(decoding, "decode_jpeg", None)
    with pytest.raises(ConfigError, match=r"no decoder; set data\.decode_on=loader"):
        check_decoder(CPU)


def test_a_run(mixed: Path, tmp_path: Path) -> None:
    """Losses come near those of files that the loader decoded."""
    losses = []
    for place in ("loader", "device"):
        content = tiny(tmp_path / place, **options(mixed, augment_on="device", decode_on=place))
        content |= {"knn_eval": {"enabled": False}, "mlp_probe": {"enabled": False}}
        content["augmentations"] = [{"crop_size": 16, "num_crops": 2}]
        losses.append(float(rows(run(content).folder)[0]["train_rectified_lp_jepa_loss"]))
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
