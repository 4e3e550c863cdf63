"""Images that are not RGB of 8 bits: values are the file's own, runs resume, faults are named."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
import tifffile
import timm
import torch
import torchvision
from helpers import slow, tiny
from PIL import Image
from torchvision.io import encode_jpeg

from solo.backbones import build_backbone, library_call
from solo.config import ConfigError
from solo.config.schema import Data
from solo.data import ImageData
from solo.data import decode as decoding
from solo.data.batches import Batch, SampleKey, TrainingViews, ValidationViews
from solo.data.datasets import load_splits
from solo.data.decode import Layout, _decoders_agree, decode, layout_of, reason_of
from solo.data.deferred import Unfinished, finish_views
from solo.data.sources import BadImageError
from solo.linear import resolve_linear
from solo.linear import run as evaluate
from solo.methods import build_method, resolve_config
from solo.pretrain import run
from solo.report.pictures import displayed
from solo.runs.networks import load_encoder

SIDE = 16
Command = Callable[..., CompletedProcess[str]]


def bands(seed: int, *shape: int, high: int = 65536) -> np.ndarray:
    """Two classes of noise: the second is brighter to the right."""
    random = np.random.default_rng(seed)
    ramp = 1 - 0.5 * (seed % 2) * np.linspace(0, 1, shape[-1])
    return (random.integers(0, high, shape) * ramp).astype(np.uint16 if high > 256 else np.uint8)


def write(path: Path, kind: str, seed: int) -> np.ndarray:
    """One file; its values as [C, H, W]."""
    if kind == "bands":
        array = bands(seed, 13, SIDE, SIDE)
        tifffile.imwrite(path.with_suffix(".tif"), array, photometric="minisblack")
    elif kind == "float":
        array = bands(seed, SIDE, SIDE)[None] / np.float32(65535)
        np.save(path.with_suffix(".npy"), array[0])
    else:
        array = bands(seed, 4, SIDE, SIDE, high=256)
        Image.fromarray(array.transpose(1, 2, 0), "RGBA").save(path.with_suffix(".png"))
    return array


def folder(root: Path, kind: str, count: int = 8) -> Path:
    """Two classes, for training and for validation."""
    for number in range(4 * count):
        place = root / ("train" if number < 2 * count else "val") / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        write(place / f"{number:03}", kind, number)
    return root


def options(tmp_path: Path, kind: str, **over: Any) -> dict[str, Any]:
    """A run of seconds on such a folder."""
    root = folder(tmp_path / kind, kind)
    paths = {"train_path": str(root / "train"), "val_path": str(root / "val")}
    base = tiny(tmp_path / "runs", optimizer={"batch_size": 4}, knn_eval={"k": 2}, **over)
    base["data"] = {"dataset": "custom", "num_workers": 0, **paths}
    return base


@pytest.mark.parametrize(("kind", "channels"), [("bands", 13), ("float", 1), ("rgba", 3)])
def test_values_are_the_files(kind: str, channels: int, tmp_path: Path) -> None:
    """Validation views of the image's own size hold its values; so do whole training views."""
    root = folder(tmp_path, kind, 2)
    train, val = load_splits(
        Data(dataset="custom", train_path=str(root / "train"), val_path=str(root / "val")), 0
    )
    assert train.layout == val.layout and train.layout.channels == channels
    assert train.layout.deep == (kind != "rgba")
    for index in range(len(val)):
        number = int(val.names[index].split("/")[1][:3])
        expected = write(tmp_path / "again", kind, number)[:channels]
        expected = expected * (255 / {"bands": 65535, "float": 1, "rgba": 255}[kind])
        found = val.image(index)
        assert found.dtype == (torch.uint8 if kind == "rgba" else torch.float32)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        view = ValidationViews(val, SIDE, True)[[SampleKey(0, index)]].views[0][0, 0]
        np.testing.assert_allclose(view, expected, rtol=1e-5, atol=1e-4)
    recipe = resolve_config(
        {"augmentations": [{"crop_size": SIDE, "rrc": {"enabled": False}, "num_crops": 2}]}
    ).augmentations
    keys = [SampleKey(0, i) for i in range(len(train))]
    made = TrainingViews(train, recipe, 0)[keys]
    later = TrainingViews(train, recipe, 0, defer=True)[keys]
    assert isinstance(made, Batch) and isinstance(later, Unfinished)
    (there,) = finish_views(later, None)
    assert torch.equal(there, made.views[0]) and there.shape[2] == channels
    for index in range(len(train)):
        torch.testing.assert_close(made.views[0][1, index], train.image(index))


