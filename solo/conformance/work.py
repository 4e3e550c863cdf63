"""What a process of the examination does: build the loss, call it, bring back numbers."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from solo.conformance.counting import Alive, Collectives, Draws
from solo.conformance.subject import Loss

SEED = 7
WIDTHS = (1e-6, 1e-4, 2e-2)
"""Of differences, for rows of size 1; a derivative that is wrong is so at any."""


class Trial(NamedTuple):
    """Calls of a freshly built loss.

    Args:
        order: numbers of the samples of the whole batch, in its order.
        shares: how many of them each process has; None: equal ones.
        features: D.
        calls: how often it is called, each with gradient, at steps 1, 2, …
        built_first: whether it is built before there is a process group.
        own_seeds: whether each process seeds generators differently, when it builds and when it
            calls; parameters and buffers are then those of the first, as under DDP.
        dtype: of z.
        rounded: z has only numbers of this type.
        autocast: call it under autocast to ``dtype``.
        double: whether the loss's own parameters are float64.
        parts: of how many samples the calls' batches are; 0: each call sees all.
        backwards_last: whether backward passes wait until all calls are made.
        fill: "normal", or "zero", "half", "equal", "large".
        views: another order of them.
        called_with: seed of generators when it is called, if not the usual one.
        built_with: seed of generators while it is built; its parameters are as ever.
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
    views: tuple[int, ...] | None = None
    called_with: int | None = None
    built_with: int | None = None
    resumed: bool = False
    more: tuple[tuple[str, Any], ...] = ()


class Found(NamedTuple):
    """What one process found.

    ``values``: of each call; ``grad``: of its share of z, [V, n, D], the calls' mean; ``sizes``:
    norms of each call's, by view, where backward passes do not wait;
    ``parameters``: their gradients, averaged over processes as DDP does; ``kept`` and ``state``:
    buffers and frozen parameters before the first call and after the last; ``collectives``: their
    names and bytes; ``drawn``: of each call, checksums of what torch's generators gave.
    """

    values: list[float]
    grad: Tensor
    sizes: list[list[float]]
    parameters: dict[str, Tensor]
    kept: dict[str, Tensor]
    state: dict[str, Tensor]
    collectives: list[tuple[str, int]]
    drawn: list[list[int]]
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
    return z if trial.views is None else z[list(trial.views)]


def attempt(
    loss: Loss, trial: Trial, rank: int, world: int, group: str | None, seconds: float
) -> Found:
    """One process's part of a trial; ``group``: the file where processes meet, if they do.

    A collective may take ``seconds``.
    """
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
                timeout=timedelta(seconds=seconds),
            )
        found = _attempt(loss, trial, rank, world, built)
        if group is not None:
            dist.barrier()  # nobody leaves while another still makes a group of its own
        return found
    finally:
        if group is not None and dist.is_initialized():
            dist.destroy_process_group()


def _seed(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


def _build(loss: Loss, trial: Trial, rank: int) -> Callable[..., Any]:
    own = rank if trial.own_seeds else 0
    _seed(SEED + own)
    built = loss.build(trial.features, dict(trial.more))
    if trial.built_with is not None:
        _seed(trial.built_with)
        parameters = dict(_named(built, "named_parameters"))
        built = loss.build(trial.features, dict(trial.more))
        for name, parameter in _named(built, "named_parameters"):
            parameter.data.copy_(parameters[name].data)
    if trial.double and isinstance(built, nn.Module):
        built.double()
    _seed((SEED if trial.called_with is None else trial.called_with) + own)
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
    if trial.own_seeds and dist.is_initialized():
        for what in ("named_parameters", "named_buffers"):
            for _, x in _named(built, what):
                dist.broadcast(x.data, 0)
    kept = _state(built)
    pieces = [(z, order[own])]
    if trial.parts:
        pieces = list(zip(z.split(trial.parts, dim=1), order[own].split(trial.parts)))
    pieces *= trial.calls
    values: list[Tensor] = []
    drawn: list[list[int]] = []
    sizes: list[list[float]] = []
    with Collectives() as collectives:
        for number, (piece, rows) in enumerate(pieces, 1):
            if trial.resumed and number == len(pieces):
                built = _again(loss, trial, built)
            half = torch.autocast("cpu", z.dtype) if trial.autocast else contextlib.nullcontext()
            with half, Draws() as draws:
                values.append(loss(built, piece, rows, number, trial.views))
            drawn.append(draws.sums)
            if not trial.backwards_last:
                before = None if z.grad is None else z.grad.clone()
                _backward(values[-1])
                sizes.append(_sizes(z, before))
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
        sizes,
        parameters,
        kept,
        _state(built),
        collectives.made,
        drawn,
        str(values[0].dtype).removeprefix("torch."),
    )


def _sizes(z: Tensor, before: Tensor | None) -> list[float]:
    """Of what a backward pass added to the gradient, by view."""
    if z.grad is None:
        return [0.0] * len(z)
    added = z.grad if before is None else z.grad - before
    return [float(x) for x in added.flatten(1).double().norm(dim=1)]


def _backward(value: Tensor) -> None:
    if value.requires_grad:
        value.backward()


def _again(loss: Loss, trial: Trial, built: Callable[..., Any]) -> Callable[..., Any]:
    """As a run that was saved and goes on: another build, state and generators put back."""
    generators = torch.get_rng_state(), random.getstate(), np.random.get_state()
    state = built.state_dict() if isinstance(built, nn.Module) else {}
    _seed(SEED + 1)
    fresh = loss.build(trial.features, dict(trial.more))
    if isinstance(fresh, nn.Module):
        fresh.load_state_dict(state)
    torch.set_rng_state(generators[0])
    random.setstate(generators[1])
    np.random.set_state(generators[2])
    return fresh


def _named(built: Callable[..., Any], what: str) -> list[tuple[str, Any]]:
    return list(getattr(built, what)()) if isinstance(built, nn.Module) else []


def _state(built: Callable[..., Any]) -> dict[str, Tensor]:
    """Buffers, and parameters that are not trained: a teacher's, for one."""
    frozen = [(n, p) for n, p in _named(built, "named_parameters") if not p.requires_grad]
    there = [(n, x) for n, x in (*_named(built, "named_buffers"), *frozen) if not is_lazy(x)]
    return {name: x.detach().clone() for name, x in there}


class Slope(NamedTuple):
    """Derivatives along directions: the gradient's, and central differences' of each width."""

    gradient: list[float]
    differences: list[list[float]]
    value: float
    dtype: str


def slope(loss: Loss, trial: Trial) -> Slope:
    """Along three directions; in float64, or in float32 where the loss does not take that."""
    order = torch.tensor(trial.order, dtype=torch.long)

    def value(at: Tensor) -> Tensor:
        return loss(_build(loss, trial, 0), at.requires_grad_(), order, 1)

    try:
        z = sample(loss, trial).double()
        whole = value(z)
    except Exception:
        trial = trial._replace(double=False)
        z = sample(loss, trial)
        whole = value(z)
    grad = None
    if whole.requires_grad:
        (grad,) = torch.autograd.grad(whole, z, allow_unused=True)
    grad, z = torch.zeros_like(z) if grad is None else grad, z.detach()
    generators = [torch.Generator().manual_seed(number) for number in range(3)]
    along = [torch.randn(z.shape, generator=each, dtype=z.dtype) for each in generators]
    differences = [
        [float(value(z + w * x) - value(z - w * x)) / (2 * w) for x in along] for w in WIDTHS
    ]
    dtype = str(whole.dtype).removeprefix("torch.")
    return Slope([float((grad * x).sum()) for x in along], differences, float(whole), dtype)


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
