"""LeJEPA (arXiv 2511.08544): invariance to the global views' centre, and SIGReg."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from solo.losses.sigreg import SIGReg, lejepa_loss
from solo.methods.base import Loss, MethodKwargs, SSLMethod


class LeJEPAKwargs(MethodKwargs):
    """``method_kwargs`` of ``lejepa``."""

    lamb: float = Field(0.05, ge=0, le=1)
    """Weight of SIGReg; invariance weighs 1 - lamb."""
    num_slices: int = Field(1024, ge=1)
    """Directions a step."""
    num_points: int = Field(17, ge=2)
    """Nodes of the statistic's quadrature."""
    t_max: float = Field(3.0, gt=0)
    """Upper end of its grid."""
    per_view: bool = True
    """Test each view's batch and average; false tests all views as one sample."""


class LeJEPA(SSLMethod):
    """``(1 - lamb) * invariance + lamb * SIGReg``, over any number of global and local views."""

    Kwargs: ClassVar[type[MethodKwargs]] = LeJEPAKwargs
    kwargs: LeJEPAKwargs

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        options = self.kwargs
        self.sigreg = SIGReg(
            options.num_slices, options.num_points, options.t_max, seed=self.config.seed
        )
        recipes = self.config.augmentations
        # Views of the first recipe's resolution are global; they come first in z.
        self.global_views = sum(r.num_crops for r in recipes if r.crop_size == recipes[0].crop_size)

    def compute_loss(self, h: Tensor, z: Tensor, step: tuple[int, ...]) -> Loss:
        """See the class."""
        sample = z if self.kwargs.per_view else z.flatten(0, 1)
        sigreg = self.sigreg(sample, step)
        total, invariance = lejepa_loss(z, sigreg, self.global_views, lamb=self.kwargs.lamb)
        logs = {"lejepa_loss": total, "invariance_loss": invariance, "sigreg_loss": sigreg}
        return Loss(total, logs)