@pytest.mark.usefixtures("reports")
@pytest.mark.parametrize("kind", [slow("bands"), "float", slow("rgba")])
def test_a_run_resumes_evaluates_and_reports(kind: str, tmp_path: Path) -> None:
    """Killed after an epoch and gone on with, it ends in the same weights; all else follows."""
    jitter = {"prob": 0.8, "brightness": 0.4, "contrast": 0.4}
    base = options(tmp_path, kind)
    base["augmentations"][0] |= {"color_jitter": jitter, "gaussian_blur": {"prob": 0.5}}
    whole = run({**base, "checkpoint": {**base["checkpoint"], "keep_prev": True}}).folder
    first_epoch = whole / "checkpoints/epoch_0000.ckpt"
    again = run({**base, "resume_from_checkpoint": str(first_epoch)}).folder
    states = [
        torch.load(path / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for path in (whole, again)
    ]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert (whole / "report.html").stat().st_size > 50_000
    channels = {"bands": 13, "float": 1, "rgba": 3}[kind]
    encoder = load_encoder(str(whole))
    assert encoder.channels == channels
    few = {"shots": [1, "all"], "draws": 2}
    rows = evaluate({"pretrained": str(whole), "few_shot": few, "checkpoint": base["checkpoint"]})
    assert {row["model"] for row in rows.rows} >= {"raw pixels", "untrained network", whole.name}
    digits = {"pretrained": str(whole), "data": {"dataset": "digits"}, "few_shot": few}
    if channels != 3:
        said = f"is for images of {channels} channels, and these have 3"
        for mode in ("few_shot", "linear"):
            with pytest.raises(ConfigError, match=said):
                evaluate({**digits, "mode": mode, "checkpoint": base["checkpoint"]})


def test_what_a_layout_is(tmp_path: Path) -> None:
    """By the first file, and by what is asked for."""
    grey = Image.fromarray(bands(1, 8, 8, high=256), "L")
    deep = bands(1, 3, 8, 8)
    grey.save(tmp_path / "grey.png")
    Image.fromarray(bands(1, 8, 8)).save(tmp_path / "deep.png")
    tifffile.imwrite(tmp_path / "pages.tif", bands(1, 5, 8, 8, high=256), photometric="minisblack")
    tifffile.imwrite(tmp_path / "rgb.tif", deep.transpose(1, 2, 0), photometric="rgb")
    tifffile.imwrite(tmp_path / "planes.tif", deep, planarconfig="separate", photometric="rgb")
    for mode in ("1", "P", "LA", "CMYK", "RGBA"):
        grey.convert("L" if mode == "LA" else "RGB").convert(mode).save(tmp_path / f"{mode}.tif")
    np.save(tmp_path / "last.npy", deep.transpose(1, 2, 0).astype(">u2"))
    np.save(tmp_path / "signed.npy", deep.astype(np.int32) - 100)
    for name, expected in (
        ("grey.png", Layout()),
        ("deep.png", Layout(1, True, 0, 65535, False, "uint16")),
        ("pages.tif", Layout(5)),
        *((f"{mode}.tif", Layout()) for mode in ("1", "P", "LA", "CMYK", "RGBA")),
        ("rgb.tif", Layout(3, True, 0, 65535, False, "uint16")),
        ("planes.tif", Layout(3, True, 0, 65535, False, "uint16")),
        ("last.npy", Layout(3, True, 0, 65535, False, "uint16")),
    ):
        content = (tmp_path / name).read_bytes()
        layout = layout_of(content, None, None, False)
        assert layout == expected, name
        image = decode(content, layout)
        assert image.shape == (expected.channels, 8, 8)
        if expected.channels == 3 and expected.deep:
            np.testing.assert_allclose(image, deep * (255 / 65535), rtol=1e-6)
    content = (tmp_path / "grey.png").read_bytes()
    assert decode(content, Layout(1)).shape == (1, 8, 8)
    assert decode(content, layout_of(content, 1, [0, 100], True)).max() == 255
    signed = (tmp_path / "signed.npy").read_bytes()
    with pytest.raises(ConfigError, match=r"its values are int32, from .*data.value_range"):
        layout_of(signed, None, None, False)
    for kind in (np.uint16, np.uint32, np.int16, np.float64):
        np.save(tmp_path / "wide.npy", np.array([[3, 900]], kind))
        wide = (tmp_path / "wide.npy").read_bytes()
        narrow = layout_of(wide, None, [0, 300], False)
        with pytest.raises(ValueError, match="its values go from 3 to 900, outside"):
            decode(wide, narrow)
        cut = decode(wide, narrow._replace(clip=True)).flatten().tolist()
        assert cut == pytest.approx([2.55, 255])
    found = decode(signed, layout_of(signed, None, [-100, 65435], False))
    np.testing.assert_allclose(found, deep * (255 / 65535), rtol=1e-5, atol=1e-4)


def test_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    """Another depth or number of channels than the first, values outside, and none."""
    root = folder(tmp_path, "rgba", 2)
    place = root / "train/a"
    data = Data(dataset="custom", train_path=str(root / "train"))

    def said(data: Data = data) -> str:
        train = load_splits(data, 0).train
        with pytest.raises(BadImageError) as caught:
            for index in range(len(train)):
                train.image(index)
        return str(caught.value)

    tifffile.imwrite(place / "x.tif", np.zeros((8, 8), np.uint16))
    assert "a/x.tif" in said() and "uint16, where the first image's are uint8" in said()
    tifffile.imwrite(place / "x.tif", np.zeros((7, 8, 8), np.uint8), photometric="minisblack")
    assert "it has 7 channels, where 3 are wanted" in said()
    assert "a/x.tif cannot be read" in said(data.model_copy(update={"on_bad_image": "skip"}))
    (place / "x.tif").unlink()
    tifffile.imwrite(place / "0.tif", np.zeros((8, 8), np.uint16))  # the first, beside which all
    assert "its values are uint8, where the first image's are uint16" in said()  # would be black
    for kind in (np.int32, np.uint32):
        tifffile.imwrite(place / "0.tif", np.zeros((8, 8), kind))
        for policy in ("skip", "error"):
            with pytest.raises(ConfigError, match=r"a/0.tif: its values are .*int32, from 0 to 0"):
                load_splits(data.model_copy(update={"on_bad_image": policy}), 0)
    (place / "0.tif").unlink()
    ranged = data.model_copy(update={"value_range": [0.0, 100.0]})
    assert "outside [0, 100]; set ++data.value_range=[low,high], or ++data.clip=true" in said(
        ranged
    )
    cut = load_splits(ranged.model_copy(update={"clip": True}), 0).train
    assert float(cut.image(0).max()) == 255
    np.save(place / "y.npy", np.zeros((8, 8), np.uint8))  # beside images: something else
    assert not any("npy" in cut.names[i] for i in range(len(load_splits(data, 0).train)))
    (place / "y.npy").unlink()
    for path in root.rglob("*.png"):
        np.save(path.with_suffix(".npy"), np.full((8, 8), np.nan, np.float32))
        path.unlink()
    assert "values that are not finite" in said()
    for path in root.rglob("*.npy"):
        np.save(path, np.full((8, 8), "a"))
    with pytest.raises(BadImageError, match="none of the 4 images can be read"):
        load_splits(data.model_copy(update={"on_bad_image": "skip"}), 0)


@pytest.mark.parametrize("channels", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", ["npy", "pages", "contig", "separate"])
def test_channels_that_are_no_colours_are_kept(kind: str, channels: int, tmp_path: Path) -> None:
    """8 bits of microscopes: nothing says that a fourth would be alpha."""
    array = np.stack([np.full((9, 11), 40 * (c + 1), np.uint8) for c in range(channels)])
    (tmp_path / "a").mkdir()
    for name in "xy":
        path = tmp_path / "a" / f"{name}.{'npy' if kind == 'npy' else 'tif'}"
        if kind == "npy":
            np.save(path, array)
        elif kind == "pages":
            with tifffile.TiffWriter(path) as file:
                for plane in array:
                    file.write(plane, photometric="minisblack")
        else:
            shaped = array.transpose(1, 2, 0) if kind == "contig" else array
            tifffile.imwrite(path, shaped, photometric="minisblack", planarconfig=kind)
    train = load_splits(Data(dataset="custom", train_path=str(tmp_path)), 0).train
    assert train.layout == Layout(channels)
    assert np.array_equal(train.image(1), array)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "CMYK", "P", "1"])
