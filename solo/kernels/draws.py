"""Random numbers from counters: a whole draw in one launch, any part of it on any process.

Each number is a function of (seed, place) by the Philox-4x32-10 generator (Salmon et al. 2011). On
other devices the callers draw with torch's generators, which give other numbers of the same laws.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from solo.distributions import GeneralizedGaussian, RectifiedGeneralizedGaussian
from solo.kernels.arithmetic import two_normals
from solo.kernels.loading import operator

LANES = 512
"""Philox calls of a program at a time; each makes four numbers."""


@triton.jit
def four_normals(seed, a, b):
    """Standard normals for the counter (a, b, 0, 0)."""
    i, j, k, m = tl.philox(seed, a, b, b * 0, b * 0)
    p, q = two_normals(i, j)
    r, s = two_normals(k, m)
    return p, q, r, s


@triton.jit(do_not_specialize=["seed", "start"])
def unit_rows(out_ptr, seed, start, dim, quarter, LANES: tl.constexpr):
    """A row a program: normals, over their length. Lane i makes columns i + (0 … 3) quarter."""
    row = tl.program_id(0)
    counter = (tl.zeros((LANES,), tl.int32) + (start + row)).to(tl.uint32)
    squares = tl.zeros((LANES,), tl.float32)
    for first in range(0, quarter, LANES):
        lane = first + tl.arange(0, LANES)
        a, b, c, d = four_normals(seed, lane.to(tl.uint32), counter)
        inside = lane < quarter
        squares += tl.where(inside, a * a, 0.0)
        squares += tl.where(inside & (lane + quarter < dim), b * b, 0.0)
        squares += tl.where(inside & (lane + 2 * quarter < dim), c * c, 0.0)
        squares += tl.where(inside & (lane + 3 * quarter < dim), d * d, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(squares, 0))
    out_ptr += row.to(tl.int64) * dim
    for first in range(0, quarter, LANES):
        lane = first + tl.arange(0, LANES)
        a, b, c, d = four_normals(seed, lane.to(tl.uint32), counter)
        inside = lane < quarter
        tl.store(out_ptr + lane, a * scale, inside)
        tl.store(out_ptr + lane + quarter, b * scale, inside & (lane + quarter < dim))
        tl.store(out_ptr + lane + 2 * quarter, c * scale, inside & (lane + 2 * quarter < dim))
        tl.store(out_ptr + lane + 3 * quarter, d * scale, inside & (lane + 3 * quarter < dim))


@triton.jit(do_not_specialize=["seed"])
def generalized_gaussians(
    out_ptr,
    seed,
    count,
    p,
    mu,
    sigma,
    NORMAL: tl.constexpr,
    LAPLACE: tl.constexpr,
    RECTIFIED: tl.constexpr,
    LANES: tl.constexpr,
):
    """GN_p(mu, sigma), one a lane; see ``GeneralizedGaussian.sample`` for the transformations."""
    lane = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    low = lane.to(tl.uint32)
    high = (lane >> 32).to(tl.uint32)
    i, j, k, m = tl.philox(seed, low, high, low * 0, low * 0)
    sign = 2.0 * tl.uint_to_uniform_float(m) - 1.0
    if NORMAL:
        unit, _ = two_normals(i, j)
    elif LAPLACE:
        size = -tl.log(tl.maximum(1.0 - tl.abs(sign), 1.1754944e-38))
        unit = tl.where(sign < 0, -size, size)
    else:
        # Gamma(1 + 1/p) by rejection (Marsaglia & Tsang 2000); 19 of 20 tries are taken.
        shape = 1.0 + 1.0 / p - 1.0 / 3.0
        rate = 1.0 / tl.sqrt(9.0 * shape)
        gamma = tl.full((LANES,), -1.0, tl.float32)
        tries = 0
        while tl.min(gamma, 0) < 0 and tries < 32:
            x, _ = two_normals(i, j)
            v = 1.0 + rate * x
            v = v * v * v
            safe = tl.maximum(v, 1e-30)
            bound = 0.5 * x * x + shape - shape * safe + shape * tl.log(safe)
            u = tl.maximum(tl.uint_to_uniform_float(k), 1e-10)
            taken = (gamma < 0) & (v > 0) & (tl.log(u) < bound)
            gamma = tl.where(taken, shape * safe, gamma)
            tries += 1
            i, j, k, m = tl.philox(seed, low, high, low * 0 + tries, low * 0)
        unit = tl.exp(tl.log(tl.abs(gamma) * p) / p) * sign
    value = mu + sigma * unit
    if RECTIFIED:
        value = tl.maximum(value, 0.0)
    tl.store(out_ptr + lane, value, lane < count)


@triton.jit(do_not_specialize=["seed", "start"])
def random_signs(out_ptr, seed, start, dim, BLOCK: tl.constexpr):
    """A row of ±1 a program."""
    row = tl.program_id(0)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    counter = (tl.zeros((BLOCK,), tl.int32) + (start + row)).to(tl.uint32)
    bits, _, _, _ = tl.philox(seed, columns.to(tl.uint32), counter, counter * 0, counter * 0)
    signs = (bits & 1).to(tl.float32) * 2.0 - 1.0
    tl.store(out_ptr + row.to(tl.int64) * dim + columns, signs, columns < dim)


def _rows(like: Tensor, seed: int, start: int, stop: int) -> Tensor:
    """Where a matrix's rows ``start`` to ``stop`` go, as wide as ``like``."""
    return like.new_empty(stop - start, like.shape[-1])


