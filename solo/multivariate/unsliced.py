"""Epps–Pulley averaged over *all* directions, in closed form: no slices, no samples, no sorting.

With t weighted by ``exp(-t^2 / 2)`` on the whole line and c uniform on the unit sphere of R^D,
``cos(t c.x)`` averages to ``sqrt(2 pi) k(|x|^2)``, where

    k(r^2) = 1F1(1/2; D/2; -r^2 / 2) = E exp(-U r^2 / 2),   U ~ Beta(1/2, (D - 1) / 2),

so that the mean squared distance of characteristic functions is a squared distance of kernel means
(a maximum mean discrepancy; for normal targets noted by KerJEPA, arXiv 2512.19605):

    sqrt(2 pi) [mean_ij k(|z_i - z_j|^2) - 2 mean_i E k(|z_i - Y|^2) + E k(|Y - Y'|^2)].

In ``y = (1 + r^2 / D)^(-1/2)``, k is nearly y itself, and a short polynomial in y exactly enough: a
pair of samples costs one inverse root and a few multiply-adds.

Shapes: N samples, D coordinates, J nodes.
"""

from __future__ import annotations

import math
import warnings
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from solo import distributed, kernels
from solo.distributions import GeneralizedGaussian
from solo.distributions.kernel_means import KernelMean
from solo.distributions.placed import Placed
from solo.distributions.quadrature import panel_rule
from solo.multivariate.base import MultivariateTest

# Panels of the mixture's nodes, as fractions of its range: features of a hundredth of the target's
# size or a hundred times that are still told apart.
PANELS = (0, 1 / 512, 1 / 128, 1 / 32, 1 / 8, 1 / 4, 1 / 2, 1)
NODES_PER_PANEL = 12

# With fewer coordinates the polynomial is long, and the mixture itself is taken.
FEW_COORDINATES = 16

# Wanted error of the polynomial, below what float32 can tell.
TOLERANCE = 2e-9

# An error of the target's part that is worth a warning: 1 % of the null value with 2,048 samples.
NOTABLE_ERROR = 1e-6

# Pairs in work at a time: on a CPU they should stay in the cache.
CPU_CHUNK, GPU_CHUNK = 2**17, 2**24


class UnslicedEppsPulley(MultivariateTest):
    """The mean Epps–Pulley statistic over all directions.

    ``N * mean over c of integral of |ecf(t; z.c) - phi(t; c)|^2 exp(-u^2 / 2) du``, with t = u / s
    and s the target's standard deviation, over the whole line: what SIGReg comes to with ever more
    slices, ever more nodes and t_max to infinity (that with t_max = 3 is smaller by 0.7 % near the
    null). Null value: ``sqrt(2 pi) (1 - E k(Y, Y'))``, for N(0, I) that is
    ``sqrt(2 pi) - sqrt(2 pi / 3)`` = 1.0594 for any N and D.

    The cost is two products of N / W rows with all N samples for each of W processes. Memory: the
    gathered batch, two copies of one view of it, and a few arrays of a block of pairs.

    Args:
        target: the distribution of each coordinate; None is the standard normal.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = torch.randn(200, 64, generator=generator)
        >>> [round(UnslicedEppsPulley()(sample).item(), 2) for sample in (x, 1.5 * x)]
        [1.27, 18.81]
    """

    def __init__(self, target: GeneralizedGaussian | None = None) -> None:
        super().__init__()
        self.target = GeneralizedGaussian(2.0) if target is None else target

    def forward(self, x: Tensor, step: tuple[int, ...] | None = None) -> Tensor:
        """[..., N, D] -> [...]."""
        if x.ndim < 2:
            raise ValueError(f"Expected 2D input [N, D], or batches of it, not {tuple(x.shape)}")
        if x.dtype in (torch.float16, torch.bfloat16):
            x = x.float()
        kernel, cross = self.parts(x.shape[-1])
        with torch.autocast(x.device.type, enabled=False):
            own: Tensor = _Matching.apply(x, kernel, cross)
        return distributed.all_sum(own, alike=True) * math.sqrt(2 * math.pi)

    def parts(self, dim: int) -> tuple[RadialKernel, KernelMean]:
        """The kernel, and its mean over the target; made once for D, which takes a moment."""
        target = self.target
        law = type(target)
        return _parts(law, target.p, target.mu, target.sigma, dim)  # type: ignore[arg-type]

    def null_mean(self, num_samples: int, dim: int) -> float:
        """The statistic's expectation under the target."""
        return math.sqrt(2 * math.pi) * (1 - self.parts(dim)[1].constant)


