"""What an operation on views is.

Images are float32 [n, C, H, W] in [0, 255]. Operations follow torchvision's definitions for float
images; only the results of the last one are rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from solo.config.views import Chance


class Turn(NamedTuple):
    """One change of some views of a batch.

    ``apply``: a function of a module, (images [m, C, H, W], factors [m]) -> images;
    ``views``: which m of the n views, ascending; ``factors``: float32 [m] or [m, k], of each view.
    """

    apply: Callable[[Tensor, Tensor], Tensor]
    views: np.ndarray
    factors: np.ndarray


class Operation(NamedTuple):
    """A random change of a view.

    ``name``: its key in an entry of ``augmentations``; ``columns``: which of a view's random
    numbers are its own; ``plan``: (its options, those numbers [n, len(columns)]) -> what is done.
    """

    name: str
    columns: range
    plan: Callable[[Any, np.ndarray], Iterator[Turn]]

    def turns(self, options: Chance, uniforms: np.ndarray) -> list[Turn]:
        """What it does to n views, of all their random numbers; nothing where no view is meant."""
        own = uniforms[:, self.columns.start : self.columns.stop]
        return [turn for turn in self.plan(options, own) if len(turn.views)]


def chosen(options: Chance, numbers: np.ndarray) -> np.ndarray:
    """The views whose number [n] is below the operation's probability."""
    return np.flatnonzero(numbers < options.chance)


def always_alike(
    apply: Callable[[Tensor, Tensor], Tensor],
) -> Callable[[Chance, np.ndarray], Iterator[Turn]]:
    """A plan for an operation of one number, that changes all chosen views in the same way."""

    def plan(options: Chance, u: np.ndarray) -> Iterator[Turn]:
        views = chosen(options, u[:, 0])
        yield Turn(apply, views, np.zeros(len(views), np.float32))

    return plan


def apply_turns(images: Tensor, turns: list[Turn]) -> Tensor:
    """Do what was planned, in place: float32 [n, C, H, W]."""
    for turn in turns:
        index, factors = (_there(x, images.device) for x in (turn.views, turn.factors))
        images.index_copy_(0, index, turn.apply(images.index_select(0, index), factors))
    return images


def _there(array: np.ndarray, device: torch.device) -> Tensor:
    """On the device; a GPU is not waited for."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def separable(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """``rows_i @ image_i @ columns_i^T``: [n, C, H, W], [n, h, H] and [n, w, W] -> [n, C, h, w]."""
    count, channels, height, width = images.shape
    narrow = images.reshape(count, channels * height, width) @ columns.mT
    narrow = narrow.view(count, channels, height, columns.shape[1])
    result = images.new_empty(count, channels, rows.shape[1], columns.shape[1])
    for channel in range(channels):
        result[:, channel] = rows @ narrow[:, channel]
    return result
