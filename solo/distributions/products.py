"""The characteristic function of a product distribution along slices: ``prod_j phi(t c_j)``.

phi is that of one coordinate, c a slice. Two ways to evaluate it for many slices: a short expansion
of its logarithm, and, where phi comes near zero, a table of phi itself.

Shapes: D coordinates, K slices, T frequencies, M terms.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import special
from torch import Tensor

from solo.distributions.generalized_gaussian import GeneralizedGaussian
from solo.distributions.placed import Placed

# A random slice has a coordinate beyond `reach` with this probability; it is cut off there.
BEYOND_REACH = 1e-9

# Intervals of the table of phi: linear between them, its error is below 1e-6 a coordinate.
TABLE_SIZE = 2**12

# Below this |phi|, its logarithm swings too much for a short expansion.
SMALLEST_PHI = 1e-3

# Longest expansion: beyond it, the product from a table costs no more.
MAX_TERMS = 48

# log phi(s) / s^2 is blended to its limit below this share of the interval: the division would
# amplify rounding there.
NEAR_ZERO = 1 / 256

# Points at which an expansion is fitted and its error taken: many times MAX_TERMS.
FIT_POINTS = 1025

# The weight of Chebyshev's nodes is infinite at the end of the interval; it is taken just inside.
INSIDE = 0.999

# Numbers in work at a time while sums over coordinates are formed: they should stay in the cache.
CHUNK, GPU_CHUNK = 2**18, 2**26


def product_characteristic_function(
    target: GeneralizedGaussian, frequencies: np.ndarray, dim: int, tolerance: float = 1e-4
) -> ExpandedProduct | TabulatedProduct:
    """The cheaper way that is within the tolerance, or else the table.

    Args:
        target: the distribution of each coordinate.
        frequencies: t, float64 [T], ascending from 0.
        dim: D.
        tolerance: wanted ``error_bound``.
    """
    table = TabulatedProduct(target, frequencies, dim)
    if np.abs(table.phi).min() <= SMALLEST_PHI:
        return table
    expanded = ExpandedProduct(table, tolerance)
    return expanded if expanded.error_bound <= tolerance else table


class TabulatedProduct:
    """The product of characteristic functions, each factor from a table of phi.

    Args:
        target: the distribution of each coordinate.
        frequencies: t, float64 [T], ascending from 0.
        dim: D.

    Attributes:
        error_bound: by how much a value can be off, for slices with all ``|c_j| <= reach``.
    """

    def __init__(self, target: GeneralizedGaussian, frequencies: np.ndarray, dim: int) -> None:
        self.target, self.frequencies = target, frequencies
        self.reach = 1.0
        if dim > 1:  # c_j^2 is Beta(1/2, (D - 1) / 2)
            level = special.betainccinv(0.5, (dim - 1) / 2, BEYOND_REACH / dim)
            self.reach = float(level) ** 0.5
        self.end = float(frequencies[-1] * self.reach)
        self.grid = np.linspace(0, self.end, TABLE_SIZE + 1)
        self.phi = target.characteristic_function(torch.from_numpy(self.grid)).numpy()
        self._table = Placed(np.stack((self.phi.real, self.phi.imag), axis=-1))
        # Linear interpolation: h^2 / 8 |phi''| a factor, and |phi''| <= E X^2.
        second = target.variance + target.mean**2
        self.error_bound = float((self.end / TABLE_SIZE) ** 2 / 8 * second * dim)

    @torch.no_grad()
    def __call__(self, slices: Tensor) -> Tensor:
        """Unit rows [K, D] -> real and imaginary parts [2, T, K], without gradient."""
        return torch.cat([self._evaluate(part) for part in _chunks(slices)], dim=-1)

    def _evaluate(self, slices: Tensor) -> Tensor:
        (table,) = self._table.at(slices.device, torch.float64)
        step = self.end / TABLE_SIZE
        values = []
        for t in self.frequencies:
            place = (slices.double().abs() * (t / step)).clamp_(max=TABLE_SIZE - 1e-9)
            low = place.floor().long()
            factor = torch.lerp(table[low], table[low + 1], (place - low).unsqueeze(-1))
            factor[..., 1] *= slices.sign()  # phi(-s) is the conjugate of phi(s)
            product = torch.view_as_complex(factor).prod(-1)
            values.append(torch.view_as_real(product))
        return torch.stack(values).permute(2, 0, 1).to(slices.dtype)


class ExpandedProduct:
    """The product's logarithm, a sum over coordinates of one smooth function, expanded.

    The logarithm of phi(t c) is replaced by ``i mean t c + c^2 g_t(c)`` with a Chebyshev expansion
    of g_t, M terms. (With a Taylor expansion these would be the cumulants; Chebyshev's holds on an
    interval, and for targets whose cumulant series diverges.) What is left to compute are M sums
    over coordinates a slice, for all frequencies alike, and a [T, M] by [M, K] product.

    As ``sum_j c_j^2 = 1``, the error of the logarithm is at most the error of g, so that the
    result is off by at most ``error_bound``, for any slice with all ``|c_j| <= reach``.

    Args:
        table: phi, nowhere near zero.
        tolerance: wanted ``error_bound``; with MAX_TERMS terms it may still be above it.

    Attributes:
        coefficients: complex [T, M].
    """

    def __init__(self, table: TabulatedProduct, tolerance: float) -> None:
        self.frequencies, self.reach = table.frequencies, table.reach
        self.mean = table.target.mean
        u = np.linspace(0, 1, FIT_POINTS)
        g = self._ratio(table, self.frequencies[:, None] * self.reach * u)
        g *= self.frequencies[:, None] ** 2
        # Least squares at points as dense as Chebyshev nodes, over both signs of c by symmetry.
        weight = 1 / np.sqrt(np.sqrt(1 - (u * INSIDE) ** 2))
        for terms in range(2, MAX_TERMS + 1, 2):
            basis = np.polynomial.chebyshev.chebvander(u, terms - 1)
            fits = []
            for part, values in ((basis[:, 0::2], g.real), (basis[:, 1::2], g.imag)):
                solution = np.linalg.lstsq(part * weight[:, None], (values * weight).T, rcond=None)
                fits.append(solution[0].T)
            error = np.abs(fits[0] @ basis[:, 0::2].T + 1j * fits[1] @ basis[:, 1::2].T - g).max()
            self.error_bound = math.expm1(error)
            if self.error_bound <= tolerance:
                break
        self.coefficients = np.zeros((len(self.frequencies), terms), dtype=complex)
        self.coefficients[:, 0::2] = fits[0]
        self.coefficients[:, 1::2] = 1j * fits[1]
        shift = self.mean * self.frequencies[:, None]
        self._constants = Placed(self.coefficients.real, self.coefficients.imag, shift)

    def _ratio(self, table: TabulatedProduct, at: np.ndarray) -> np.ndarray:
        """(log phi(s) - i mean s) / s^2, by which g_t(c) = t^2 ratio(t c)."""
        grid, phi, variance = table.grid, table.phi, table.target.variance
        log_phi = np.log(np.abs(phi)) + 1j * np.unwrap(np.angle(phi))
        centred = log_phi - 1j * self.mean * grid
        first = grid[-1] * NEAR_ZERO
        safe = np.maximum(grid, first)
        ratio = np.interp(safe, grid, centred.real) + 1j * np.interp(safe, grid, centred.imag)
        ratio /= safe**2
        near = grid < first
        blend = grid[near] / first
        edge = ratio[np.flatnonzero(~near)[0]]
        # Its limit is -variance / 2; the real part is even (quadratic near 0), the imaginary odd.
        ratio[near] = -variance / 2 + (edge.real + variance / 2) * blend**2 + 1j * edge.imag * blend
        return np.interp(at, grid, ratio.real) + 1j * np.interp(at, grid, ratio.imag)

    @torch.no_grad()
    def __call__(self, slices: Tensor) -> Tensor:
        """Unit rows [K, D] -> real and imaginary parts [2, T, K], without gradient."""
        return torch.cat([self._evaluate(part) for part in _chunks(slices)], dim=-1)

    def _evaluate(self, slices: Tensor) -> Tensor:
        return self.of_sums(*self.sums(slices))

    def sums(self, slices: Tensor) -> tuple[Tensor, Tensor]:
        """``sum_j c_j^2 T_m(c_j / reach)``, [M, K], and ``sum_j c_j``, [K]."""
        # By the recurrence of Chebyshev polynomials.
        doubled = (slices * (2 / self.reach)).clamp_(-2, 2)
        older = slices.square()
        newer = older * doubled / 2
        sums = [older.sum(-1), newer.sum(-1)]
        for _ in range(2, self.coefficients.shape[-1]):
            older, newer = newer, torch.addcmul(older.neg_(), newer, doubled, out=older)
            sums.append(newer.sum(-1))
        return torch.stack(sums), slices.sum(-1)

    @torch.no_grad()
    def of_sums(self, basis: Tensor, total: Tensor) -> Tensor:
        """What :meth:`sums` gives -> real and imaginary parts [2, T, K]."""
        real, imaginary, shift = self._constants.at(basis.device, basis.dtype)
        phase = torch.addcmul(imaginary @ basis, shift, total)
        size = (real @ basis).exp()
        return torch.stack((size * phase.cos(), size * phase.sin()))


def _chunks(slices: Tensor) -> tuple[Tensor, ...]:
    chunk = GPU_CHUNK if slices.is_cuda else CHUNK
    return slices.split(max(1, chunk // slices.shape[-1]))
