"""Networks from wherever they come."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
import yaml
from helpers import tiny
from safetensors.torch import save_file

from solo.config import ConfigError
from solo.config.schema import Backbone
from solo.data import ImageData
from solo.evaluation.encoders import untrained
from solo.evaluation.few_shot import draw_shots
from solo.methods import SSLMethod, build_method, resolve_config
from solo.pretrain import run
from solo.report.run import write_report
from solo.runs.networks import load_encoder, newest_run
from solo.runs.saved import SavedRun

IMAGES = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)


def saved_run(folder: Path, **over: Any) -> tuple[SSLMethod, Path]:
    """A method with weights of its own, in a run's folder."""
    config = resolve_config(tiny(folder, **over))
    method = build_method(config, ImageData(config)).eval()
    path = folder / "rectified_lpjepa/run-1"
    (path / "checkpoints").mkdir(parents=True)
    import yaml

    (path / "config.yaml").write_text(yaml.safe_dump(config.to_dict()))
    content = {"state_dict": method.state_dict(), "config": config.to_dict()}
    torch.save(content, path / "checkpoints/last.ckpt")
    return method, path


def test_runs_and_checkpoints_of_ours(tmp_path: Path) -> None:
    method, path = saved_run(tmp_path)
    assert newest_run(tmp_path) == path
    images = IMAGES[:, :, :8, :8]
    h = method.backbone(method.normalize(images))
    for source in (path, path / "checkpoints/last.ckpt"):
        encoder = load_encoder(str(source)).eval()
        assert encoder.image_size == 8 and encoder.whole and encoder.name == "run-1"
        torch.testing.assert_close(encoder(images), h)
        assert encoder.num_features() == h.shape[1]
        embedding = load_encoder(str(source), features="projector").eval()(images)
        torch.testing.assert_close(embedding, method.projector(h))
    with pytest.raises(ConfigError, match="no ViT"):
        load_encoder(str(path), features="last_two_cls")
    (path / "checkpoints/last.ckpt").unlink()
    with pytest.raises(ConfigError, match="no checkpoint yet"):
        load_encoder(str(path))
    with pytest.raises(ConfigError, match="no run under"):
        newest_run(tmp_path)


def test_state_dicts_of_torchvision_and_timm(tmp_path: Path) -> None:
    theirs = torchvision.models.resnet18().eval()
    torch.save(theirs.state_dict(), tmp_path / "resnet18.pth")
    encoder = load_encoder(str(tmp_path / "resnet18.pth"), backbone=Backbone(name="resnet18"))
    images = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    theirs.fc = torch.nn.Identity()
    x = (images / 255 - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor(
        [0.229, 0.224, 0.225]
    )[:, None, None]
    torch.testing.assert_close(encoder.eval()(images), theirs(x), rtol=1e-4, atol=1e-4)

    vit = timm.create_model("vit_tiny_patch16_224", num_classes=7, img_size=32, patch_size=8).eval()
    state = {f"module.{name}": value for name, value in vit.state_dict().items()}
    torch.save({"model": state}, tmp_path / "vit.pth")
    save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    backbone = Backbone(name="vit_tiny_patch16_224", kwargs={"patch_size": 8})
    for name in ("vit.pth", "vit.safetensors"):
        encoder = load_encoder(str(tmp_path / name), backbone=backbone, image_size=32).eval()
        vit.reset_classifier(0)
        # timm's mean and standard deviation of this model are 0.5
        torch.testing.assert_close(
            encoder(IMAGES), vit((IMAGES / 255 - 0.5) / 0.5), rtol=1e-4, atol=1e-4
        )
        two = load_encoder(
            str(tmp_path / name), backbone=backbone, image_size=32, features="last_two_cls"
        )
        assert two.eval()(IMAGES).shape == (3, 2 * 192)
        # The size is in the positions; 224 px would be another network.
        assert load_encoder(str(tmp_path / name), backbone=backbone).image_size == 32
    averaged = {name: x + 1 for name, x in vit.state_dict().items()}  # as timm trains with it
    torch.save({"state_dict": state, "state_dict_ema": averaged}, tmp_path / "both.pth")
    both = load_encoder(str(tmp_path / "both.pth"), backbone=backbone)
    assert torch.equal(both.backbone.cls_token, averaged["cls_token"])


def test_classifiers_are_left_out_by_any_name(tmp_path: Path) -> None:
    """By what timm knows of the network: here last_linear."""
    theirs = timm.create_model("legacy_seresnet18")
    torch.save(theirs.state_dict(), tmp_path / "se.pth")
    encoder = load_encoder(str(tmp_path / "se.pth"), backbone=Backbone(name="legacy_seresnet18"))
    for name, value in encoder.backbone.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[name])