@operator("unit_rows(Tensor like, int seed, int start, int stop) -> Tensor", _rows)
def launch_unit_rows(like: Tensor, seed: int, start: int, stop: int) -> Tensor:
    """Rows ``start`` to ``stop`` of a matrix of uniform unit vectors: [stop - start, D]."""
    out = _rows(like, seed, start, stop)
    count, dim = out.shape
    quarter = triton.cdiv(dim, 4)
    lanes = min(LANES, triton.next_power_of_2(quarter))
    if count:
        unit_rows[(count,)](out, seed, start, dim, quarter, LANES=lanes)
    return out


@operator(
    "generalized_gaussians(Tensor like, int seed, float p, float mu, float sigma, bool rectified)"
    " -> Tensor",
    lambda like, *_: torch.empty_like(like, memory_format=torch.contiguous_format),
)
def launch_generalized_gaussians(
    like: Tensor, seed: int, p: float, mu: float, sigma: float, rectified: bool
) -> Tensor:
    """Independent draws of GN_p(mu, sigma), rectified or not: of ``like``'s shape."""
    out = torch.empty_like(like, memory_format=torch.contiguous_format)
    grid = (triton.cdiv(out.numel(), LANES),)
    flags = {"NORMAL": p == 2, "LAPLACE": p == 1, "RECTIFIED": rectified}
    generalized_gaussians[grid](out, seed, out.numel(), p, mu, sigma, **flags, LANES=LANES)
    return out


@operator("random_signs(Tensor like, int seed, int start, int stop) -> Tensor", _rows)
def launch_random_signs(like: Tensor, seed: int, start: int, stop: int) -> Tensor:
    """Rows ``start`` to ``stop`` of random signs: [stop - start, D]."""
    out = _rows(like, seed, start, stop)
    count, dim = out.shape
    grid = (count, triton.cdiv(dim, LANES))
    random_signs[grid](out, seed, start, dim, BLOCK=LANES)
    return out


def samples_of(target: GeneralizedGaussian, like: Tensor, seed: int) -> Tensor:
    """Independent draws of a target distribution, of ``like``'s shape."""
    rectified = isinstance(target, RectifiedGeneralizedGaussian)
    drawn: Tensor = launch_generalized_gaussians(
        like, seed, target.p, target.mu, target.sigma, rectified
    )
    return drawn
