"""Every family of timm: the smallest network of each, on meta tensors, and real ones of some."""

from __future__ import annotations

import pytest
import timm
import torch
from helpers import ROOT, slow
from timm.optim import param_groups_layer_decay  # type: ignore[attr-defined]
from torch.nn.modules.batchnorm import _BatchNorm

from solo.backbones import (
    build_backbone,
    checkpoint_blocks,
    fitting,
    has_batchnorm,
    has_blocks,
    last_two_cls,
    library_call,
)
from solo.backbones.synchronised import GlobalBatchNorm, synchronise_batchnorm
from solo.config import ConfigError

# The smallest of each module of timm.models, and which of 96 px and views of 48 px it takes.
LINES = (ROOT / "tests/golden/timm_families.txt").read_text().splitlines()
FAMILIES = dict(line.split() for line in LINES)


# Two seconds and more each, of building alone.
COSTLY = """
    sequencer2d_s coat_tiny cait_xxs24_224 csatv2 gemma4_vit_167m tnt_s_legacy_patch16_224
    nasnetalarge efficientformerv2_s0 inception_v4 inception_resnet_v2 pnasnet5large
    deepseek_vit_412m
"""


@pytest.mark.parametrize("name", [slow(n) if n in COSTLY.split() else n for n in FAMILIES])
def test_every_family_fits_or_says_why_not(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The width is that of what the network gives, built in the way that was found."""
    if not timm.is_model(name):
        pytest.skip(f"this timm has no {name}")
    monkeypatch.setattr(fitting, "FAR", 0)
    sizes = tuple(int(size) for size in FAMILIES[name].split(",") if size != "-")
    if len(sizes) < 2:
        said = "with images of 96 px it takes no views of 48" if sizes else "no.* images of 96"
        with pytest.raises(ConfigError, match=f"{name}: .*{said} px"):
            library_call(name, {}, 96, 48)
    if not sizes:
        return
    call = library_call(name, {}, *sizes)
    with torch.device("meta"):
        network = timm.create_model(call.model, **call.arguments).eval()
    for size in sizes:
        features = network(torch.empty(2, 3, size, size, device="meta"))
        assert features.shape == (2, call.features)
    if has_blocks(network, sizes[0]):
        features, tokens = last_two_cls(network, torch.empty(2, 3, *sizes[:1] * 2, device="meta"))
        assert features.shape == (2, call.features) and tokens.shape == (2, 2 * call.features)
        assert name in WITH_TOKENS
    _layers(name, network)
    _blocks_run_again(name, network)
    synchronised = synchronise_batchnorm(network)
    assert has_batchnorm(synchronised) == has_batchnorm(network)
    norms = [m for m in synchronised.modules() if isinstance(m, _BatchNorm)]
    assert all(isinstance(norm, GlobalBatchNorm) for norm in norms)


WITH_TOKENS = """
    beit_base_patch16_224 deit_tiny_patch16_224 naflexvit_base_patch16_parfac_gap qwen3_vit_88m
    test_vit tnt_s_legacy_patch16_224 vit_tiny_patch16_dinov3_qkvb vit_tiny_r_s16_p8_224
    vitamin_small_224
"""
RUN_ONCE = """
    coat_tiny convit_tiny crossvit_tiny_240 pit_ti_224 sequencer2d_s twins_svt_small vgg11
"""


def _layers(name: str, network: torch.nn.Module) -> None:
    """Rates by layer: every parameter once, the first layer slowest."""
    groups = param_groups_layer_decay(network, layer_decay=0.5, no_opt_scale=None)
    scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(scale)
    parameters = [p for p in network.parameters() if p.requires_grad]
    assert set(scale) == {id(p) for p in parameters}
    assert scale[id(parameters[0])] == min(scale.values()) < max(scale.values())


def _blocks_run_again(name: str, network: torch.nn.Module) -> None:
    said = "BatchNorm would count" if has_batchnorm(network) else "there is none for it"
    if has_batchnorm(network) or name in RUN_ONCE.split():
        with pytest.raises(ConfigError, match=said):
            checkpoint_blocks(network, name)
    else:
        checkpoint_blocks(network, name)


def test_the_nearest_sizes_are_named() -> None:
    for name, sizes, said in (
        ("vit_tiny", (100,), "divisible by patch size .*[^.]\\).*: 96 px and 112 px"),
        ("vit_small_patch14_dinov2", (32,), ": 28 px and 42 px"),
        ("dla46x_c", (96, 48), "no views of 48 px .*: 32 px and 64 px"),
        ("test_coatnet", (96, 48), "no views of 48 px .*: 96 px"),
    ):
        with pytest.raises(ConfigError, match=said):
            library_call(name, {}, *sizes)


@pytest.mark.parametrize(
    ("name", "kwargs", "said"),
    [
        ("mobilenetv3_smal", {}, "no backbone .*did you mean .*mobilenetv3_small"),
        ("alexnet", {}, "no backbone .*of torchvision's networks, ResNets alone"),
        ("test_vit", {"patchsize": 8}, "'patchsize'; '~backbone.kwargs' drops .* beside it"),
        ("test_vit", {"in_chans": 1}, "in_chans is 1, and the images have 3 channels; leave it"),
        ("test_vit", {"checkpoint_path": "/nowhere"}, "32 px images: FileNotFoundError$"),
        ("vit_tiny", {"drop_path_rate": "x"}, "one of:; '~backbone.kwargs'"),
    ],
)
def test_what_cannot_be_built(name: str, kwargs: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build_backbone(name, kwargs, 32)


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("deit_tiny_patch16_224", {"depth": 1}),
        ("swin_tiny_patch4_window7_224", {"depths": [1, 1], "num_heads": [2, 2], "embed_dim": 24}),
        ("mobilenetv3_small_050", {}),
        ("hgnetv2_b0", {}),
    ],
)
def test_real_networks_with_local_views(name: str, kwargs: dict[str, object]) -> None:
    """Forward and backward, at both sizes; building draws what it drew without the search."""
    torch.manual_seed(3)
    network = build_backbone(name, kwargs, 64, 32)
    call = library_call(name, kwargs, 64, 32)
    torch.manual_seed(3)
    plain = timm.create_model(call.model, **call.arguments)
    for mine, theirs in zip(network.parameters(), plain.parameters()):
        assert mine.equal(theirs)
    for size in (64, 32):
        features = network(torch.randn(4, 3, size, size))
        assert features.shape == (4, network.num_features)
        features.square().mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", timm.list_models("test_*"))
def test_tiny_networks_step(name: str) -> None:
    """timm's networks for tests: a step of each, forward and backward."""
    network = build_backbone(name, {}, 96)
    before = {key: p.detach().clone() for key, p in network.named_parameters()}
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    features = network(torch.randn(4, 3, 96, 96))
    assert features.shape == (4, network.num_features)
    features.square().mean().backward()
    optimizer.step()
    assert any(not p.equal(before[key]) for key, p in network.named_parameters())
    assert all(p.isfinite().all() for p in network.parameters())
