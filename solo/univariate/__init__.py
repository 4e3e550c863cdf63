"""Univariate goodness-of-fit statistics against N(0, 1), differentiable and exact under DDP."""

from solo.univariate.base import UnivariateTest
from solo.univariate.edf import AndersonDarling, CramerVonMises, Watson
from solo.univariate.epps_pulley import EppsPulley
from solo.univariate.moments import ExtendedJarqueBera, VCReg

__all__ = [
    "AndersonDarling",
    "CramerVonMises",
    "EppsPulley",
    "ExtendedJarqueBera",
    "UnivariateTest",
    "VCReg",
    "Watson",
]
