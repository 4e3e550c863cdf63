"""``init_from``: what a run begins with, and what it says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from helpers import cut_short, last, merged, state, tiny

from solo.config import ConfigError
from solo.data import ImageData, Normalize
from solo.evaluation.encoders import Encoder
from solo.methods import METHODS, build_method, resolve_config
from solo.pretrain import run
from solo.runs.initial import begin_with, initial_network, take_normalisation

VIT = {"name": "vit_tiny", "kwargs": {"depth": 2, "embed_dim": 16, "num_heads": 2}}


def short(folder: Path, **over: Any) -> dict[str, Any]:
    base = tiny(folder, max_epochs=1, limit_train_batches=2, limit_val_batches=1)
    base |= {"knn_eval": {"enabled": False}, "mlp_probe": {"enabled": False}}
    if "backbone" in over:
        del base["backbone"]
    return merged(base, over)


def begun(content: dict[str, Any]) -> tuple[Any, list[str]]:
    """A method before its first step, and what was said."""
    config = resolve_config(content)
    encoder = initial_network(config)
    data = ImageData(config)
    take_normalisation(config, encoder, data)
    method = build_method(config, data)
    return method, begin_with(method, encoder)


def cosines(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return torch.cosine_similarity(one.double(), other.double())


def test_a_run_begins_where_another_ended(tmp_path: Path, capsys: Any) -> None:
    """Backbone and projector; a checkpoint likewise; the first loss is not an untrained one's."""
    source = run(short(tmp_path))
    images = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    trained = build_method(
        resolve_config(short(tmp_path)), ImageData(resolve_config(short(tmp_path)))
    )
    trained.load_state_dict(state(source))
    expected = trained.eval().backbone(trained.normalize(images))
    for place in (source.folder, source.folder / "checkpoints/last.ckpt"):
        method, said = begun(short(tmp_path, init_from=str(place), seed=9))
        found = method.eval().backbone(method.normalize(images))
        assert (cosines(found, expected) > 1 - 1e-6).all()
        for name, value in trained.projector.state_dict().items():
            assert torch.equal(method.projector.state_dict()[name], value)
        assert any("the projector begins with theirs" in line for line in said)
    _, said = begun(
        short(tmp_path, init_from=str(source.folder), method_kwargs={"proj_hidden_dim": 24})
    )
    assert any("projector begins untrained: 0.weight is [32, 8] in the file" in s for s in said)
    again = run(short(tmp_path, init_from=str(source.folder)))
    assert "the backbone begins with the weights of" in capsys.readouterr().out
    saved = last(again)["config"]
    assert saved["init_from"] == str(source.folder) and len(saved["data"]["mean"]) == 3


def test_a_teacher_begins_as_its_student(tmp_path: Path) -> None:
    source = run(short(tmp_path))
    byol = short(tmp_path, method="byol", init_from=str(source.folder))
    for key in ("num_projections",):
        byol["method_kwargs"].pop(key)
    method, _ = begun(byol)
    trained = state(source)
    for name, value in method.teacher[0].state_dict().items():
        assert torch.equal(value, trained[f"backbone.{name}"]), name


@pytest.mark.parametrize("sizes", [(16, 32), ([16, 24], 16), ([16, 24], [24, 16])])
def test_positions_are_adapted_as_timm_does_it(sizes: tuple[Any, Any], tmp_path: Path) -> None:
    before, after = sizes
    crops = [{"crop_size": before, "num_crops": 2}], [{"crop_size": after, "num_crops": 2}]
    source = run(short(tmp_path, backbone=VIT, augmentations=crops[0]))
    trained = state(source)
    method, said = begun(
        short(tmp_path, backbone=VIT, augmentations=crops[1], init_from=str(source.folder))
    )
    assert any("positions for 16" in line for line in said)
    old, new = trained["backbone.pos_embed"], method.backbone.pos_embed
    places = (4, 4) if after == 16 else (6, 4)
    assert (old.shape != new.shape) == (after != [24, 16])
    network = timm.create_model(  # another network of theirs, which resizes when it loads
        "vit_tiny_patch16_224",
        depth=2,
        embed_dim=16,
        num_heads=2,
        patch_size=4,
        num_classes=0,
        img_size=after,
        pretrained=False,
    )
    from timm.models.vision_transformer import checkpoint_filter_fn

    plain = {k.removeprefix("backbone."): v for k, v in trained.items() if "backbone." in k}
    if isinstance(before, int):
        network.load_state_dict(checkpoint_filter_fn(plain, network))
        torch.testing.assert_close(new, network.pos_embed)
    else:  # 4 x 6 places to 4 x 4 or 6 x 4, by torch itself
        grid = old[:, 1:].unflatten(1, (4, 6)).permute(0, 3, 1, 2)
        resized = F.interpolate(grid, places, mode="bicubic", antialias=True)
        torch.testing.assert_close(new[:, 1:], resized.flatten(2).mT)
        assert torch.equal(new[:, :1], old[:, :1])


