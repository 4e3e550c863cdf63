"""Trials of one loss, and how far two outcomes are apart."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from solo.conformance import work
from solo.conformance.counting import as_bytes
from solo.conformance.pool import FailedError, Pool
from solo.conformance.subject import Loss, Subject
from solo.conformance.work import Found, Trial

Verdict = Literal["ok", "FAIL", "note", "n/a"]
EXACT = 1e-4
"""Relative gap up to which two float32 results are called equal; right ones have 1e-7 to 1e-5."""
OTHER_SEED = work.SEED + 13


class Line(NamedTuple):
    """One line: its name, the figure that was measured, and what it means."""

    name: str
    figure: str
    verdict: Verdict
    detail: str = ""
    size: float | None = None
    """The figure as a number, of lines that measure a gap."""


class NotApplicableError(Exception):
    """The line says nothing of this loss."""


class Gap(NamedTuple):
    """The largest of several relative gaps, and where it is."""

    size: float
    where: str

    def judged(self, name: str, limit: float = EXACT, detail: str = "") -> Line:
        """A line that fails above the limit."""
        good = self.size <= limit  # not so for NaN
        size = f"{self.size:.1e}" if math.isfinite(self.size) else "not finite"
        return Line(name, f"{size}{self.where}", "ok" if good else "FAIL", detail, self.size)


def gap(found: Tensor | float, expected: Tensor | float) -> float:
    """``|found - expected| / |expected|``; what is not finite is infinitely far."""
    a, b = (_numbers(torch.as_tensor(x)) for x in (found, expected))
    if not (a.isfinite().all() and b.isfinite().all()):
        return math.inf
    difference, size = float((a - b).norm()), float(b.norm())
    return difference / size if size > 0 else difference


def _numbers(x: Tensor) -> Tensor:
    return (torch.view_as_real(x) if x.is_complex() else x).double()


def largest(gaps: dict[str, float]) -> Gap:
    """The worst, and its name."""
    where = max(gaps, key=lambda key: gaps[key])
    return Gap(gaps[where], f" ({where})" if len(gaps) > 1 and gaps[where] > 0 else "")


class Examination:
    """Trials of one subject, each made once.

    Args:
        subject: the loss.
        pool: the processes that work.

    Raises:
        ValueError: for a subject that cannot be found, built or called.
    """

    def __init__(self, subject: Subject, pool: Pool) -> None:
        self.subject, self.pool = subject, pool
        self.loss = Loss(subject)
        if subject.samples < 8:
            raise ValueError(f"samples is {subject.samples}; give at least 8")
        self.loss.check()
        self._made: dict[tuple[Trial, int], list[Found] | FailedError] = {}

    @property
    def about(self) -> str:
        """What it is examined on, in words."""
        views = self.loss.views
        subject = self.subject
        seen = f"{views} views of " if views > 1 else ""
        called = ""
        if views > 1 and not self.loss.is_stacked:
            called = f"; called with {', '.join(f'z[{view}]' for view in range(views))}"
        size = f"{subject.samples} samples, {subject.features} features, standard normal"
        return f"{seen}{size}{called}"

    def trial(self, **options: Any) -> Trial:
        """All samples, or those that are given."""
        order = tuple(options.pop("order", range(self.subject.samples)))
        return Trial(order, features=self.subject.features, **options)

    def found(self, trial: Trial, world: int = 0) -> list[Found]:
        """A trial's outcome on so many processes; 0: on one, without a process group."""
        key = (trial, world)
        if key not in self._made:
            several = max(1, world)
            with tempfile.TemporaryDirectory(prefix="conformance-") as folder:
                place = f"{folder}/group" if world else None
                seconds = 2 * self.pool.timeout  # the pool is the first to end what hangs
                each = [(trial, rank, several, place, seconds) for rank in range(several)]
                try:
                    self._made[key] = self.pool.run(self.subject, "attempt", each, world)
                except FailedError as error:
                    self._made[key] = error
        made = self._made[key]
        if isinstance(made, FailedError):
            raise made
        return made

    def alone(self, **options: Any) -> Found:
        """A trial on one process without a group."""
        return self.found(self.trial(**options))[0]

    def shared(self, world: int, **options: Any) -> tuple[list[Found], Found]:
        """A trial on ``world`` processes, and the same batch on one."""
        count = self.subject.samples // world * world
        options.setdefault("order", range(count))
        several = self.found(self.trial(**options), world)
        own = {"shares", "built_first", "own_seeds"}
        rest = {name: value for name, value in options.items() if name not in own}
        return several, self.alone(**rest)

    @cached_property
    def growth(self) -> dict[str, tuple[float, float]]:
        """Exponents of time and memory, from one size to its fourfold: of N, D and slices K."""
        samples, features = max(128, self.subject.samples), self.subject.features
        sizes: dict[str, list[Trial]] = {"N": [], "D": []}
        for factor in (1, 4):
            sizes["N"].append(self.trial(order=range(samples * factor)))
            sizes["D"].append(Trial(tuple(range(samples)), features=features * factor))
        if self.loss.slices is not None:
            more = [((self.loss.slices, 256 * factor),) for factor in (1, 4)]
            sizes["K"] = [self.trial(order=range(samples), more=m) for m in more]
        found = {}
        for name, (small, large) in sizes.items():
            try:
                few, many = (self.pool.run(self.subject, "cost", [(t,)])[0] for t in (small, large))
            except FailedError as error:  # a loss made for one D, or one N
                if not error.ended:
                    raise
                continue
            found[name] = tuple(math.log(y / max(x, 1e-9)) / math.log(4) for x, y in zip(few, many))
        if not found:
            raise NotApplicableError("it takes neither more samples nor more features")
        return found  # type: ignore[return-value]

    @cached_property
    def draws(self) -> bool:
        """Whether the loss draws anything, when it is called or when it is built.

        What torch's generators give is seen; draws from numpy's or Python's are known by values
        that change with their seeds.
        """
        return any(self.alone(calls=2).drawn) or self.draws_by_seed or self.drawn_once

    @cached_property
    def draws_by_seed(self) -> bool:
        """Whether a second call follows generators' seeds."""
        first, other = (self.alone(calls=2, called_with=s) for s in (None, OTHER_SEED))
        return first.values[1] != other.values[1]

    @cached_property
    def drawn_once(self) -> bool:
        """Whether values follow what was drawn in the constructor, beside parameters and state."""
        first = self.alone(calls=2)
        names = tuple(sorted(changed(first)))
        other = self.alone(calls=2, built_with=OTHER_SEED, as_ever=names)
        return first.values != other.values


