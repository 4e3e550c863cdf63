"""BatchNorm over the global batch, against torch's on one process with all samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
import timm
import torch
from helpers import slow
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from solo import distributed
from solo.backbones import statistics_kept
from solo.backbones.synchronised import GlobalBatchNorm, synchronise_batchnorm
from solo.config import ConfigError

SHARES = {1: [12], 2: [7, 5], 3: [3, 1, 8]}


def network() -> nn.Module:
    torch.manual_seed(3)
    layers = [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, momentum=0.3), nn.SiLU(), nn.Conv2d(6, 4, 3)]
    layers += [nn.Flatten(2), nn.BatchNorm1d(4, momentum=None), nn.Flatten(), nn.Linear(64, 5)]
    layers += [nn.BatchNorm1d(5, affine=False), nn.BatchNorm1d(5, track_running_stats=False)]
    layers += [nn.BatchNorm1d(5), nn.BatchNorm1d(5)]
    layers[-1].track_running_stats = False  # as frozen by hand
    layers[-2].bias, layers[-2].weight.requires_grad = None, False
    model = nn.Sequential(*layers).double()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_()
    return model


def share_of(x: Tensor, rank: int, world: int) -> Tensor:
    return x.split(SHARES[world])[rank]


def trained(rank: int, world: int) -> dict[str, Tensor]:
    """Two steps, the second with statistics that stand still; one process has torch's layers."""
    model = network()
    if world > 1:
        model = synchronise_batchnorm(model)
    torch.manual_seed(5)
    found = {}
    for step in range(2):
        x, weights = torch.randn(12, 3, 8, 8).double() + 7, torch.randn(12, 5).double()
        x.requires_grad_()
        with statistics_kept(model) if step else torch.enable_grad():
            out = model(share_of(x, rank, world))
        # A global scalar: its average gradient over processes is that of one with all samples.
        total = distributed.all_sum((out.sin() * share_of(weights, rank, world)).sum())
        model.zero_grad()
        total.backward()
        for name, p in model.named_parameters():
            if p.grad is None:
                continue
            found[f"{step} {name}"] = distributed.all_mean(p.grad)
        found |= {f"{step} loss": total.detach(), f"{step} x": distributed.all_mean(x.grad)}
    found |= {f"buffer {n}": b.double() for n, b in model.named_buffers()}
    model.eval()
    return found | {"evaluated": model(x).detach()}


