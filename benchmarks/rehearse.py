"""A training step on a GPU that is not there: operators, copies from the host, and read-backs.

Views, forward pass and loss of a recipe run on fake CUDA tensors (shapes without numbers). What
would read a number back, or make a shape that depends on numbers, raises an error; tensors copied
back are counted as blocking. The autograd engine needs real devices, so the backward pass is not
part of it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from rich.progress import track
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.recipes import compose
from solo.config import Config, sides
from solo.data import Batch, Normalize
from solo.data.deferred import Unfinished, defer, finish_views
from solo.data.operations import NUMBERS
from solo.data.plans import join_plans, plan_views
from solo.losses.ijepa import Masks, draw_masks
from solo.methods import METHODS, resolve_config
from solo.methods.base import SSLMethod
from solo.methods.momentum import MomentumMethod
from solo.multivariate.slices import _transform_factors
from solo.multivariate.unsliced import _parts
from solo.optim import build_optimizer, parameter_groups
from solo.rng import Step

IN_MEMORY = {"cifar10": 32, "cifar100": 32, "stl10": 96, "digits": 32}
IN_MEMORY |= dict.fromkeys(("mnist", "fashion_mnist", "kmnist", "emnist"), 28)
"""Data sets that the device holds, and their images' side."""

# Not launches: they make views of storage, or nothing at all.
FREE = re.compile(
    r"(_unsafe_view|view(_as_real|_as_complex)?|expand|alias|_reshape_alias|detach|t|transpose|"
    r"permute|slice|select|split(_with_sizes)?|unbind|(un)?squeeze|as_strided|lift_fresh|"
    r"(new_)?empty(_like|_strided|_permuted)?|prim)_?\."
)


class Watch(TorchDispatchMode):
    """Counts what is launched, and which copies from the host wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: Counter[str] = Counter()
        self.copies = self.blocking = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call it, and count."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = str(func).removeprefix("aten.")
        tensors = [a for a in args if isinstance(a, torch.Tensor)]
        there = isinstance(out, torch.Tensor) and out.is_cuda
        back = isinstance(out, torch.Tensor) and not out.is_cuda and not name.startswith("prim")
        if (back and any(t.is_cuda for t in tensors)) or self._indexed_from_the_host(name, args):
            self.blocking += 1
        elif name.startswith("_to_copy") and there and tensors and not tensors[0].is_cuda:
            self.copies += 1
            self.blocking += not kwargs.get("non_blocking")
        elif name.startswith("copy_") and tensors[0].is_cuda and not tensors[-1].is_cuda:
            self.blocking += not (args[2] if len(args) > 2 else kwargs.get("non_blocking"))
        elif not FREE.match(name):
            self.operators[name] += 1
        return out

    @staticmethod
    def _indexed_from_the_host(name: str, args: Any) -> bool:
        """Whether a tensor on the device is indexed by numbers that are not there."""
        if not name.startswith(("index.", "index_put")) or not args[0].is_cuda:
            return False
        return any(index is not None and not index.is_cuda for index in args[1])

    @property
    def count(self) -> int:
        """Of all operators that launch something."""
        return sum(self.operators.values())


class Rehearsed(NamedTuple):
    """What one step of a recipe takes: its views, its networks' forward passes, the method's loss,
    all of these with the probes, and the optimizer."""

    views: Watch
    networks: Watch
    loss: Watch
    step: Watch
    optimizer: Watch

    @property
    def beyond(self) -> int:
        """Launches of the step that are not the student's networks: losses, probes, teachers."""
        return self.step.count - self.networks.count


@contextmanager
def no_gpu_needed() -> Iterator[FakeTensorMode]:
    """Fake CUDA tensors, with autocast to bfloat16 allowed."""
    with (
        patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False),
        patch("torch.cuda.is_bf16_supported", lambda *a, **k: True),
        patch("torch.cuda.is_available", lambda: False),  # also where there is one
        FakeTensorMode(allow_non_fake_inputs=True) as mode,
        patch("solo.methods.ijepa.draw_masks", partial(on_the_host, mode, draw_masks)),
    ):
        try:
            yield mode
        finally:
            for cached in (_transform_factors, _parts):  # fake tensors
                cached.cache_clear()


