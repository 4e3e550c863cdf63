"""Target distributions, and what their projections are."""

from solo.distributions.generalized_gaussian import (
    GeneralizedGaussian,
    RectifiedGeneralizedGaussian,
    SigmaMode,
    unit_variance_scale,
)
from solo.distributions.products import (
    ExpandedProduct,
    TabulatedProduct,
    product_characteristic_function,
)

__all__ = [
    "ExpandedProduct",
    "GeneralizedGaussian",
    "RectifiedGeneralizedGaussian",
    "SigmaMode",
    "TabulatedProduct",
    "product_characteristic_function",
    "unit_variance_scale",
]
