"""LeJEPA (arXiv 2511.08544): invariance to the global views' centre, and SIGReg."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, model_validator
from torch import Tensor, nn

from solo.config import fault
from solo.data import Batch
from solo.distributions import GeneralizedGaussian
from solo.losses.sigreg import SIGReg, build_test, lejepa_loss
from solo.methods.base import Loss, MethodOptions, SSLMethod
from solo.methods.probes import Encoded
from solo.rng import Step


class LeJEPAOptions(MethodOptions):
    """``method_kwargs`` of ``lejepa``."""

    views_together: bool = True
    """Whether BatchNorm sees all views of a resolution as one batch, as published."""
    lamb: float = Field(0.05, ge=0, le=1)
    """Weight of SIGReg; invariance weighs 1 - lamb."""
    test: str = "epps_pulley"
    """What SIGReg tests with: any name in solo.univariate (sliced) or solo.multivariate."""
    test_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the test, such as gamma for hv."""
    num_slices: int = Field(1024, ge=1)
    """Directions a step, for a univariate test."""
    num_points: int = Field(17, ge=2)
    """Nodes of the quadrature of epps_pulley."""
    t_max: float = Field(3.0, gt=0)
    """Upper end of its grid."""
    lp_norm_parameter: float = Field(2.0, gt=0)
    """Shape p of the target, a generalized Gaussian of unit variance: 2 is LeJEPA, else LpJEPA."""
    per_view: bool = True
    """Test each view's batch and average; false tests all views as one sample."""

    @model_validator(mode="after")
    def _buildable(self) -> LeJEPAOptions:
        try:
            build_test(self.test, self.all_test_kwargs())
        except ValueError as error:
            raise fault(str(error)) from error
        if self.lp_norm_parameter != 2 and self.test != "epps_pulley":
            raise fault(
                f"test {self.test} knows the normal distribution only; "
                f"lp_norm_parameter {self.lp_norm_parameter:g} needs test epps_pulley"
            )
        return self

    def all_test_kwargs(self) -> dict[str, Any]:
        """``test_kwargs``, with the two options of epps_pulley."""
        if self.test != "epps_pulley":
            return self.test_kwargs
        return {"num_points": self.num_points, "t_max": self.t_max, **self.test_kwargs}

    def build_regulariser(self, seed: int) -> nn.Module:
        """SIGReg, or another test in its place."""
        kwargs = self.all_test_kwargs()
        if self.test != "epps_pulley":
            return build_test(self.test, kwargs, num_slices=self.num_slices, seed=seed)
        p = self.lp_norm_parameter
        target = None if p == 2 else GeneralizedGaussian(p)
        points = kwargs.get("n_points", kwargs["num_points"])
        return SIGReg(self.num_slices, points, kwargs["t_max"], seed, target=target)


class LeJEPA(SSLMethod):
    """``(1 - lamb) * invariance + lamb * SIGReg``, over any number of global and local views."""

    loss_name: ClassVar[str] = "lejepa_loss"
    Options: ClassVar[type[MethodOptions]] = LeJEPAOptions
    options: LeJEPAOptions

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sigreg = self.options.build_regulariser(self.config.seed)

    def compute_loss(self, encoded: Encoded, batch: Batch, step: Step) -> Loss:
        """Invariance to the global views' centre, and SIGReg."""
        z = encoded.z
        sample = z if self.options.per_view else z.flatten(0, 1)[None]
        sigreg: Tensor = self.sigreg(sample, step).mean()
        total, invariance = lejepa_loss(z, sigreg, self.global_views, lamb=self.options.lamb)
        return Loss(total, {"invariance_loss": invariance, "sigreg_loss": sigreg})