class Kernels:
    """What torch's CUDA operators of these names compute, in tensor code."""

    @staticmethod
    def spread(x: Tensor) -> tuple[list[int], tuple[int, ...]]:
        return [d for d in range(x.ndim) if d != 1], (-1, *[1] * (x.ndim - 2))

    @classmethod
    def stats(cls, x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        variance, mean = torch.var_mean(x, cls.spread(x)[0], correction=0)
        return mean, (variance + eps).rsqrt()

    @staticmethod
    def gather_stats(
        x: Tensor,
        means: Tensor,
        scales: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        momentum: float,
        eps: float,
        counts: Tensor,
    ) -> tuple[Tensor, Tensor]:
        n, total = counts[:, None], counts.sum()
        mean = (n * means).sum(0) / total
        squares = (n * (scales**-2 - eps + (means - mean) ** 2)).sum(0)
        if running_mean is not None and running_var is not None:
            running_mean.mul_(1 - momentum).add_(mean, alpha=momentum)
            running_var.mul_(1 - momentum).add_(squares / (total - 1), alpha=momentum)
        return mean, (squares / total + eps).rsqrt()

    @classmethod
    def elemt(cls, x: Tensor, w: Any, b: Any, mean: Tensor, scale: Tensor, eps: float) -> Tensor:
        shape = cls.spread(x)[1]
        out = (x - mean.view(shape)) * scale.view(shape)
        out = out if w is None else out * w.view(shape)
        return out if b is None else out + b.view(shape)

    @classmethod
    def reduce(
        cls, grad: Tensor, x: Tensor, mean: Tensor, scale: Tensor, w: Any, *needed: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Some of them give both gradients whatever is needed, and empty ones without weight."""
        axes, shape = cls.spread(x)
        sums, products = grad.sum(axes), (grad * (x - mean.view(shape))).sum(axes)
        empty = sums.new_empty(0)
        affine = (empty, empty) if w is None else (products * scale, sums)
        return sums, products, *affine

    @classmethod
    def backward(
        cls,
        grad: Tensor,
        x: Tensor,
        mean: Tensor,
        scale: Tensor,
        w: Any,
        sums: Tensor,
        products: Tensor,
        counts: Tensor,
    ) -> Tensor:
        shape = cls.spread(x)[1]
        total = counts.sum()
        slope = (products / total * scale**2).view(shape)
        inner = grad - (sums / total).view(shape) - (x - mean.view(shape)) * slope
        return inner * (scale if w is None else scale * w).view(shape)


def trained_by_kernels(rank: int, world: int) -> dict[str, Tensor]:
    names = ("stats", "gather_stats_with_counts", "elemt", "backward_reduce", "backward_elemt")
    works = (Kernels.stats, Kernels.gather_stats, Kernels.elemt, Kernels.reduce, Kernels.backward)
    with patch.object(GlobalBatchNorm, "_normalise", GlobalBatchNorm._by_kernels):
        for name, work in zip(names, works):
            setattr(torch, f"batch_norm_{name}", work)
        return trained(rank, world)


def both_ways(rank: int, world: int) -> dict[str, Tensor]:
    """By tensor code, and as GPUs do."""
    found = trained(rank, world)
    return found | {f"{n}, kernels": x for n, x in trained_by_kernels(rank, world).items()}


@pytest.mark.parametrize("world", [slow(2), 3])
def test_several_processes_are_one(agree: Callable[..., None], world: int) -> None:
    """Uneven shares, one of them a single image; two to four dimensions; by tensor code, and with
    torch's kernels, which this machine may not have, played by it."""
    agree(both_ways, world=world, rtol=1e-7, atol=1e-8)


def halves(rank: int, world: int) -> dict[str, Tensor]:
    """A layer in bfloat16, and its statistics."""
    layer = nn.BatchNorm1d(6)
    layer = synchronise_batchnorm(layer) if world > 1 else layer
    torch.manual_seed(2)
    x = (torch.randn(4096, 6) + 30).bfloat16()
    out = layer(x.chunk(world)[rank])
    assert out.dtype == torch.bfloat16
    return {"mean": layer.running_mean, "variance": layer.running_var}


@pytest.mark.slow
def test_half_precision(processes: Any) -> None:
    (one,), two = processes(halves, 1), processes(halves, 2)
    for other in two:
        torch.testing.assert_close(other["mean"], one["mean"], rtol=1e-5, atol=0)
        torch.testing.assert_close(other["variance"], one["variance"], rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", ["test_efficientnet", "test_byobnet", "resnet10t"])
def test_what_is_converted(name: str) -> None:
    """All layers, timm's with their activation; parameters, buffers and names are the same."""
    model = timm.create_model(name)
    before = {n: id(p) for n, p in [*model.named_parameters(), *model.named_buffers()]}
    kinds = {type(m).__name__ for m in model.modules() if isinstance(m, _BatchNorm)}
    assert kinds == ({"BatchNormAct2d"} if name != "resnet10t" else {"BatchNorm2d"})
    x = torch.randn(4, 3, 64, 64)
    whole = model.train()(x)
    converted = synchronise_batchnorm(model)
    found = {n: id(p) for n, p in [*converted.named_parameters(), *converted.named_buffers()]}
    assert found == before
    norms = [m for m in converted.modules() if isinstance(m, _BatchNorm)]
    assert norms and all(isinstance(m, GlobalBatchNorm) for m in norms)
    torch.testing.assert_close(converted(x), whole)


def test_what_is_refused() -> None:
    """Other channels than a layer has, and layers that compute in their own way."""

    class Own(nn.BatchNorm2d):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) + 1

    with pytest.raises(ConfigError, match=r"1 is a Own, which cannot.*sync_batchnorm=false"):
        synchronise_batchnorm(nn.Sequential(nn.BatchNorm2d(3), Own(3)))
    layer = synchronise_batchnorm(nn.BatchNorm1d(4))
    with pytest.raises(ValueError, match=r"\[N, 4, …\], not \[8, 1\]"):
        layer(torch.randn(8, 1))
