"""LeJEPA (arXiv 2511.08544): SIGReg, sliced Epps–Pulley against N(0, I), and invariance."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from solo import distributed
from solo.distributions import GeneralizedGaussian
from solo.losses.characteristic_rdm import CharacteristicRDMReg
from solo.multivariate import MULTIVARIATE_TESTS, MultivariateTest, SlicingUnivariateTest
from solo.univariate import UNIVARIATE_TESTS, EppsPulley


class SIGReg(nn.Module):
    """Mean Epps–Pulley statistic over random slices, of the global batch.

    Args:
        num_slices: unit vectors a call.
        num_points: nodes of the statistic's quadrature.
        t_max: upper end of its grid.
        seed: the run's seed.
        target: the distribution of each coordinate; None is the standard normal.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> z = torch.randn(2, 512, 16, generator=generator)  # [V, B, D]
        >>> [round(SIGReg()(batch).item(), 1) for batch in (z, 2 * z)]  # as wanted, and too wide
        [1.3, 124.2]
    """

    def __init__(
        self,
        num_slices: int = 1024,
        num_points: int = 17,
        t_max: float = 3.0,
        seed: int = 0,
        *,
        target: GeneralizedGaussian | None = None,
    ) -> None:
        super().__init__()
        self.test: SlicingUnivariateTest | CharacteristicRDMReg
        if target is None:
            self.test = SlicingUnivariateTest(EppsPulley(num_points, t_max), num_slices, seed=seed)
        else:
            self.test = CharacteristicRDMReg(
                target, num_projections=num_slices, num_points=num_points, t_max=t_max, seed=seed
            )

    def forward(self, z: Tensor, step: tuple[int, ...] | None = None) -> Tensor:
        """z [..., N, D] -> a scalar: the mean over leading dimensions (views) and slices."""
        statistic: Tensor = self.test(z, step)
        if isinstance(self.test, CharacteristicRDMReg):  # to the unit of Epps–Pulley
            count = z.shape[-2] * distributed.world_size()
            statistic = statistic * (count * self.test.epps_pulley_unit)
        return statistic.mean()


def build_test(
    name: str, kwargs: Mapping[str, Any], *, num_slices: int = 1024, seed: int = 0
) -> MultivariateTest:
    """A test by its name: a univariate one along random slices, or a multivariate one.

    Raises:
        ValueError: for an unknown name or arguments that the test refuses.
    """
    known: dict[str, Any] = {**UNIVARIATE_TESTS, **MULTIVARIATE_TESTS}
    if name not in known:
        raise ValueError(f"test is {name!r}; choose from {', '.join(sorted(known))}")
    if "seed" in inspect.signature(known[name]).parameters:
        kwargs = {"seed": seed, **kwargs}
    try:
        test = known[name](**kwargs)
    except TypeError as error:
        raise ValueError(f"{name} does not take {dict(kwargs)}: {error}") from error
    if isinstance(test, MultivariateTest):
        return test
    return SlicingUnivariateTest(test, num_slices, seed=seed)


class LeJEPALoss(NamedTuple):
    """The loss and its invariance term, before its weight."""

    loss: Tensor
    invariance: Tensor


def lejepa_loss(z: Tensor, sigreg: Tensor, global_views: int, *, lamb: float = 0.05) -> LeJEPALoss:
    """``(1 - lamb) * invariance + lamb * sigreg``.

    Invariance is the mean squared distance of every view's embedding to the mean embedding of the
    image's global views, over the global batch.

    Args:
        z: [V, B, D], this process's share of the batch, global views first.
        sigreg: a scalar, the regulariser of ``z``.
        global_views: how many of the V views are global.
        lamb: in [0, 1].

    Raises:
        ValueError: for a number of global views outside 1 … V.
    """
    if not 1 <= global_views <= z.shape[0]:
        raise ValueError(f"global_views is {global_views}; there are {z.shape[0]} views")
    centre = z[:global_views].mean(0)
    invariance = distributed.all_mean(F.mse_loss(z, centre.expand_as(z)), alike=True)
    return LeJEPALoss((1 - lamb) * invariance + lamb * sigreg, invariance)