@lru_cache(maxsize=64)
def _parts(
    law: type[GeneralizedGaussian], p: float, mu: float, sigma: float, dim: int
) -> tuple[RadialKernel, KernelMean]:
    target = law(p, mu, sigma)
    rates, weights = direction_mixture(dim)
    cross = KernelMean(target, rates / target.variance, weights, dim)
    if cross.error_bound > NOTABLE_ERROR:
        warnings.warn(
            f"matching {dim} features with {target} over all directions can be off by "
            f"{cross.error_bound:.1g} of its largest value: take more features, or a sliced form",
            stacklevel=2,
        )
    return RadialKernel(dim, target.variance), cross


@lru_cache(maxsize=64)
def direction_mixture(dim: int) -> tuple[np.ndarray, np.ndarray]:
    """a, w with ``sum_j w_j exp(-a_j r^2) = E exp(-U r^2 / 2)``, U ~ Beta(1/2, (D - 1) / 2).

    With U = sin^2 the angle has density ~ cos^(D - 2), smooth for any D.
    """
    if dim == 1:
        return np.array([0.5]), np.array([1.0])
    end = min(math.pi / 2, math.sqrt(80 / max(dim - 2, 1)))
    angle, weights = panel_rule(end * np.array(PANELS), NODES_PER_PANEL)
    mass = weights * np.cos(angle) ** (dim - 2)
    return np.sin(angle) ** 2 / 2, mass / mass.sum()


class RadialKernel:
    """k(r^2) of pairs, and its derivative by r^2.

    Args:
        dim: D.
        variance: r^2 is in units of it.

    Attributes:
        scale: what r^2 is multiplied with before the call.
        error_bound: by how much a value can be off, in float64.
    """

    def __init__(self, dim: int, variance: float) -> None:
        self.dim = dim
        self.scale = 1 / variance
        self.error_bound = 0.0
        self.polynomial: np.ndarray | None = None
        if dim >= FEW_COORDINATES:
            self.scale /= dim
            self.polynomial, self.error_bound = _polynomial(dim)
            self.constants = Placed(self.polynomial)

    def __call__(self, r2: Tensor) -> tuple[Tensor, Tensor]:
        """Scaled r^2 -> value and derivative by the scaled r^2; the input is overwritten."""
        if self.polynomial is None:
            value, slope = torch.zeros_like(r2), torch.zeros_like(r2)
            for rate, weight in zip(*direction_mixture(self.dim)):
                part = (r2 * -rate).exp_().mul_(weight)
                value.add_(part)
                slope.sub_(part, alpha=rate)
            return value, slope
        # value = y p(y), and dy / dr^2 = -y^3 / 2
        terms = self.polynomial
        y = r2.add_(1).rsqrt_()
        value = torch.full_like(y, terms[-1])
        slope = torch.full_like(y, -0.5 * len(terms) * terms[-1])
        for k in range(len(terms) - 2, -1, -1):
            value.mul_(y).add_(terms[k])
            slope.mul_(y).add_(-0.5 * (k + 1) * terms[k])
        value.mul_(y)
        return value, slope.mul_(y).mul_(y).mul_(y)


@lru_cache
def _polynomial(dim: int) -> tuple[np.ndarray, float]:
    """k as ``sum_m p_m y^(m + 1)``, and its largest error.

    Raises:
        RuntimeError: where 24 terms are not enough, which is a mistake of ours.
    """
    rates, weights = direction_mixture(dim)
    y = np.cos(np.pi * (np.arange(600) + 0.5) / 1200)
    y = y[y > 0.02]  # beyond, k is y but for a factor, and small
    exact = np.exp(-np.multiply.outer(dim * (1 / y**2 - 1), rates)) @ weights
    for terms in range(1, 25):
        basis = y[:, None] ** np.arange(1, terms + 1)
        solution = np.linalg.lstsq(basis, exact, rcond=None)[0]
        error = float(np.abs(basis @ solution - exact).max())
        if error < TOLERANCE:
            return solution, error
    raise RuntimeError(f"no polynomial for {dim} coordinates: off by {error}")


