"""A training step on a GPU that is not there: operators, copies from the host, and read-backs.

Views, forward pass, loss and optimizer of a recipe run on fake CUDA tensors, and the loss's
backward pass on fake tensors of the host (:mod:`benchmarks.fake_gpu`). The networks' backward
passes, and what DistributedDataParallel sends, are torch's own and not part of it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from rich.progress import track
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.fake_gpu import Watch, host_as_gpu, made_fake, no_gpu_needed, one_of
from benchmarks.recipes import compose
from solo.backbones.synchronised import synchronise_batchnorm
from solo.config import Config, sides
from solo.data import Batch, Normalize
from solo.data.batches import join_resolutions
from solo.data.deferred import Unfinished, finish_views
from solo.data.operations import NUMBERS
from solo.data.plans import join_plans, plan_views
from solo.methods import METHODS, resolve_config
from solo.methods.base import SSLMethod
from solo.methods.momentum import MomentumMethod
from solo.methods.probes import Encoded
from solo.optim import build_optimizer, parameter_groups
from solo.rng import Step

IN_MEMORY = {"cifar10": 32, "cifar100": 32, "stl10": 96, "digits": 32}
IN_MEMORY |= dict.fromkeys(("mnist", "fashion_mnist", "kmnist", "emnist"), 28)
"""Data sets that the device holds, and their images' side."""


class Rehearsed(NamedTuple):
    """What one step of a recipe takes: its views, its networks' forward passes, the method's loss
    and the way back from it to features and embeddings, networks, loss and probes together, and the
    optimizer."""

    views: Watch
    networks: Watch
    loss: Watch
    backward: Watch
    step: Watch
    optimizer: Watch

    @property
    def beyond(self) -> int:
        """Launches of the step that are not the student's networks: losses, probes, teachers."""
        return self.step.count - self.networks.count


def unfinished_batch(config: Config) -> Unfinished:
    """What a loader leaves to the device: crops of random numbers where it reads files."""
    batch, draw, plans = config.optimizer.batch_size, np.random.default_rng(0), []
    side = IN_MEMORY.get(config.data.dataset, 256)
    for recipe in config.augmentations:
        count = batch * recipe.num_crops
        lengths = np.full(count, side)
        plans.append(plan_views(recipe, draw.random((count, NUMBERS)), lengths, lengths))
    joined = join_plans(plans)
    crops = []
    if config.data.dataset not in IN_MEMORY:
        crops = [
            torch.randint(0, 256, (len(p.boxes), 3, *sides(p.size)), dtype=torch.uint8)
            for p in joined
        ]
    labels = torch.zeros(batch, dtype=torch.long)
    return Unfinished(joined, labels, torch.arange(batch), crops)


def rehearse(
    recipe: str, processes: int = 1, channels_last: bool = False, **changes: Any
) -> Rehearsed:
    """One step of a recipe, the second of a run: what is made once is made.

    Args:
        recipe: below scripts/pretrain.
        processes: how many GPUs share the batch.
        channels_last: the images' order in memory.
        changes: of its ``method_kwargs``.
    """
    tree = compose(recipe) | {"channels_last": channels_last}
    tree["method_kwargs"] = {**tree.get("method_kwargs", {}), **changes}
    config = resolve_config(tree)
    networks, loss, step = Watch(), Watch(), Watch()
    with ExitStack() as contexts:
        method, mode = method_of_shapes(config, "cuda", processes, contexts)
        views, batch = views_of_shapes(config, mode)
        method.training_step(batch, 0)
        with networks:
            encoded = method.encode(batch.views)
        encoded = encoded.for_losses()
        with loss, torch.autocast("cuda", enabled=False):
            method.compute_loss(encoded, batch, Step(0, 1))
        with step:
            method.training_step(batch, 1)
        update = _update(method, config)
    return Rehearsed(views, networks, loss, rehearse_backward(config, processes), step, update)


def rehearse_backward(config: Config, processes: int = 1) -> Watch:
    """From a step's loss back to what it was made of; networks that belong to the loss included."""
    backward = Watch()
    with ExitStack() as contexts:
        contexts.enter_context(host_as_gpu())
        method, _ = method_of_shapes(config, "cpu", processes, contexts)
        count = config.optimizer.batch_size
        views = join_resolutions(
            [
                torch.empty(r.num_crops, count, 3, *sides(r.crop_size), dtype=torch.uint8)
                for r in config.augmentations
            ]
        )
        batch = Batch(views, torch.zeros(count, dtype=torch.long), torch.arange(count))
        with torch.no_grad():
            encoded = method.encode(views).for_losses()
        encoded = Encoded(*(x.detach().requires_grad_() for x in encoded))
        with torch.autocast("cpu", enabled=False):
            total = method.compute_loss(encoded, batch, Step(0, 1)).total
            with backward:
                total.backward()  # type: ignore[no-untyped-call]
    return backward


