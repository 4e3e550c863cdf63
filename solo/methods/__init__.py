"""Methods by name."""

from solo.methods.base import MethodKwargs, SSLMethod
from solo.methods.rectified_lpjepa import RectifiedLpJEPA

__all__ = ["METHODS", "MethodKwargs", "SSLMethod"]

METHODS: dict[str, type[SSLMethod]] = {
    "rectified_lpjepa": RectifiedLpJEPA,
}