def test_tiffs_of_colours_are_rgb(mode: str, tmp_path: Path) -> None:
    """Alpha, inks and palettes: as Pillow converts them."""
    array = np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    image = Image.fromarray(array).convert(mode)
    image.save(tmp_path / "x.tif")
    content = (tmp_path / "x.tif").read_bytes()
    layout = layout_of(content, None, None, False)
    assert layout == Layout()
    wanted = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    assert np.array_equal(decode(content, layout), wanted)


@pytest.mark.slow
@pytest.mark.usefixtures("reports")
def test_a_report_passes_over_what_cannot_be_read(tmp_path: Path) -> None:
    """The first images of both parts: their places are taken, or black."""
    base = options(tmp_path, "rgba")
    for part in ("train", "val"):
        first = min((tmp_path / "rgba" / part / "a").iterdir())
        first.write_bytes(b"no image")
    base["data"]["on_bad_image"] = "skip"
    assert (run(base).folder / "report.html").stat().st_size > 50_000


def test_what_other_channels_cannot_have(tmp_path: Path) -> None:
    for kind, keys, name in (
        ("bands", {"color_jitter": {"prob": 0.5, "hue": 0.1}}, "0.color_jitter.hue needs red"),
        ("bands", {"color_jitter": {"prob": 0.5, "saturation": 0.1}}, "saturation needs red"),
        (
            "bands",
            {"color_jitter": {"prob": 0.5, "saturation": 0.1, "hue": 0.1}},
            r"to 0: augmentations.0.color_jitter.saturation=0 augmentations.0.color_jitter.hue=0$",
        ),
        ("float", {"grayscale": {"prob": 0.1}}, "grayscale.prob needs red, .* have 1 channels"),
        ("float", {"equalization": {"prob": 0.1}}, "equalization.prob is for images of 8 bits"),
    ):
        base = options(tmp_path, kind)
        base["augmentations"][0] |= keys
        with pytest.raises(ConfigError, match=name):
            ImageData(resolve_config(base))
    base = options(tmp_path, "bands")
    base["data"]["shown_channels"] = [3, 2, 13]
    with pytest.raises(ConfigError, match="but images have 13 channels, counted from 0"):
        ImageData(resolve_config(base))
    base["data"]["shown_channels"] = [3, 2, 1]
    data = ImageData(resolve_config(base))
    image = data.train.image(0)
    assert (displayed(image, data) == image[[3, 2, 1]].round().permute(1, 2, 0).numpy()).all()
    data.config.data.shown_channels = None
    assert (displayed(image, data) == image[[0, 6, 12]].round().permute(1, 2, 0).numpy()).all()
    base = options(tmp_path, "bands")
    base["data"] |= {"mean": [0.5] * 3, "std": [0.2] * 3}
    config = resolve_config(base)
    with pytest.raises(ConfigError, match="have 3 numbers, but images have 13 channels"):
        build_method(config, ImageData(config))
    with pytest.raises(ConfigError, match="digits has 3 channels of 8 bits"):
        ImageData(resolve_config({"data": {"channels": 5}}))
    with pytest.raises(ValueError, match=r"value_range is \[3\.0, 1\.0\]"):
        Data(value_range=[3, 1])


