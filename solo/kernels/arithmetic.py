"""Functions that kernels share."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def sine_and_cosine(x):
    """To 1e-7 for |x| up to 10^4, without the slow path of the library's: float32.

    Multiples of pi / 2 are taken off in three parts (Cody & Waite 1980); on what is left, Taylor
    polynomials economised to degree 7 and 8.
    """
    quarter = tl.floor(x * 0.636619772 + 0.5)
    r = x - quarter * 1.5703125
    r = r - quarter * 4.837512969970703e-4
    r = r - quarter * 7.549789954891882e-8
    r2 = r * r
    sine = r + r * r2 * (-1.6666654611e-1 + r2 * (8.3321608736e-3 - r2 * 1.9515295891e-4))
    cosine = (
        1.0
        - 0.5 * r2
        + r2 * r2 * (4.166664568e-2 + r2 * (-1.388731625e-3 + r2 * 2.443315711809948e-5))
    )
    turn = quarter.to(tl.int32) & 3
    odd = (turn & 1) == 1
    s = tl.where(odd, cosine, sine)
    c = tl.where(odd, sine, cosine)
    s = tl.where(turn >= 2, -s, s)
    c = tl.where((turn == 1) | (turn == 2), -c, c)
    return s, c


@triton.jit
def two_normals(i, j):
    """Of two random integers, by Box & Muller (1958); their size is at most 5.7."""
    size = tl.sqrt(-2.0 * tl.log(tl.maximum(tl.uint_to_uniform_float(i), 1e-7)))
    s, c = sine_and_cosine(6.283185307179586 * tl.uint_to_uniform_float(j))
    return size * c, size * s
