"""How each line of the report is measured, and when it fails."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from solo.conformance import work
from solo.conformance.examination import (
    EXACT,
    Examination,
    Gap,
    Line,
    NotApplicableError,
    Verdict,
    changed,
    gap,
    grad_gap,
    largest,
    parameter_gap,
    state_gap,
    value_gap,
    values_gap,
)
from solo.conformance.pool import FailedError
from solo.conformance.work import Found

WORLDS = (1, 2, 3, 4)
CALLS = 3
"""In a row, where state and draws go from one to the next."""
WORDS = {
    "normal": "normal numbers",
    "zero": "all rows zero",
    "half": "every other row zero",
    "equal": "all rows equal",
    "large": "rows of size 10,000",
}


def _worst(ex: Examination, of: Callable[[list[Found], Found], float]) -> Gap:
    """The largest gap of 1 to 4 processes against one, over several calls."""
    return largest({f"{w} processes": of(*ex.shared(w, calls=CALLS)) for w in WORLDS})


def value(ex: Examination) -> Line:
    """Of a shared batch."""
    apart = _worst(
        ex, lambda several, one: max(values_gap(found.values, several[0]) for found in several)
    )
    detail = "" if apart.size <= EXACT else "each process reports its own; their mean is compared"
    return _worst(ex, value_gap).judged("value", detail=detail)


def gradient(ex: Examination) -> Line:
    """At every sample of a shared batch."""
    one = ex.alone()
    if not one.grad.any():
        if not any(grad.any() for grad in one.parameters.values()):
            return Line("gradient", "0", "FAIL", "neither z nor any parameter gets a gradient")
        raise NotApplicableError("z gets no gradient, parameters do")
    return _worst(ex, grad_gap).judged("gradient")


def parameters(ex: Examination) -> Line:
    """The gradients of the loss's own."""
    one = ex.alone()
    if not any(grad.any() for grad in one.parameters.values()):
        if one.unused and not ex.subject.is_method:
            told = f"asked for by {len(one.unused)}, such as {one.unused[0]}; none gets any"
            return Line("parameters", "", "note", told)
        raise NotApplicableError("none gets a gradient")
    several, _ = ex.shared(2, calls=CALLS)
    if several[0].unused != several[1].unused:
        names = set(several[0].unused) ^ set(several[1].unused)
        return Line("parameters", "unused", "FAIL", f"{min(names)}, on some processes only")
    return _worst(ex, parameter_gap).judged("parameters")


def buffers(ex: Examination) -> Line:
    """Whatever state calls change."""
    if not changed(ex.alone(calls=CALLS)):
        raise NotApplicableError("calls change none")
    detail = f"as a share of what {CALLS} calls change"
    return _worst(ex, state_gap).judged("buffers", detail=detail)


def built_first(ex: Examination) -> Line:
    """Before there is a process group."""
    (several, _), (plain, _) = ex.shared(2, built_first=True), ex.shared(2)
    return largest(_between(several, plain)).judged(
        "built first", detail="against built afterwards"
    )


def _between(several: list[Found], plain: list[Found]) -> dict[str, float]:
    """Gaps of two processes to two others: faults that both have are other lines'."""
    gaps = {
        "value": max(values_gap(a.values, b) for a, b in zip(several, plain)),
        "gradient": max(gap(a.grad, b.grad) for a, b in zip(several, plain)),
    }
    if plain[0].parameters:
        gaps["parameters"] = parameter_gap(several, plain[0])
    return gaps


def uneven(ex: Examination) -> Line:
    """Of the samples."""
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


def accumulation(ex: Examination) -> Line:
    """Four parts of a batch, backward passes after each call, and all at the end."""
    count = ex.subject.samples // 4 * 4
    order, size = range(count), count // 4
    at_once = ex.alone(order=order, parts=size)
    parts = ex.alone(order=order, parts=size, backwards_last=True)
    one = ex.alone(order=order)
    late = max(gap(parts.grad, at_once.grad), values_gap(parts.values, at_once))
    if not late <= EXACT:
        said = "backward passes after all calls give other gradients than each after its call"
        return Line("accumulation", f"{late:.1e}", "FAIL", said, late)
    whole = sum(parts.values) / len(parts.values)
    off = max(grad_gap([parts], one), values_gap([whole], one))
    if not math.isfinite(off):
        return Line("accumulation", "not finite", "FAIL", "four parts of the batch")
    same = off <= EXACT
    said = "the batch's loss" if same else "another loss than the whole batch's"
    return Line("accumulation", f"{off:.1e}", "note", f"four parts: {said}", off)


