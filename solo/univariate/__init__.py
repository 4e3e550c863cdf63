"""Univariate goodness-of-fit statistics against N(0, 1), differentiable and exact under DDP."""

from solo.univariate.base import UnivariateTest
from solo.univariate.epps_pulley import EppsPulley

__all__ = ["EppsPulley", "UnivariateTest"]
