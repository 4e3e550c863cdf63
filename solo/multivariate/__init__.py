"""Multivariate goodness-of-fit statistics against N(0, I)."""

from solo.multivariate.base import MultivariateTest
from solo.multivariate.bhep import BHEP, HZ
from solo.multivariate.generating_function import BHEP_M, COMB, HV
from solo.multivariate.kernels import KernelMMD, KernelStein
from solo.multivariate.slices import RandomSlices
from solo.multivariate.slicing import SlicingUnivariateTest
from solo.multivariate.unsliced import UnslicedEppsPulley
from solo.multivariate.weak_sigreg import WeakSIGReg

MULTIVARIATE_TESTS: dict[str, type[MultivariateTest]] = {
    "bhep": BHEP,
    "bhep_m": BHEP_M,
    "comb": COMB,
    "hv": HV,
    "hz": HZ,
    "mmd": KernelMMD,
    "stein": KernelStein,
    "unsliced_epps_pulley": UnslicedEppsPulley,
    "weak_sigreg": WeakSIGReg,
}
"""The tests by the names that configs use."""

__all__ = [
    "BHEP",
    "BHEP_M",
    "COMB",
    "HV",
    "HZ",
    "MULTIVARIATE_TESTS",
    "KernelMMD",
    "KernelStein",
    "MultivariateTest",
    "RandomSlices",
    "SlicingUnivariateTest",
    "UnslicedEppsPulley",
    "WeakSIGReg",
]