def test_who_goes_on_needs_no_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has weights and normalisation of its own; a new run is told what is missing."""
    theirs = timm.create_model("resnet10t", channels=[8] * 4, stem_type="")
    file, kwargs = tmp_path / "weights.pth", {"channels": [8] * 4, "stem_type": ""}
    torch.save(theirs.state_dict(), file)
    content = tiny(tmp_path / "runs", max_epochs=2, limit_train_batches=3, limit_val_batches=1)
    content |= {"init_from": str(file), "auto_resume": {"enabled": True}}
    content["backbone"] = {"name": "resnet10t", "kwargs": kwargs}
    content["augmentations"][0]["crop_size"] = 40  # a stem as theirs
    whole = run(merged(content, {"checkpoint": {"dir": str(tmp_path / "whole")}}))
    folder = cut_short(monkeypatch, content, 4)
    file.unlink()
    again = run(content)
    assert again.folder == folder
    for name, value in state(whole).items():
        assert torch.equal(state(again)[name], value), name
    with pytest.raises(ConfigError, match=r"init_from: .*weights.pth"):
        run(content)  # that one is finished
    with pytest.raises(ConfigError, match=r"init_from: .*weights.pth"):
        run({**content, "name": "other"})


def test_patches_of_another_size_are_told(tmp_path: Path) -> None:
    source = run(short(tmp_path, backbone=VIT))
    kwargs = {**VIT["kwargs"], "patch_size": 2}
    other = short(tmp_path, backbone={**VIT, "kwargs": kwargs}, init_from=str(source.folder))
    _, said = begun(other)
    assert any("patch_embed.proj.weight was resampled" in line for line in said)


def test_files_of_others(tmp_path: Path) -> None:
    """A bare state dict, safetensors, a folder of timm's layout, with their normalisation."""
    theirs = timm.create_model("resnet10t", channels=[8] * 4, stem_type="", num_classes=10)
    torch.save({"state_dict": theirs.state_dict()}, tmp_path / "weights.pth")
    backbone = {"name": "resnet10t", "kwargs": {"channels": [8] * 4, "stem_type": ""}}
    content = short(tmp_path, backbone=backbone, init_from=str(tmp_path / "weights.pth"))
    content["augmentations"][0]["crop_size"] = 40  # a stem as theirs
    method, said = begun(content)
    assert torch.equal(method.backbone.conv1.weight, theirs.conv1.weight)
    assert method.normalize.mean == pytest.approx((0.485, 0.456, 0.406))
    assert any("normalised with data.mean=[0.485, 0.456, 0.406]" in line for line in said)
    given = merged(content, {"data": {"mean": [0.1] * 3, "std": [0.2] * 3}})
    assert begun(given)[0].normalize.mean == (0.1, 0.1, 0.1)
    folder = tmp_path / "folder"
    timm.models.save_for_hf(theirs, folder, safe_serialization=True)
    method, _ = begun({**content, "init_from": str(folder)})
    assert torch.equal(method.backbone.layer4[0].conv1.weight, theirs.layer4[0].conv1.weight)


def test_wrong_pairings_are_told(tmp_path: Path) -> None:
    source = run(short(tmp_path))
    other = {"name": "resnet10t", "kwargs": {"channels": [16] * 4, "stem_type": ""}}
    named = str(source.folder)
    with pytest.raises(ConfigError, match=r"conv1.weight is \[8, 64, 3, 3\] in the file, \[16"):
        begun(short(tmp_path, backbone=other, init_from=named))
    with pytest.raises(ConfigError, match="holds the weights of another network"):
        begun(short(tmp_path, backbone=VIT, init_from=named))
    with pytest.raises(ConfigError, match=r"init_from: .*nowhere"):
        run(short(tmp_path, init_from="nowhere/at/all"))
    (tmp_path / "broken.pth").write_bytes(b"no weights")
    with pytest.raises(ConfigError, match=r"init_from: .*broken.pth"):
        run(short(tmp_path, init_from=str(tmp_path / "broken.pth")))
    assert len(list((tmp_path / "rectified_lpjepa").iterdir())) == 1  # no run was begun


def test_channels_are_spread(tmp_path: Path) -> None:
    """A first convolution of three channels for one, as timm sums it; not for others."""
    source = run(short(tmp_path))
    config = resolve_config(short(tmp_path, init_from=str(source.folder)))
    encoder = initial_network(config)
    grey = resolve_config(short(tmp_path, init_from=str(source.folder), data={"channels": 1}))
    method = METHODS[grey.method](grey, Normalize((0.5,), (0.2,)), 10)
    said = begin_with(method, encoder)
    expected = encoder.backbone.conv1.weight.sum(1, keepdim=True)
    torch.testing.assert_close(method.backbone.conv1.weight, expected)
    assert any("conv1.weight was spread over 1 channels" in line for line in said)
    other = Encoder(method.backbone, Normalize((0.5,), (0.2,)), 8, True, None, "backbone", "grey")
    more = resolve_config(short(tmp_path, init_from=str(source.folder), data={"channels": 5}))
    with pytest.raises(ConfigError, match="is for images of 1 channels, and these have 5"):
        begin_with(METHODS[more.method](more, Normalize((0.5,) * 5, (0.2,) * 5), 10), other)
