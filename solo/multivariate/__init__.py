"""Multivariate goodness-of-fit statistics against N(0, I)."""

from solo.multivariate.base import MultivariateTest
from solo.multivariate.bhep import BHEP, HZ
from solo.multivariate.generating_function import BHEP_M, COMB, HV
from solo.multivariate.slices import RandomSlices
from solo.multivariate.slicing import SlicingUnivariateTest
from solo.multivariate.unsliced import UnslicedEppsPulley

MULTIVARIATE_TESTS: dict[str, type[MultivariateTest]] = {
    "bhep": BHEP,
    "bhep_m": BHEP_M,
    "comb": COMB,
    "hv": HV,
    "hz": HZ,
    "unsliced_epps_pulley": UnslicedEppsPulley,
}
"""The tests by the names that configs use."""

__all__ = [
    "BHEP",
    "BHEP_M",
    "COMB",
    "HV",
    "HZ",
    "MULTIVARIATE_TESTS",
    "MultivariateTest",
    "RandomSlices",
    "SlicingUnivariateTest",
    "UnslicedEppsPulley",
]
