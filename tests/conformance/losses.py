"""Losses that are right, and losses that are wrong, each in one way."""

from __future__ import annotations

import os
import time
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from solo import distributed


def variance(z: Tensor) -> Tensor:
    """Of the global batch, whatever each process's share: right in every line."""
    z = z.float() if z.dtype in (torch.bfloat16, torch.float16) else z
    count = distributed.all_sum(z.new_tensor(float(len(z))))
    centred = z - distributed.all_sum(z.sum(0)) / count
    return distributed.all_sum(centred.square().sum(0)).sum() / count


def cancels(z: Tensor) -> Tensor:
    """A value that is rounding alone, beside a gradient that is not."""
    value = variance(z)
    return value - variance(z.detach().double()).to(value.dtype)


def pair(a: Tensor, b: Tensor) -> Tensor:
    """Of two arguments: the mean distance, right."""
    print("a loss may print")
    return (a.float() - b.float()).square().mean()


def stacked(z: Tensor) -> dict[str, Tensor]:
    """What needs telling how it is called."""
    return {"loss": pair(z[0], z[1])}


def local_variance(z: Tensor) -> Tensor:
    """Of a process's own samples."""
    return z.var(0).square().sum()


def sum_not_mean(z: Tensor) -> Tensor:
    """The right value; its gradient is divided once too often."""
    total = z.square().mean()
    return (
        distributed.all_mean(total.detach()) + (total - total.detach()) / distributed.world_size()
    )


class Unseen(nn.Module):
    """The number of processes is read in the constructor, an all-reduce hides from autograd."""

    def __init__(self) -> None:
        super().__init__()
        self.world = dist.get_world_size() if dist.is_initialized() else 1

    def forward(self, z: Tensor) -> Tensor:
        mean = z.mean(0)
        if self.world > 1:
            mean = distributed.all_mean(mean)
        return (mean - 1).square().sum()


def hidden(z: Tensor) -> Tensor:
    """The gradient of the other processes' part of the mean is lost."""
    mean = z.mean(0)
    if distributed.is_distributed():
        mean = mean / distributed.world_size()
        total = mean.detach().clone()
        dist.all_reduce(total)
        mean = mean + (total - mean.detach())
    return mean.square().square().sum()


class Scale(nn.Module):
    """The gradient of a parameter is divided once too often."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, z: Tensor) -> Tensor:
        whole = distributed.gather(z).square().mean()
        own = self.scale * whole.detach() / distributed.world_size()
        return self.scale.detach() * whole + own - own.detach()


class Running(nn.Module):
    """A running mean of a process's own samples."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, z: Tensor) -> Tensor:
        self.mean.copy_(0.9 * self.mean + 0.1 * z.detach().float().square().mean())
        return z.square().mean()


def mean_of_means(z: Tensor) -> Tensor:
    """Right for equal shares alone."""
    return distributed.all_mean(z.mean(0)).square().sum()


def only_even(z: Tensor) -> Tensor:
    """Says so."""
    if distributed.is_distributed():
        counts = distributed.gather(torch.tensor([len(z)]))
        if counts.unique().numel() > 1:
            raise ValueError(f"shares are {counts.tolist()}; they must be equal")
    return mean_of_means(z)


class Keeps(nn.Module):
    """The graph of one call goes into the next."""

    last: Any = 0.0

    def forward(self, z: Tensor) -> Tensor:
        mean = z.mean(0).exp()
        self.last = mean + self.last
        self.last.mul_(0.5)
        return (self.last * mean).sum()


def in_its_input(z: Tensor) -> Tensor:
    """A small difference of large sums, in the input's precision."""
    return (z + 10).square().mean() - 100 * z.new_ones(()) - 20 * z.mean()


def overflows(z: Tensor) -> Tensor:
    """Above float16's range."""
    return (z * 1000).square().mean()


def own_directions(z: Tensor) -> Tensor:
    """Slices from the global generator."""
    directions = torch.randn(z.shape[1], 8, dtype=z.dtype)
    return distributed.gather(z @ directions).square().mean(0).var()


