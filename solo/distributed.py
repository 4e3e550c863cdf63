"""The only calls to ``torch.distributed``: rank facts and differentiable collectives.

The gradient convention. Every process computes the same scalar, a function of the global batch,
and calls ``backward`` on it; DistributedDataParallel then *averages* parameter gradients over the
``W`` processes. The collectives here are scaled for exactly that: the averaged gradient equals the
gradient that one process holding the whole batch would get.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def is_distributed() -> bool:
    """Whether a process group is up and holds more than one process."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def world_size() -> int:
    """Number of processes, 1 outside a process group."""
    return dist.get_world_size() if is_distributed() else 1


def rank() -> int:
    """This process's number, 0 outside a process group."""
    return dist.get_rank() if is_distributed() else 0


def shard_range(count: int) -> tuple[int, int]:
    """The contiguous range ``[start, stop)`` of ``count`` items that this process works on."""
    here, processes = rank(), world_size()
    return count * here // processes, count * (here + 1) // processes


# Newer versions of torch have other names for them, and warn of these.
_gather_single = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter_single = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class _Gather(torch.autograd.Function):
    """[B, …] on each process -> [W, B, …] on all; the adjoint sums and takes its own part."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        rows = x.new_empty(world_size() * len(x), *x.shape[1:])
        whole = rows.view(world_size(), *x.shape)
        if dist.get_backend() == "nccl":
            _gather_single(rows, x.contiguous())
        else:
            dist.all_gather(list(whole.unbind()), x.contiguous())
        return whole

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.contiguous()
        if dist.get_backend() == "nccl":
            own = torch.empty_like(grad[0])
            _reduce_scatter_single(own, grad.flatten(0, 1))
            return own
        grad = grad.clone()  # autograd may share this buffer with another branch
        dist.all_reduce(grad)
        return grad[rank()]


class _AllSum(torch.autograd.Function):
    """Sum over processes. Each may use the result in its own way, so the adjoint sums as well;
    where all use it alike, they have equal gradients, and nothing needs to be sent."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, alike: bool) -> Tensor:
        ctx.alike = alike
        total = x.clone().contiguous()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        if ctx.alike:
            return grad * world_size(), None
        total = grad.clone().contiguous()
        dist.all_reduce(total)
        return total, None


def gather(x: Tensor, dim: int = 0) -> Tensor:
    """Concatenate ``x`` of all processes along ``dim``, in rank order; differentiable.

    Every process must bring the same shape.
    """
    if not is_distributed():
        return x
    parts: Tensor = _Gather.apply(x)
    return parts.flatten(0, 1) if dim == 0 else torch.cat(parts.unbind(0), dim=dim)


def gather_uneven(x: Tensor, fill: int = -1) -> Tensor:
    """Rows of ``x`` of all processes, whose numbers may differ; the gaps are rows of ``fill``."""
    if not is_distributed():
        return x
    longest = int(all_max(torch.tensor(len(x), device=x.device)))
    filling = x.new_full((longest - len(x), *x.shape[1:]), fill)
    return gather(torch.cat((x, filling)))


def all_sum(x: Tensor, alike: bool = False) -> Tensor:
    """Elementwise sum of ``x`` over processes; differentiable.

    Args:
        x: of one shape on every process.
        alike: every process makes the same of the sum, without samples or parts that are its own:
            the backward pass then sends nothing.
    """
    return _AllSum.apply(x, alike) if is_distributed() else x


def all_mean(x: Tensor, alike: bool = False) -> Tensor:
    """Elementwise mean of ``x`` over processes; differentiable, ``alike`` as in :func:`all_sum`."""
    return all_sum(x, alike) / world_size() if is_distributed() else x


def all_max(x: Tensor) -> Tensor:
    """Elementwise maximum of ``x`` over processes."""
    if not is_distributed():
        return x
    largest = x.clone()
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return largest


class Vote:
    """Agree on the largest of the numbers that processes bring to each step.

    The answer comes one step late and travels over its own channel on the host: nobody waits for
    the device, and hardly for each other. With one process it comes at once.
    """

    def __init__(self) -> None:
        self._group: Any = None
        self._pending: tuple[Any, Tensor] | None = None

    def cast(self, wish: int) -> int:
        """Bring ``wish``; get what was agreed on at the last step (0 at first)."""
        if not is_distributed():
            return wish
        if self._group is None:
            self._group = dist.new_group(backend="gloo")
        agreed = 0
        if self._pending is not None:
            handle, ballot = self._pending
            handle.wait()
            agreed = int(ballot)
        ballot = torch.tensor(wish)
        self._pending = (
            dist.all_reduce(ballot, dist.ReduceOp.MAX, group=self._group, async_op=True),
            ballot,
        )
        return agreed


def broadcast_object(value: Any) -> Any:
    """Process 0's plain Python ``value`` on every process."""
    if not is_distributed():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def broadcast_tensors(tensors: Iterable[Tensor]) -> None:
    """Overwrite each with process 0's."""
    if is_distributed():
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


def in_parts(x: Tensor) -> bool:
    """Whether processes hold parts of it."""
    return hasattr(x, "full_tensor")


def whole(x: Tensor) -> Tensor:
    """All of a tensor of which processes hold parts; any other is itself. All must join."""
    return x.full_tensor() if in_parts(x) else x  # type: ignore[attr-defined, no-any-return]


def part_like(own: Tensor, value: Tensor) -> Tensor:
    """This process's part of ``value``, a whole tensor that all processes have.

    Args:
        own: held in parts, or not: then ``value`` is returned.
        value: of its shape.
    """
    if not in_parts(own):
        return value
    from torch.distributed.tensor import distribute_tensor  # a second to import

    placed: Any = (own.device_mesh, own.placements)  # type: ignore[attr-defined]
    return distribute_tensor(value.to(own.device, own.dtype), *placed, src_data_rank=None)


def barrier() -> None:
    """Wait until every process is here."""
    if is_distributed():
        dist.barrier()


@contextlib.contextmanager
def closed_afterwards() -> Iterator[None]:
    """End the process group and the launcher's environment variables with the block.

    Otherwise a second run in this process (the next job of a sweep) would take itself for a child
    of the first.
    """
    before = dict(os.environ)
    try:
        yield
    finally:
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()
        os.environ.clear()
        os.environ.update(before)


def launched_by_cluster() -> bool:
    """Whether srun or torchrun started this process as one of several.

    As Lightning sees it: a shell inside a Slurm allocation is not one of several.
    """
    # Here, so that who takes a loss alone needs no Lightning.
    from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    if TorchElasticEnvironment.detect():
        return True
    return SLURMEnvironment.detect() and int(os.environ.get("SLURM_NTASKS", "1")) > 1


def is_first_launched() -> bool:
    """Whether this process will be rank 0, before there is a process group."""
    # In a shell inside an allocation every process inherits SLURM_PROCID=0.
    slurm = ("SLURM_PROCID",) if launched_by_cluster() else ()
    for variable in ("RANK", *slurm, "LOCAL_RANK"):
        if variable in os.environ:
            return int(os.environ[variable]) == 0
    return True
