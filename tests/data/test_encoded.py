"""JPEG files that the training device decodes; here the device is a CPU."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import rows, slow, tiny
from PIL import Image

from solo.config import Config, ConfigError
from solo.data import ImageData, encoded
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
        assert torch.equal(ours, theirs) and ours.float().std() > 20
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
    with pytest.raises(BadImageError, match=r"02\.jpg cannot be read.*decode_on=loader"):
        module.transfer_batch_to_device(batch, CPU, 0)


@pytest.mark.parametrize("fault", ["refuses", "skips"])
def test_what_the_device_does_not_decode_is_decoded_again(
    mixed: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """A batch fails as a whole, or some of its images are empty."""
    config = Config.model_validate(options(mixed, augment_on="device", decode_on="device"))
    module = ImageData(config)
    batch = batch_of(module)
    wanted = module.transfer_batch_to_device(batch, CPU, 0).views
    assert batch.files is not None
    victim = int(batch.files.encoded.nonzero()[0][2])
    size = int(np.diff(batch.files.ends)[victim - 1])
    calls = []

    def decode(files: list[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
        calls.append(len(files))
        if fault == "refuses" and any(len(file) == size for file in files):
            raise RuntimeError("nvjpegDecode failed: 4")
        made = decoding.decode_jpegs(files, device)
        return [image[:, :0] if len(file) == size else image for file, image in zip(files, made)]

    monkeypatch.setattr(encoded, "decode_jpegs", decode)
    with pytest.warns(UserWarning, match=r"device does not decode .*\.jpg"):
        found = module.transfer_batch_to_device(batch, CPU, 0).views
    assert all(torch.equal(a, b) for a, b in zip(found, wanted))
    assert calls == ([9] + [1] * 9 if fault == "refuses" else [9])


def test_the_decoders_stream_is_waited_for(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is decoded there is done before anyone may reuse its memory; here all are stand-ins."""
    config = Config.model_validate(options(mixed, augment_on="device", decode_on="device"))
    files = batch_of(ImageData(config)).files
    assert files is not None
    done: list[str] = []

    class Stream:
        def __enter__(self) -> None:
            done.append("in")

        def __exit__(self, *error: object) -> None:
            done.append("out")

        def synchronize(self) -> None:
            done.append("waited")

    def pixels(*words: Any) -> torch.Tensor:
        done.append("decoded")
        return torch.zeros(1)

    monkeypatch.setattr(encoded, "_decoded", pixels)
    monkeypatch.setattr(encoded, "_stream", lambda device: Stream())
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "main")
    record = lambda self, stream: done.append(f"kept for {stream}")  # noqa: E731
    monkeypatch.setattr(torch.Tensor, "record_stream", record)
    places = SimpleNamespace(device=torch.device("cuda", 0))
    encoded.decode_files(files, places, lambda i: torch.zeros(0))  # type: ignore[arg-type]
    assert done == ["in", "decoded", "out", "waited", "kept for main"]


def test_colours_stored_as_they_are_stay_with_the_loader(tmp_path: Path) -> None:
    """Adobe's marker with a transform of 0."""
    smooth(0).save(tmp_path / "plain.jpg")
    content = (tmp_path / "plain.jpg").read_bytes()
    marker = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
    layout = decoding.Layout()
    assert decoding.jpeg_of(content, layout) is not None
    assert decoding.jpeg_of(content[:2] + marker + b"\x00" + content[2:], layout) is None
    assert decoding.jpeg_of(content[:2] + marker + b"\x01" + content[2:], layout) is not None
    smooth(0).save(tmp_path / "named.jpg", keep_rgb=True)
    content_named = (tmp_path / "named.jpg").read_bytes()
    cut = content_named.index(b"\xff\xee")
    without = content_named[:cut] + content_named[cut + 16 :]
    assert Image.open(io.BytesIO(without)).layer[0][0] == ord("R")  # type: ignore[attr-defined]
    assert decoding.jpeg_of(without, layout) is None
    assert decoding.jpeg_of(content, layout._replace(channels=1)) is None
    assert decoding.jpeg_of(content + bytes(7), layout) is not None  # padded by some cameras


def test_what_cannot_be_is_refused(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for keys, message in (
        ({"augment_on": "loader"}, "views must be made there too"),
        ({"on_bad_image": "skip"}, "cannot take another image"),
    ):
        with pytest.raises(ValueError, match=message):
            Config.model_validate(options(mixed, decode_on="device", **keys))
    for keys, message in (
        ({"channels": 1}, "1 channels of 8 bits"),
        ({"channels": 4}, "4 channels of 8 bits"),
        ({"value_range": [0, 200], "clip": True}, "3 channels of more than 8 bits"),
    ):
        with pytest.raises(ConfigError, match=message):
            ImageData(Config.model_validate(options(mixed, decode_on="device", **keys)))
    with pytest.raises(ConfigError, match="digits is in memory"):
        ImageData(Config.model_validate({"data": {"decode_on": "device"}}))
    check_decoder(CPU)
    monkeypatch.setattr(encoded, "decode_jpegs", lambda files, device: [torch.zeros(3, 45, 91)])
    with pytest.raises(ConfigError, match="other pixels than the loader's"):
        check_decoder(CPU)
    monkeypatch.undo()
    monkeypatch.setattr(decoding, "decode_jpeg", None)
    with pytest.raises(ConfigError, match=r"no decoder; set data\.decode_on=loader"):
        check_decoder(CPU)


def test_a_cpu_says_that_its_loader_decodes(
    mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = []
    for place in ("auto", "device"):
        content = tiny(tmp_path / place, **options(mixed, augment_on=place, decode_on="device"))
        run({**content, "max_epochs": 1})
        said.append("decoded by the loader" in capsys.readouterr().out)
    assert said == [True, False]


@pytest.mark.parametrize("precision", [slow("32"), "64"])
def test_a_run(mixed: Path, tmp_path: Path, precision: str) -> None:
    """Losses are those of files that the loader decoded."""
    losses = []
    for place in ("loader", "device"):
        content = tiny(tmp_path / place, **options(mixed, augment_on="device", decode_on=place))
        content |= {"knn_eval": {"enabled": False}, "mlp_probe": {"enabled": False}}
        content |= {"precision": precision}
        content["augmentations"] = [{"crop_size": 16, "num_crops": 2}]
        losses.append(float(rows(run(content).folder)[0]["train_rectified_lp_jepa_loss"]))
    assert losses[1] == pytest.approx(losses[0])
