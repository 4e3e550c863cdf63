"""RDMReg in closed form: the target's projections are known, so no target sample is drawn.

The target is a product distribution: along a slice c its projection has the characteristic
function ``prod_j phi(t c_j)``, phi that of one coordinate. Distribution matching is therefore also
a one-sample Epps–Pulley test along each slice: nothing to sort, and under DDP only means of
``exp(i t z . c)`` to reduce, instead of a gather of the features.

Shapes: V views, B images on this process, D features, K slices, T frequencies.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import special
from torch import Tensor, nn

from solo import distributed
from solo.distributions import GeneralizedGaussian
from solo.multivariate import random_directions
from solo.univariate import EppsPulley
from solo.univariate.characteristic import empirical_characteristic_function

# Numbers in work at a time while sums over coordinates are formed: they should stay in the cache.
CHUNK = 2**18


class ProjectedCharacteristicFunction:
    """``prod_j phi(t c_j)`` for many slices c at once, phi of one coordinate of the target.

    Its logarithm is a sum over coordinates of one smooth function, which is replaced by
    ``i mean t c_j + c_j^2 g_t(c_j)`` with a Chebyshev expansion of g_t, M terms. (With a Taylor
    expansion these would be the cumulants; Chebyshev's holds on an interval, and for targets whose
    cumulant series diverges.) What is left to compute are M sums over coordinates a slice, for all
    frequencies alike, and a [T, M] by [M, K] product.

    As ``sum_j c_j^2 = 1``, the error of the logarithm is at most the error of g, so that the
    result is off by at most ``error_bound``, for any slice with all ``|c_j| <= reach``; a random
    slice goes beyond with probability 1e-9, and is then cut off there. Where phi comes near zero
    or the expansion is long, the product itself is formed, from a table (``terms`` is 0).

    Args:
        target: the distribution of each coordinate.
        frequencies: t, float64 [T], ascending from 0.
        dim: D.
        tolerance: wanted ``error_bound``.
    """

    max_terms = 48
    table_size = 2**12

    def __init__(
        self,
        target: GeneralizedGaussian,
        frequencies: np.ndarray,
        dim: int,
        tolerance: float = 1e-4,
    ) -> None:
        self.frequencies = frequencies
        self.mean = target.mean
        self.reach = 1.0
        if dim > 1:
            self.reach = float(special.betainccinv(0.5, (dim - 1) / 2, 1e-9 / dim)) ** 0.5
        end = frequencies[-1] * self.reach
        # phi on a fine grid, then interpolated: all the rest asks for it in [0, end].
        grid = np.linspace(0, end, self.table_size + 1)
        phi = target.characteristic_function(torch.from_numpy(grid)).numpy()
        self.table = phi
        self.terms, self.error_bound = 0, np.inf
        if np.abs(phi).min() > 1e-3:
            log_phi = np.log(np.abs(phi)) + 1j * np.unwrap(np.angle(phi))
            self._expand(grid, log_phi - 1j * self.mean * grid, target.variance, tolerance)
        if not self.terms:
            # Linear interpolation: h^2 / 8 |phi''| a factor, and |phi''| <= E X^2.
            second = target.variance + target.mean**2
            self.error_bound = float((end / self.table_size) ** 2 / 8 * second * dim)
            self.coefficients = np.zeros((len(frequencies), 0), dtype=complex)

    def _expand(
        self, grid: np.ndarray, centred: np.ndarray, variance: float, tolerance: float
    ) -> None:
        """Find the shortest expansion whose error is below the tolerance.

        ``centred`` is log phi(s) - i mean s on the grid; g_t(c) = centred(t c) / c^2.
        """
        # centred(s) / s^2, by which g_t(c) = t^2 ratio(t c); its limit at 0 is -variance / 2.
        safe = np.maximum(grid, grid[-1] / 256)
        ratio = np.interp(safe, grid, centred.real) + 1j * np.interp(safe, grid, centred.imag)
        ratio /= safe**2
        near = grid < grid[-1] / 256
        blend = grid[near] / (grid[-1] / 256)
        edge = ratio[np.flatnonzero(~near)[0]]
        # Real part even (quadratic near 0), imaginary part odd (linear).
        ratio[near] = -variance / 2 + (edge.real + variance / 2) * blend**2 + 1j * edge.imag * blend
        u = np.linspace(0, 1, 1025)
        scaled = self.frequencies[:, None] * self.reach * u
        g = np.interp(scaled, grid, ratio.real) + 1j * np.interp(scaled, grid, ratio.imag)
        g *= self.frequencies[:, None] ** 2
        # Least squares at points as dense as Chebyshev nodes, over both signs of c by symmetry.
        weight = 1 / np.sqrt(np.sqrt(1 - (u * 0.999) ** 2))
        for terms in range(2, self.max_terms + 1, 2):
            basis = np.polynomial.chebyshev.chebvander(u, terms - 1)
            fits = []
            for part, values in ((basis[:, 0::2], g.real), (basis[:, 1::2], g.imag)):
                solution = np.linalg.lstsq(part * weight[:, None], (values * weight).T, rcond=None)
                fits.append(solution[0].T)
            error = np.abs(fits[0] @ basis[:, 0::2].T + 1j * fits[1] @ basis[:, 1::2].T - g).max()
            bound = math.expm1(error)
            if bound <= tolerance:
                self.terms, self.error_bound = terms, bound
                self.coefficients = np.zeros((len(self.frequencies), terms), dtype=complex)
                self.coefficients[:, 0::2] = fits[0]
                self.coefficients[:, 1::2] = 1j * fits[1]
                return

    def __call__(self, directions: Tensor) -> Tensor:
        """Unit rows [K, D] -> real and imaginary parts [2, T, K], without gradient."""
        with torch.no_grad():
            rows = max(1, CHUNK // directions.shape[-1])
            evaluate = self._by_expansion if self.terms else self._by_product
            return torch.cat([evaluate(chunk) for chunk in directions.split(rows)], dim=-1)

    def _by_expansion(self, directions: Tensor) -> Tensor:
        # sum_j c_j^2 T_m(c_j / reach) by the recurrence of Chebyshev polynomials.
        doubled = (directions * (2 / self.reach)).clamp_(-2, 2)
        older = directions.square()
        newer = older * doubled / 2
        sums = [older.sum(-1), newer.sum(-1)]
        for _ in range(2, self.terms):
            older, newer = newer, torch.addcmul(older.neg_(), newer, doubled, out=older)
            sums.append(newer.sum(-1))
        basis = torch.stack(sums)  # [M, K]
        real, imaginary = (
            torch.from_numpy(np.ascontiguousarray(part)).to(basis)
            for part in (self.coefficients.real, self.coefficients.imag)
        )
        t = torch.from_numpy(self.frequencies).to(basis)
        phase = torch.addcmul(imaginary @ basis, self.mean * t[:, None], directions.sum(-1))
        size = (real @ basis).exp()
        return torch.stack((size * phase.cos(), size * phase.sin()))

    def _by_product(self, directions: Tensor) -> Tensor:
        table = torch.from_numpy(self.table).to(directions.device)
        step = self.frequencies[-1] * self.reach / self.table_size
        values = []
        for t in self.frequencies:
            place = (directions.double().abs() * (t / step)).clamp_(max=self.table_size - 1e-9)
            low = place.floor().long()
            factor = torch.lerp(
                torch.view_as_real(table)[low],
                torch.view_as_real(table)[low + 1],
                (place - low).unsqueeze(-1),
            )
            factor[..., 1] *= directions.sign()  # phi(-s) is the conjugate of phi(s)
            product = torch.view_as_complex(factor).prod(-1)
            values.append(torch.view_as_real(product))
        return torch.stack(values).permute(2, 0, 1).to(directions.dtype)


class CharacteristicRDMReg(nn.Module):
    """Rectified distribution matching by characteristic functions, over the global batch.

    Along each slice, the integral of ``|ecf(t) - prod_j phi(t c_j)|^2 exp(-u^2 / 2)``, where
    ``t = u / s`` and s is the target's standard deviation; the quadrature is Epps–Pulley's. Its
    unit is chosen so that a small shift of the projected features costs what it costs in the
    squared Wasserstein distance (a factor ``s^2 / 0.48``), and so does a small change of a
    Gaussian's scale: weights of the sorted RDMReg carry over.

    Args:
        target: the distribution of each coordinate.
        num_projections: slices K a step.
        num_points: nodes T of the quadrature.
        t_max: upper end of its grid, in units of 1 / s.
        seed: the run's seed.

    ``epps_pulley_unit`` times N times this is SIGReg's unit: with p = 2, the same number.

    Raises:
        ValueError: for no slices, fewer than 2 nodes or t_max not above 0.
    """

    weights: Tensor

    def __init__(
        self,
        target: GeneralizedGaussian,
        *,
        num_projections: int = 8192,
        num_points: int = 17,
        t_max: float = 3.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if num_projections < 1:
            raise ValueError(f"num_projections is {num_projections}; at least 1 slice is needed")
        test = EppsPulley(num_points, t_max)
        self.target = target
        self.num_projections = num_projections
        self.seed = seed
        u = np.arange(num_points) * test.spacing
        deviation = target.variance**0.5
        self.frequencies = u / deviation
        shift = float(test.weights @ torch.from_numpy(u**2 * np.exp(-(u**2))))
        self.epps_pulley_unit = shift / deviation**2
        self.register_buffer("weights", test.weights / self.epps_pulley_unit, persistent=False)
        self._projected: ProjectedCharacteristicFunction | None = None

    def forward(self, z: Tensor, step: tuple[int, ...] = (0,)) -> Tensor:
        """Mean over views and slices of the squared distance of characteristic functions.

        Args:
            z: [V, B, D], this process's share of the batch.
            step: which step this is (any integers); it names the slices.

        Returns:
            A scalar, the same on every process.
        """
        slices = random_directions(z, self.seed, step, 0, self.num_projections)
        ecf = empirical_characteristic_function(
            z @ slices.T, float(self.frequencies[1]), len(self.frequencies)
        )
        ecf = distributed.all_mean(ecf)  # [2, V, T, K]
        distance = (ecf - self.target_values(slices)[:, None]).square().sum(0)
        return (self.weights.to(distance) @ distance).mean()

    def target_values(self, slices: Tensor) -> Tensor:
        """The target's characteristic function along each slice, [2, T, K]."""
        if self._projected is None:
            self._projected = ProjectedCharacteristicFunction(
                self.target, self.frequencies, slices.shape[-1]
            )
        start, stop = distributed.share(len(slices))
        own = self._projected(slices[start:stop])
        return distributed.all_sum(nn.functional.pad(own, (start, len(slices) - stop)))
