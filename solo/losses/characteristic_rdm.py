"""RDMReg in closed form: the target's projections are known, so no target sample is drawn.

The target is a product distribution, whose characteristic function along a slice is known
(:mod:`solo.distributions.products`). Distribution matching is therefore also a one-sample
Epps–Pulley test along each slice: nothing to sort, and under DDP only means of ``exp(i t z . c)``
to reduce, instead of a gather of the features.

Shapes: V views, B images on this process, D features, K slices, T frequencies.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from solo import distributed, kernels, rng
from solo.distributions import GeneralizedGaussian, product_characteristic_function
from solo.distributions.placed import Placed
from solo.distributions.products import ExpandedProduct, TabulatedProduct
from solo.multivariate.slices import RandomSlices
from solo.univariate import EppsPulley
from solo.univariate.characteristic import empirical_characteristic_function


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

    Example:
        >>> from solo.distributions import RectifiedGeneralizedGaussian
        >>> target = RectifiedGeneralizedGaussian(p=1.0)
        >>> reg = CharacteristicRDMReg(target, num_projections=256)
        >>> generator = torch.Generator().manual_seed(0)
        >>> z = target.sample((2, 512, 16), generator=generator)  # [V, B, D]
        >>> [round(reg(batch, (0,)).item(), 2) for batch in (z, 2 * z)]  # as wanted, and too wide
        [0.0, 0.19]
    """

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
        test = EppsPulley(num_points, t_max)
        self.target = target
        self.slices = RandomSlices(num_projections, seed)
        self.steps = rng.StepCounter()
        u = np.arange(num_points) * test.spacing
        deviation = target.variance**0.5
        self.frequencies = u / deviation
        self.epps_pulley_unit = test.cost_of_a_shift() / deviation**2
        self.weights = test.weights / self.epps_pulley_unit
        self._constants = Placed(self.weights.numpy())
        self._projected: dict[int, ExpandedProduct | TabulatedProduct] = {}

    def forward(self, z: Tensor, step: tuple[int, ...] | None = None) -> Tensor:
        """Mean over views and slices of the squared distance of characteristic functions.

        Args:
            z: [..., B, D], this process's share of the batch.
            step: which step this is (any integers); it names the slices. Without one, the calls
                are counted.

        Returns:
            A scalar, the same on every process.
        """
        slices = self.slices.matrix(z, self.steps.named(step))
        ecf = empirical_characteristic_function(
            z @ slices.T, float(self.frequencies[1]), len(self.frequencies)
        )
        ecf = distributed.all_mean(ecf, alike=True)  # [2, ..., T, K]
        target = self.target_values(slices)
        target = target.view(2, *[1] * (z.ndim - 2), *target.shape[1:])
        distance = (ecf - target).square().sum(0)
        (weights,) = self._constants.at(distance.device, distance.dtype)
        return (weights @ distance).mean()

    def make_ready(self, dim: int) -> ExpandedProduct | TabulatedProduct:
        """The target's characteristic function along slices of D features, made once."""
        if dim not in self._projected:
            made = product_characteristic_function(self.target, self.frequencies, dim)
            self._projected[dim] = made
        return self._projected[dim]

    def target_values(self, slices: Tensor) -> Tensor:
        """The target's characteristic function along each slice, [2, T, K]."""
        values = self.make_ready(slices.shape[-1])
        start, stop = distributed.shard_range(len(slices))
        if kernels.usable(slices):
            from solo.kernels.products import values_along

            own = values_along(values, slices[start:stop])
        else:
            own = values(slices[start:stop])
        return distributed.all_sum(nn.functional.pad(own, (start, len(slices) - stop)))
