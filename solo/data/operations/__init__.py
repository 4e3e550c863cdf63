"""What can be done to a view after its crop, in the order in which it is done.

An operation is one file here, one line in ``OPERATIONS``, and one field of the same name in
``Augmentation`` (``solo/config/views.py``). A view's random numbers are columns of one row; each
operation has columns of its own, so that a new one changes no other's draws.
"""

from solo.data.operations.base import Operation, Turn
from solo.data.operations.blur import gaussian_blur
from solo.data.operations.color import color_jitter, grayscale
from solo.data.operations.damage import gaussian_noise, random_erasing
from solo.data.operations.geometry import quarter_turns, rotation, vertical_flip
from solo.data.operations.tones import equalization, solarization

OPERATIONS: tuple[Operation, ...] = (
    vertical_flip,  # column 34
    quarter_turns,  # 35 and 36
    rotation,  # 37 and 38
    color_jitter,  # 23 to 28; those before are the crop's and the horizontal flip's
    grayscale,  # 29
    gaussian_blur,  # 30 and 31
    solarization,  # 32
    equalization,  # 33
    gaussian_noise,  # 39 to 41
    random_erasing,  # 42 to 46
)

NUMBERS = max(operation.columns.stop for operation in OPERATIONS)
"""Random numbers of a view, without those of a user's own operations, which follow."""

__all__ = ["NUMBERS", "OPERATIONS", "Operation", "Turn"]
