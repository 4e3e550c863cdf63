"""Multivariate goodness-of-fit statistics against N(0, I)."""

from solo.multivariate.slicing import SlicingUnivariateTest

__all__ = ["SlicingUnivariateTest"]