@pytest.mark.parametrize("size", [64, 96])
def test_the_size_of_hybrids(size: int, tmp_path: Path) -> None:
    """Places are of a convolutional stem's output, and 32 pixels each."""
    name = "vit_tiny_r_s16_p8_224"
    theirs = timm.create_model(name, img_size=size, depth=1)
    torch.save(theirs.state_dict(), tmp_path / "vit.pth")
    backbone = Backbone(name=name, kwargs={"depth": 1})
    encoder = load_encoder(str(tmp_path / "vit.pth"), backbone=backbone)
    assert encoder.image_size == size
    assert torch.equal(encoder.backbone.pos_embed, theirs.pos_embed)


def test_what_cannot_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "weights.pth")
    weights = str(tmp_path / "weights.pth")
    with pytest.raises(ConfigError, match=r"backbone\.name=resnet50"):
        load_encoder(weights)
    with pytest.raises(ConfigError, match=r"another network: .*layer1\.0\.conv1\.weight is \["):
        load_encoder(weights, backbone=Backbone(name="resnet50"))
    with pytest.raises(ConfigError, match="has none"):
        load_encoder(weights, backbone=Backbone(name="resnet18"), features="projector")
    with pytest.raises(ConfigError, match="did you mean resnet18"):
        load_encoder("resnet_18")
    with pytest.raises(ConfigError, match="neither a run's folder"):
        load_encoder(str(tmp_path))

    class Malicious:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    torch.save({"model": Malicious()}, tmp_path / "bad.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "weights.pth").read_bytes()[:1000])
    for name in ("bad.pth", "cut.pth"):
        with pytest.raises(ConfigError, match="cannot be read as weights"):
            load_encoder(str(tmp_path / name), backbone=Backbone(name="resnet18"))
    assert not (tmp_path / "ran").exists()
    # A checkpoint of ours whose weights are another network's.
    _, path = saved_run(tmp_path)
    file = path / "checkpoints/last.ckpt"
    content = torch.load(file, weights_only=True)
    content["config"]["backbone"]["kwargs"]["channels"] = [8, 8, 8, 16]
    torch.save(content, file)
    with pytest.raises(ConfigError, match="holds the weights of another network"):
        load_encoder(str(file))


def test_published_weights_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: Any, **kwargs: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(ConfigError, match=r"weights of resnet18\.a1_in1k could not be loaded"):
        load_encoder("resnet18.a1_in1k")


def test_published_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """What timm gives is normalised as timm says; its download is not ours to test."""
    plain = timm.create_model

    fetched = []

    def offline(name: str, pretrained: bool = False, **kwargs: Any) -> torch.nn.Module:
        fetched.extend([name] if pretrained else [])
        return plain(name, pretrained=False, **kwargs)

    monkeypatch.setattr(timm, "create_model", offline)
    encoder = load_encoder("vit_tiny_patch16_224", image_size=32).eval()
    torch.testing.assert_close(
        encoder(IMAGES), encoder.backbone((IMAGES / 255 - 0.5) / 0.5), rtol=1e-4, atol=1e-4
    )
    assert fetched == ["vit_tiny_patch16_224"]
    # Not all that have "vit" in their names are told the size of images.
    assert load_encoder("efficientvit_b0", image_size=64).image_size == 64
    with pytest.raises(ConfigError, match=r"60 px.*the nearest that it takes: 48 px and 64 px"):
        load_encoder("vit_tiny_patch16_224", image_size=60)


def test_draws_of_shots() -> None:
    """The same for every network, balanced, and more shots contain fewer."""
    labels = torch.arange(200) % 7
    one, ten = (draw_shots(labels, k, seed=5, draw=3) for k in (1, 10))
    assert torch.bincount(labels[ten]).tolist() == [10] * 7
    assert set(one.tolist()) < set(ten.tolist())
    assert torch.equal(ten, draw_shots(labels, 10, seed=5, draw=3))
    assert not torch.equal(ten, draw_shots(labels, 10, seed=5, draw=4))
    assert draw_shots(labels, "all", 5, 0).tolist() == list(range(200))


def test_no_hub_is_asked_for_what_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that started from published weights: its evaluation, report, export, untrained row."""
    done = run(tiny(tmp_path, max_epochs=1, limit_train_batches=1))
    path = done.folder / "config.yaml"
    saved = yaml.safe_load(path.read_text())
    saved["backbone"]["kwargs"]["pretrained"] = True
    path.write_text(yaml.safe_dump(saved))
    plain = timm.create_model

    def create(name: str, pretrained: bool = False, **kwargs: Any) -> Any:
        assert not pretrained, "asked for published weights"
        return plain(name, **kwargs)

    monkeypatch.setattr(timm, "create_model", create)
    encoder = load_encoder(str(done.folder))
    other = untrained(encoder, 0)
    names = [n for n, p in encoder.backbone.named_parameters() if p.ndim > 1]
    own, theirs = encoder.backbone.state_dict(), other.backbone.state_dict()
    assert names and not any(torch.equal(own[name], theirs[name]) for name in names)
    write_report(done.folder)


def test_a_damaged_checkpoint_of_a_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The state before it is taken, and it is said; report and evaluation read alike."""
    done = run(tiny(tmp_path, max_epochs=2, limit_train_batches=1))
    path = done.folder / "checkpoints/last.ckpt"
    path.write_bytes(path.read_bytes()[:-50])
    saved = SavedRun(done.folder)
    assert saved.checkpoint()["global_step"] == 1
    assert "last.ckpt is passed over" in capfd.readouterr().out
    encoder = load_encoder(str(done.folder))
    name = "backbone.conv1.weight"
    assert torch.equal(encoder.state_dict()[name], saved.checkpoint()["state_dict"][name])
    write_report(done.folder)
    with pytest.raises(ConfigError, match="its checksum is another one"):
        load_encoder(str(path))
    for file in (done.folder / "checkpoints").iterdir():
        file.unlink()
    with pytest.raises(ConfigError, match="no checkpoint yet"):
        load_encoder(str(done.folder))


def test_what_a_saved_run_says(tmp_path: Path) -> None:
    done = run(tiny(tmp_path, max_epochs=1, limit_train_batches=2))
    saved = SavedRun(done.folder)
    assert saved.config["backbone"]["name"] == "resnet10t" and saved.facts["status"] == "finished"
    assert saved.metrics["val_acc1"].shape == (1, 2)
    assert saved.metrics.last() == done.metrics
    empty = SavedRun(tmp_path)
    assert empty.facts == {} and empty.rows() == [] and not empty.metrics
    with pytest.raises(ConfigError, match="no run's folder"):
        _ = empty.config


def test_a_path_that_is_not_there() -> None:
    for source in ("/nope/run", "./nope", "runs/nope/last.ckpt"):
        with pytest.raises(ConfigError, match=f"there is no file or folder {source}"):
            load_encoder(source)
