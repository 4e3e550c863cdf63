"""A step of every recipe on fake CUDA tensors: nothing is read back, nothing waits, little runs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import slow

from benchmarks.fake_gpu import Watch, no_gpu_needed, one_of
from benchmarks.rehearse import CASES, IN_MEMORY, main, rehearse
from solo import distributed
from solo.backbones.synchronised import _ByKernels
from solo.univariate.characteristic import _ECF

# Launches of a step beyond the student's networks: losses, probes, and other networks (teachers,
# predictors), which are most of it where there are any.
LIMITS = {
    "rectified_lpjepa": 50,
    "lejepa": 36,
    "vicreg": 75,
    "visreg": 65,
    "barlow_twins": 55,
    "simclr": 42,
    "ncl": 70,
    "supervised": 30,
    "byol": 270,
    "dino": 540,
    "ijepa": 580,
}
OTHERS = {"unsliced": 106, "unsliced_epps_pulley": 60, "structured": 64}
"""Of options."""


def check(recipe: str, changes: dict[str, Any]) -> None:
    found = rehearse(recipe, **changes)
    assert not [watch.blocking for watch in found if watch.blocking]
    in_memory = recipe.split("/", maxsplit=1)[0] in (*IN_MEMORY, "cifar")
    # Crop and colours, the rest of the colours of large views, two axes of a blur: a resolution.
    assert found.views.count <= 8 and (not in_memory or found.views.count <= 4)
    assert found.views.copies <= 5  # numbers, labels, indices, and crops of each resolution
    (name,) = [n for n in LIMITS if recipe.split("/")[1].startswith(n)]
    assert found.loss.count <= (16 if name == "lejepa" and not changes else 800)
    assert found.backward.count <= {"ijepa": 380, "byol": 50}.get(name, 45)
    assert found.backward.count <= 22 or name not in ("lejepa", "rectified_lpjepa")
    option = next((OTHERS[v] for v in changes.values() if v in OTHERS), None)
    assert found.beyond <= (LIMITS[name] if option is None else option), found.step.operators


QUICK = [case for case in CASES if case[0].startswith(("cifar/r", "cifar/l"))]
QUICK += [case for case in CASES if case[1]][:1]


@pytest.mark.parametrize(
    ("recipe", "changes"), [case if case in QUICK else slow(*case) for case in CASES], ids=str
)
def test_a_step(recipe: str, changes: dict[str, Any]) -> None:
    check(recipe, changes)


@pytest.mark.parametrize(
    ("recipe", "layers"),
    [
        ("cifar/rectified_lpjepa_cifar100.yaml", 22),
        slow("imagenet-100/rectified_lpjepa_resnet.yaml", 55),
        slow("cifar/byol_cifar100.yaml", 22),
        slow("cifar/ncl_cifar100.yaml", 20),
        slow("imagenet-100/dino_vit.yaml", 0),
    ],
)
def test_eight_gpus(recipe: str, layers: int) -> None:
    """With synchronised BatchNorm and channels last: a collective a layer and view, no waiting."""
    alone, found = rehearse(recipe), rehearse(recipe, 8, channels_last=True)
    assert not [watch.blocking for watch in found if watch.blocking]
    assert found.networks.collectives == 2 * layers or not layers
    each = 8 * found.networks.collectives  # a layer's launches beside its own
    assert found.networks.count <= alone.networks.count + each
    assert found.backward.collectives <= 2 and found.loss.collectives <= (
        47 if "byol" in recipe else 6
    )


OTHER_NETWORKS = [
    *(f"imagenet/lejepa_{name}" for name in ("resnet", "convnext")),
    *(f"imagenet-100/{name}_convnext" for name in ("rectified_lpjepa", "byol", "dino", "visreg")),
    *(f"imagenet-100/{name}_vit" for name in ("byol", "ncl", "ijepa", "barlow_twins")),
    "imagenet-100/rectified_lpjepa_celeba",
    "cifar/rectified_lpjepa_cifar100_convnext",
]


@pytest.mark.parametrize("recipe", [slow(f"{name}.yaml") for name in OTHER_NETWORKS])
def test_other_networks(recipe: str) -> None:
    """Teachers of ConvNeXt and ViT have more layers than the limits, which are ResNet's, know."""
    found = rehearse(recipe)
    assert not [watch.blocking for watch in found if watch.blocking] and found.views.count <= 8


def test_the_gradient_of_characteristic_functions() -> None:
    """The autograd engine needs a device: the backward function is called by itself."""
    watch = Watch()
    with no_gpu_needed(), watch:
        x = torch.empty(8, 128, 1024, device="cuda")
        context = SimpleNamespace(saved_tensors=(x,), spacing=0.1875, count=17)
        grad = torch.empty(2, 8, 17, 1024, device="cuda")
        result, *_ = _ECF.backward(context, grad)
    assert result.shape == x.shape and dict(watch.operators) == {
        "solo.gradient_of_means.default": 1
    }


def test_the_gradient_of_synchronised_batchnorm() -> None:
    watch = Watch()
    with no_gpu_needed(), one_of(8), watch:
        x = torch.empty(4, 16, 8, 8, device="cuda", dtype=torch.bfloat16)
        each = torch.empty(16, device="cuda")
        saved = (x, each, each, each, torch.empty(8, device="cuda", dtype=torch.int32))
        context = SimpleNamespace(saved_tensors=saved, needs_input_grad=[True] * 3)
        result, *_ = _ByKernels.backward(context, x)
    assert result.shape == x.shape and result.dtype == x.dtype
    assert watch.collectives == 1 and watch.count <= 4 and not watch.blocking


def test_torchs_own_waits() -> None:
    """What ours is for: torch's synchronised BatchNorm asks the device for shapes."""
    with no_gpu_needed(), one_of(8), pytest.raises(RuntimeError, match="nonzero"):
        x = torch.empty(4, 16, 8, 8, device="cuda")
        torch.nn.SyncBatchNorm(16, device="cuda")(x)


def test_gathers_can_be_compiled() -> None:
    """As NCCL makes them, without a cut in the graph, forward and backward."""
    with one_of(2):
        x = torch.ones(3, 5, requires_grad=True)
        call = torch.compile(lambda x: distributed.gather(x).sin(), backend="eager", fullgraph=True)
        out = call(x)
        out.sum().backward()
    assert out.shape == (6, 5) and x.grad is not None and x.grad.shape == x.shape


def test_what_waits_is_noticed() -> None:
    watch = Watch()
    with no_gpu_needed(), watch:
        x = torch.zeros(3, device="cuda")
        torch.zeros(3).to("cuda")
        torch.zeros(3).to("cuda", non_blocking=True)
        x.copy_(torch.ones(3))
        with pytest.raises(RuntimeError):
            x.sum().item()
    assert watch.blocking == 2


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("benchmarks.rehearse.CASES", CASES[:1])
    main(["cifar", "rectified"])
    assert "| cifar/rectified_lpjepa_cifar100 | 1 | 3 | " in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["no_recipe"])
    assert "no recipe of the table has no_recipe in its name" in capsys.readouterr().err