def test_an_exported_network_knows_its_range(tmp_path: Path, script: Command) -> None:
    """And its channels, for timm alone; I-JEPA sees them too."""
    base = options(tmp_path, "bands", max_epochs=1)
    base["data"] |= {"value_range": [0, 100_000], "clip": True}
    vit = {"patch_size": 4, "embed_dim": 24, "depth": 1, "num_heads": 2, "class_token": False}
    base |= {"method": "ijepa", "method_kwargs": {"pred_dim": 16, "pred_depth": 1, "pred_heads": 2}}
    base["backbone"] = {"name": "vit_tiny", "kwargs": {**vit, "global_pool": "avg"}}
    base["augmentations"] = [{"crop_size": SIDE, "num_crops": 1}]
    folder = run(base).folder
    script("scripts/utils/export_backbone.py", folder, tmp_path / "out")
    own, exported = load_encoder(str(folder)), load_encoder(str(tmp_path / "out"))
    assert exported.value_range == [0, 100_000] and exported.clip and exported.channels == 13
    image = torch.rand(2, 13, SIDE, SIDE) * 255
    there = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    with torch.no_grad():
        expected = own.eval()(image)
        assert torch.equal(exported.eval()(image), expected)
        torch.testing.assert_close(there(own.normalize(image)), expected)
    found = resolve_linear(
        {
            "pretrained": str(tmp_path / "out"),
            "data": {"mean": [0.1] * 13, "std": [0.2] * 13, "dataset": "custom"},
        }
    )
    assert found[0].data.value_range == [0, 100_000] and found[1].normalize.std == (0.2,) * 13