def half(name: str, dtype: str, limit: float) -> Callable[[Examination], Line]:
    """A line for a type: inputs in it, under autocast too; and float32 under autocast.

    Each on one process and on two, against float32 on as many.
    """

    def measure(ex: Examination) -> Line:
        order = range(ex.subject.samples // 2 * 2)
        exact = {w: ex.found(ex.trial(order=order, rounded=dtype), w) for w in (0, 2)}
        gaps: dict[str, float] = {}
        detail = ""
        for words, options in (
            ("", {"dtype": dtype}),
            (", autocast", {"dtype": dtype, "autocast": dtype}),
            (", float32 under autocast", {"rounded": dtype, "autocast": dtype}),
        ):
            trial = ex.trial(order=order, **options)
            try:
                alone = ex.found(trial)
            except FailedError as error:
                if words or not error.ended:  # under autocast it has to work
                    raise
                detail = "not under autocast it raises"
                continue
            detail = detail or f"returns {alone[0].dtype}"
            for world, several in ((0, alone), (2, ex.found(trial, 2))):
                place = f"{words}, 2 processes" if world else words
                apart = zip(several, exact[world])
                each = [(values_gap(a.values, b), gap(a.grad, b.grad)) for a, b in apart]
                gaps[f"value{place}"] = max(value for value, _ in each)
                gaps[f"gradient{place}"] = max(gradient for _, gradient in each)
        return largest(gaps).judged(name, limit, detail)

    return measure


def same_draws(ex: Examination) -> Line:
    """Whose generators do not agree."""
    if not ex.draws:
        raise NotApplicableError("no draws are seen")
    order = range(ex.subject.samples // 2 * 2)
    several, one = ex.shared(2, calls=CALLS)
    off = max(value_gap(several, one), grad_gap(several, one))
    if several[0].drawn != several[1].drawn and not off <= EXACT:
        # By rank, say. Without a gap, one process's draws are everybody's in the end.
        said = "processes draw different numbers, though their generators are seeded alike"
        return Line("same draws", f"{off:.1e}", "FAIL", said, off)
    own = ex.found(ex.trial(order=order, own_seeds=True, calls=CALLS), 2)
    alike = []
    for seed in (work.SEED, work.SEED + 1):  # draws may be those of any process
        trial = ex.trial(order=order, called_with=seed, built_with=seed, calls=CALLS)
        alike.append(ex.found(trial, 2))
    worst = min((largest(_between(own, plain)) for plain in alike), key=lambda each: each.size)
    said = "of generators seeded differently on each process, to ones seeded alike"
    return worst.judged("same draws", detail=said)


def fresh_draws(ex: Examination) -> Line:
    """From one call to the next."""
    if not ex.draws:
        raise NotApplicableError("no draws are seen")
    first, second = ex.alone(calls=2).drawn
    if second:
        again = len([x for x in second if x in first])
        detail = "draws of the second call are the first's again"
        figure = f"{again} of {len(second)}"
        return Line("fresh draws", figure, "FAIL" if again else "ok", detail, again)
    if ex.draws_by_seed:
        return Line("fresh draws", "", "ok", "the second call follows the seed of generators")
    what = "the first call draws" if first else "it draws when it is built"
    return Line("fresh draws", "none", "FAIL", f"{what}, and never again")


def repeated(ex: Examination) -> Line:
    """By a run that was stopped and goes on."""
    straight, again = ex.alone(calls=3), ex.alone(calls=3, resumed=True)
    gaps = {
        f"call {n}": gap(b, a) for n, (a, b) in enumerate(zip(straight.values, again.values), 1)
    }
    exact = all(a == b for a, b in zip(straight.values, again.values))
    line = largest(gaps).judged("repeated step", detail="saved after two calls, built again")
    return line._replace(verdict="ok" if exact else "FAIL")


def order_of_samples(ex: Examination) -> Line:
    """At random."""
    if "samples" in ex.loss.ordered:
        raise NotApplicableError("their order is part of the loss")
    count = ex.subject.samples
    mixed = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    moved, one = ex.alone(order=mixed.tolist()), ex.alone()
    gaps = {"value": values_gap(moved.values, one)}
    gaps["gradient"] = gap(moved.grad, one.grad[:, :, mixed])
    return largest(gaps).judged("order of samples")


def order_of_views(ex: Examination) -> Line:
    """Reversed, and moved on by one."""
    count = ex.loss.views
    if count == 1:
        raise NotApplicableError("it takes one view")
    if "views" in ex.loss.ordered:
        raise NotApplicableError("their order is part of the loss")
    orders = {tuple(reversed(range(count))), (*range(1, count), 0)}
    one, gaps = ex.alone(), {}
    for order in sorted(orders):
        said = "" if len(orders) == 1 else f" of views {order}"
        moved = ex.alone(views=order)
        gaps[f"value{said}"] = values_gap(moved.values, one)
        gaps[f"gradient{said}"] = gap(moved.grad, one.grad[:, list(order)])
    worst = largest(gaps)
    if worst.size > EXACT and ex.draws:
        return _order_beside_draws(ex, sorted(orders))
    return worst.judged("order of views")


def _order_beside_draws(ex: Examination, orders: Sequence[tuple[int, ...]]) -> Line:
    """Where views have draws of their own, an order changes them; on average it must not matter.

    Calls are pairs: the same samples, and the same draws, for other views.
    """
    many, worst, said = 32, 0.0, ""
    one = ex.alone(calls=many)
    for order in orders:
        moved = ex.alone(calls=many, views=order)
        pairs = {"value": (one.values, moved.values)}
        sizes = [found.grad.double().flatten(2).norm(dim=2) for found in (one, moved)]  # [C, V]
        for view, before in enumerate(order):
            mine, its = sizes[0][:, before].tolist(), sizes[1][:, view].tolist()
            pairs[f"size of the gradient of view {before}"] = (mine, its)
        for what, (some, others) in pairs.items():
            apart = torch.tensor(others, dtype=torch.float64) - torch.tensor(some)
            spread = float(apart.std()) / many**0.5
            ratio = abs(float(apart.mean())) / max(spread, 1e-12)
            if not ratio <= worst:  # nor NaN
                worst, said = ratio, what
    detail = f"{said}: mean difference of {many} calls, by its spread; up to 5 is chance"
    verdict: Verdict = "ok" if worst <= 5 else "FAIL"
    return Line("order of views", f"{worst:.1f} spreads", verdict, detail, worst)


def derivative(ex: Examination) -> Line:
    """Against central differences."""
    if ex.loss.cut:
        raise NotApplicableError("a part is cut off on purpose")
    trial = ex.trial(order=range(min(12, ex.subject.samples)), double=True)
    (found,) = ex.pool.run(ex.subject, "slope", [(trial,)])
    is_double = found.dtype == "float64"
    scale = max(map(abs, (*found.gradient, *found.differences)))
    dtype = torch.float64 if is_double else torch.float32
    noise = 10 * torch.finfo(dtype).eps * abs(found.value) / work.WIDTHS[dtype][0]
    limit = 1e-4 if is_double else 2e-2
    if scale <= noise:
        raise NotApplicableError("z hardly moves it")
    apart = max(abs(a - b) for a, b in zip(found.gradient, found.differences))
    size = apart / scale if math.isfinite(scale) else math.inf
    detail = f"differences in {found.dtype}, up to {limit:g}"
    return Gap(size, "").judged("derivative", limit + noise / scale, detail)


def finite(name: str, fills: Sequence[str], samples: int | None = None) -> Callable[..., Line]:
    """A line for embeddings of one kind."""

    def measure(ex: Examination) -> Line:
        order = range(samples or ex.subject.samples)
        for fill in fills:
            try:
                found = ex.alone(order=order, fill=fill, calls=2)
            except FailedError as error:
                if samples is None or not error.refused:
                    raise
                return Line(name, "refused", "ok", str(error))
            values = {"value": torch.tensor(found.values), "gradient": found.grad}
            values |= found.parameters | {name: found.state[name] for name in changed(found)}
            for what, x in values.items():
                if not x.isfinite().all():
                    return Line(name, "not finite", "FAIL", f"{what}, {WORDS[fill]}")
        size = found.values[0]
        return Line(name, f"{size:.3g}", "ok", "its value; the gradient is finite", size)

    return measure


def growth(name: str, of: int) -> Callable[[Examination], Line]:
    """A line for time, or memory."""

    def measure(ex: Examination) -> Line:
        told, worst = [], 0.0
        for what, exponent in ex.growth.items():
            told.append(f"{what} {exponent[of]:.1f}")
            worst = max(worst, exponent[of])
        detail = "exponents, from one size to its fourfold"
        return Line(name, ", ".join(told), "ok" if worst <= 2.5 else "FAIL", detail, worst)

    return measure


def collectives(ex: Examination) -> Line:
    """Which, on each process."""
    several, _ = ex.shared(2)
    first, second = (found.collectives for found in several)
    size = max(sum(size for _, size in made) for made in (first, second))
    figure = f"{max(len(first), len(second))} calls, {size / 1024:.3g} KiB"
    detail, same = "a process of 2, forward and backward", first == second
    if len(first) != len(second):
        detail = f"processes make different numbers of calls: {len(first)} and {len(second)}"
    elif not same:
        (a, x), (b, y) = next(pair for pair in zip(first, second) if pair[0] != pair[1])
        detail = f"one process calls {a} with {x} bytes where the other calls {b} with {y}"
    return Line("collectives", figure, "ok" if same else "FAIL", detail)
