"""What kernels do to a pixel of a view, and to its neighbours: crop and colours."""

from __future__ import annotations

import triton
import triton.language as tl

from solo.kernels import rows

TOP, LEFT, HEIGHT, WIDTH, FLIP = map(
    tl.constexpr, (rows.TOP, rows.LEFT, rows.HEIGHT, rows.WIDTH, rows.FLIP)
)
SLOTS, CHANGES, FACTORS, CONTRAST_SLOT = map(
    tl.constexpr, (rows.SLOTS, rows.CHANGES, rows.FACTORS, rows.CONTRAST_SLOT)
)
SIGMA, SOLARIZE, EQUALIZE, NUMBERS = map(
    tl.constexpr, (rows.SIGMA, rows.SOLARIZE, rows.EQUALIZE, rows.NUMBERS)
)
BRIGHTNESS, CONTRAST, SATURATION, HUE, GRAY = map(
    tl.constexpr, (rows.BRIGHTNESS, rows.CONTRAST, rows.SATURATION, rows.HUE, rows.GRAY)
)


@triton.jit
def cubic(x):
    """Keys' kernel with a = -0.5, at |x|."""
    inner = (1.5 * x - 2.5) * x * x + 1.0
    outer = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return tl.where(x < 1.0, inner, tl.where(x < 2.0, outer, 0.0))


@triton.jit
def luminance(red, green, blue):
    return 0.2989 * red + 0.587 * green + 0.114 * blue


@triton.jit
def clamped(x):
    return tl.minimum(tl.maximum(x, 0.0), 255.0)


@triton.jit
def turned(offset, sixths, top, chroma):
    """A channel of the colour whose hue is ``sixths`` of a turn."""
    k = sixths + offset
    k = k - 6.0 * tl.floor(k / 6.0)
    return top - clamped_to_one(tl.minimum(k, 4.0 - k)) * chroma


@triton.jit
def clamped_to_one(x):
    return tl.minimum(tl.maximum(x, 0.0), 1.0)


@triton.jit
def changed(change, factor, mean, red, green, blue):
    """One change of a view's colours; ``mean`` is what contrast blends with."""
    if change == BRIGHTNESS:
        red = clamped(red * factor)
        green = clamped(green * factor)
        blue = clamped(blue * factor)
    elif change == CONTRAST:
        red = clamped(mean + (red - mean) * factor)
        green = clamped(mean + (green - mean) * factor)
        blue = clamped(mean + (blue - mean) * factor)
    elif change == SATURATION:
        gray = luminance(red, green, blue)
        red = clamped(gray + (red - gray) * factor)
        green = clamped(gray + (green - gray) * factor)
        blue = clamped(gray + (blue - gray) * factor)
    elif change == HUE:
        top = tl.maximum(tl.maximum(red, green), blue)
        chroma = top - tl.minimum(tl.minimum(red, green), blue)
        safe = tl.maximum(chroma, 1e-6)
        sixths = tl.where(
            top == red,
            (green - blue) / safe,
            tl.where(top == green, (blue - red) / safe + 2.0, (red - green) / safe + 4.0),
        )
        sixths = sixths + 6.0 * factor
        red = turned(5.0, sixths, top, chroma)
        green = turned(3.0, sixths, top, chroma)
        blue = turned(1.0, sixths, top, chroma)
    elif change == GRAY:
        gray = luminance(red, green, blue)
        red = gray
        green = gray
        blue = gray
    return red, green, blue


@triton.jit
def changed_before(row_ptr, mean, red, green, blue, AFTER: tl.constexpr):
    """Changes before the contrast; with AFTER, it and those after it."""
    contrast_slot = tl.load(row_ptr + CONTRAST_SLOT)
    for slot in tl.static_range(SLOTS):
        change = tl.load(row_ptr + CHANGES + slot)
        if (slot >= contrast_slot) == AFTER:
            factor = tl.load(row_ptr + FACTORS + slot)
            red, green, blue = changed(change, factor, mean, red, green, blue)
    return red, green, blue


