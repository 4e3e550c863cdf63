"""What will be done to each view: every random parameter of a batch, drawn at once on the host.

As the host knows which view gets which operation, the batched operations need no masks and read
nothing back from the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from solo.config import Augmentation, ConfigError, Size
from solo.data.crops import FLIP, crop_and_resize, crop_boxes
from solo.data.decode import Layout
from solo.data.operations import NUMBERS, OPERATIONS, Turn, extra
from solo.data.operations.base import apply_turns

__all__ = ["ViewPlan", "grouped", "join_plans", "numbers_of", "plan_views"]

Part = TypeVar("Part")


@dataclass(frozen=True)
class ViewPlan:
    """Parameters of n views of one size.

    ``size``: of the views; ``boxes``: [n, 4], top, left, height and width of the crop;
    ``flip``: bool [n]; ``turns``: what operations do, in order.
    """

    size: Size
    boxes: np.ndarray
    flip: np.ndarray
    turns: list[Turn]

    def crop(self, images: Tensor) -> Tensor:
        """uint8 or float [n, C, H, W] -> float32 [n, C, h, w], not clamped."""
        return crop_and_resize(images, self.boxes, self.flip, self.size)

    def finish(self, images: Tensor, deep: bool = False) -> Tensor:
        """Do the operations: float32 [n, C, H, W], overwritten -> uint8 (``deep``: float32)."""
        made = apply_turns(images.clamp_(0, 255), self.turns)
        return made if deep else made.round_().to(torch.uint8)


def numbers_of(recipe: Augmentation) -> int:
    """How many random numbers each view of a recipe needs."""
    return NUMBERS + extra.NUMBERS * len(recipe.extra)


def check_operations(recipes: Sequence[Augmentation], layout: Layout) -> None:
    """Whether what is asked for can be done to such images.

    Raises:
        ConfigError: for colours of images that have none, and levels of deep ones.
    """
    colours = f"needs red, green and blue, and images have {layout.channels} channels"
    faults, mends = [], []
    for number, recipe in enumerate(recipes):
        jitter = recipe.color_jitter
        refused: list[tuple[str, float, str]] = []
        if layout.channels != 3:
            refused += [
                ("color_jitter.saturation", jitter.chance * jitter.saturation, colours),
                ("color_jitter.hue", jitter.chance * jitter.hue, colours),
                ("grayscale.prob", recipe.grayscale.chance, colours),
            ]
        if layout.deep:
            levels = recipe.equalization.chance
            refused.append(("equalization.prob", levels, "is for images of 8 bits"))
        for name, value, why in refused:
            if value:
                faults.append(f"augmentations.{number}.{name} {why}")
                mends.append(f"augmentations.{number}.{name}=0")
    if faults:
        raise ConfigError(f"{'; '.join(faults)}. Set them to 0: {' '.join(mends)}")


def plan_views(
    recipe: Augmentation, uniforms: np.ndarray, heights: np.ndarray, widths: np.ndarray
) -> ViewPlan:
    """Turn random numbers into what the recipe says.

    Args:
        recipe: one entry of ``augmentations``.
        uniforms: [n, numbers_of(recipe)] in [0, 1).
        heights: [n], of the images.
        widths: [n].
    """
    turns = (each.turns(getattr(recipe, each.name), uniforms) for each in OPERATIONS)
    return ViewPlan(
        recipe.crop_size,
        crop_boxes(recipe, uniforms, heights, widths),
        uniforms[:, FLIP] < recipe.horizontal_flip.chance,
        [
            *(turn for each in turns for turn in each),
            *extra.extra_turns(recipe.extra, uniforms, NUMBERS),
        ],
    )


def grouped(parts: Iterable[Part], size: Callable[[Part], Size]) -> list[list[Part]]:
    """What each recipe gives, by the size of its views, the first recipe's first."""
    by_size: dict[Size, list[Part]] = {}
    for part in parts:
        by_size.setdefault(size(part), []).append(part)
    return list(by_size.values())


def join_plans(plans: Sequence[ViewPlan]) -> list[ViewPlan]:
    """Plans of each recipe -> of each size, the first recipe's first."""
    return [_joined(parts) for parts in grouped(plans, lambda plan: plan.size)]


def _joined(plans: Sequence[ViewPlan]) -> ViewPlan:
    if len(plans) == 1:
        return plans[0]
    turns, first = [], 0
    for plan in plans:
        turns += [turn._replace(views=turn.views + first) for turn in plan.turns]
        first += len(plan.boxes)
    boxes, flip = (np.concatenate(x) for x in zip(*((p.boxes, p.flip) for p in plans)))
    return ViewPlan(plans[0].size, boxes, flip, turns)