def changed(found: Found) -> list[str]:
    """State that calls changed, or filled."""
    before, after = found.kept, found.state
    return [name for name in after if name not in before or not _same(before[name], after[name])]


def _same(x: Tensor, y: Tensor) -> bool:
    """Bit for bit: what was never filled may hold anything."""
    return x.shape == y.shape and x.dtype == y.dtype and torch.equal(as_bytes(x), as_bytes(y))


def values_gap(values: Sequence[float], one: Found) -> float:
    """The worst call's ``|value - expected|``, by the size of what is expected.

    A value that is what two large terms leave of one another has their rounding, not its own: where
    it is smaller than a hundredth of ``|gradient| |z|``, what one relative change of z would
    move it by at most, it is measured by that.
    """
    worst = 0.0
    for value, right, moves in zip(values, one.values, one.moves, strict=True):
        if not (math.isfinite(value) and math.isfinite(right)):
            return math.inf
        size = max(abs(right), moves / 100 if math.isfinite(moves) else 0.0)
        worst = max(worst, abs(value - right) / (size or 1.0))
    return worst


def value_gap(several: list[Found], one: Found) -> float:
    """Of the mean of the processes' values, the worst call: averaged gradients belong to it."""
    means = [sum(values) / len(values) for values in zip(*(found.values for found in several))]
    return values_gap(means, one)


def grad_gap(several: list[Found], one: Found) -> float:
    """Of the gradient at every sample, as averaging over processes makes it."""
    whole = torch.cat([found.grad for found in several], dim=2).double() / len(several)
    return gap(whole, one.grad)


def parameter_gap(several: list[Found], one: Found) -> float:
    """The worst of parameters' gradients, on any process."""
    # One that cancels is nothing beside the others.
    size = max((float(x.double().norm()) for x in one.parameters.values()), default=0.0)
    worst = 0.0
    for found in several:
        for name, right in one.parameters.items():
            value = found.parameters[name]
            off = float((value.double() - right.double()).norm())
            if not off <= 1e-7 * size:  # nor NaN
                worst = max(worst, gap(value, right))
    return worst


def state_gap(several: list[Found], one: Found) -> float:
    """The worst of what calls change or fill, on any process, as a share of its change."""
    names = {name for found in (*several, one) for name in changed(found)}
    return max((_moved_gap(f, one, name) for f in several for name in names), default=0.0)


def _moved_gap(found: Found, one: Found, name: str) -> float:
    if name not in found.state or name not in one.state:
        return math.inf
    value, right = found.state[name], one.state[name]
    if value.shape != right.shape or value.dtype != right.dtype:
        return math.inf
    exact = not (right.is_floating_point() or right.is_complex())
    before = one.kept.get(name)
    value, right = _numbers(value), _numbers(right)
    off = float((value - right).norm())
    if off <= (0 if exact else 5e-7 * float(right.norm())):  # rounding
        return 0.0
    if before is None or before.shape != one.state[name].shape or not before.isfinite().all():
        return gap(value, right)
    return gap(value - _numbers(before), right - _numbers(before))
