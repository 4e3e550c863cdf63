"""Backbones by name."""

from __future__ import annotations

import pytest
import torch
import torchvision
from helpers import slow
from torch import nn

from solo.backbones import build_backbone, checkpoint_blocks, has_blocks, last_two_cls
from solo.config import ConfigError


@pytest.mark.parametrize(
    ("name", "kwargs", "size", "features"),
    [
        ("resnet18", {}, 32, 512),
        ("resnet50", {}, 64, 2048),
        ("resnet10t", {"channels": [8, 16, 24, 32], "stem_type": ""}, 8, 32),
        ("vit_tiny", {}, 32, 192),
        ("vit_tiny", {"patch_size": 14}, 98, 192),
        ("convnext_tiny", {}, 32, 768),
        ("mobilenetv3_small_050", {}, 64, 1024),
    ],
)
def test_features(name: str, kwargs: dict[str, object], size: int, features: int) -> None:
    network = build_backbone(name, kwargs, size).eval()
    assert network.num_features == features
    assert network(torch.randn(2, 3, size, size)).shape == (2, features)


def test_small_stem_is_the_fields() -> None:
    small, large = (build_backbone("resnet18", {}, size) for size in (32, 33))
    stem = small.conv1
    assert (stem.kernel_size, stem.stride, stem.padding) == ((3, 3), (1, 1), (2, 2))
    assert stem.bias is None and isinstance(small.maxpool, nn.Identity)
    assert large.conv1.kernel_size == (7, 7) and isinstance(large.maxpool, nn.MaxPool2d)


def test_large_resnet_is_torchvisions() -> None:
    ours = build_backbone("resnet18", {}, 224).eval()
    theirs = torchvision.models.resnet18().eval()
    theirs.load_state_dict(ours.state_dict(), strict=False)
    theirs.fc = nn.Identity()
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(ours(x), theirs(x))


def test_vits_take_other_sizes_for_local_crops() -> None:
    network = build_backbone("vit_tiny", {"patch_size": 8}, 32)
    assert network(torch.randn(1, 3, 16, 16)).shape == (1, 192)
    assert build_backbone("vit_tiny", {}, 32).patch_embed.patch_size == (4, 4)
    assert build_backbone("vit_tiny", {}, 64).patch_embed.patch_size == (16, 16)


@pytest.mark.parametrize(
    ("name", "kwargs", "words"),
    [
        ("resnt18", {}, "did you mean resnet18"),
        ("vit_smal", {}, "vit_small"),
        ("resnet18", {"deep": 3}, "deep"),
        ("vit_tiny", {"patch": 3}, "patch"),
        ("vit_tiny", {"channels": [8]}, "'~backbone.kwargs' drops"),
    ],
)
def test_faults_are_named(name: str, kwargs: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_backbone(name, kwargs, 32)


def test_tokens_of_the_last_two_blocks() -> None:
    network = build_backbone("vit_tiny", {"depth": 3}, 32).eval()
    outputs: list[torch.Tensor] = []
    for block in network.blocks:
        block.register_forward_hook(lambda _module, _inputs, out: outputs.append(out))
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        features, tokens = last_two_cls(network, images)
        expected = torch.cat([out[:, 0] for out in outputs[1:]], dim=-1)
        torch.testing.assert_close(tokens, expected)
        torch.testing.assert_close(features, network(images))
        # Without a CLS token: the mean over patches.
        options = {"depth": 2, "class_token": False, "global_pool": "avg"}
        network = build_backbone("vit_tiny", options, 32).eval()
        outputs.clear()
        for block in network.blocks:
            block.register_forward_hook(lambda _module, _inputs, out: outputs.append(out))
        tokens = last_two_cls(network, images[..., :24, :24])[1]  # a local crop
        torch.testing.assert_close(tokens, torch.cat([out.mean(1) for out in outputs], dim=-1))
    assert has_blocks(network, 32) and not has_blocks(build_backbone("resnet18", {}, 32), 32)
    mobilenet = build_backbone("mobilenetv3_small_050", {}, 32).train()
    before = {key: value.clone() for key, value in mobilenet.state_dict().items()}
    assert hasattr(mobilenet, "blocks") and not has_blocks(mobilenet, 32)
    # timm's own mistake: it returns prefix tokens that it never set.
    assert not has_blocks(build_backbone("test_vit_relpos", {}, 96), 96)
    assert mobilenet.training
    assert all(value.equal(before[key]) for key, value in mobilenet.state_dict().items())


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("vit_tiny", {"depth": 2, "drop_path_rate": 0.5}),
        ("convnext_atto", {}),
        slow("swin_tiny_patch4_window7_224", {}),
    ],
)
def test_blocks_run_again_give_the_same_gradient(name: str, kwargs: dict[str, object]) -> None:
    """Dropped paths too; what is kept for the backward pass is less."""
    network = build_backbone(name, kwargs, 64)
    images = torch.randn(4, 3, 64, 64)
    gradients, kept = [], []
    for again in (False, True):
        if again:
            checkpoint_blocks(network, name)
        sizes: list[int] = []

        def note(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            features = network(images)
        kept.append(sum(sizes))
        network.zero_grad()
        features.square().mean().backward()
        gradients.append([p.grad for p in network.parameters()])
    for one, two in zip(*gradients):
        torch.testing.assert_close(one, two)
    assert kept[1] < 0.5 * kept[0]


def test_blocks_that_cannot_run_again() -> None:
    for name, said in (
        ("resnet18", "its BatchNorm would count every batch twice"),
        ("convit_tiny", "there is none for it in timm"),
    ):
        options = {"depth": 1} if name == "convit_tiny" else {}
        with pytest.raises(ConfigError, match=f"{name} cannot be run so: {said}. Leave it out"):
            checkpoint_blocks(build_backbone(name, options, 64), name)
