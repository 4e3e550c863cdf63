"""A GPU that is not there, one or several, on fake tensors: shapes without numbers.

What would read a number back, or make a shape that depends on numbers, raises an error; what is
launched, copied from the host and waited for is counted by :class:`Watch`. The autograd engine
needs real devices: backward passes run on fake tensors of the host, with what a GPU would choose.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode

from solo.losses.ijepa import Masks, draw_masks
from solo.multivariate.slices import _transform_factors
from solo.multivariate.unsliced import _parts

# Not launches: they make views of storage, or nothing at all.
FREE = re.compile(
    r"(_unsafe_view|view(_as_real|_as_complex)?|expand|alias|_reshape_alias|detach|t|transpose|"
    r"permute|slice|select|split(_with_sizes)?|unbind|(un)?squeeze|as_strided|lift_fresh|"
    r"(new_)?empty(_like|_strided|_permuted)?|prim|profiler)_?\."
)


class Watch(TorchDispatchMode):
    """Counts what is launched, and which copies from the host wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: Counter[str] = Counter()
        self.copies = self.blocking = self.collectives = 0

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
        elif name.startswith("c10d."):
            self.collectives += 1
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


def made_fake(method: nn.Module, device: str = "cuda") -> None:
    """Parameters and buffers become shapes, inside the mode of fake tensors."""
    for module in method.modules():
        for table, learned in ((module._parameters, True), (module._buffers, False)):
            for name, p in list(table.items()):
                if p is not None:
                    fake = torch.empty_strided(p.shape, p.stride(), dtype=p.dtype, device=device)
                    made: Any = nn.Parameter(fake, p.requires_grad) if learned else fake
                    table[name] = made


@contextmanager
def host_as_gpu() -> Iterator[None]:
    """Tensors of the host take the kernels and the sizes of parts that a GPU would take."""
    modules = ("multivariate.unsliced", "multivariate.slices", "univariate.characteristic")
    names = [f"solo.{name}" for name in (*modules, "distributions.kernel_means")]
    sizes = dict.fromkeys(names, "CPU_CHUNK") | {"solo.distributions.products": "CHUNK"}
    sorts = {
        "sort_rows": lambda x: x.sort(dim=-1).values,
        "sort_rows_with_order": lambda x: x.sort(dim=-1, stable=True),
    }
    with ExitStack() as patches:
        for name, size in sizes.items():
            module = sys.modules[name]
            patches.enter_context(patch.object(module, size, module.GPU_CHUNK))
        for name, sort in sorts.items():
            patches.enter_context(patch(f"solo.losses.wasserstein.{name}", sort))
        patches.enter_context(patch("solo.kernels.loading.INTERPRETED", True))
        yield


@contextmanager
def one_of(processes: int) -> Iterator[None]:
    """The first of so many processes; what collectives give are shapes alone."""
    if processes == 1:
        yield
        return
    from torch.testing._internal.distributed.fake_pg import FakeStore

    _batchnorm_by_shapes()
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=processes)
    try:
        with patch("torch.distributed.get_backend", lambda *a: "nccl"):
            yield
    finally:
        dist.destroy_process_group()


@cache
def _batchnorm_by_shapes() -> None:
    """Shape rules of torch's kernels for synchronised BatchNorm."""

    def stats(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        each = x.new_empty(x.shape[1], dtype=wide)
        return each, torch.empty_like(each)

    def reduce(grad: Tensor, x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        return (*stats(x), *stats(x))

    def same(x: Tensor, *rest: Any) -> Tensor:
        return torch.empty_like(x)

    rules: dict[str, Callable[..., Any]] = {
        "stats": stats,
        "gather_stats_with_counts": stats,
        "elemt": same,
    }
    rules |= {"backward_reduce": reduce, "backward_elemt": same}
    for name, rule in rules.items():
        torch.library.register_fake(f"aten::batch_norm_{name}", rule)
