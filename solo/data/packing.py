"""Plans as rows of numbers on the device, for the kernels that make views."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from solo.data.operations.base import Turn
from solo.data.operations.blur import blur
from solo.data.operations.color import brightness, contrast, hue, saturation, to_grayscale
from solo.data.operations.tones import equalize, solarize
from solo.data.plans import ViewPlan
from solo.kernels import rows

Apply = Callable[[Tensor, Tensor], Tensor]

COLORS: dict[Apply, int] = {
    brightness: rows.BRIGHTNESS,
    contrast: rows.CONTRAST,
    saturation: rows.SATURATION,
    hue: rows.HUE,
    to_grayscale: rows.GRAY,
}
LATER: dict[Apply, int] = {blur: rows.SIGMA, solarize: rows.SOLARIZE, equalize: rows.EQUALIZE}
"""Done after all colours, in this order."""


class Packed(NamedTuple):
    """What is done to the views of a batch, resolution after resolution.

    ``numbers``: float32 [n, rows.NUMBERS], one tensor so that it is one transfer; ``blurs`` and
    ``equalizes``: for each resolution, whether any of its views is.
    """

    numbers: Tensor
    blurs: list[bool]
    equalizes: list[bool]


def pack(plans: Sequence[ViewPlan]) -> Packed | None:
    """None where the kernels do not know an operation, or not in this order."""
    parts = []
    for plan in plans:
        numbers = np.zeros((len(plan.boxes), rows.NUMBERS), np.float32)
        numbers[:, rows.TOP : rows.WIDTH + 1] = plan.boxes
        numbers[:, rows.FLIP] = plan.flip
        if not _pack_turns(plan.turns, numbers):
            return None
        parts.append(numbers)
    blurs, equalizes = (
        [bool(part[:, column].any()) for part in parts] for column in (rows.SIGMA, rows.EQUALIZE)
    )
    return Packed(torch.from_numpy(np.concatenate(parts)), blurs, equalizes)


def _pack_turns(turns: Sequence[Turn], numbers: np.ndarray) -> bool:
    """Write turns into the rows; whether they are known, and in a known order."""
    numbers[:, rows.CHANGES : rows.FACTORS] = rows.NOTHING
    numbers[:, rows.CONTRAST_SLOT] = rows.SLOTS
    used = np.zeros(len(numbers), np.int64)  # slots
    stage = np.zeros(len(numbers), np.int64)  # the latest column of LATER that is taken
    for turn in turns:
        views = turn.views
        if turn.apply in COLORS:
            slots = used[views]
            if stage[views].any() or (slots >= rows.SLOTS).any():
                return False
            numbers[views, rows.CHANGES + slots] = COLORS[turn.apply]
            numbers[views, rows.FACTORS + slots] = turn.factors
            if turn.apply is contrast:
                if (numbers[views, rows.CONTRAST_SLOT] < rows.SLOTS).any():
                    return False
                numbers[views, rows.CONTRAST_SLOT] = slots
            used[views] += 1
        elif turn.apply in LATER:
            column = LATER[turn.apply]
            if (stage[views] >= column).any():
                return False
            numbers[views, column] = turn.factors if column == rows.SIGMA else 1
            stage[views] = column
        else:
            return False
    return True
