"""The lines of the report: what each measures, when it fails, and the usual cause."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch

from solo.conformance.examination import (
    EXACT,
    Examination,
    Gap,
    Line,
    NotApplicableError,
    changed,
    gap,
    grad_gap,
    largest,
    named_gap,
    value_gap,
)
from solo.conformance.pool import FailedError
from solo.conformance.work import Found

WORLDS = (1, 2, 3, 4)
WORDS = {
    "normal": "normal numbers",
    "zero": "all rows zero",
    "half": "every other row zero",
    "equal": "all rows equal",
    "large": "rows of size 10,000",
}


def _worst(ex: Examination, of: Callable[[list[Found], Found], float]) -> Gap:
    """The largest gap of 1 to 4 processes against one."""
    return largest({f"{w} processes": of(*ex.shared(w)) for w in WORLDS})


def _apart(found: Found, other: Found) -> float:
    return gap(found.values[-1], other.values[-1])


def _value(ex: Examination) -> Line:
    apart = _worst(ex, lambda several, one: max(_apart(found, several[0]) for found in several))
    detail = "" if apart.size <= EXACT else "each process reports its own; their mean is compared"
    return _worst(ex, value_gap).judged("value", detail=detail)


def _gradient(ex: Examination) -> Line:
    one = ex.alone()
    if not one.grad.any():
        if not any(grad.any() for grad in one.parameters.values()):
            return Line("gradient", "0", "FAIL", "neither z nor any parameter gets a gradient")
        raise NotApplicableError("z gets no gradient, parameters do")
    return _worst(ex, grad_gap).judged("gradient")


def _parameters(ex: Examination) -> Line:
    if not any(grad.any() for grad in ex.alone().parameters.values()):
        raise NotApplicableError("none gets a gradient")
    return _worst(ex, partial(named_gap, what="parameters")).judged("parameters")


def _buffers(ex: Examination) -> Line:
    if not changed(ex.alone()):
        raise NotApplicableError("a call changes none")
    return _worst(ex, partial(named_gap, what="buffers")).judged("buffers")


def _built_first(ex: Examination) -> Line:
    return _against(ex, built_first=True).judged("built first", detail="against built afterwards")


def _against(ex: Examination, **options: Any) -> Gap:
    """Two processes against two without the options: faults that both have are other lines'."""
    (several, _), (plain, one) = ex.shared(2, **options), ex.shared(2)
    gaps = {
        "value": max(map(_apart, several, plain)),
        "gradient": max(gap(a.grad, b.grad) for a, b in zip(several, plain)),
    }
    if one.parameters:
        gaps["parameters"] = named_gap(several, plain[0], "parameters")
    return largest(gaps)


