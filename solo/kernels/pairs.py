"""What a pair of samples costs, averaged over all directions, and its slope.

Between two matrix products, the only other pass over the pairs. The tensor code beside it is
``RadialKernel`` in ``solo.multivariate.unsliced``.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from solo.kernels.loading import operator

COLUMNS = 512


@triton.jit
def values_and_slopes(
    products_ptr,
    own_sizes_ptr,
    sizes_ptr,
    polynomial_ptr,
    out_ptr,
    first,
    rows,
    samples,
    TERMS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """A row of a view's pairs a program: products become slopes, in place; out [V, rows, 2]."""
    row, view = tl.program_id(0), tl.program_id(1)
    products_ptr += (view.to(tl.int64) * rows + row) * samples
    size = tl.load(own_sizes_ptr + view * rows + row)
    values = tl.zeros((COLUMNS,), tl.float32)
    slopes = tl.zeros((COLUMNS,), tl.float32)
    for start in range(0, samples, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        inside = column < samples
        product = tl.load(products_ptr + column, inside, other=0.0)
        other = tl.load(sizes_ptr + view * samples + column, inside, other=0.0)
        distance = size + other - 2.0 * product
        distance = tl.where(distance < 0.0, 0.0, distance)  # not a NaN
        y = 1.0 / tl.sqrt(1.0 + distance)
        last = tl.load(polynomial_ptr + TERMS - 1)
        value = y * 0.0 + last
        slope = y * 0.0 - 0.5 * TERMS * last
        for k in tl.static_range(TERMS - 1):
            term = tl.load(polynomial_ptr + TERMS - 2 - k)
            value = value * y + term
            slope = slope * y - 0.5 * (TERMS - 1 - k) * term
        itself = column == first + row
        value = tl.where(itself, 1.0, value * y)
        slope = tl.where(itself, 0.0, slope * y * y * y)
        tl.store(products_ptr + column, slope, inside)
        values += tl.where(inside, value, 0.0)
        slopes += tl.where(inside, slope, 0.0)
    out_ptr += (view * rows + row) * 2
    tl.store(out_ptr, tl.sum(values, 0))
    tl.store(out_ptr + 1, tl.sum(slopes, 0))


@operator(
    "values_and_slopes(Tensor(a!) products, Tensor own_sizes, Tensor sizes, Tensor polynomial,"
    " int first) -> Tensor",
    lambda products, own_sizes, sizes, polynomial, first: products.new_empty(
        *products.shape[:2], 2
    ),
)
def launch_values_and_slopes(
    products: Tensor, own_sizes: Tensor, sizes: Tensor, polynomial: Tensor, first: int
) -> Tensor:
    """Scaled products [V, n, N] of rows ``first`` to ``first + n`` with all, and squared lengths
    [V, n] and [V, N] -> slopes in place of the products; each row's sums of value and slope."""
    views, rows, samples = products.shape
    out = products.new_empty(views, rows, 2)
    values_and_slopes[(rows, views)](
        products,
        own_sizes,
        sizes,
        polynomial,
        out,
        first,
        rows,
        samples,
        TERMS=len(polynomial),
        COLUMNS=COLUMNS,
    )
    return out


def sums_over_pairs(
    everyone: Tensor, scale: float, polynomial: Tensor, first: int, count: int, rows: int
) -> tuple[Tensor, Tensor]:
    """Each own row's sum of k over all samples, and the gradient of that sum by the row, halved.

    Args:
        everyone: [V, N, D], all rows.
        scale: of the squared distance.
        polynomial: float32, of k.
        first: the first own row.
        count: n, how many follow.
        rows: so many at a time.

    Returns:
        [V, n] and [V, n, D].
    """
    # Pairs do not change with a shift, but what rounding does to them: about the mean it is least.
    middle = everyone.mean(1, keepdim=True)
    columns = (everyone - middle).mul_(scale**0.5)
    sizes = columns.square().sum(-1)
    values, gradients = [], []
    for start in range(first, first + count, rows):
        part = slice(start, min(start + rows, first + count))
        slopes = columns[:, part] @ columns.mT
        found = launch_values_and_slopes(
            slopes, sizes[:, part].contiguous(), sizes, polynomial, start
        )
        values.append(found[..., 0])
        own = columns[:, part] * found[..., 1:]
        gradients.append(torch.baddbmm(own, slopes, columns, alpha=-1))
    return torch.cat(values, 1), torch.cat(gradients, 1).mul_(2 * scale**0.5)
