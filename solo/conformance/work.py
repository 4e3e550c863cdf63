"""What a process of the examination does: build the loss, call it, bring back numbers."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from solo.conformance.counting import Alive, Collectives, Draws
from solo.conformance.samples import STRIDE
from solo.conformance.subject import Loss

SEED = 7
WIDTHS = {torch.float64: (1e-6,), torch.float32: (1e-2, 2e-2)}
"""Of central differences, for rows of size 1."""


class Trial(NamedTuple):
    """Calls of a freshly built loss.

    Args:
        order: numbers of the samples of the whole batch, in its order; each call has other ones.
        shares: how many of them each process has; None: equal ones.
        features: D.
        calls: how often it is called, each with gradient, at steps 1, 2, …
        built_first: whether it is built before there is a process group.
        own_seeds: whether each process seeds generators differently, when it builds and when it
            calls; parameters and buffers are then those of the first, as under DDP.
        dtype: of z.
        rounded: z has only numbers of this type.
        autocast: call it under autocast to this type.
        double: whether the loss's own parameters are float64.
        parts: of how many samples the calls' batches are; 0: each call sees all.
        backwards_last: whether backward passes wait until all calls are made.
        fill: "normal", or "zero", "half", "equal", "large".
        views: another order of them.
        called_with: seed of generators when it is called, if not the usual one.
        built_with: seed of generators while it is built; its parameters are as ever, and
        as_ever: buffers of these names.
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
    autocast: str | None = None
    double: bool = False
    parts: int = 0
    backwards_last: bool = False
    fill: str = "normal"
    views: tuple[int, ...] | None = None
    called_with: int | None = None
    built_with: int | None = None
    as_ever: tuple[str, ...] = ()
    resumed: bool = False
    more: tuple[tuple[str, Any], ...] = ()


class Found(NamedTuple):
    """What one process found.

    ``values``: of each call; ``moves``: of each call, the norm of its gradient times z's;
    ``grad``: of its share of z in each call, [C, V, n, D];
    ``parameters``: their gradients, the calls' mean, averaged over processes as DDP does;
    ``unused``: those that get none; ``kept`` and ``state``: buffers and frozen parameters before
    the first call and after the last; ``collectives``: their names and bytes; ``drawn``: of each
    call, checksums of what torch's generators gave.
    """

    values: list[float]
    moves: list[float]
    grad: Tensor
    parameters: dict[str, Tensor]
    unused: list[str]
    kept: dict[str, Tensor]
    state: dict[str, Tensor]
    collectives: list[tuple[str, int]]
    drawn: list[list[int]]
    dtype: str


def numbers(trial: Trial, call: int) -> tuple[int, ...]:
    """Of the samples of a call."""
    return tuple(number + call * STRIDE for number in trial.order)


def sample(loss: Loss, trial: Trial, call: int = 0) -> Tensor:
    """z [V, N, D] of the whole batch, float32: a sample's numbers do not depend on the others'."""
    rows = []
    for number in numbers(trial, call):
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
                store=dist.FileStore(group, world),  # type: ignore[attr-defined]
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
        first = built
        built = loss.build(trial.features, dict(trial.more))
        for what, wanted in (("named_parameters", None), ("named_buffers", trial.as_ever)):
            as_ever = dict(_named(first, what))
            for name, x in _named(built, what):
                if wanted is None or name in wanted:
                    x.data.copy_(as_ever[name].data)
    if trial.double and isinstance(built, nn.Module):
        built.double()
    _seed((SEED if trial.called_with is None else trial.called_with) + own)
    return built


