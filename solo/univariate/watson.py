"""Watson's form of Cramér–von Mises."""

from __future__ import annotations

from torch import Tensor

from solo.univariate.cramer_von_mises import CramerVonMises, edf_deviations


class Watson(CramerVonMises):
    """``mean_i d_i^2 - (mean_i d_i)^2`` with ``d_i = F(x_(i)) - (2i - 1) / (2N)``.

    Watson (1961): Cramér–von Mises without the part that a shift of F makes. The classical ``U^2``
    is N times this plus 1 / (12 N). Null value: ``(1/12 - 1/(12 N)) / N``, as U^2 has mean 1/12. A
    large value means that the shape is off, rather than the location.

    Example:
        >>> x = torch.special.ndtri(torch.arange(1, 100) / 100)[:, None]  # as normal as can be
        >>> values = Watson()(torch.cat((x, x.exp()), dim=1))  # [N, K] -> [K]
        >>> [f'{value:.2g}' for value in values.tolist()]  # normal, and lognormal
        ['8.3e-06', '0.021']
    """

    def of_sorted(self, x: Tensor) -> Tensor:
        """[..., K, N] -> [..., K]."""
        return edf_deviations(x).var(-1, correction=0)

    def null_mean(self, num_samples: int) -> float:
        """``(1/12 - 1/(12 N)) / N``, exactly."""
        return (1 / 12 - 1 / (12 * num_samples)) / num_samples
