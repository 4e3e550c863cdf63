"""The mean of a kernel over a product distribution: ``E_Y k(z, Y)``, in closed form.

A mixture of Gaussian kernels factorises over coordinates, so that

    E_Y sum_j w_j exp(-a_j |z - Y|^2) = sum_j w_j exp(sum_d log g_j(z_d)),
    g_j(x) = E exp(-a_j (x - Y)^2).

Each ``log g_j`` is a smooth function of one variable: a parabola plus a Chebyshev expansion of what
is left, of degrees shared by all j. What has to be computed of z are its norms and M sums over
coordinates. For a normal target the parabola is all, and M is 0.

Shapes: N samples, D coordinates, J Gaussians of the mixture, M terms.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from solo.distributions.generalized_gaussian import GeneralizedGaussian
from solo.distributions.placed import Placed

# Features further out than the target's quantile of this are treated as if at it, parabola aside.
BEYOND_REACH = 1e-7

# The interval reaches at least so many standard deviations to both sides of the mean.
LEAST_REACH = 8.0

# Where g falls below this, log g says no more than that nothing is near.
SMALLEST_FACTOR = 1e-12

# Longest expansions tried in turn; with a few coordinates and heavy tails hundreds of terms are
# needed, from a few hundred coordinates on some ten do.
FIT_TERMS = (64, 512)

# Points at which an expansion's error is taken, beside those where it is fitted.
CHECK_POINTS = 301

# Numbers in work at a time: on a CPU they should stay in the cache.
CPU_CHUNK, GPU_CHUNK = 2**17, 2**24


class KernelMean:
    """``E_Y sum_j w_j exp(-a_j |z - Y|^2)``, value and gradient, for many z.

    Args:
        target: the distribution of each coordinate of Y.
        rates: a, float64 [J], each above 0.
        weights: w, float64 [J], positive, of sum 1.
        dim: D.
        tolerance: wanted ``error_bound``; after FIT_TERMS it may still be above it.

    Attributes:
        constant: the mean over both, ``E k(Y, Y')``.
        error_bound: by how much a value can be off, for z within the reach of the target.
        coefficients: float64 [J, M + 1], constants first.
    """

    def __init__(
        self,
        target: GeneralizedGaussian,
        rates: np.ndarray,
        weights: np.ndarray,
        dim: int,
        tolerance: float = 1e-8,
    ) -> None:
        self.centre, self.dim = target.mean, dim
        self.constant = self._mean_of_both(target, rates, weights, dim)
        self.low, self.high = reach(target)
        # The parabola of a normal target of the same variance; heavier tails fall more slowly.
        ends = np.array([self.low, 0.0, self.high])
        *falls, top = np.log(_factors(target, rates, ends + self.centre)).T[[0, 2, 1]]
        slowest = np.min([(top - fall) / end**2 for fall, end in zip(falls, ends[[0, 2]])], axis=0)
        self.curvature = np.minimum(rates / (1 + 2 * rates * target.variance), slowest)
        self.weights = weights
        check = np.linspace(-1, 1, CHECK_POINTS)
        wanted = self._remainder(target, rates, check)
        for terms in FIT_TERMS:
            self._fit(target, rates, terms, tolerance, check, *wanted)
            if self.error_bound <= tolerance:
                break
        self._constants = Placed(self.curvature, self.weights, self.coefficients)

    def _remainder(
        self, target: GeneralizedGaussian, rates: np.ndarray, place: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """g, and its logarithm less the parabola [J, points], at places of [-1, 1]."""
        at = (self.low + self.high) / 2 + (self.high - self.low) / 2 * place
        factors = _factors(target, rates, at + self.centre)
        return factors, np.log(factors) + self.curvature[:, None] * at**2

    def _fit(
        self,
        target: GeneralizedGaussian,
        rates: np.ndarray,
        most: int,
        tolerance: float,
        check: np.ndarray,
        factors: np.ndarray,
        left: np.ndarray,
    ) -> None:
        """The shortest expansion of at most so many terms that is within the tolerance."""
        angles = np.pi * (np.arange(most) + 0.5) / most
        _, fitted = self._remainder(target, rates, np.cos(angles))
        degrees = np.arange(most)
        coefficients = fitted @ np.cos(angles[:, None] * degrees) * (2 / most)
        coefficients[:, 0] /= 2
        basis = np.cos(degrees[:, None] * np.arccos(check))
        found = np.zeros_like(left)
        for terms in range(1, most + 1):
            found += coefficients[:, terms - 1, None] * basis[terms - 1]
            error = np.minimum(np.abs(found - left), 1)
            # One factor at a time goes from the true one to the fitted.
            change = (factors * np.expm1(error)).max(1)
            other = (factors * np.exp(error)).max(1).clip(max=1) ** (self.dim - 1)
            self.error_bound = float(self.weights @ (self.dim * change * other))
            if self.error_bound <= tolerance:
                break
        self.coefficients = coefficients[:, :terms]

    @staticmethod
    def _mean_of_both(
        target: GeneralizedGaussian, rates: np.ndarray, weights: np.ndarray, dim: int
    ) -> float:
        def factor(x: np.ndarray) -> np.ndarray:
            return _factors(target, rates, x)

        return float(weights @ target.expectation(factor, len(rates), 1e-13) ** dim)

    @torch.no_grad()
    def __call__(
        self, centred: Tensor, norms: Tensor, factor: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Value [N] and ``factor`` times the gradient [N, D].

        Args:
            centred: z less the target's mean, [N, D].
            norms: their squared norms, [N].
            factor: of the gradient.
        """
        limit = GPU_CHUNK if centred.is_cuda else CPU_CHUNK
        rows = max(1, limit // self.dim)
        if self.coefficients.shape[1] == 1 or len(centred) <= rows:  # few numbers beside these
            return self._of(centred, norms, factor)
        parts = [self._of(*part, factor) for part in zip(centred.split(rows), norms.split(rows))]
        values, gradients = zip(*parts)
        return torch.cat(values), torch.cat(gradients)

    def _of(self, centred: Tensor, norms: Tensor, factor: float) -> tuple[Tensor, Tensor]:
        curvature, weights, coefficients = self._constants.at(centred.device, centred.dtype)
        half = (self.high - self.low) / 2
        inside = coefficients.shape[1] - 1
        logs = (self.dim * coefficients[:, 0]).sub(norms[:, None] * curvature)  # [N, J]
        if inside:
            place = centred.sub((self.low + self.high) / 2).div_(half).clamp_(-1, 1)
            doubled = place * 2
            sums = [place.sum(-1)]
            older, newer = torch.ones_like(place), place.clone()
            for _ in range(1, inside):
                older, newer = newer, torch.addcmul(older.neg_(), newer, doubled, out=older)
                sums.append(newer.sum(-1))
            logs = torch.addmm(logs, torch.stack(sums, 1), coefficients[:, 1:].T)
        shares = logs.exp_().mul_(weights)
        gradient = centred * (-2 * factor * shares @ curvature)[:, None]
        if inside:
            # The derivative of a T_m is m U_(m - 1); Clenshaw's rule with U's recurrence.
            degrees = torch.arange(1, inside + 1, device=centred.device)
            weighted = coefficients[:, 1:] * degrees * (factor / half)
            slopes = (shares @ weighted)[:, :, None]  # [N, M, 1]
            older, newer = torch.zeros_like(place), slopes[:, -1].expand_as(place).clone()
            for m in range(inside - 2, -1, -1):
                older, newer = newer, torch.addcmul(older.neg_(), newer, doubled, out=older)
                newer.add_(slopes[:, m])
            # Outside, the expansion stands still.
            gradient.add_(newer.mul_(place.abs_() < 1))
        return shares.sum(-1), gradient


def reach(target: GeneralizedGaussian) -> tuple[float, float]:
    """The interval of a coordinate's values, less its mean, on which an expansion has to hold."""
    deviation = target.variance**0.5
    ends = []
    for sign in (-1, 1):
        distance = LEAST_REACH
        while distance < 1e4:
            at = target.mean + sign * distance * deviation
            below = float(target.cdf(at))
            if (below if sign < 0 else 1 - below) < BEYOND_REACH:
                break
            distance *= 1.1
        ends.append(sign * distance * deviation)
    return ends[0], ends[1]


def _factors(target: GeneralizedGaussian, rates: np.ndarray, at: np.ndarray) -> np.ndarray:
    """``E exp(-a (x - Y)^2)`` for each a and x: [J, points]."""

    def kernels(y: np.ndarray) -> np.ndarray:
        return np.exp(-rates[:, None, None] * (at[:, None] - y) ** 2).reshape(-1, len(y))

    found = target.expectation(kernels, len(rates) * len(at), 1e-13)
    return np.maximum(found.reshape(len(rates), len(at)), SMALLEST_FACTOR)
