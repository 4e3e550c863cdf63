"""Matching averaged over all directions, and along the axes, in the units of the sliced losses.

Shapes: V views, B images on this process, N = W B images on all W processes, D features,
K slices, T frequencies.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from solo import distributed
from solo.distributions import GeneralizedGaussian
from solo.distributions.placed import Placed
from solo.losses.characteristic_rdm import CharacteristicRDMReg
from solo.multivariate import UnslicedEppsPulley
from solo.multivariate.unsliced import FEW_COORDINATES
from solo.univariate import EppsPulley
from solo.univariate.characteristic import empirical_characteristic_function

# What an elementwise operation costs, in multiply-adds of a matrix product; and how many of them
# a projected sample takes a frequency, a pair of samples (with few features they are a mixture of
# Gaussians), and a feature a term of the target's expansion. Counted, and held against times.
ELEMENTWISE = 6
SLICED_OPERATIONS, PAIR_OPERATIONS, PAIR_OPERATIONS_OF_FEW, TERM_OPERATIONS = 16, 40, 420, 4


class UnslicedRDMReg(nn.Module):
    """Rectified distribution matching over all directions at once, of the global batch.

    ``UnslicedEppsPulley`` of the target, without the factor N and in the unit of
    ``CharacteristicRDMReg``: a small shift costs what it costs in the squared Wasserstein distance.

    Args:
        target: the distribution of each coordinate.

    Example:
        >>> from solo.distributions import RectifiedGeneralizedGaussian
        >>> target = RectifiedGeneralizedGaussian(p=1.0)
        >>> reg = UnslicedRDMReg(target)
        >>> generator = torch.Generator().manual_seed(0)
        >>> z = target.sample((2, 512, 16), generator=generator)  # [V, B, D]
        >>> [round(reg(batch).item(), 2) for batch in (z, 2 * z)]  # as wanted, and too wide
        [0.0, 0.18]
    """

    def __init__(self, target: GeneralizedGaussian) -> None:
        super().__init__()
        self.test = UnslicedEppsPulley(target)
        # As EppsPulley.cost_of_a_shift, on the whole line: integral of u^2 exp(-3 u^2 / 2) du.
        self.unit = math.sqrt(2 * math.pi / 3) / 3 / target.variance

    def forward(self, z: Tensor, step: tuple[int, ...] | None = None) -> Tensor:
        """z [..., B, D], this process's share -> a scalar: the mean over views."""
        statistic: Tensor = self.test(z, step)
        return statistic.mean() / (z.shape[-2] * distributed.world_size() * self.unit)


class MarginalMatching(nn.Module):
    """Epps–Pulley of each coordinate by itself against the target, averaged over coordinates.

    What random directions hardly see: in many dimensions a projection of any product law is close
    to normal. In the unit of SIGReg: N times the integral, null value as there.

    Args:
        target: the distribution of each coordinate.
        num_points: nodes T of the quadrature.
        t_max: upper end of its grid, in units of 1 / the target's standard deviation.

    ``unit`` times N is what a small shift of all coordinates costs, as in ``CharacteristicRDMReg``.
    """

    def __init__(
        self, target: GeneralizedGaussian, num_points: int = 17, t_max: float = 3.0
    ) -> None:
        super().__init__()
        test = EppsPulley(num_points, t_max)
        self.spacing = test.spacing / target.variance**0.5
        self.unit = test.cost_of_a_shift() / target.variance
        t = self.spacing * torch.arange(num_points, dtype=torch.float64)
        phi = target.characteristic_function(t)
        self.num_points = num_points
        self._constants = Placed(test.weights.numpy(), torch.stack((phi.real, phi.imag)).numpy())

    def forward(self, z: Tensor) -> Tensor:
        """z [..., B, D], this process's share -> [...]."""
        ecf = empirical_characteristic_function(z, self.spacing, self.num_points)
        ecf = distributed.all_mean(ecf, alike=True)  # [2, ..., T, D]
        weights, wanted = self._constants.at(ecf.device, ecf.dtype)
        wanted = wanted.view(2, *[1] * (z.ndim - 2), -1, 1)
        distance = (ecf - wanted).square().sum(0)
        count = z.shape[-2] * distributed.world_size()
        return count * (weights @ distance).mean(-1)


class CheaperForm(nn.Module):
    """The sliced or the unsliced form of one loss, whichever takes fewer operations.

    Args:
        sliced: called with z and step.
        unsliced: likewise.
        num_slices: K of the sliced form.
        num_points: T of the sliced form.
    """

    def __init__(
        self,
        sliced: nn.Module,
        unsliced: UnslicedEppsPulley | UnslicedRDMReg,
        num_slices: int,
        num_points: int,
    ) -> None:
        super().__init__()
        self.sliced, self.unsliced = sliced, unsliced
        self.num_slices, self.num_points = num_slices, num_points

    def forward(self, z: Tensor, step: tuple[int, ...] | None = None) -> Tensor:
        """z [..., B, D], this process's share, to what the form returns."""
        samples = z.shape[-2] * distributed.world_size()
        chosen = self.unsliced if self.takes_unsliced(samples, z.shape[-1]) else self.sliced
        result: Tensor = chosen(z, step)
        return result

    def takes_unsliced(self, samples: int, dim: int) -> bool:
        """Whether N samples of D features are matched without slices."""
        sliced = sliced_cost(samples, dim, self.num_slices, self.num_points)
        test = self.unsliced.test if isinstance(self.unsliced, UnslicedRDMReg) else self.unsliced
        terms = test.parts(dim)[1].coefficients.shape[1] - 1
        return unsliced_cost(samples, dim, terms) < sliced


def sliced_cost(samples: int, dim: int, slices: int, points: int) -> int:
    """Multiply-adds of the sliced form, forward and backward, on all processes together."""
    return samples * slices * (2 * dim + ELEMENTWISE * SLICED_OPERATIONS * points)


def unsliced_cost(samples: int, dim: int, terms: int = 0) -> int:
    """Multiply-adds of the unsliced form, forward and backward, on all processes together.

    Args:
        samples: N.
        dim: D.
        terms: of the target's expansion; 0 for a normal one.
    """
    of_pair = PAIR_OPERATIONS if dim >= FEW_COORDINATES else PAIR_OPERATIONS_OF_FEW
    pairs = samples * samples * (2 * dim + ELEMENTWISE * of_pair)
    return pairs + samples * dim * terms * ELEMENTWISE * TERM_OPERATIONS


def make_ready(loss: nn.Module, dim: int) -> None:
    """Make what a loss needs for D features now, not in the first step."""
    for module in loss.modules():
        if isinstance(module, UnslicedEppsPulley):
            module.parts(dim)
        elif isinstance(module, CharacteristicRDMReg):
            module.make_ready(dim)


def form_taken(loss: nn.Module, samples: int, dim: int) -> list[str]:
    """What to say of a loss that takes the cheaper form; nothing of others."""
    if not isinstance(loss, CheaperForm):
        return []
    form = "without slices" if loss.takes_unsliced(samples, dim) else f"{loss.num_slices} slices"
    return [f"auto: matching {form}, the cheaper way for {samples} samples of {dim} features"]