def _attempt(
    loss: Loss, trial: Trial, rank: int, world: int, built: Callable[..., Any] | None
) -> Found:
    shares = trial.shares or (len(trial.order) // world,) * world
    start = sum(shares[:rank])
    own = slice(start, start + shares[rank])
    built = _build(loss, trial, rank) if built is None else built
    if trial.own_seeds and dist.is_initialized():
        for what in ("named_parameters", "named_buffers"):
            for _, x in _named(built, what):
                dist.broadcast(x.data, 0)
    kept = _state(built)
    leaves: list[Tensor] = []
    pieces: list[tuple[Tensor, Tensor]] = []
    for call in range(trial.calls):
        z = sample(loss, trial, call)[:, own].to(getattr(torch, trial.dtype)).requires_grad_()
        rows = torch.tensor(numbers(trial, call), dtype=torch.long)[own]
        leaves.append(z)
        size = trial.parts or max(1, len(rows))
        pieces += zip(z.split(size, dim=1), rows.split(size))
    values: list[Tensor] = []
    drawn: list[list[int]] = []
    with Collectives() as collectives:
        for number, (piece, rows) in enumerate(pieces, 1):
            if trial.resumed and number == len(pieces):
                built = _again(loss, trial, built)
            half = contextlib.nullcontext()
            if trial.autocast:
                half = torch.autocast("cpu", getattr(torch, trial.autocast))  # type: ignore[assignment]
            with half, Draws() as draws:
                values.append(loss(built, piece, rows, number, trial.views))
            drawn.append(draws.sums)
            if not trial.backwards_last:
                _backward(values[-1])
        for value in values if trial.backwards_last else ():
            _backward(value)
    each = len(pieces) // trial.calls
    grads = [torch.zeros_like(z) if z.grad is None else z.grad for z in leaves]
    grad = torch.stack(grads)
    of_pieces = [part for whole in grads for part in whole.split(size, dim=1)]
    moves = [float(g.norm() * x.detach().norm()) for g, (x, _) in zip(of_pieces, pieces)]
    parameters, unused = {}, []
    for name, parameter in _named(built, "named_parameters"):
        if parameter.requires_grad:
            unused += [name] if parameter.grad is None else []
            total = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            total = total.detach() / len(pieces)
            if dist.is_initialized():
                dist.all_reduce(total)
            parameters[name] = total / world
    return Found(
        [float(value) for value in values],
        moves,
        grad.detach() / each,
        parameters,
        unused,
        kept,
        _state(built),
        collectives.made,
        drawn,
        str(values[0].dtype).removeprefix("torch."),
    )


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
    """Derivatives along directions: the gradient's, and differences'."""

    gradient: list[float]
    differences: list[float]
    value: float
    dtype: str


class InFloat64(TorchFunctionMode):
    """What asks for float32 gets float64."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call it with the other type."""
        if func is Tensor.float:
            return args[0].double()
        args, kwargs = tree_map(_wider, (args, kwargs or {}))
        return func(*args, **kwargs)


def _wider(x: Any) -> Any:
    return torch.float64 if x is torch.float32 else x


def slope(loss: Loss, trial: Trial) -> Slope:
    """Along three directions; in float64, or in float32 where the loss does not take that."""
    order = torch.tensor(trial.order, dtype=torch.long)

    def value(at: Tensor) -> Tensor:
        return loss(_build(loss, trial, 0), at.requires_grad_(), order, 1)

    try:
        with InFloat64():
            return _slope(value, sample(loss, trial).double())
    except Exception:
        trial = trial._replace(double=False)
        return _slope(value, sample(loss, trial))


def _slope(value: Callable[[Tensor], Tensor], z: Tensor) -> Slope:
    whole, grad = value(z), None
    if whole.requires_grad:
        (grad,) = torch.autograd.grad(whole, z, allow_unused=True)
    grad, z = torch.zeros_like(z) if grad is None else grad, z.detach()
    generators = [torch.Generator().manual_seed(number) for number in range(3)]
    along = [torch.randn(z.shape, generator=each, dtype=z.dtype) for each in generators]

    def difference(x: Tensor, width: float) -> float:
        return (float(value(z + width * x)) - float(value(z - width * x))) / (2 * width)

    widths = WIDTHS[torch.float64 if whole.dtype == torch.float64 else torch.float32]
    found = [[difference(x, width) for width in widths] for x in along]
    # Two widths leave the fourth derivative alone.
    differences = [d[0] if len(d) == 1 else (4 * d[0] - d[1]) / 3 for d in found]
    dtype = str(whole.dtype).removeprefix("torch.")
    return Slope([float((grad * x).sum()) for x in along], differences, float(whole), dtype)


def cost(loss: Loss, trial: Trial) -> tuple[float, float]:
    """Seconds of this process (best of three), and peak bytes, of a forward and backward pass."""
    z = sample(loss, trial).requires_grad_()
    order = torch.tensor(trial.order, dtype=torch.long)
    built = _build(loss, trial, 0)
    seconds = []
    for number in range(1, 4):
        began = time.process_time()
        _backward(loss(built, z, order, number))
        seconds.append(time.process_time() - began)
    with Alive() as alive:
        _backward(loss(built, z, order, 4))
    return min(seconds), float(alive.most)
