"""The lines of the report: what each measures, when it fails, and the usual cause."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from solo.conformance import measures
from solo.conformance.examination import Examination, Line, NotApplicableError
from solo.conformance.pool import FailedError


class Kind(NamedTuple):
    """How a line is measured, and its words."""

    measure: Callable[[Examination], Line]
    means: str
    cause: str


LINES: dict[str, Kind] = {
    "value": Kind(
        measures.value,
        "The loss of a batch shared by 1 to 4 processes is the loss of that batch on one, in each "
        "of three calls.",
        "A statistic (mean, covariance, negatives) is of a process's own samples.",
    ),
    "gradient": Kind(
        measures.gradient,
        "So is its gradient at every sample, averaged over processes as DistributedDataParallel "
        "does.",
        "An all-reduce that autograd does not see, a gather whose gradient is dropped or not "
        "scaled by the number of processes.",
    ),
    "parameters": Kind(
        measures.parameters,
        "So are the gradients of the loss's own parameters.",
        "A gradient divided twice by the number of processes, or by none.",
    ),
    "buffers": Kind(
        measures.buffers,
        "Buffers, and parameters that are not trained, are the same on all processes after several "
        "calls, and those that one would have.",
        "A running mean of a process's own samples.",
    ),
    "built first": Kind(
        measures.built_first,
        "It does not matter whether the module was built before there was a process group.",
        "The number of processes, or whether there are several, is read in the constructor.",
    ),
    "uneven shares": Kind(
        measures.uneven,
        "Processes may bring different numbers of samples, or are told that they may not.",
        "Means of means; a gather that takes every share for as long as the first. --even says "
        "that shares never differ.",
    ),
    "accumulation": Kind(
        measures.accumulation,
        "Four calls on parts of the batch, then their backward passes: whether that is the batch's "
        "loss. It fails only where calls cannot be accumulated.",
        "The graph of one call is kept for the next, or a call overwrites what another needs.",
    ),
    "bfloat16": Kind(
        measures.half("bfloat16", "bfloat16", 1e-2),
        "Inputs in bfloat16, as they are and under autocast, on one process and on two, give what "
        "the same numbers give in float32, to 1 per cent.",
        "The loss computes in the precision of its input; differences and sums lose their digits.",
    ),
    "float16": Kind(
        measures.half("float16", "float16", 2e-3),
        "Inputs in float16 give what the same numbers give in float32, to 0.2 per cent, in those "
        "four cases.",
        "The same, or an overflow above 65,504.",
    ),
    "same draws": Kind(
        measures.same_draws,
        "All processes draw the same directions, even where their generators do not agree, in the "
        "constructor or in calls. Parameters and buffers are the first's, as DDP makes them.",
        "The global generator is used, which every process has by itself; a seed made of the rank.",
    ),
    "fresh draws": Kind(
        measures.fresh_draws,
        "A second call draws anew.",
        "A fixed seed, or directions drawn once in the constructor.",
    ),
    "repeated step": Kind(
        measures.repeated,
        "A run that was saved after two calls and is built again has the third call's value, bit "
        "for bit, generators of torch put back.",
        "A counter that is no buffer: the resumed run begins its draws again.",
    ),
    "order of samples": Kind(
        measures.order_of_samples,
        "Another order of the samples changes nothing but the order of the gradient.",
        "Rows are paired with something that has an order, such as random targets.",
    ),
    "order of views": Kind(
        measures.order_of_views,
        "Another order of the views changes nothing; where each view has draws of its own, no more "
        "than other draws do.",
        "One view is the anchor, or is weighed differently.",
    ),
    "derivative": Kind(
        measures.derivative,
        "The gradient at z is the derivative: central differences along three directions of z, in "
        "float64. (Parameters of the loss are not moved.)",
        "A backward pass of its own that is wrong, a part that is cut off by detach or no_grad.",
    ),
    "zero rows": Kind(
        measures.finite("zero rows", ("half", "zero")),
        "Value and gradient are finite where embeddings are zero.",
        "A division by a norm, or the gradient of a root at 0.",
    ),
    "equal rows": Kind(
        measures.finite("equal rows", ("equal",)),
        "Value and gradient are finite where all embeddings are equal.",
        "A division by a standard deviation, or the gradient of a root at 0.",
    ),
    "one sample": Kind(
        measures.finite("one sample", ("normal",), samples=1),
        "A batch of one gives finite numbers, or an error that is raised on purpose.",
        "A variance over N - 1 = 0.",
    ),
    "large values": Kind(
        measures.finite("large values", ("large",)),
        "Value and gradient are finite for embeddings of size 10,000.",
        "An exponential without its largest exponent taken off, a fourth power.",
    ),
    "time": Kind(
        measures.growth("time", 0),
        "How time grows with samples N, features D and directions K: 1 is in proportion. It fails "
        "above 2.5.",
        "A loop over pairs of pairs, or a decomposition of an N x N matrix.",
    ),
    "memory": Kind(
        measures.growth("memory", 1),
        "How the tensors that are alive at a time grow, counted in bytes. It fails above 2.5.",
        "A tensor of all pairs for all features is formed.",
    ),
    "collectives": Kind(
        measures.collectives,
        "Calls of torch.distributed in a forward and backward pass, and bytes that a process hands "
        "over. It fails where processes make different ones: they would wait for ever or mix them.",
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
            yield Line(name, "raised" if error.ended else "failed", "FAIL", str(error))
        except Exception as error:  # such as a buffer that only one of two has
            yield Line(name, "raised", "FAIL", f"{type(error).__name__}: {error}")