@triton.jit
def cropped(
    image_ptr,
    row_ptr,
    y,
    x,
    mask,
    height,
    width,
    plane,
    TALL: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Pixels of the resized box: bicubic, antialiased, flipped where the row says so."""
    top = tl.load(row_ptr + TOP).to(tl.int32)
    left = tl.load(row_ptr + LEFT).to(tl.int32)
    tall = tl.load(row_ptr + HEIGHT)
    wide = tl.load(row_ptr + WIDTH)
    x = tl.where(tl.load(row_ptr + FLIP) > 0, WIDE - 1 - x, x)
    scale_y = tall / TALL
    scale_x = wide / WIDE
    stretch_y = tl.maximum(scale_y, 1.0)
    stretch_x = tl.maximum(scale_x, 1.0)
    centre_y = (y.to(tl.float32) + 0.5) * scale_y
    centre_x = (x.to(tl.float32) + 0.5) * scale_x
    first_y = tl.floor(centre_y - 2.0 * stretch_y).to(tl.int32)
    first_x = tl.floor(centre_x - 2.0 * stretch_x).to(tl.int32)
    taps_y = tl.ceil(4.0 * stretch_y).to(tl.int32) + 1
    taps_x = tl.ceil(4.0 * stretch_x).to(tl.int32) + 1
    red = centre_x * 0.0
    green = red
    blue = red
    total = red
    for i in range(taps_y):
        row = first_y + i
        weight_y = cubic(tl.abs(row.to(tl.float32) + 0.5 - centre_y) / stretch_y)
        in_y = (row >= 0) & (row < tall)
        for j in range(taps_x):
            column = first_x + j
            weight = weight_y * cubic(tl.abs(column.to(tl.float32) + 0.5 - centre_x) / stretch_x)
            inside = in_y & (column >= 0) & (column < wide) & mask
            weight = tl.where(inside, weight, 0.0)
            place = image_ptr + (top + row) * width + left + column
            red += weight * tl.load(place, inside, other=0).to(tl.float32)
            green += weight * tl.load(place + plane, inside, other=0).to(tl.float32)
            blue += weight * tl.load(place + 2 * plane, inside, other=0).to(tl.float32)
            total += weight
    safe = tl.where(mask, total, 1.0)
    return clamped(red / safe), clamped(green / safe), clamped(blue / safe)


@triton.jit
def loaded_colors(view_ptr, pixel, mask, PLANE: tl.constexpr):
    """Red, green and blue of a view of PLANE pixels, as float32."""
    place = view_ptr + pixel
    red = tl.load(place, mask, other=0).to(tl.float32)
    green = tl.load(place + PLANE, mask, other=0).to(tl.float32)
    blue = tl.load(place + 2 * PLANE, mask, other=0).to(tl.float32)
    return red, green, blue


@triton.jit
def store_colors(
    view_ptr, pixel, row_ptr, red, green, blue, mask, PLANE: tl.constexpr, LAST: tl.constexpr
):
    """Into a view of PLANE pixels, each as ``stored`` does."""
    stored(view_ptr, pixel, row_ptr, red, mask, LAST)
    stored(view_ptr, pixel + PLANE, row_ptr, green, mask, LAST)
    stored(view_ptr, pixel + 2 * PLANE, row_ptr, blue, mask, LAST)


@triton.jit
def stored(out_ptr, place, row_ptr, value, mask, LAST: tl.constexpr):
    """As it is, or solarized and rounded."""
    if LAST:
        if tl.load(row_ptr + SOLARIZE) > 0:
            value = tl.where(value >= 127.5, 255.0 - value, value)
        rounded = (clamped(value) + 12582912.0) - 12582912.0  # 1.5 x 2^23: halves to even
        tl.store(out_ptr + place, rounded.to(tl.uint8), mask)
    else:
        tl.store(out_ptr + place, value, mask)
