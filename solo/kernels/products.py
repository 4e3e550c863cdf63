"""Sums over coordinates for the characteristic function of a product target along slices.

Each slice is read once; the recurrence of Chebyshev polynomials and all sums stay in registers. The
tensor code beside it is ``ExpandedProduct.sums``.
"""

# mypy: disable-error-code="assignment, misc"
from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from solo.distributions.products import ExpandedProduct, TabulatedProduct
from solo.kernels.loading import operator

LANES = 128


@triton.jit
def chebyshev_sums(slices_ptr, out_ptr, rows, dim, scale, M: tl.constexpr, LANES: tl.constexpr):
    """A row c a program: ``sum_j c_j^2 T_m(c_j scale / 2)`` for m < M, then ``sum_j c_j``."""
    row = tl.program_id(0)
    slices_ptr += row.to(tl.int64) * dim
    sums = ()
    for _ in tl.static_range(M + 1):
        sums = sums + (tl.zeros((LANES,), tl.float32),)
    for first in range(0, dim, LANES):
        column = first + tl.arange(0, LANES)
        c = tl.load(slices_ptr + column, column < dim, other=0.0)
        doubled = tl.minimum(tl.maximum(c * scale, -2.0), 2.0)
        older = c * c
        newer = older * doubled * 0.5
        more = (sums[0] + older, sums[1] + newer)
        for m in tl.static_range(2, M):
            following = newer * doubled - older
            older = newer
            newer = following
            more = more + (sums[m] + newer,)
        sums = more + (sums[M] + c,)
    for m in tl.static_range(M + 1):
        tl.store(out_ptr + m * rows + row, tl.sum(sums[m], 0))


@operator(
    "chebyshev_sums(Tensor slices, float scale, int terms) -> Tensor",
    lambda slices, scale, terms: slices.new_empty(terms + 1, slices.shape[0]),
)
def launch_chebyshev_sums(slices: Tensor, scale: float, terms: int) -> Tensor:
    """Unit rows [K, D], contiguous -> [M + 1, K]."""
    rows, dim = slices.shape
    out = slices.new_empty(terms + 1, rows)
    if rows:
        chebyshev_sums[(rows,)](slices, out, rows, dim, scale, M=terms, LANES=LANES)
    return out


def values_along(product: ExpandedProduct | TabulatedProduct, slices: Tensor) -> Tensor:
    """The product's characteristic function along unit rows [K, D]: [2, T, K]."""
    if isinstance(product, TabulatedProduct):
        return product(slices)
    terms = product.coefficients.shape[-1]
    sums = launch_chebyshev_sums(slices.contiguous(), 2 / product.reach, terms)
    return product.of_sums(sums[:-1], sums[-1])
