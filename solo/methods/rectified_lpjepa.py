"""Rectified LpJEPA (arXiv 2602.01456): invariance plus rectified distribution matching."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator
from torch import Tensor, nn

from solo import distributed
from solo.config import fault
from solo.data import Batch
from solo.distributions import GeneralizedGaussian, RectifiedGeneralizedGaussian, SigmaMode
from solo.losses.characteristic_rdm import CharacteristicRDMReg
from solo.losses.rectified_lpjepa import RDMReg, weighted_sum
from solo.losses.unsliced import (
    CheaperForm,
    MarginalMatching,
    UnslicedRDMReg,
    form_taken,
    make_ready,
)
from solo.methods.base import Loss, MethodOptions, SSLMethod
from solo.methods.probes import Encoded
from solo.methods.projectors import ProjectorType
from solo.multivariate.slices import ProjectionVectorsType
from solo.rng import Step


class RectifiedLpJEPAOptions(MethodOptions):
    """``method_kwargs`` of ``rectified_lpjepa``."""

    projector_type: ProjectorType = "rectified_mlp"
    """`rectified_mlp` ends with a ReLU: non-negative, sparse embeddings."""
    invariance_loss_weight: float = Field(25.0, ge=0)
    """Weight of the mean squared difference between views."""
    rdm_reg_loss_weight: float = Field(125.0, ge=0)
    """Weight of RDMReg."""
    target_distribution: Literal["rectified_lp_distribution", "lp_distribution"] = (
        "rectified_lp_distribution"
    )
    """`lp_distribution` is not rectified; with p = 2 it is LeJEPA's target."""
    lp_norm_parameter: float = Field(1.0, gt=0)
    """Shape p of the generalized Gaussian: 1 Laplace, 2 Gaussian."""
    mean_shift_value: float | None = None
    """Its location mu before rectification (0 if nothing is said): lower is sparser."""
    target_l0: float | None = Field(None, gt=0, lt=1)
    """The wanted fraction of non-zero features; sets mu, so mean_shift_value must not."""
    mode_of_sigma: SigmaMode = "sigma_GN"
    """Scale of unit variance before (`sigma_GN`) or after (`sigma_RGN`) rectification."""
    rdm_test: Literal["sliced_wasserstein", "characteristic_function", "unsliced", "auto"] = (
        "sliced_wasserstein"
    )
    """How features are matched: projections sorted, to target samples; by characteristic functions,
    in closed form; the latter over all directions at once; or whichever of these two takes fewer
    operations. All weigh a shift alike, so that rdm_reg_loss_weight means the same."""
    marginal_weight: float = Field(0.0, ge=0)
    """Weight, beside RDMReg's 1, of matching each feature by itself (characteristic function)."""
    num_points: int = Field(17, ge=2)
    """Nodes of the quadrature of characteristic_function, and of the match of each coordinate."""
    t_max: float = Field(3.0, gt=0)
    """Upper end of its grid, in units of 1 / the target's standard deviation."""
    num_projections: int = Field(8192, ge=1)
    """Slices a step."""
    projection_vectors_type: ProjectionVectorsType = "random"
    """Where slices come from."""

    @model_validator(mode="after")
    def _consistent(self) -> RectifiedLpJEPAOptions:
        rectified = self.target_distribution == "rectified_lp_distribution"
        if self.projector_type == "rectified_mlp" and not rectified:
            raise fault(
                "projector_type rectified_mlp gives no negative features, but target_distribution "
                "lp_distribution has them: choose mlp, or rectified_lp_distribution"
            )
        if self.target_l0 is not None and self.mean_shift_value is not None:
            raise fault(
                f"target_l0 {self.target_l0} sets the mean shift, but mean_shift_value "
                f"{self.mean_shift_value} is given too: leave one out (or set it to null)"
            )
        if self.rdm_test != "sliced_wasserstein" and self.projection_vectors_type != "random":
            raise fault(
                f"rdm_test {self.rdm_test} needs projection_vectors_type random, not "
                f"{self.projection_vectors_type}"
            )
        if self.target_l0 is not None and not rectified:
            raise fault("target_l0 needs target_distribution rectified_lp_distribution")
        return self

    def target(self) -> GeneralizedGaussian:
        """The target distribution of each feature."""
        p, mu = self.lp_norm_parameter, self.mean_shift_value or 0.0
        if self.target_distribution == "lp_distribution":
            return GeneralizedGaussian(p, mu)
        if self.target_l0 is not None:
            return RectifiedGeneralizedGaussian.with_expected_l0(
                self.target_l0, p, self.mode_of_sigma
            )
        if self.mode_of_sigma == "sigma_RGN":
            return RectifiedGeneralizedGaussian.with_unit_variance(p, mu)
        return RectifiedGeneralizedGaussian(p, mu)

    def build_regulariser(self, target: GeneralizedGaussian, seed: int) -> nn.Module:
        """RDMReg in the form that ``rdm_test`` names."""
        if self.rdm_test == "sliced_wasserstein":
            return RDMReg(
                target,
                num_projections=self.num_projections,
                projection_vectors_type=self.projection_vectors_type,
                seed=seed,
            )
        if self.rdm_test == "unsliced":
            return UnslicedRDMReg(target)
        sliced = CharacteristicRDMReg(
            target,
            num_projections=self.num_projections,
            num_points=self.num_points,
            t_max=self.t_max,
            seed=seed,
        )
        if self.rdm_test == "characteristic_function":
            return sliced
        return CheaperForm(sliced, UnslicedRDMReg(target), self.num_projections, self.num_points)


class RectifiedLpJEPA(SSLMethod):
    """``invariance_loss_weight * mse(z1, z2) + rdm_reg_loss_weight * RDMReg(z)``."""

    loss_name: ClassVar[str] = "rectified_lp_jepa_loss"
    against_collapse: ClassVar[str] = (
        "Raise method_kwargs.rdm_reg_loss_weight, or lower invariance_loss_weight"
    )
    Options: ClassVar[type[MethodOptions]] = RectifiedLpJEPAOptions
    options: RectifiedLpJEPAOptions

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        options = self.options
        target = options.target()
        self.rdm_reg = options.build_regulariser(target, self.config.seed)
        make_ready(self.rdm_reg, self.embedding_dim)
        self.marginals: MarginalMatching | None = None
        if options.marginal_weight:
            self.marginals = MarginalMatching(target, options.num_points, options.t_max)
        self.facts["expected_l0"] = target.expected_l0

    def compute_loss(self, encoded: Encoded, batch: Batch, step: Step) -> Loss:
        """Invariance between views, and RDMReg."""
        z = encoded.z
        rdm_reg: Tensor = self.rdm_reg(z, step)
        terms = {"rdm_reg_loss": rdm_reg}
        regulariser = rdm_reg
        if self.marginals is not None:
            count = z.shape[1] * distributed.world_size()
            terms["marginal_loss"] = self.marginals(z).mean() / (count * self.marginals.unit)
            regulariser = rdm_reg + self.options.marginal_weight * terms["marginal_loss"]
        loss = weighted_sum(
            z,
            regulariser,
            invariance_loss_weight=self.options.invariance_loss_weight,
            rdm_reg_loss_weight=self.options.rdm_reg_loss_weight,
        )
        return Loss(loss.loss, {"invariance_loss": loss.invariance, **terms})

    def remarks(self, images: int) -> list[str]:
        """Which form ``rdm_test: auto`` takes."""
        return form_taken(self.rdm_reg, images, self.embedding_dim)
