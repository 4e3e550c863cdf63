"""Patch features as pictures: the components, the attention, and a made moving scene."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
import timm
import torch
import torchvision
from helpers import tiny
from PIL import Image

from solo.backbones import build_backbone
from solo.backbones.maps import attention_maps, feature_maps
from solo.pretrain import run
from solo.report.patches import Palette

Command = Callable[..., CompletedProcess[str]]


def test_components_are_those_of_an_svd() -> None:
    """Against NumPy; the same features have the same colours in whatever frames they are."""
    maps = torch.randn(5, 7, 4, 6) * torch.arange(1, 8)[:, None, None] + 3
    palette = Palette.of(maps)
    flat = maps.permute(0, 2, 3, 1).reshape(-1, 7).double().numpy()
    _, _, expected = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
    overlap = np.abs(palette.basis.double().numpy().T @ expected[:3].T)
    np.testing.assert_allclose(overlap, np.eye(3), atol=1e-5)
    colours = palette.paint(maps)
    assert float(colours.min()) == 0 and float(colours.max()) == 1
    torch.testing.assert_close(palette.paint(maps[2:3])[0], colours[2])
    scores = (flat - flat.mean(0)) @ palette.basis.double().numpy()
    assert (np.mean(scores**3, axis=0) > 0).all()
    inside = (colours > 0) & (colours < 1)
    assert 0.95 < float(inside.float().mean()) < 1


def test_few_features_leave_colours_empty() -> None:
    maps = torch.randn(3, 2, 4, 4)
    assert not Palette.of(maps).paint(maps)[:, 2].any()
    alike = torch.ones(2, 4, 3, 3)
    assert Palette.of(alike).paint(alike).isfinite().all()


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_attention_is_that_of_the_last_block(pool: str) -> None:
    """Against softmax(q k / sqrt d) of the block's own input; the network is left as it was."""
    kwargs = {"class_token": pool == "token", "global_pool": pool}
    network = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, num_classes=0, **kwargs
    ).eval()
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        before = network(images)
        found = attention_maps(network, images)
        block, caught = network.blocks[-1], []
        hook = block.attn.qkv.register_forward_hook(lambda _m, _i, out: caught.append(out))
        network(images)
        hook.remove()
        q, k, _ = caught[0].unflatten(-1, (3, 3, 64)).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) / 8).softmax(-1)
    expected = weights[:, :, 0, 1:] if pool == "token" else weights.mean(2)
    torch.testing.assert_close(found, expected.unflatten(-1, (4, 4)))
    assert torch.equal(network(images), before) and block.attn.fused_attn


def test_registers_are_no_cls_token() -> None:
    """What the patches attend to on average, where there is no CLS token beside registers."""
    kwargs = {"class_token": False, "global_pool": "avg", "reg_tokens": 4}
    network = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, num_classes=0, **kwargs
    ).eval()
    found = attention_maps(network, images := torch.randn(2, 3, 32, 32))
    attention = network.blocks[-1].attn
    attention.fused_attn = False
    caught: list[torch.Tensor] = []
    hook = attention.attn_drop.register_forward_hook(lambda _m, _i, out: caught.append(out))
    network(images)
    hook.remove()
    expected = caught[0][:, :, 4:, 4:].mean(2)
    torch.testing.assert_close(found, expected.unflatten(-1, (4, 4)))


@pytest.mark.parametrize(
    ("name", "size", "heads"),
    [
        ("cait_xxs24_224", 32, 4),
        ("beit_base_patch16_224", 32, 12),
        ("eva02_tiny_patch14_224", 28, 3),
    ],
)
def test_attention_of_other_families(name: str, size: int, heads: int) -> None:
    """Of talking heads, and where blocks are a list."""
    network = build_backbone(name, {"depth": 1}, size).eval()
    found = attention_maps(network, torch.randn(2, 3, size, size))
    assert found is not None and found.shape == (2, heads, 2, 2)
    if "cait" not in name:  # whose heads are mixed after the softmax
        assert 0 < float(found.min()) <= float(found.sum((2, 3)).max()) < 1.001


def test_networks_with_and_without_places() -> None:
    images = torch.randn(2, 3, 64, 96)
    resnet = torchvision.models.resnet18().eval()
    maps = feature_maps(resnet, images)
    assert maps.shape == (2, 512, 2, 3)
    torch.testing.assert_close(resnet.fc(maps.mean((2, 3))), resnet(images))
    assert attention_maps(resnet, images) is None
    with pytest.raises(ValueError, match="Linear gives no feature maps"):
        feature_maps(torch.nn.Linear(2, 2), images)


def scene(count: int = 12) -> list[Image.Image]:
    """A disc goes from left to right in front of stripes."""
    y, x = np.mgrid[:48, :64]
    drawn = []
    for frame in range(count):
        picture = np.stack([40 + 30 * (y // 8 % 2), 60 + 0 * y, 120 - 40 * (y // 8 % 2)], axis=-1)
        disc = (x - 8 - 48 * frame / (count - 1)) ** 2 + (y - 24) ** 2 < 100
        picture[disc] = 240, 200, 30
        drawn.append(Image.fromarray(picture.astype(np.uint8)))
    return drawn


def video(path: Path) -> None:
    """The scene as MPEG-4."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=12)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for picture in scene():
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a small ViT."""
    kwargs = {"patch_size": 4, "embed_dim": 48, "depth": 2, "num_heads": 3}
    options = tiny(tmp_path_factory.mktemp("vit"), max_epochs=1, limit_train_batches=2)
    options["backbone"] = {"name": "vit_tiny", "kwargs": kwargs}
    options["augmentations"][0]["crop_size"] = 16
    return run(options).folder


def test_a_moving_scene(vit: Path, tmp_path: Path, script: Command) -> None:
    """Frames in a folder, in an animated GIF and in a video: all of them, beside their colours."""
    (tmp_path / "frames").mkdir()
    for index, picture in enumerate(scene()):
        picture.save(tmp_path / f"frames/{index:03}.png")
    video(tmp_path / "scene.mp4")
    for source in ("frames", "scene.mp4"):
        out = tmp_path / f"out-{source}"
        words = (vit, tmp_path / source, "--out", out, "--size", "48")
        done = script("scripts/utils/patch_pca.py", *words)
        assert "12 images" in done.stdout
        assert (out / "pca.png").stat().st_size > 10_000
        with Image.open(out / "pca.gif") as animation:
            assert animation.n_frames == 12  # type: ignore[attr-defined]
            assert animation.size == (3 * 64 * 4, 48 * 4)  # image, colours, attention; 4 x
    first, *rest = scene()
    first.save(tmp_path / "scene.gif", save_all=True, append_images=rest)
    words = ("--out", tmp_path / "few", "--every", "5", "--square")
    few = script("scripts/utils/patch_pca.py", vit, tmp_path / "scene.gif", *words)
    assert "3 images" in few.stdout


def test_what_cannot_be_looked_at(
    vit: Path, tmp_path: Path, script: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("scripts/utils/patch_pca.py", vit, "--out", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.png").write_bytes(b"no image")
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    for name, said in (
        ("empty", "there are no images below"),
        ("bad.png", "cannot be read as an image"),
        ("bad.mp4", "cannot be read as a video"),
        ("none", "none is not there"),
    ):
        done = script(*words, tmp_path / name, check=False)
        assert done.returncode and said in " ".join(done.stderr.split()), done.stderr
    monkeypatch.setitem(sys.modules, "av", None)
    done = script(*words, tmp_path / "bad.mp4", check=False)
    assert "pip install av" in " ".join(done.stderr.split())
