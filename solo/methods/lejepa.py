"""LeJEPA (arXiv 2511.08544): invariance to the global views' centre, and SIGReg."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, model_validator
from torch import Tensor, nn

from solo.config import fault
from solo.data import Batch
from solo.distributions import GeneralizedGaussian
from solo.losses.sigreg import SIGReg, build_test, lejepa_loss
from solo.losses.unsliced import CheaperForm, MarginalMatching, form_taken, make_ready
from solo.methods.base import Loss, MethodOptions, SSLMethod
from solo.methods.probes import Encoded
from solo.multivariate import UnslicedEppsPulley
from solo.rng import Step
from solo.univariate import EppsPulley


class LeJEPAOptions(MethodOptions):
    """``method_kwargs`` of ``lejepa``."""

    views_together: bool = True
    """Whether BatchNorm sees all views of a resolution as one batch, as published."""
    lamb: float = Field(0.05, ge=0, le=1)
    """Weight of SIGReg; invariance weighs 1 - lamb."""
    test: str = "epps_pulley"
    """What SIGReg tests with: any name in solo.univariate (sliced) or solo.multivariate, or auto:
    epps_pulley or unsliced_epps_pulley, whichever takes fewer operations."""
    test_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the test, such as gamma for hv."""
    num_slices: int = Field(1024, ge=1)
    """Directions a step, for a univariate test."""
    num_points: int = Field(17, ge=2)
    """Nodes of the quadrature of epps_pulley, and of the test of each coordinate."""
    t_max: float = Field(3.0, gt=0)
    """Upper end of its grid."""
    lp_norm_parameter: float = Field(2.0, gt=0)
    """Shape p of the target, a generalized Gaussian of unit variance: 2 is LeJEPA, else LpJEPA."""
    per_view: bool = True
    """Test each view's batch and average; false tests all views as one sample."""
    marginal_weight: float = Field(0.0, ge=0)
    """Weight, beside SIGReg's 1, of the same test of each coordinate by itself."""

    @model_validator(mode="after")
    def _buildable(self) -> LeJEPAOptions:
        name = "epps_pulley" if self.test == "auto" else self.test
        try:
            build_test(name, self.all_test_kwargs())
        except (TypeError, ValueError) as error:
            raise fault(str(error)) from error
        if name == "unsliced_epps_pulley" and self.test_kwargs:
            raise fault(f"test unsliced_epps_pulley takes no test_kwargs, not {self.test_kwargs}")
        if name == "epps_pulley" and self.quadrature().weight_type != "gaussian":
            raise fault("test_kwargs.weight_type of SIGReg is gaussian")
        known = ("auto", "epps_pulley", "unsliced_epps_pulley")
        for name, plain in (("lp_norm_parameter", 2), ("marginal_weight", 0)):
            value = getattr(self, name)
            if value != plain and self.test not in known:
                raise fault(
                    f"{name} {value:g} needs test {', '.join(known[:2])} or {known[2]}, which know "
                    f"other targets than the normal and each coordinate's law; not {self.test}"
                )
        return self

    def all_test_kwargs(self) -> dict[str, Any]:
        """``test_kwargs``, with the two options of epps_pulley."""
        if self.test not in ("auto", "epps_pulley"):
            return self.test_kwargs
        return {"num_points": self.num_points, "t_max": self.t_max, **self.test_kwargs}

    def quadrature(self) -> EppsPulley:
        """The test of epps_pulley's nodes and range."""
        if self.test in ("auto", "epps_pulley"):
            return EppsPulley(**self.all_test_kwargs())
        return EppsPulley(self.num_points, self.t_max)

    def target(self) -> GeneralizedGaussian:
        """The target distribution of each feature."""
        return GeneralizedGaussian(self.lp_norm_parameter)

    def build_regulariser(self, seed: int) -> nn.Module:
        """SIGReg, or another test in its place."""
        if self.test == "unsliced_epps_pulley":
            return UnslicedEppsPulley(self.target())
        if self.test not in ("auto", "epps_pulley"):
            return build_test(self.test, self.test_kwargs, num_slices=self.num_slices, seed=seed)
        grid = self.quadrature()
        target = None if self.lp_norm_parameter == 2 else self.target()
        sliced = SIGReg(self.num_slices, grid.num_points, grid.t_max, seed, target=target)
        if self.test == "epps_pulley":
            return sliced
        unsliced = UnslicedEppsPulley(self.target())
        return CheaperForm(sliced, unsliced, self.num_slices, grid.num_points)


class LeJEPA(SSLMethod):
    """``(1 - lamb) * invariance + lamb * SIGReg``, over any number of global and local views."""

    loss_name: ClassVar[str] = "lejepa_loss"
    against_collapse: ClassVar[str] = (
        "Raise method_kwargs.lamb, the weight of the test against a Gaussian"
    )
    Options: ClassVar[type[MethodOptions]] = LeJEPAOptions
    options: LeJEPAOptions

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        options = self.options
        self.sigreg = options.build_regulariser(self.config.seed)
        make_ready(self.sigreg, self.embedding_dim)
        self.marginals: MarginalMatching | None = None
        if options.marginal_weight:
            grid = options.quadrature()
            self.marginals = MarginalMatching(options.target(), grid.num_points, grid.t_max)

    def compute_loss(self, encoded: Encoded, batch: Batch, step: Step) -> Loss:
        """Invariance to the global views' centre, and SIGReg."""
        z = encoded.z
        sample = z if self.options.per_view else z.flatten(0, 1)[None]
        sigreg: Tensor = self.sigreg(sample, step).mean()
        terms = {"sigreg_loss": sigreg}
        regulariser = sigreg
        if self.marginals is not None:
            terms["marginal_loss"] = self.marginals(sample).mean()
            regulariser = sigreg + self.options.marginal_weight * terms["marginal_loss"]
        loss = lejepa_loss(z, regulariser, self.global_views, lamb=self.options.lamb)
        return Loss(loss.loss, {"invariance_loss": loss.invariance, **terms})

    def remarks(self, images: int) -> list[str]:
        """Which form ``test: auto`` takes."""
        crops = sum(recipe.num_crops for recipe in self.config.augmentations)
        views = 1 if self.options.per_view else crops
        return form_taken(self.sigreg, views * images, self.embedding_dim)
