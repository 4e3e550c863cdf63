"""Constants on the devices that need them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class Placed:
    """Arrays as tensors, copied to each device and type once.

    Args:
        arrays: NumPy's.
    """

    def __init__(self, *arrays: np.ndarray) -> None:
        with torch.inference_mode(False):
            self._arrays = [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]
        self._there: dict[tuple[torch.device, torch.dtype], tuple[Tensor, ...]] = {}

    def at(self, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """The tensors of a device and type."""
        place = (device, dtype)
        if place not in self._there:
            with torch.inference_mode(False):  # training uses them too
                self._there[place] = tuple(array.to(device, dtype) for array in self._arrays)
        return self._there[place]