class _Matching(torch.autograd.Function):
    """This process's rows of N [mean_ij k - 2 mean_i E k + E E k]: x [..., n, D] -> [...].

    The rows of the gradient are whole: as k is symmetric, what other processes' rows would add to
    them is what they hold already.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: RadialKernel, cross: KernelMean) -> Tensor:
        shape = x.shape
        own = x.detach() - cross.centre if cross.centre else x.detach()
        own = own.reshape(-1, *shape[-2:])
        everyone = distributed.gather(own, dim=1)
        if kernel.polynomial is not None and kernels.usable(own):
            values, gradients = _of_views_by_kernels(own, everyone, kernel, cross)
        else:
            parts = [_of_view(*pair, kernel, cross) for pair in zip(own, everyone)]
            values, gradients = (
                part[0][None] if len(part) == 1 else torch.stack(part) for part in zip(*parts)
            )
        ctx.save_for_backward(gradients.view(shape))
        return values.view(shape[:-2])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.saved_tensors[0] * grad[..., None, None], None, None


def _of_views_by_kernels(
    own: Tensor, everyone: Tensor, kernel: RadialKernel, cross: KernelMean
) -> tuple[Tensor, Tensor]:
    """What :func:`_of_view` gives, of all views at once: [V] and [V, n, D]."""
    from solo.kernels.pairs import sums_over_pairs

    views, count, total = *own.shape[:2], everyone.shape[1]
    rows = own.reshape(-1, own.shape[-1])
    value, gradient = cross(rows, rows.square().sum(-1), -2)
    (polynomial,) = kernel.constants.at(own.device, own.dtype)
    limit = max(16, GPU_CHUNK // (views * total))
    first = count * distributed.rank()
    sums, pulled = sums_over_pairs(everyone, kernel.scale, polynomial, first, count, limit)
    values = (sums / total + cross.constant).sub_(value.view(views, count), alpha=2).sum(1)
    return values, gradient.view_as(own).add_(pulled, alpha=2 / total)


def _of_view(
    own: Tensor, everyone: Tensor, kernel: RadialKernel, cross: KernelMean
) -> tuple[Tensor, Tensor]:
    """Value, a scalar, and gradient [n, D] of one view's own rows [n, D], of all rows [N, D]."""
    total = len(everyone)
    value, gradient = cross(own, _squared_norms(own), -2)
    value = (cross.constant - 2 * value).sum()
    # Pairs do not change with a shift, but what rounding does to them: about the mean it is least.
    middle = everyone.mean(0)
    if total == len(own):
        columns = own - middle
    else:
        before = len(own) * distributed.rank()
        parts = (own, everyone[:before], everyone[before + len(own) :])
        columns = torch.cat([part - middle for part in parts])
    sizes = _squared_norms(columns).mul_(kernel.scale)
    limit = GPU_CHUNK if own.is_cuda else CPU_CHUNK
    rows = max(16, limit // total)
    factor = 4 * kernel.scale / total
    sums = own.new_zeros(len(own))
    for start in range(0, len(own), rows):
        stop = min(start + rows, len(own))
        # Pairs of own rows are looked at once: a block on the diagonal, and what is right of it.
        block = torch.addmm(
            sizes[start:stop, None] + sizes[start:],
            columns[start:stop],
            columns[start:].T,
            alpha=-2 * kernel.scale,
        )
        k, slope = kernel(block.clamp_min_(0))
        k.diagonal().fill_(1)
        slope.diagonal().fill_(0)
        width, mirrored = stop - start, len(own) - stop
        value = value + (k.sum() + k[:, width : width + mirrored].sum()) / total
        if mirrored:
            right = slope[:, width : width + mirrored]
            sums[stop:] += right.sum(0)
            gradient[stop:].addmm_(right.T, columns[start:stop], alpha=-factor)
        # A row pulls at itself by the sum of its slopes, which is whole by now.
        slope.diagonal().sub_(slope.sum(1).add_(sums[start:stop]))
        gradient[start:stop].addmm_(slope, columns[start:], alpha=-factor)
    return value, gradient


def _squared_norms(rows: Tensor) -> Tensor:
    """[n, D] -> [n], in one pass."""
    return torch.linalg.vector_norm(rows, dim=-1).square_()
