"""The empirical characteristic function on an equally spaced grid, and its gradient.

One read of each value, one sine and cosine of it; powers and sums stay in registers. The tensor
code beside it is ``solo.univariate.characteristic``.
"""

# mypy: disable-error-code="assignment, misc"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from solo.kernels.arithmetic import sine_and_cosine
from solo.kernels.loading import operator

ROWS, COLUMNS = 8, 32
"""A tile: one value a thread."""

ROWS_OF_A_PROGRAM = 256
"""Of the gradient."""


@triton.jit
def means_of_powers(
    x_ptr, out_ptr, samples, width, spacing, T: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr
):
    """x [V, N, K] -> out [2, V, T, K]; a program has BK columns of one entry of the batch."""
    entry = tl.program_id(1).to(tl.int64)
    columns = tl.program_id(0) * BK + tl.arange(0, BK)
    inside = columns < width
    real = ()
    imaginary = ()
    for _ in tl.static_range(T - 1):
        real = real + (tl.zeros((BN, BK), tl.float32),)
        imaginary = imaginary + (tl.zeros((BN, BK), tl.float32),)
    x_ptr += entry * samples * width
    for first in range(0, samples, BN):
        rows = first + tl.arange(0, BN)
        mask = (rows < samples)[:, None] & inside[None, :]
        x = tl.load(x_ptr + rows[:, None].to(tl.int64) * width + columns[None, :], mask, other=0.0)
        s1, c1 = sine_and_cosine(x * spacing)
        s1 = tl.where(mask, s1, 0.0)
        c1 = tl.where(mask, c1, 0.0)
        c = c1
        s = s1
        more_real = ()
        more_imaginary = ()
        for k in tl.static_range(T - 1):
            more_real = more_real + (real[k] + c,)
            more_imaginary = more_imaginary + (imaginary[k] + s,)
            following = c * c1 - s * s1
            s = c * s1 + s * c1
            c = following
        real = more_real
        imaginary = more_imaginary
    out_ptr += entry * T * width + columns
    other_ptr = out_ptr + tl.num_programs(1).to(tl.int64) * T * width
    ones = tl.full((BK,), 1.0, tl.float32)
    tl.store(out_ptr, ones, inside)
    tl.store(other_ptr, ones - ones, inside)
    for k in tl.static_range(T - 1):
        tl.store(out_ptr + (k + 1) * width, tl.sum(real[k], 0) / samples, inside)
        tl.store(other_ptr + (k + 1) * width, tl.sum(imaginary[k], 0) / samples, inside)


@triton.jit
def gradient_of_means(
    x_ptr,
    grad_ptr,
    out_ptr,
    samples,
    width,
    spacing,
    chunk,
    T: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """x [V, N, K] and grad [2, V, T, K] -> out [V, N, K].

    ``d/dx (g_re cos + g_im sin)(k h x) = k h Re((g_im + i g_re) exp(i k h x))``: a polynomial in
    ``exp(i h x)``, by Horner's rule.
    """
    entry = tl.program_id(1).to(tl.int64)
    columns = tl.program_id(0) * BK + tl.arange(0, BK)
    inside = columns < width
    grad_ptr += entry * T * width + columns
    other_ptr = grad_ptr + tl.num_programs(1).to(tl.int64) * T * width
    scale = spacing / samples
    real = ()
    imaginary = ()
    for k in tl.static_range(1, T):
        real = real + (tl.load(other_ptr + k * width, inside, other=0.0)[None, :] * (k * scale),)
        imaginary = imaginary + (
            tl.load(grad_ptr + k * width, inside, other=0.0)[None, :] * (k * scale),
        )
    x_ptr += entry * samples * width
    out_ptr += entry * samples * width
    start = tl.program_id(2) * chunk
    for first in range(start, min(start + chunk, samples), BN):
        rows = first + tl.arange(0, BN)
        mask = (rows < samples)[:, None] & inside[None, :]
        places = rows[:, None].to(tl.int64) * width + columns[None, :]
        s1, c1 = sine_and_cosine(tl.load(x_ptr + places, mask, other=0.0) * spacing)
        a = tl.zeros((BN, BK), tl.float32)
        b = tl.zeros((BN, BK), tl.float32)
        for k in tl.static_range(T - 1):
            p = a + real[T - 2 - k]
            q = b + imaginary[T - 2 - k]
            a = p * c1 - q * s1
            b = p * s1 + q * c1
        tl.store(out_ptr + places, a, mask)


@operator(
    "means_of_powers(Tensor x, float spacing, int count) -> Tensor",
    lambda x, spacing, count: x.new_empty(2, x.shape[0], count, x.shape[2]),
)
def launch_means(x: Tensor, spacing: float, count: int) -> Tensor:
    """``mean_n exp(i k spacing x_n)``: float32 [V, N, K], contiguous -> [2, V, T, K]."""
    entries, samples, width = x.shape
    out = x.new_empty(2, entries, count, width)
    grid = (triton.cdiv(width, COLUMNS), entries)
    means_of_powers[grid](
        x, out, samples, width, spacing, T=count, BN=ROWS, BK=COLUMNS, num_warps=8
    )
    return out


@operator(
    "gradient_of_means(Tensor x, Tensor grad, float spacing) -> Tensor",
    lambda x, grad, spacing: torch.empty_like(x),
)
def launch_gradient(x: Tensor, grad: Tensor, spacing: float) -> Tensor:
    """Of the means by x: [V, N, K] and [2, V, T, K], contiguous -> [V, N, K]."""
    entries, samples, width = x.shape
    out = torch.empty_like(x)
    grid = (triton.cdiv(width, COLUMNS), entries, triton.cdiv(samples, ROWS_OF_A_PROGRAM))
    gradient_of_means[grid](
        x,
        grad,
        out,
        samples,
        width,
        spacing,
        ROWS_OF_A_PROGRAM,
        T=grad.shape[2],
        BN=ROWS,
        BK=COLUMNS,
        num_warps=8,
    )
    return out