def method_of_shapes(
    config: Config, device: str, processes: int, contexts: ExitStack
) -> tuple[SSLMethod, FakeTensorMode]:
    """It, made of shapes, inside what shapes need."""
    method = METHODS[config.method](config, Normalize((0.5,) * 3, (0.5,) * 3), 100).train()
    method.is_logging_step = lambda batch_idx: False  # type: ignore[method-assign]
    if isinstance(method, MomentumMethod):
        method.network_precision = nullcontext  # type: ignore[method-assign, assignment]
    if config.sync_batchnorm and processes > 1:
        synchronise_batchnorm(method)
    mode = contexts.enter_context(no_gpu_needed())
    contexts.enter_context(one_of(processes))
    zero = property(lambda self: 0)
    for name in ("current_epoch", "global_step"):
        contexts.enter_context(patch.object(type(method), name, zero))
    half = torch.float16 if config.precision == "16-mixed" else torch.bfloat16
    contexts.enter_context(torch.autocast(device, dtype=half))
    made_fake(method, device)
    return method, mode


def views_of_shapes(config: Config, mode: FakeTensorMode) -> tuple[Watch, Batch]:
    """A batch, made on the device from what the loader sends."""
    waiting, device = unfinished_batch(config), torch.device("cuda")
    assert waiting.packed is not None
    numbers = mode.from_tensor(waiting.packed.numbers)
    waiting.packed = waiting.packed._replace(numbers=numbers)
    resident = None
    if not waiting.crops:
        side = IN_MEMORY[config.data.dataset]
        resident = torch.empty(50_000, 3, side, side, dtype=torch.uint8, device=device)
    views = Watch()
    with views:
        there = waiting.to(device)
        batch = Batch(finish_views(there, resident), there.labels, there.indices)
    return views, batch


def _update(method: SSLMethod, config: Config) -> Watch:
    """The optimizer's step."""
    groups = parameter_groups(method.loss_parameters(), 0.1, 1e-4, True)
    optimizer = build_optimizer(config, groups)
    scaler = torch.amp.GradScaler("cuda", enabled=config.precision == "16-mixed")
    for _ in range(2):  # its state is made in the first
        for p in method.parameters():
            p.grad = torch.empty_like(p)
        scaler.scale(torch.empty((), device="cuda"))
        update = Watch()
        with update:
            scaler.step(optimizer)
            scaler.update()
    return update


# One recipe of each kind, and options that need other kernels.
CASES: list[tuple[str, dict[str, Any]]] = [
    ("cifar/rectified_lpjepa_cifar100.yaml", {}),
    ("imagenet-100/rectified_lpjepa_resnet.yaml", {}),
    ("imagenet-100/rectified_lpjepa_vit.yaml", {"rdm_test": "characteristic_function"}),
    ("imagenet-100/rectified_lpjepa_vit.yaml", {"rdm_test": "unsliced"}),
    ("imagenet-100/rectified_lpjepa_vit.yaml", {"projection_vectors_type": "structured"}),
    ("cifar/lejepa_cifar100.yaml", {}),
    ("imagenet/lejepa_vit.yaml", {}),
    ("imagenet/lejepa_vit.yaml", {"test": "unsliced_epps_pulley"}),
    *((f"cifar/{name}_cifar100.yaml", {}) for name in ("vicreg", "simclr", "ncl", "barlow_twins")),
    *((f"cifar/{name}_cifar100.yaml", {}) for name in ("byol", "visreg", "supervised", "ijepa")),
    ("imagenet-100/dino_vit.yaml", {}),
]


def main(words: Sequence[str] | None = None) -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.rehearse", description="Count what a step launches, without a GPU."
    )
    parser.add_argument("recipes", nargs="*", help="words of their names; all of the table if none")
    wanted = parser.parse_args(words).recipes
    cases = [case for case in CASES if all(word in case[0] for word in wanted)]
    if not cases:
        parser.error(f"no recipe of the table has {' and '.join(wanted)} in its name")
    head = "views: launches | copies | networks | loss | its backward | beyond | optimizer"
    print(f"| recipe | {head} | collectives | blocking |")
    print("|---" * 10 + "|")
    for recipe, changes in track(cases, "Rehearsing"):
        found, eight = (rehearse(recipe, count, True, **changes) for count in (1, 8))
        name = " ".join([recipe.removesuffix(".yaml"), *(f"{k}={v}" for k, v in changes.items())])
        cells = [
            name,
            found.views.count,
            found.views.copies,
            f"{found.networks.count}, {eight.networks.count}",
            f"{found.loss.count}, {eight.loss.count}",
            f"{found.backward.count}, {eight.backward.count}",
            f"{found.beyond}, {eight.beyond}",
            found.optimizer.count,
            f"{eight.loss.collectives} + {eight.networks.collectives}",
            sum(watch.blocking for watch in (*found, *eight)),
        ]
        print("| " + " | ".join(map(str, cells)) + " |")


if __name__ == "__main__":
    main()
