"""Views of a batch: crop, colours, blur, solarization and equalization in a few launches.

What is done to each view is a row of numbers on the device (``solo.data.packing`` makes it), so
that the host neither waits nor decides. The tensor code beside it is ``solo.data.operations``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from solo.kernels.loading import operator
from solo.kernels.pixels import (
    EQUALIZE,
    NUMBERS,
    SIGMA,
    changed_before,
    cropped,
    loaded_colors,
    luminance,
    store_colors,
    stored,
)

TAPS = 13
"""Of a blur; small views allow fewer."""

PIXELS = 1024
"""Of a program; a view of up to four times as many is one program's."""


@triton.jit
def crop_and_color(
    images_ptr,
    indices_ptr,
    rows_ptr,
    out_ptr,
    sums_ptr,
    batch,
    height,
    width,
    channels,
    TALL: tl.constexpr,
    WIDE: tl.constexpr,
    CROP: tl.constexpr,
    RAGGED: tl.constexpr,
    WHOLE: tl.constexpr,
    LAST: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """Images -> out [n, 3, TALL, WIDE], a program a view (WHOLE) or a part of one.

    RAGGED: indices are [batch, 3], where each image begins, its height and its width.

    A part of a view stops before the contrast and leaves its sum of luminances in sums [n, parts].
    """
    view = tl.program_id(0)
    pixel = tl.program_id(1) * PIXELS + tl.arange(0, PIXELS)
    mask = pixel < TALL * WIDE
    row_ptr = rows_ptr + view * NUMBERS
    place = view.to(tl.int64) * 3 * TALL * WIDE
    if RAGGED:
        place_ptr = indices_ptr + view % batch * 3
        tall = tl.load(place_ptr + 1).to(tl.int32)
        wide = tl.load(place_ptr + 2).to(tl.int32)
        image_ptr = images_ptr + tl.load(place_ptr)
        red, green, blue = cropped(
            image_ptr,
            row_ptr,
            pixel // WIDE,
            pixel % WIDE,
            mask,
            tall,
            wide,
            tall * wide,
            TALL,
            WIDE,
        )
    elif CROP:
        plane = tl.where(channels == 1, 0, height * width)
        image = tl.load(indices_ptr + view % batch)
        image_ptr = images_ptr + image * channels * height * width
        red, green, blue = cropped(
            image_ptr, row_ptr, pixel // WIDE, pixel % WIDE, mask, height, width, plane, TALL, WIDE
        )
    else:
        red, green, blue = loaded_colors(images_ptr + place, pixel, mask, TALL * WIDE)
    red, green, blue = changed_before(row_ptr, 0.0, red, green, blue, False)
    total = tl.sum(tl.where(mask, luminance(red, green, blue), 0.0), 0)
    if WHOLE:
        mean = total / (TALL * WIDE)
        red, green, blue = changed_before(row_ptr, mean, red, green, blue, True)
    else:
        tl.store(sums_ptr + view * tl.num_programs(1) + tl.program_id(1), total)
    store_colors(out_ptr + place, pixel, row_ptr, red, green, blue, mask, TALL * WIDE, LAST)


@triton.jit
def color_on(
    x_ptr,
    rows_ptr,
    sums_ptr,
    out_ptr,
    TALL: tl.constexpr,
    WIDE: tl.constexpr,
    PARTS: tl.constexpr,
    LAST: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """What ``crop_and_color`` left: the contrast, and what comes after it."""
    view = tl.program_id(0)
    pixel = tl.program_id(1) * PIXELS + tl.arange(0, PIXELS)
    mask = pixel < TALL * WIDE
    row_ptr = rows_ptr + view * NUMBERS
    part = tl.arange(0, PARTS)
    there = part < tl.num_programs(1)
    sums = tl.load(sums_ptr + view * tl.num_programs(1) + part, there, other=0.0)
    mean = tl.sum(sums, 0) / (TALL * WIDE)
    place = view.to(tl.int64) * 3 * TALL * WIDE
    red, green, blue = loaded_colors(x_ptr + place, pixel, mask, TALL * WIDE)
    red, green, blue = changed_before(row_ptr, mean, red, green, blue, True)
    store_colors(out_ptr + place, pixel, row_ptr, red, green, blue, mask, TALL * WIDE, LAST)


@triton.jit
def blur_an_axis(
    x_ptr,
    rows_ptr,
    out_ptr,
    TALL: tl.constexpr,
    WIDE: tl.constexpr,
    STRIDE: tl.constexpr,
    LENGTH: tl.constexpr,
    REACH: tl.constexpr,
    LAST: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """Blur along rows (STRIDE 1) or columns (STRIDE WIDE), mirrored at the edges."""
    plane = tl.program_id(0)
    pixel = tl.program_id(1) * PIXELS + tl.arange(0, PIXELS)
    mask = pixel < TALL * WIDE
    row_ptr = rows_ptr + plane // 3 * NUMBERS
    sigma = tl.load(row_ptr + SIGMA)
    x_ptr += plane.to(tl.int64) * TALL * WIDE
    if sigma > 0:
        at = pixel // STRIDE % LENGTH
        across = pixel - at * STRIDE
        value = tl.zeros((PIXELS,), tl.float32)
        total = 0.0
        for tap in tl.static_range(2 * REACH + 1):
            offset = tap - REACH
            weight = tl.exp(-0.5 * offset * offset / (sigma * sigma))
            source = tl.abs(at + offset)
            source = tl.where(source >= LENGTH, 2 * (LENGTH - 1) - source, source)
            value += weight * tl.load(x_ptr + across + source * STRIDE, mask, other=0.0)
            total += weight
        value = value / total
    else:
        value = tl.load(x_ptr + pixel, mask, other=0.0)
    place = plane.to(tl.int64) * TALL * WIDE + pixel
    stored(out_ptr, place, row_ptr, value, mask, LAST)


@triton.jit
def equalize_planes(
    x_ptr, rows_ptr, tables_ptr, TALL: tl.constexpr, WIDE: tl.constexpr, PIXELS: tl.constexpr
):
    """Spread the histogram of each plane of the views that ask for it, in place: uint8."""
    plane = tl.program_id(0)
    if tl.load(rows_ptr + plane // 3 * NUMBERS + EQUALIZE) > 0:
        x_ptr += plane.to(tl.int64) * TALL * WIDE
        level = tl.arange(0, 256)
        counts = tl.zeros((256,), tl.int32)
        for first in range(0, TALL * WIDE, PIXELS):
            pixel = first + tl.arange(0, PIXELS)
            mask = pixel < TALL * WIDE
            counts += tl.histogram(tl.load(x_ptr + pixel, mask, other=0).to(tl.int32), 256)
        beyond = (TALL * WIDE + PIXELS - 1) // PIXELS * PIXELS - TALL * WIDE  # counted as zeros
        counts = tl.where(level == 0, counts - beyond, counts)
        highest = tl.max(tl.where(counts > 0, level, 0), 0)
        step = (TALL * WIDE - tl.sum(tl.where(level == highest, counts, 0), 0)) // 255
        safe = tl.maximum(step, 1)
        table = tl.minimum((tl.cumsum(counts, 0) - counts + safe // 2) // safe, 255)
        table = tl.where(step > 0, table, level)
        tl.store(tables_ptr + plane * 256 + level, table.to(tl.uint8))
        tl.debug_barrier()
        for first in range(0, TALL * WIDE, PIXELS):
            pixel = first + tl.arange(0, PIXELS)
            mask = pixel < TALL * WIDE
            old = tl.load(x_ptr + pixel, mask, other=0).to(tl.int32)
            tl.store(x_ptr + pixel, tl.load(tables_ptr + plane * 256 + old, mask, other=0), mask)


def _empty(plan: Tensor, size: Sequence[int], last: bool) -> Tensor:
    return plan.new_empty(len(plan), 3, *size, dtype=torch.uint8 if last else torch.float32)


def _parts(size: Sequence[int]) -> int:
    """Programs of a view: 1 where it can be held whole."""
    pixels = math.prod(size)
    return 1 if pixels <= 4 * PIXELS else triton.cdiv(pixels, PIXELS)


@operator(
    "crop_and_color(Tensor images, Tensor? indices, Tensor plan, int[] size, bool last)"
    " -> (Tensor, Tensor)",
    lambda images, indices, plan, size, last: (
        _empty(plan, size, last),
        plan.new_empty(len(plan), _parts(size)),
    ),
)
def launch_crop_and_color(
    images: Tensor, indices: Tensor | None, plan: Tensor, size: Sequence[int], last: bool
) -> tuple[Tensor, Tensor]:
    """uint8 [m, 1 or 3, H, W], of which each view takes one, or images of different sizes one after
    the other (indices [B, 3]: where, height, width), or (no indices) its crops [n, 3, h, w]
    -> views [n, 3, h, w], and sums of luminance for :func:`launch_color_on` where views are large.
    ``last``: nothing is left to be done, so that they are uint8.
    """
    parts = _parts(size)
    out = _empty(plan, size, last)
    sums = plan.new_empty(len(plan), parts)
    ragged = indices is not None and indices.ndim == 2
    channels, height, width = (3, 0, 0) if ragged else images.shape[1:]
    tall, wide = size
    pixels = triton.next_power_of_2(tall * wide) if parts == 1 else PIXELS
    crop_and_color[(len(plan), parts)](
        images,
        images if indices is None else indices,
        plan,
        out,
        sums,
        1 if indices is None else len(indices),
        height,
        width,
        channels,
        TALL=tall,
        WIDE=wide,
        CROP=indices is not None,
        RAGGED=ragged,
        WHOLE=parts == 1,
        LAST=last,
        PIXELS=pixels,
        num_warps=max(4, pixels // 256),  # so many pixels a thread that none spills
    )
    return out, sums


@operator(
    "color_on(Tensor x, Tensor plan, Tensor sums, bool last) -> Tensor",
    lambda x, plan, sums, last: _empty(plan, x.shape[-2:], last),
)
def launch_color_on(x: Tensor, plan: Tensor, sums: Tensor, last: bool) -> Tensor:
    """Float32 [n, 3, h, w] and what is left of their sums -> colours done."""
    (tall, wide), parts = x.shape[-2:], sums.shape[1]
    out = _empty(plan, (tall, wide), last)
    color_on[(len(plan), parts)](
        x,
        plan,
        sums,
        out,
        TALL=tall,
        WIDE=wide,
        PARTS=triton.next_power_of_2(parts),
        LAST=last,
        PIXELS=PIXELS,
    )
    return out


@operator(
    "blur_an_axis(Tensor x, Tensor plan, bool vertical) -> Tensor",
    lambda x, plan, vertical: _empty(plan, x.shape[-2:], vertical),
)
def launch_blur(x: Tensor, plan: Tensor, vertical: bool) -> Tensor:
    """Float32 [n, 3, h, w] -> the same along the rows, then (vertical) uint8, all done."""
    tall, wide = x.shape[-2:]
    length = tall if vertical else wide
    out = _empty(plan, (tall, wide), vertical)
    pixels = min(PIXELS, triton.next_power_of_2(tall * wide))
    blur_an_axis[(3 * len(plan), triton.cdiv(tall * wide, pixels))](
        x,
        plan,
        out,
        TALL=tall,
        WIDE=wide,
        STRIDE=wide if vertical else 1,
        LENGTH=length,
        REACH=min(TAPS // 2, (length - 1) // 2),
        LAST=vertical,
        PIXELS=pixels,
    )
    return out


@operator(
    "equalize_planes(Tensor(a!) x, Tensor plan) -> ()",
    lambda x, plan: None,
)
def launch_equalize(x: Tensor, plan: Tensor) -> None:
    """Uint8 [n, 3, h, w], in place."""
    tall, wide = x.shape[-2:]
    tables = x.new_empty(3 * len(plan), 256)
    pixels = min(PIXELS, triton.next_power_of_2(tall * wide))
    equalize_planes[(3 * len(plan),)](x, plan, tables, TALL=tall, WIDE=wide, PIXELS=pixels)


def fused_views(
    images: Tensor,
    indices: Tensor | None,
    plan: Tensor,
    size: Sequence[int],
    *,
    blurs: bool,
    equalizes: bool,
) -> Tensor:
    """uint8 views [n, 3, *size] of images, or of crops where there are no indices.

    Args:
        images: uint8 [m, 1 or 3, H, W], contiguous; or images [3, H, W] one after the other.
        indices: int64 [B]; view i is of image ``indices[i % B]``. Or [B, 3]: where each of the
            latter begins, its height and its width.
        plan: float32 [n, NUMBERS].
        size: height and width of the views.
        blurs: whether any view of the batch is blurred.
        equalizes: likewise.
    """
    whole = _parts(size) == 1
    x, sums = launch_crop_and_color(images, indices, plan, size, whole and not blurs)
    if not whole:
        x = launch_color_on(x, plan, sums, not blurs)
    if blurs:
        x = launch_blur(launch_blur(x, plan, False), plan, True)
    if equalizes:
        launch_equalize(x, plan)
    result: Tensor = x
    return result