def directions_by_rank(z: Tensor) -> Tensor:
    """Slices from a generator of its own that each process seeds by its rank."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    generator = torch.Generator().manual_seed(7919 + rank)
    directions = torch.randn(z.shape[1], 8, dtype=z.dtype, generator=generator)
    return distributed.gather(z @ directions).square().mean(0).var()


class Forgotten(nn.Module):
    """A temperature that no gradient reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(()))

    def forward(self, z: Tensor) -> Tensor:
        return variance(z) / self.temperature.item()


class Fixed(nn.Module):
    """Slices drawn once."""

    directions: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("directions", torch.randn(32, 8))

    def forward(self, z: Tensor) -> Tensor:
        return (z @ self.directions.to(z.dtype)).square().mean(0).var()


class Counted(nn.Module):
    """Slices named by a counter; as a buffer it is saved, else a resumed run begins anew.

    Args:
        saved: whether it is a buffer.
    """

    def __init__(self, saved: bool = False) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.long), persistent=saved)

    def forward(self, z: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(int(self.calls))
        self.calls += 1
        directions = torch.randn(z.shape[1], 8, generator=generator).to(z.dtype)
        return distributed.gather(z @ directions).square().mean(0).var()


class Saved(Counted):
    """The right one."""

    def __init__(self) -> None:
        super().__init__(saved=True)


def in_order(z: Tensor) -> Tensor:
    """Neighbours in the batch."""
    return (z[1:] - z[:-1]).square().mean()


def anchored(a: Tensor, b: Tensor) -> Tensor:
    """The second view is a target."""
    return (a - b.detach()).square().mean() + a.abs().mean()


class _Wrong(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.exp()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * ctx.saved_tensors[0]


def wrong_backward(z: Tensor) -> Tensor:
    """A backward pass of its own."""
    return _Wrong.apply(z).mean()


def by_norm(z: Tensor) -> Tensor:
    """Zero divided by zero."""
    return (z / z.norm(dim=1, keepdim=True)).mean()


def by_deviation(z: Tensor) -> Tensor:
    """The gradient of a root at zero."""
    return z.var(0, correction=0).sqrt().mean()


def unbiased(z: Tensor) -> Tensor:
    """N - 1."""
    return z.var(0).mean()


def exponential(z: Tensor) -> Tensor:
    """Of what may be large."""
    return z.exp().mean()


def cubic(z: Tensor) -> Tensor:
    """Triples of features: memory, and time with it."""
    moments = z.T @ z / len(z)
    return (moments[:, :, None] * moments[:, None, :]).tanh().mean()


def slow(z: Tensor) -> Tensor:
    """Triples of features, one after the other: no memory, but time."""
    moments = (z.T @ z / len(z)).detach()
    for row in moments:
        ((moments * row).square() + 1).lgamma()
    return z.square().mean()


def uneven_calls(z: Tensor) -> Tensor:
    """A group of its own, on one process alone."""
    if distributed.is_distributed():
        alone = dist.new_group([0], backend="gloo")
        if distributed.rank() == 0:
            dist.all_reduce(z.detach().clone(), group=alone)
    return z.square().mean()


def waits_for_ever(z: Tensor) -> Tensor:
    """A collective that one process alone enters."""
    if distributed.is_distributed() and distributed.rank() == 0:
        dist.all_reduce(z.detach().clone())
        return z.square().mean()
    return z.square().mean()


def dies(z: Tensor) -> Tensor:
    """Takes its process with it."""
    if distributed.rank() == 1:
        os._exit(3)
    return z.square().mean()


class Picky(Fixed):
    """Takes float32 alone, outside of autocast."""

    def forward(self, z: Tensor) -> Tensor:
        return (z @ self.directions.float()).float().square().mean()


def complains(z: Tensor) -> Tensor:
    """Raises for anything."""
    raise ValueError("no such thing")


def labelled(z: Tensor, labels: Tensor) -> Tensor:
    """Of the global batch's classes."""
    classes = torch.nn.functional.one_hot(labels, 4).to(z)
    sums = distributed.all_sum(classes.T @ z)
    return (sums / distributed.all_sum(classes.sum(0))[:, None]).square().sum()


def stepped(z: Tensor, step: int = 0) -> Tensor:
    """Directions named by the step's number."""
    generator = torch.Generator().manual_seed(step)
    return (distributed.gather(z) @ torch.randn(32, 8, generator=generator)).square().mean()


def without_gradient(z: Tensor) -> Tensor:
    """All of it is cut off."""
    return distributed.all_mean(z.detach().square().mean())


class MaskedRunning(Running):
    """The same, beside a large buffer that no call changes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.full((4, 4), -1e9))


class DrawsAndKeeps(Running):
    """Slices from the global generator, beside a buffer that changes."""

    def forward(self, z: Tensor) -> Tensor:
        with torch.no_grad():
            super().forward(distributed.gather(z))
        return own_directions(z)


class OneHasMore(nn.Module):
    """A buffer that there is only where there are several processes."""

    def forward(self, z: Tensor) -> Tensor:
        if distributed.is_distributed():
            self.register_buffer("seen", torch.ones(()))
        else:
            self.register_buffer("alone", torch.ones(()))
        return mean_of_means(z)


class Later(nn.Module):
    """Right at the first call; a process's own mean at the next."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, z: Tensor) -> Tensor:
        centred = z - self.mean
        self.mean.copy_(z.detach().mean() + 1)
        return distributed.gather(centred).square().mean()


class Teacher(nn.Module):
    """A frozen copy that follows slowly, by a process's own samples."""

    def __init__(self) -> None:
        super().__init__()
        self.centre = nn.Parameter(torch.ones(32), requires_grad=False)

    def forward(self, z: Tensor) -> Tensor:
        with torch.no_grad():
            self.centre.lerp_(z.mean(0).to(self.centre), 1e-4)
        return distributed.gather(z).square().mean()


class Filled(nn.Module):
    """A buffer that is first made by a call, of a process's own samples, and complex."""

    def forward(self, z: Tensor) -> Tensor:
        if not hasattr(self, "seen"):
            mean = z.detach().mean()
            self.register_buffer("seen", torch.complex(torch.ones(()).to(mean), mean))
        return distributed.gather(z).square().mean()


def broadcast_directions(z: Tensor) -> Tensor:
    """Slices from the last process's generator: right."""
    directions = torch.randn(z.shape[1], 8, dtype=z.dtype)
    if distributed.is_distributed():
        dist.broadcast(directions, dist.get_world_size() - 1)
    return distributed.gather(z @ directions).square().mean(0).var()


class OwnAttribute(nn.Module):
    """Slices drawn by the constructor, kept where DDP does not see them."""

    def __init__(self) -> None:
        super().__init__()
        self.directions = torch.randn(32, 8)

    def forward(self, z: Tensor) -> Tensor:
        return distributed.gather(z @ self.directions.to(z.dtype)).square().mean(0).var()


class FixedOnSchedule(Fixed):
    """Slices drawn once, and a weight that grows with the step."""

    def forward(self, z: Tensor, step: int) -> Tensor:
        return step * super().forward(z)


def weighed_by_step(z: Tensor, step: int) -> Tensor:
    """Draws nothing."""
    return distributed.gather(z).square().mean() / step


def under_autocast(z: Tensor) -> Tensor:
    """Right but under autocast, where a product of matrices is rounded."""
    small = torch.eye(z.shape[1], dtype=torch.float32) * 1.003
    return (z.float() @ small - z.float()).square().mean()


def half_across(z: Tensor) -> Tensor:
    """What processes exchange is in half precision, above its range; one exchanges nothing."""
    total = z.float().square().sum() * 40
    if distributed.is_distributed():
        total = distributed.all_sum(total.to(z.dtype)).float()
    return total / distributed.all_sum(z.new_ones((), dtype=torch.float32) * len(z))


def gradient_of_middle(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Reversing the views changes nothing, moving them on does."""
    return (a.float() - b.float()).square().mean() + (b.float() - c.float()).square().mean()


def drawn_by_view(a: Tensor, b: Tensor) -> Tensor:
    """Other slices for each view: their order is chance."""
    return sum(own_directions(x) for x in (a, b))  # type: ignore[return-value]


def drawn_anchored(a: Tensor, b: Tensor) -> Tensor:
    """The value does not tell which view is the target; the gradient does."""
    return own_directions(a) + own_directions(b.detach())


def needs_two(z: Tensor) -> Tensor:
    """Breaks on one sample, says nothing."""
    first, second = list(z)[:2]
    return distributed.gather(z).square().mean() + (first - second).square().mean() * 0


def says_it_needs_two(z: Tensor) -> Tensor:
    """Breaks too, on purpose."""
    if len(z) < 2:
        raise ValueError(f"{len(z)} samples; give 2 or more")
    return needs_two(z)


def slow_when_large(z: Tensor) -> Tensor:
    """Does not end for many samples."""
    if len(z) > 256:
        time.sleep(60)
    return z.square().mean()


def half_inside(z: Tensor) -> Tensor:
    """Returns what it takes; computes in float32."""
    return z.float().exp().mean().to(z.dtype)


def penalty(z: Tensor) -> Tensor:
    """Takes a gradient of its own."""
    z = z if z.requires_grad else z.requires_grad_()
    (grad,) = torch.autograd.grad(z.pow(3).sum(), z, create_graph=True)
    return grad.square().mean()


def other_collectives(z: Tensor) -> Tensor:
    """As many calls, in another order."""
    sizes = [z.new_zeros(2), z.new_zeros(3)]
    if distributed.is_distributed():
        group = [dist.new_group([0]), dist.new_group([1])][distributed.rank()]
        for x in sizes if distributed.rank() else reversed(sizes):
            dist.all_reduce(x, group=group)
    return z.square().mean()


def by_environment(z: Tensor) -> Tensor:
    """The number of processes is what a launcher says."""
    return distributed.all_sum(z.square().mean()) / int(os.environ.get("WORLD_SIZE", "1"))


def changes_defaults(z: Tensor) -> Tensor:
    """Leaves torch otherwise than it was."""
    torch.set_default_dtype(torch.float64)
    return z.square().mean() * torch.ones(()).to(z)


class Stale(nn.Module):
    """What the first batch was stays."""

    def __init__(self) -> None:
        super().__init__()
        self.first: Tensor | None = None

    def forward(self, z: Tensor) -> Tensor:
        if self.first is None:
            self.first = distributed.all_mean(z.detach().float().mean(0))
        return distributed.gather(z.float() - self.first).square().mean()


class StalePairs(nn.Module):
    """Which samples go together is remembered from the first batch."""

    def __init__(self) -> None:
        super().__init__()
        self.same: Tensor | None = None

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        everybody = distributed.gather(labels)
        if self.same is None:
            self.same = (everybody[:, None] == everybody).float()
        rows = distributed.gather(z.float())
        return (self.same.to(rows) * (rows @ rows.T)).mean()


class KeptAside(nn.Module):
    """A running mean that no checkpoint has; it draws nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.zeros(32)

    def forward(self, z: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * distributed.all_mean(z.detach().float().mean(0))
        return distributed.gather(z.float() - self.mean).square().mean()


class Queue(nn.Module):
    """Begun at random, filled by calls: no draw of the loss."""

    rows: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rows", torch.randn(256, 32))

    def forward(self, z: Tensor) -> Tensor:
        everybody = distributed.gather(z)
        value = (everybody @ self.rows.to(z).T).square().mean()
        self.rows = torch.cat([everybody.detach().to(self.rows), self.rows])[:256]
        return value


def breaks_under_autocast(z: Tensor) -> Tensor:
    """Its types do not fit there."""
    z = distributed.gather(z.float())
    return torch.zeros(z.shape[1], z.shape[1]).to(z).lerp(z.T @ z / len(z), 0.5).square().mean()


def off_for_half_alone(z: Tensor) -> Tensor:
    """Autocast is turned off for inputs in half precision, not for others."""
    half = z.dtype in (torch.bfloat16, torch.float16)
    with torch.autocast("cpu", enabled=not half and torch.is_autocast_enabled("cpu")):
        return under_autocast_of_any(z.float())


def under_autocast_of_any(z: Tensor) -> Tensor:
    """A product of matrices that must not be rounded."""
    return (z @ (torch.eye(z.shape[1]) * 1.003) - z).square().mean()


class Misspelt(nn.Module):
    """Small batches run into a fault of its own."""

    def forward(self, z: Tensor) -> Tensor:
        if len(z) < 2:
            return self.falback(z)  # type: ignore[operator,no-any-return]
        return distributed.gather(z).square().mean()


def weighed_views(a: Tensor, b: Tensor) -> Tensor:
    """Slices that both views share, one a little heavier."""
    directions = torch.randn(a.shape[1], 8, dtype=a.dtype)
    parts = [distributed.gather(x @ directions).square().mean() for x in (a, b)]
    return 0.53 * parts[0] + 0.47 * parts[1]


def partly_detached(z: Tensor) -> Tensor:
    """Computes in float32; a small part is cut off."""
    z = z.float()
    return z.square().mean() + 0.045 * (z * z.detach()).mean()


class Overwrites(nn.Module):
    """A backward pass that reads what the newest call left."""

    def forward(self, z: Tensor) -> Tensor:
        owner = self

        class Square(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, x: Tensor) -> Tensor:
                owner.kept = x  # type: ignore[assignment]
                return x.square().mean()

            @staticmethod
            def backward(ctx: Any, grad: Tensor) -> Tensor:
                return grad * 2 * owner.kept / owner.kept.numel()  # type: ignore[operator,union-attr]

        value: Tensor = Square.apply(z)
        return value


class OneUses(nn.Module):
    """A parameter that the first process alone uses."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, z: Tensor) -> Tensor:
        own = self.scale - self.scale.detach() if distributed.rank() == 0 else 0.0
        return distributed.gather(z).square().mean() + own


def fixed_beside_fresh(z: Tensor) -> Tensor:
    """The same slices at each call, beside noise."""
    directions = torch.randn(z.shape[1], 8, generator=torch.Generator().manual_seed(0))
    noise = torch.rand(16)
    return distributed.gather(z @ directions.to(z)).square().mean(0).var() + 0 * noise.sum()


class KeepsNaN(nn.Module):
    """Finite, but what it keeps is not."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(()))

    def forward(self, z: Tensor) -> Tensor:
        self.scale = (z / z.norm(dim=1, keepdim=True)).detach().float().mean()
        return z.square().mean()


def in_place(z: Tensor) -> Tensor:
    """Changes what it is given, as one may a network's output."""
    z -= distributed.all_mean(z.mean(0))
    return z.square().mean()


_OF_MODULE = torch.Generator().manual_seed(0)


def by_modules_generator(z: Tensor) -> Tensor:
    """Draws from a generator of the module: alike on all processes."""
    directions = torch.randn(z.shape[1], 8, generator=_OF_MODULE).to(z)
    return distributed.gather(z @ directions).square().mean()


def ring(z: Tensor) -> Tensor:
    """A message to the neighbour."""
    if distributed.is_distributed() and dist.get_world_size() == 2:
        got = torch.zeros(3)
        if distributed.rank() == 0:
            dist.send(torch.ones(3), 1)
            dist.recv(got, 1)
        else:
            dist.recv(got, 0)
            dist.send(torch.ones(3), 0)
    return z.square().mean()


def refuses_late(z: Tensor) -> Tensor:
    """Says no, one process after the other."""
    if distributed.is_distributed():
        counts = distributed.gather(torch.tensor([len(z)]))
        if counts.unique().numel() > 1:
            time.sleep(1.5 * distributed.rank())
            raise ValueError(f"shares are {counts.tolist()}; they must be equal")
    return mean_of_means(z)


def sleeps(z: Tensor) -> Tensor:
    """In a group only."""
    if distributed.is_distributed():
        time.sleep(600)
    return z.square().mean()


def only_float32(z: Tensor) -> Tensor:
    """Takes nothing else."""
    if z.dtype != torch.float32:
        raise TypeError(f"z is {z.dtype}")
    return z.exp().mean()


def only_float32_wrong(z: Tensor) -> Tensor:
    """The same, its derivative 4 per cent off."""
    value = only_float32(z)
    return value + 0.04 * (value - value.detach())


def number(z: Tensor) -> float:
    """No tensor."""
    return float(z.square().mean())


def of_defaults(z: Tensor) -> Tensor:
    """Raises where another left torch otherwise than it was."""
    if torch.get_default_dtype() != torch.float32:
        raise ValueError(f"the default is {torch.get_default_dtype()}")
    return z.square().mean()


scale = Scale()
