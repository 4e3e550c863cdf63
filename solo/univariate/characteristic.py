"""The empirical characteristic function on an equally spaced grid, without an [N, K, T] tensor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from solo import kernels

# Frequencies whose sums a kernel can hold in registers.
KERNEL_POINTS = 33

# Complex numbers in work at a time: on a CPU they should stay in the cache.
CPU_CHUNK, GPU_CHUNK = 2**16, 2**24


def empirical_characteristic_function(x: Tensor, spacing: float, count: int) -> Tensor:
    """``mean_n exp(i k spacing x_n)`` for k = 0 … count - 1, of this process's samples.

    As the frequencies are equally spaced, powers of one complex exponential give all of them; the
    backward pass evaluates its polynomial in that exponential by Horner's rule, so that nothing
    of the size of all frequencies is kept.

    Args:
        x: [..., N, K], float32 or float64 (16-bit types are computed as float32).
        spacing: distance of the frequencies.
        count: T, how many there are.

    Returns:
        [2, ..., T, K]: real and imaginary parts; differentiable once.
    """
    if x.dtype in (torch.float16, torch.bfloat16):
        x = x.float()
    value: Tensor = _ECF.apply(x, spacing, count)
    return value


class _ECF(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, spacing: float, count: int) -> Tensor:
        ctx.save_for_backward(x)
        ctx.spacing, ctx.count = spacing, count
        if _fits_a_kernel(x, count):
            from solo.kernels.characteristic import launch_means

            whole = x.reshape(-1, *x.shape[-2:]).contiguous()
            found: Tensor = launch_means(whole, spacing, count)
            return found.view(2, *x.shape[:-2], count, x.shape[-1])
        samples = x.shape[-2]
        result = x.new_empty(2, *x.shape[:-2], count, x.shape[-1])
        result[0].narrow(-2, 0, 1).fill_(1)
        result[1].narrow(-2, 0, 1).zero_()
        flat = result.view(2, -1, count, x.shape[-1])
        for index, columns, base in _chunks(x, spacing):
            power = base.clone()
            for k in range(1, count):
                if k > 1:
                    power.mul_(base)
                mean = power.sum(0).div_(samples)
                flat[0, index, k, columns] = mean.real
                flat[1, index, k, columns] = mean.imag
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        spacing, count = ctx.spacing, ctx.count
        if _fits_a_kernel(x, count):
            from solo.kernels.characteristic import launch_gradient

            whole = x.reshape(-1, *x.shape[-2:]).contiguous()
            upstream = grad.reshape(2, -1, *grad.shape[-2:]).contiguous()
            return launch_gradient(whole, upstream, spacing).view(x.shape), None, None
        result = torch.empty_like(x, memory_format=torch.contiguous_format)
        flat = result.view(-1, *x.shape[-2:])
        # d/dx of (g_re cos + g_im sin)(k h x) is k h Re((g_im + i g_re) exp(i k h x)).
        order = torch.arange(count, dtype=x.dtype, device=x.device)[:, None] * (
            spacing / x.shape[-2]
        )
        coefficients = torch.complex(grad[1] * order, grad[0] * order)
        coefficients = coefficients.view(-1, count, x.shape[-1])
        for index, columns, base in _chunks(x, spacing):
            factors = coefficients[index, :, columns]
            total = base * factors[count - 1] if count > 1 else torch.zeros_like(base)
            for k in range(count - 2, 0, -1):
                total.add_(factors[k]).mul_(base)
            flat[index, :, columns] = total.real
        return result, None, None


def _fits_a_kernel(x: Tensor, count: int) -> bool:
    return 2 <= count <= KERNEL_POINTS and kernels.usable(x)


def _chunks(x: Tensor, spacing: float) -> Iterator[tuple[int, slice, Tensor]]:
    """Blocks of columns of each batch entry, as ``exp(i spacing x)``."""
    limit = GPU_CHUNK if x.is_cuda else CPU_CHUNK
    step = max(16, limit // max(x.shape[-2], 1))
    for index, sample in enumerate(x.reshape(-1, *x.shape[-2:])):
        for start in range(0, x.shape[-1], step):
            columns = slice(start, start + step)
            phase = sample[:, columns] * spacing
            yield index, columns, torch.polar(torch.ones_like(phase), phase)
