"""What a process of the examination does: build the loss, call it, bring back numbers."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from solo.conformance.counting import Alive, Collectives
from solo.conformance.subject import Loss

SEED = 7


class Trial(NamedTuple):
    """Calls of a freshly built loss.

    Args:
        order: numbers of the samples of the whole batch, in its order.
        shares: how many of them each process has; None: equal ones.
        features: D.
        calls: how often it is called, each with gradient, at steps 1, 2, …
        built_first: whether it is built before there is a process group.
        own_seeds: whether each process seeds torch's generators differently.
        dtype: of z.
        rounded: z has only numbers of this type.
        autocast: call it under autocast to ``dtype``.
        double: whether the loss's own parameters are float64.
        parts: of how many samples the calls' batches are; 0: each call sees all.
        backwards_last: whether backward passes wait until all calls are made.
        fill: "normal", or "zero", "half", "equal", "large".
        flip: reverse the views.
        called_with: seed of torch's generators when it is called, if not the usual one.
        built_with: seed of torch's generators while it is built; its parameters are as ever.
        resumed: build anew before the last call, from the state and generators of that moment.
        more: arguments of the constructor.
    """

    order: tuple[int, ...]
    shares: tuple[int, ...] | None = None
    features: int = 32
    calls: int = 1
    built_first: bool = False
    own_seeds: bool = False
    dtype: str = "float32"
    rounded: str = "float32"
    autocast: bool = False
    double: bool = False
    parts: int = 0
    backwards_last: bool = False
    fill: str = "normal"
    flip: bool = False
    called_with: int | None = None
    built_with: int | None = None
    resumed: bool = False
    more: tuple[tuple[str, Any], ...] = ()


class Found(NamedTuple):
    """What one process found.

    ``values``: of each call; ``grad``: of its share of z, [V, n, D], the calls' mean;
    ``parameters``: their gradients, averaged over processes as DDP does; ``buffers`` after the
    last call; ``calls``, ``bytes``: of collectives; ``kept``: buffers before the first call.
    """

    values: list[float]
    grad: Tensor
    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]
    calls: int
    bytes: int
    kept: dict[str, Tensor]
    dtype: str


def sample(loss: Loss, trial: Trial) -> Tensor:
    """z [V, N, D] of the whole batch, float32: a sample's numbers do not depend on the others'."""
    rows = []
    for number in trial.order:
        generator = torch.Generator().manual_seed(1000 + number)
        rows.append(
            torch.randn(loss.views, trial.features, generator=generator, dtype=torch.float32)
        )
    z = torch.stack(rows, dim=1)
    if trial.fill == "zero":
        z.zero_()
    elif trial.fill == "half":
        z[:, ::2] = 0
    elif trial.fill == "equal":
        z = z[:, :1].expand_as(z).clone()
    elif trial.fill == "large":
        z *= 1e4
    z = z.to(getattr(torch, trial.rounded)).float()
    return z.flip(0) if trial.flip else z


def attempt(loss: Loss, trial: Trial, rank: int, world: int, group: str | None) -> Found:
    """One process's part of a trial; ``group`` is the file where the processes meet."""
    built = None
    if trial.built_first:
        built = _build(loss, trial, rank)
    try:
        if group is not None:
            dist.init_process_group(
                "gloo",
                init_method=Path(group).as_uri(),
                rank=rank,
                world_size=world,
                timeout=timedelta(seconds=20),
            )
        found = _attempt(loss, trial, rank, world, built)
        if group is not None:
            dist.barrier()  # nobody leaves while another still makes a group of its own
        return found
    finally:
        if group is not None and dist.is_initialized():
            dist.destroy_process_group()


def _build(loss: Loss, trial: Trial, rank: int) -> Callable[..., Any]:
    torch.manual_seed(SEED)
    built = loss.build(trial.features, dict(trial.more))
    if trial.built_with is not None:
        torch.manual_seed(trial.built_with)
        parameters = dict(_named(built, "named_parameters"))
        built = loss.build(trial.features, dict(trial.more))
        for name, parameter in _named(built, "named_parameters"):
            parameter.data.copy_(parameters[name].data)
    if trial.double and isinstance(built, nn.Module):
        built.double()
    seed = SEED if trial.called_with is None else trial.called_with
    torch.manual_seed(seed + (rank if trial.own_seeds else 0))
    return built


