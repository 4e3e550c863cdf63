"""Univariate goodness-of-fit statistics against N(0, 1), differentiable and exact under DDP."""

from solo.univariate.anderson_darling import AndersonDarling
from solo.univariate.base import OrderTest, UnivariateTest
from solo.univariate.cramer_von_mises import CramerVonMises
from solo.univariate.entropy import Entropy
from solo.univariate.epps_pulley import EppsPulley
from solo.univariate.extended_jarque_bera import ExtendedJarqueBera
from solo.univariate.moments import Moments
from solo.univariate.nll import NLL
from solo.univariate.shapiro_wilk import ShapiroWilk
from solo.univariate.vcreg import VCReg
from solo.univariate.watson import Watson

UNIVARIATE_TESTS: dict[str, type[UnivariateTest]] = {
    "anderson_darling": AndersonDarling,
    "cramer_von_mises": CramerVonMises,
    "entropy": Entropy,
    "epps_pulley": EppsPulley,
    "extended_jarque_bera": ExtendedJarqueBera,
    "moments": Moments,
    "nll": NLL,
    "shapiro_wilk": ShapiroWilk,
    "vcreg": VCReg,
    "watson": Watson,
}
"""The tests by the names that configs use."""

__all__ = [
    "NLL",
    "UNIVARIATE_TESTS",
    "AndersonDarling",
    "CramerVonMises",
    "Entropy",
    "EppsPulley",
    "ExtendedJarqueBera",
    "Moments",
    "OrderTest",
    "ShapiroWilk",
    "UnivariateTest",
    "VCReg",
    "Watson",
]