def test_networks_see_other_channels() -> None:
    """Torchvision's ResNets and timm's; published weights are spread over the channels."""
    for name, size in (("resnet18", 8), ("resnet18", 64), ("vit_tiny", 8), ("convnext_atto", 64)):
        options = {"depth": 1} if name == "vit_tiny" else {}
        network = build_backbone(name, options, size, channels=13).eval()
        assert network(torch.randn(2, 13, size, size)).shape == (2, network.num_features)
    assert library_call("resnet18", {}, 64, channels=2).arguments == {"in_chans": 2}
    torch.manual_seed(0)
    plain = torchvision.models.resnet18()
    torch.manual_seed(0)
    grey = build_backbone("resnet18", {}, 64, channels=1)
    torch.testing.assert_close(grey.conv1.weight, plain.conv1.weight.sum(1, keepdim=True))


@pytest.mark.parametrize("size", [(33, 47), (8, 8), (100, 60)])
def test_jpeg_is_pillows(size: tuple[int, int]) -> None:
    """Of all kinds, the decoder that is taken gives Pillow's pixels; inks are Pillow's own."""
    coarse = torch.rand(1, 3, 6, 6) * 255
    smooth = torch.nn.functional.interpolate(coarse, size, mode="bicubic")[0].clamp(0, 255).byte()
    image = Image.fromarray(smooth.permute(1, 2, 0).numpy())
    assert _decoders_agree()
    for mode, options in (
        ("RGB", {}),
        ("RGB", {"quality": 95, "subsampling": 0}),
        ("RGB", {"quality": 40, "subsampling": 1, "progressive": True}),
        ("L", {}),
        ("CMYK", {}),
    ):
        file = io.BytesIO()
        image.convert(mode).save(file, "jpeg", **options)
        with Image.open(file) as read:
            expected = np.asarray(read.convert("RGB")).transpose(2, 0, 1)
            grey = np.asarray(read.convert("L"))
        assert (decode(file.getvalue(), Layout()).numpy() == expected).all()
        assert (decode(file.getvalue(), Layout(1)).numpy() == grey).all()
    with pytest.raises(RuntimeError) as caught:
        decode(_cut(image), Layout())
    assert reason_of(caught.value) == "Image is incomplete or truncated"


def test_without_torchvisions_decoders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow reads JPEG and grey PNG of 16 bits; in colour it would cut them to 8."""
    monkeypatch.setattr(decoding, "decode_jpeg", None)
    _decoders_agree.cache_clear()
    jpeg = encode_jpeg(torch.full((3, 8, 8), 90, dtype=torch.uint8)).numpy().tobytes()
    assert decode(jpeg, Layout()).eq(90).all()
    _decoders_agree.cache_clear()
    file = io.BytesIO()
    grey = bands(0, 8, 8)
    Image.fromarray(grey).save(file, "png")
    layout = layout_of(file.getvalue(), None, None, False)
    np.testing.assert_allclose(decode(file.getvalue(), layout)[0], grey * (255 / 65535), rtol=1e-6)
    colour = bytearray(file.getvalue())
    colour[25] = 2
    with pytest.raises(ValueError, match="no 16-bit PNG in colour"):
        decode(bytes(colour), layout)


def _cut(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "jpeg")
    return file.getvalue()[:-40]


def test_jpeg_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking at what a file is costs no second decoding."""
    content = encode_jpeg(torch.zeros(3, 8, 8, dtype=torch.uint8)).numpy().tobytes()
    _decoders_agree()
    opened = []
    plain = Image.open
    monkeypatch.setattr(Image, "open", lambda file: opened.append(file) or plain(file))
    assert decode(content, Layout()).shape == (3, 8, 8) and len(opened) == 1
