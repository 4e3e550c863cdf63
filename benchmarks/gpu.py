"""Views and whole steps on a GPU, against the plain formulation; no data set is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import plain
from benchmarks.measure import (
    Row,
    device,
    matmul_rate,
    peak_memory,
    side_by_side,
    synchronise,
)
from benchmarks.recipes import compose
from benchmarks.rehearse import IN_MEMORY, unfinished_batch
from solo.data import Batch, Normalize
from solo.data.deferred import finish_views
from solo.losses.sigreg import lejepa_loss
from solo.methods import METHODS, resolve_config
from solo.optim import build_optimizer, parameter_groups
from solo.rng import Step

REPEATS = 10

STEPS: dict[str, tuple[str, dict[str, Any]]] = {
    "Rectified LpJEPA, ResNet-18, 32 px, 2 x 256": ("cifar/rectified_lpjepa_cifar100.yaml", {}),
    "LeJEPA, ResNet-18, 32 px, 2 x 256": ("cifar/lejepa_cifar100.yaml", {}),
    "Rectified LpJEPA, ResNet-50, 224 px, 2 x 128": (
        "imagenet-100/rectified_lpjepa_resnet.yaml",
        {"backbone": {"name": "resnet50"}, "batch_size": 128},
    ),
    "LeJEPA, ViT-S/16, 2 x 224 px and 6 x 96 px, 128": (
        "imagenet-100/lejepa_vit.yaml",
        {"batch_size": 128},
    ),
}


class GpuStep:
    """A recipe's step on random images, bfloat16, without Lightning around it.

    Args:
        recipe: below scripts/pretrain.
        changes: ``backbone`` and ``batch_size`` in place of the recipe's.
    """

    def __init__(self, recipe: str, changes: dict[str, Any]) -> None:
        tree = compose(recipe)
        if "backbone" in changes:
            tree["backbone"] = changes["backbone"]
        if "batch_size" in changes:
            tree["optimizer"]["batch_size"] = changes["batch_size"]
        self.config = resolve_config(tree)
        built = METHODS[self.config.method](self.config, Normalize((0.5,) * 3, (0.5,) * 3), 100)
        self.method = built.to(device()).train()
        groups = parameter_groups(list(self.method.parameters()), 1e-3, 1e-4, False)
        self.optimizer = build_optimizer(self.config, groups)
        self.waiting = unfinished_batch(self.config)
        self.resident: Tensor | None = None
        if not self.waiting.crops:
            side = IN_MEMORY[self.config.data.dataset]
            shape = (10_000, 3, side, side)
            self.resident = torch.randint(0, 256, shape, dtype=torch.uint8, device=device())
        self.done = 0

    @property
    def images(self) -> int:
        """Views' images a step."""
        return len(self.waiting.indices)

    def views(self) -> Batch:
        """The batch, made on the device."""
        there = self.waiting.to(device())
        return Batch(finish_views(there, self.resident), there.labels, there.indices)

    def plain_views(self) -> Batch:
        """The same, without fused kernels."""
        with patch("solo.kernels.usable", lambda x: False):
            return self.views()

    def loss(self, batch: Batch) -> Tensor:
        """The method's own."""
        encoded = self._encoded(batch)
        return self.method.compute_loss(encoded, batch, Step(0, self.done)).total

    def plain_loss(self, batch: Batch) -> Tensor:
        """The same as papers write it."""
        z, options = self._encoded(batch).z, self.method.options
        if self.config.method == "lejepa":
            slices = plain.random_slices(options.num_slices, z)
            regulariser = torch.stack([plain.sigreg(view, slices) for view in z]).mean()
            return lejepa_loss(z, regulariser, self.method.global_views, lamb=options.lamb).loss
        return plain.rectified_lpjepa(z, options)

    def networks(self, batch: Batch) -> None:
        """Their forward and backward pass alone."""
        self._encoded(batch).z.square().mean().backward()

    def _encoded(self, batch: Batch) -> Any:
        with torch.autocast(device().type, dtype=torch.bfloat16):
            return self.method.encode(batch.views).for_losses()

    def step(self) -> None:
        """Views, networks, loss, optimizer."""
        self._update(self.loss(self.views()))

    def plain_step(self) -> None:
        """The same, plain."""
        self._update(self.plain_loss(self.plain_views()))

    def _update(self, loss: Tensor) -> None:
        self.done += 1
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def rows() -> Iterator[Row]:
    """Views, then steps; the profile of each step is printed."""
    for case, (recipe, changes) in STEPS.items():
        yield from _rows(case, GpuStep(recipe, changes), REPEATS)


def _rows(case: str, run: GpuStep, repeats: int) -> Iterator[Row]:
    views, plain_views = side_by_side(run.views, run.plain_views, repeats)
    yield Row(f"views: {case}", 1e3 * views, 1e3 * plain_views)
    ours, theirs = side_by_side(run.step, run.plain_step, repeats)
    batch = run.views()
    networks, _ = side_by_side(lambda: run.networks(batch), lambda: None, repeats)
    with FlopCounterMode(display=False) as counter:
        run.networks(batch)
    flops = counter.get_total_flops()
    rate = matmul_rate(8192 if device().type == "cuda" else 256, torch.bfloat16)
    memory = {"ours_memory": _peak(run.step), "plain_memory": _peak(run.plain_step)}
    launches, report = _profile(run.step)
    print(f"{case}\n{report}")
    bound = (
        f"networks {networks / ours:.0%} of the step, {launches} launches, "
        f"{flops / ours / rate:.0%} of the rate of a bfloat16 product"
    )
    yield Row(case, run.images / ours, run.images / theirs, "images/s", bound=bound, **memory)


def _profile(work: Callable[[], None]) -> tuple[int, str]:
    """Kernels launched, and a table of the longest."""
    activities = [ProfilerActivity.CPU]
    if device().type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as found:
        work()
        synchronise()
    averages = found.key_averages()
    launches = sum(e.count for e in averages if "LaunchKernel" in e.key)
    key = "cuda_time_total" if device().type == "cuda" else "cpu_time_total"
    return launches, averages.table(sort_by=key, row_limit=15)


def _peak(work: Callable[[], None]) -> float | None:
    """MiB above what is held between steps, of the device."""
    return peak_memory(lambda: work) if device().type == "cuda" else None