def _uneven(ex: Examination) -> Line:
    if ex.loss.even:
        raise NotApplicableError("processes bring equal shares")
    count = ex.subject.samples // 2 * 2
    few = max(1, count // 3)
    try:
        several, one = ex.shared(2, shares=(few, count - few))
    except FailedError as error:
        if not error.refused:
            raise
        return Line("uneven shares", "refused", "note", str(error))
    gaps = {"value": value_gap(several, one), "gradient": grad_gap(several, one)}
    return largest(gaps).judged(
        "uneven shares", detail=f"{few} and {count - few} samples; --even: they never differ"
    )


def _accumulation(ex: Examination) -> Line:
    count = ex.subject.samples // 4 * 4
    parts = ex.alone(order=range(count), parts=count // 4, backwards_last=True)
    one = ex.alone(order=range(count))
    off = max(grad_gap([parts], one), gap(sum(parts.values) / len(parts.values), one.values[0]))
    if not math.isfinite(off):
        return Line("accumulation", "not finite", "FAIL", "four parts of the batch")
    same = off <= EXACT
    said = "the batch's loss" if same else "another loss than the whole batch's"
    return Line("accumulation", f"{off:.1e}", "note", f"four parts: {said}")


def _half(name: str, dtype: str, limit: float) -> Callable[[Examination], Line]:
    def measure(ex: Examination) -> Line:
        said = ""
        try:
            half = ex.alone(dtype=dtype)
        except FailedError as error:
            if not error.refused:
                raise
            half, said = ex.alone(dtype=dtype, autocast=True), "; under autocast, else it raises"
        exact = ex.alone(rounded=dtype)  # the same numbers, in float32
        gaps = {"value": gap(half.values[0], exact.values[0])}
        gaps["gradient"] = gap(half.grad.double(), exact.grad)
        return largest(gaps).judged(name, limit, f"returns {half.dtype}{said}")

    return measure


def _same_draws(ex: Examination) -> Line:
    if not ex.draws:
        raise NotApplicableError("it draws nothing")
    worst = _against(ex, own_seeds=True)
    return worst.judged("same draws", detail="generators of torch seeded differently, or alike")


def _fresh_draws(ex: Examination) -> Line:
    if not ex.draws:
        raise NotApplicableError("it draws nothing")
    first, second = ex.alone(calls=2).values
    off = gap(second, first)
    return Line("fresh draws", f"{off:.1e}", "ok" if off else "FAIL", "second call against first")


def _repeated(ex: Examination) -> Line:
    straight, again = ex.alone(calls=3), ex.alone(calls=3, resumed=True)
    gaps = {
        f"call {n}": gap(b, a) for n, (a, b) in enumerate(zip(straight.values, again.values), 1)
    }
    exact = all(a == b for a, b in zip(straight.values, again.values))
    line = largest(gaps).judged("repeated step", detail="saved after two calls, built again")
    return line._replace(verdict="ok" if exact else "FAIL")


def _order_of_samples(ex: Examination) -> Line:
    if "samples" in ex.loss.ordered:
        raise NotApplicableError("their order is part of the loss")
    count = ex.subject.samples
    mixed = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    moved, one = ex.alone(order=mixed.tolist()), ex.alone()
    gaps = {"value": gap(moved.values[0], one.values[0])}
    gaps["gradient"] = gap(moved.grad, one.grad[:, mixed])
    return largest(gaps).judged("order of samples")


def _order_of_views(ex: Examination) -> Line:
    if ex.loss.views == 1:
        raise NotApplicableError("it takes one view")
    if "views" in ex.loss.ordered:
        raise NotApplicableError("their order is part of the loss")
    moved, one = ex.alone(flip=True), ex.alone()
    off = gap(moved.values[0], one.values[0])
    gaps = {"value": off, "gradient": gap(moved.grad.flip(0), one.grad)}
    worst = largest(gaps)
    if worst.size > EXACT and ex.draws:
        values = torch.tensor(ex.alone(calls=16).values, dtype=torch.float64)
        spread = float(values.std() / values.mean().abs())
        if off <= 5 * spread:
            detail = f"within 5 of its draws' spread, {spread:.1e}"
            return Line("order of views", f"{off:.1e}", "ok", detail)
    return worst.judged("order of views")


def _derivative(ex: Examination) -> Line:
    if ex.loss.cut:
        raise NotApplicableError("a part is cut off on purpose")
    trial = ex.trial(order=range(min(12, ex.subject.samples)), double=True)
    ((off, scale, dtype),) = ex.pool.run(ex.subject, "slope", (trial,))
    if not scale:
        raise NotApplicableError("z does not move it")
    size = off / scale if math.isfinite(scale) else math.inf
    limit = 1e-4 if dtype == "float64" else 5e-2
    return Gap(size, "").judged("derivative", limit, f"differences in {dtype}")


def _finite(name: str, fills: Sequence[str], samples: int | None = None) -> Callable[..., Line]:
    def measure(ex: Examination) -> Line:
        order = range(samples or ex.subject.samples)
        for fill in fills:
            try:
                found = ex.alone(order=order, fill=fill)
            except FailedError as error:
                if samples is None or not error.refused:
                    raise
                return Line(name, "refused", "ok", str(error))
            values = {"value": torch.tensor(found.values), "gradient": found.grad}
            values |= found.parameters
            for what, x in values.items():
                if not x.isfinite().all():
                    return Line(name, "not finite", "FAIL", f"{what}, {WORDS[fill]}")
        return Line(name, f"{found.values[0]:.3g}", "ok", "its value; the gradient is finite")

    return measure


def _growth(name: str, of: int) -> Callable[[Examination], Line]:
    def measure(ex: Examination) -> Line:
        told, worst = [], 0.0
        for what, exponent in ex.growth.items():
            told.append(f"{what} {exponent[of]:.1f}")
            worst = max(worst, exponent[of])
        detail = "exponents, from one size to its fourfold"
        return Line(name, ", ".join(told), "ok" if worst <= 2.5 else "FAIL", detail)

    return measure


def _collectives(ex: Examination) -> Line:
    several, _ = ex.shared(2)
    told = {(found.calls, found.bytes) for found in several}
    calls, size = max(told)
    figure = f"{calls} calls, {size / 1024:.3g} KiB"
    same = len({found.calls for found in several}) == 1
    detail = "a process of 2, forward and backward"
    if not same:
        numbers = " and ".join(str(found.calls) for found in several)
        detail = f"processes make different numbers of calls: {numbers}"
    return Line("collectives", figure, "ok" if same else "FAIL", detail)


class Kind(NamedTuple):
    """How a line is measured, and its words."""

    measure: Callable[[Examination], Line]
    means: str
    cause: str


LINES: dict[str, Kind] = {
    "value": Kind(
        _value,
        "The loss of a batch shared by 1 to 4 processes is the loss of that batch on one.",
        "A statistic (mean, covariance, negatives) is of a process's own samples.",
    ),
    "gradient": Kind(
        _gradient,
        "So is its gradient at every sample, averaged over processes as DistributedDataParallel "
        "does.",
        "An all-reduce that autograd does not see, a gather whose gradient is dropped or not "
        "scaled by the number of processes.",
    ),
    "parameters": Kind(
        _parameters,
        "So are the gradients of the loss's own parameters.",
        "A gradient divided twice by the number of processes, or by none.",
    ),
    "buffers": Kind(
        _buffers,
        "Buffers are the same on all processes, and those that one would have.",
        "A running mean of a process's own samples.",
    ),
    "built first": Kind(
        _built_first,
        "It does not matter whether the module was built before there was a process group.",
        "The number of processes, or whether there are several, is read in the constructor.",
    ),
    "uneven shares": Kind(
        _uneven,
        "Processes may bring different numbers of samples, or are told that they may not.",
        "Means of means; a gather that takes every share for as long as the first. --even says "
        "that shares never differ.",
    ),
    "accumulation": Kind(
        _accumulation,
        "Four calls on parts of the batch, then their backward passes: whether that is the batch's "
        "loss. It fails only where calls cannot be accumulated.",
        "The graph of one call is kept for the next, or a call overwrites what another needs.",
    ),
    "bfloat16": Kind(
        _half("bfloat16", "bfloat16", 1e-2),
        "Inputs in bfloat16 give what the same numbers give in float32, to 1 per cent.",
        "The loss computes in the precision of its input; differences and sums lose their digits.",
    ),
    "float16": Kind(
        _half("float16", "float16", 2e-3),
        "Inputs in float16 give what the same numbers give in float32, to 0.2 per cent.",
        "The same, or an overflow above 65,504.",
    ),
    "same draws": Kind(
        _same_draws,
        "All processes draw the same directions, even where their generators do not agree.",
        "The global generator is used, which every process has by itself.",
    ),
    "fresh draws": Kind(
        _fresh_draws,
        "A second call draws anew.",
        "A fixed seed, or directions drawn once in the constructor.",
    ),
    "repeated step": Kind(
        _repeated,
        "A run that was saved after two calls and is built again has the third call's value, bit "
        "for bit, generators of torch put back.",
        "A counter that is no buffer: the resumed run begins its draws again.",
    ),
    "order of samples": Kind(
        _order_of_samples,
        "Another order of the samples changes nothing but the order of the gradient.",
        "Rows are paired with something that has an order, such as random targets.",
    ),
    "order of views": Kind(
        _order_of_views,
        "Another order of the views changes nothing.",
        "One view is the anchor, or is weighed differently.",
    ),
    "derivative": Kind(
        _derivative,
        "The gradient is the derivative: central differences along three directions, in float64.",
        "A backward pass of its own that is wrong, a part that is cut off by detach or no_grad.",
    ),
    "zero rows": Kind(
        _finite("zero rows", ("half", "zero")),
        "Value and gradient are finite where embeddings are zero.",
        "A division by a norm, or the gradient of a root at 0.",
    ),
    "equal rows": Kind(
        _finite("equal rows", ("equal",)),
        "Value and gradient are finite where all embeddings are equal.",
        "A division by a standard deviation, or the gradient of a root at 0.",
    ),
    "one sample": Kind(
        _finite("one sample", ("normal",), samples=1),
        "A batch of one gives finite numbers, or an error that says why not.",
        "A variance over N - 1 = 0.",
    ),
    "large values": Kind(
        _finite("large values", ("large",)),
        "Value and gradient are finite for embeddings of size 10,000.",
        "An exponential without its largest exponent taken off, a fourth power.",
    ),
    "time": Kind(
        _growth("time", 0),
        "How time grows with samples N, features D and directions K: 1 is in proportion. It fails "
        "above 2.5.",
        "A loop over pairs of pairs, or a decomposition of an N x N matrix.",
    ),
    "memory": Kind(
        _growth("memory", 1),
        "How the tensors that are alive at a time grow, counted in bytes. It fails above 2.5.",
        "A tensor of all pairs for all features is formed.",
    ),
    "collectives": Kind(
        _collectives,
        "Calls of torch.distributed in a forward and backward pass, and bytes that a process hands "
        "over. It fails where processes make different numbers of them: they would wait for ever.",
        "A collective inside a condition that only some processes meet.",
    ),
}


def measured(ex: Examination, names: Sequence[str] | None = None) -> Iterator[Line]:
    """The lines of these names, or all, as they are ready."""
    for name in names or list(LINES):
        try:
            yield LINES[name].measure(ex)
        except NotApplicableError as why:
            yield Line(name, "", "n/a", str(why))
        except FailedError as error:
            yield Line(name, "raised", "FAIL", str(error))
        except Exception as error:  # such as a buffer that only one of two has
            yield Line(name, "raised", "FAIL", f"{type(error).__name__}: {error}")