def on_the_host(mode: FakeTensorMode, draw: Callable[..., Masks], *args: Any, **kw: Any) -> Masks:
    """A draw that is the host's own, with real numbers."""
    with unset_fake_temporarily():
        masks = draw(*args, **kw)
    return Masks(*(mode.from_tensor(mask) for mask in masks))


def on_fake_gpu(method: SSLMethod) -> None:
    """Move parameters and buffers there, inside the mode of fake tensors."""
    for module in method.modules():
        for table, learned in ((module._parameters, True), (module._buffers, False)):
            for name, p in list(table.items()):
                if p is not None:
                    fake = torch.empty_strided(p.shape, p.stride(), dtype=p.dtype, device="cuda")
                    made: Any = nn.Parameter(fake, p.requires_grad) if learned else fake
                    table[name] = made


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
    made = defer(crops, joined, labels, torch.arange(batch))
    return made


def rehearse(recipe: str, **changes: Any) -> Rehearsed:
    """One step of a recipe, the second of a run: what is made once is made.

    Args:
        recipe: below scripts/pretrain.
        changes: of its ``method_kwargs``.
    """
    tree = compose(recipe)
    tree["method_kwargs"] = {**tree.get("method_kwargs", {}), **changes}
    config = resolve_config(tree)
    method = METHODS[config.method](config, Normalize((0.5,) * 3, (0.5,) * 3), 100).train()
    method.is_logging_step = lambda batch_idx: False  # type: ignore[method-assign]
    if isinstance(method, MomentumMethod):
        method.network_precision = nullcontext  # type: ignore[method-assign, assignment]
    zero = property(lambda self: 0)
    device = torch.device("cuda")
    kind = type(method)
    with (
        no_gpu_needed() as mode,
        patch.object(kind, "current_epoch", zero),
        patch.object(kind, "global_step", zero),
        torch.autocast("cuda", dtype=torch.bfloat16),
    ):
        on_fake_gpu(method)
        waiting = unfinished_batch(config)
        assert waiting.packed is not None
        numbers = mode.from_tensor(waiting.packed.numbers)
        waiting = waiting._replace(packed=waiting.packed._replace(numbers=numbers))
        resident = None
        if not waiting.crops:
            side = IN_MEMORY[config.data.dataset]
            resident = torch.empty(50_000, 3, side, side, dtype=torch.uint8, device=device)
        views = Watch()
        with views:
            there = waiting.to(device)
            batch = Batch(finish_views(there, resident), there.labels, there.indices)
        method.training_step(batch, 0)
        networks, loss, step, update = Watch(), Watch(), Watch(), Watch()
        with networks:
            encoded = method.encode(batch.views)
        encoded = encoded.for_losses()
        with loss, torch.autocast("cuda", enabled=False):
            method.compute_loss(encoded, batch, Step(0, 1))
        with step:
            method.training_step(batch, 1)
        groups = parameter_groups(method.loss_parameters(), 0.1, 1e-4, True)
        optimizer = build_optimizer(config, groups)
        for _ in range(2):  # its state is made in the first
            for p in method.parameters():
                p.grad = torch.empty_like(p)
            update = Watch()
            with update:
                optimizer.step()
    return Rehearsed(views, networks, loss, step, update)


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


def main() -> None:
    """Print a table."""
    print("| recipe | views: launches | copies | loss | step beyond the networks | blocking |")
    print("|---" * 6 + "|")
    for recipe, changes in track(CASES, "Rehearsing"):
        found = rehearse(recipe, **changes)
        name = " ".join([recipe.removesuffix(".yaml"), *(f"{k}={v}" for k, v in changes.items())])
        blocking = sum(watch.blocking for watch in found)
        launches = found.views.count, found.views.copies, found.loss.count, found.beyond
        cells = [name, *launches, blocking]
        print("| " + " | ".join(map(str, cells)) + " |")


if __name__ == "__main__":
    main()