def _attempt(
    loss: Loss, trial: Trial, rank: int, world: int, built: Callable[..., Any] | None
) -> Found:
    order = torch.tensor(trial.order, dtype=torch.long)
    shares = trial.shares or (len(order) // world,) * world
    start = sum(shares[:rank])
    own = slice(start, start + shares[rank])
    z = sample(loss, trial)[:, own].to(getattr(torch, trial.dtype)).requires_grad_()
    built = _build(loss, trial, rank) if built is None else built
    kept = _buffers(built)
    pieces = [(z, order[own])]
    if trial.parts:
        pieces = list(zip(z.split(trial.parts, dim=1), order[own].split(trial.parts)))
    pieces *= trial.calls
    values: list[Tensor] = []
    with Collectives() as counted:
        for number, (piece, rows) in enumerate(pieces, 1):
            if trial.resumed and number == len(pieces):
                built = _again(loss, trial, built)
            with torch.autocast("cpu", z.dtype) if trial.autocast else contextlib.nullcontext():
                values.append(loss(built, piece, rows, number, trial.flip))
            if not trial.backwards_last:
                _backward(values[-1])
        for value in values if trial.backwards_last else ():
            _backward(value)
    grad = torch.zeros_like(z) if z.grad is None else z.grad
    parameters = {}
    for name, parameter in _named(built, "named_parameters"):
        if parameter.requires_grad:
            total = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            total = total.detach() / len(pieces)
            if dist.is_initialized():
                dist.all_reduce(total)
            parameters[name] = total / world
    return Found(
        [float(value) for value in values],
        grad.detach() / len(pieces),
        parameters,
        _buffers(built),
        counted.calls,
        counted.bytes,
        kept,
        str(values[0].dtype).removeprefix("torch."),
    )


def _backward(value: Tensor) -> None:
    if value.requires_grad:
        value.backward()


def _again(loss: Loss, trial: Trial, built: Callable[..., Any]) -> Callable[..., Any]:
    """As a run that was saved and goes on: another build, state and generators put back."""
    generators = torch.get_rng_state()
    state = built.state_dict() if isinstance(built, nn.Module) else {}
    torch.manual_seed(SEED + 1)
    fresh = loss.build(trial.features, dict(trial.more))
    if isinstance(fresh, nn.Module):
        fresh.load_state_dict(state)
    torch.set_rng_state(generators)
    return fresh


def _named(built: Callable[..., Any], what: str) -> list[tuple[str, Any]]:
    return list(getattr(built, what)()) if isinstance(built, nn.Module) else []


def _buffers(built: Callable[..., Any]) -> dict[str, Tensor]:
    return {name: buffer.detach().clone() for name, buffer in _named(built, "named_buffers")}


def slope(loss: Loss, trial: Trial) -> tuple[float, float, str]:
    """Derivative along three directions: the largest gap to differences, its scale, and the type.

    In float64, or in float32 where the loss does not take that.
    """
    order = torch.tensor(trial.order, dtype=torch.long)

    def value(at: Tensor) -> Tensor:
        return loss(_build(loss, trial, 0), at, order, 1)

    try:
        z = sample(loss, trial).double().requires_grad_()
        whole = value(z)
    except Exception:
        trial = trial._replace(double=False)
        z = sample(loss, trial).requires_grad_()
        whole = value(z)
    precise = whole.dtype == torch.float64
    (grad,) = torch.autograd.grad(whole, z, allow_unused=True)
    grad = torch.zeros_like(z) if grad is None else grad
    width = 1e-6 if precise else 2e-2
    worst, scale = 0.0, 0.0
    with torch.no_grad():
        for number in range(3):
            generator = torch.Generator().manual_seed(number)
            along = torch.randn(z.shape, generator=generator, dtype=z.dtype)
            difference = float(value(z + width * along) - value(z - width * along)) / (2 * width)
            found = float((grad * along).sum())
            worst = max(worst, abs(difference - found))
            scale = max(scale, abs(difference), abs(found))
    return worst, scale, str(whole.dtype).removeprefix("torch.")


def cost(loss: Loss, trial: Trial) -> tuple[float, float]:
    """Seconds (best of three) and peak bytes of a forward and backward pass."""
    z = sample(loss, trial).requires_grad_()
    order = torch.tensor(trial.order, dtype=torch.long)
    built = _build(loss, trial, 0)
    seconds = []
    for number in range(1, 4):
        began = time.perf_counter()
        _backward(loss(built, z, order, number))
        seconds.append(time.perf_counter() - began)
    with Alive() as alive:
        _backward(loss(built, z, order, 4))
    return min(seconds), float(alive.most)
