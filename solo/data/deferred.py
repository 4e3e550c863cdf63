"""Batches whose views the training device makes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from solo import kernels
from solo.config import sides
from solo.data.crops import crop_and_resize
from solo.data.encoded import Files, Ragged
from solo.data.packing import Packed, pack
from solo.data.plans import ViewPlan


class Unfinished(NamedTuple):
    """A batch of B images whose views are still to be made.

    ``plans``: for each size, of V B views, view by view; ``crops``: for each
    [V B, C, H, W], or none where the device holds or decodes the images; ``packed``: the plans for
    kernels, None where those do not know them; ``labels``, ``indices`` and ``skipped``: as in
    ``Batch``; ``files``: what the device decodes, always on the host, and their ``places``.
    """

    crops: list[Tensor]
    plans: list[ViewPlan]
    packed: Packed | None
    labels: Tensor
    indices: Tensor
    skipped: int = 0
    files: Files | None = None
    places: Tensor | None = None

    def to(self, device: torch.device) -> Unfinished:
        """There, without waiting for it."""
        crops = [crop.to(device, non_blocking=True) for crop in self.crops]
        packed = self.packed
        if packed is not None:
            packed = packed._replace(numbers=packed.numbers.to(device, non_blocking=True))
        labels, indices = (x.to(device, non_blocking=True) for x in (self.labels, self.indices))
        places = self.places
        if places is not None:
            places = places.to(device, non_blocking=True)
        return Unfinished(
            crops, self.plans, packed, labels, indices, self.skipped, self.files, places
        )


def defer(
    crops: list[Tensor], plans: list[ViewPlan], labels: Tensor, indices: Tensor, skipped: int = 0
) -> Unfinished:
    """Leave the views of these plans to the device."""
    known = all(len(crop[0]) == 3 and crop.dtype == torch.uint8 for crop in crops)
    return Unfinished(crops, plans, pack(plans) if known else None, labels, indices, skipped)


def defer_files(
    files: Files, plans: list[ViewPlan], labels: Tensor, indices: Tensor, skipped: int = 0
) -> Unfinished:
    """Leave also the decoding to the device."""
    places = torch.from_numpy(files.places)
    return Unfinished([], plans, pack(plans), labels, indices, skipped, files, places)


def finish_views(unfinished: Unfinished, images: Tensor | Ragged | None) -> list[Tensor]:
    """Make the views of a batch that is on the training device.

    Args:
        unfinished: the batch.
        images: the whole data set there, or the batch's own images, decoded; None where the batch
            brings its crops.

    Returns:
        For each size [V, B, C, H, W], uint8 or, of deep images, float32.
    """
    packed, count = unfinished.packed, len(unfinished.indices)
    if packed is not None and kernels.usable(packed.numbers):
        made = _by_kernels(unfinished, packed, images)
    else:
        made = [
            _by_tensors(unfinished, number, plan, images)
            for number, plan in enumerate(unfinished.plans)
        ]
    return [views.unflatten(0, (-1, count)) for views in made]


def _by_tensors(
    unfinished: Unfinished, number: int, plan: ViewPlan, images: Tensor | Ragged | None
) -> Tensor:
    """The views of one size."""
    if images is None:
        crops = unfinished.crops[number]
        return plan.finish(crops.float(), deep=crops.dtype != torch.uint8)
    if isinstance(images, Ragged):
        return plan.finish(_crop_each(images, plan))
    views_each = len(plan.boxes) // len(unfinished.indices)
    return make_views(images[unfinished.indices.repeat(views_each)], plan)


def _crop_each(images: Ragged, plan: ViewPlan) -> Tensor:
    """float32 [V B, 3, h, w], the views of an image at a time."""
    count = len(images.shapes)
    views_each = len(plan.boxes) // count
    made = images.pixels.new_empty(len(plan.boxes), 3, *sides(plan.size), dtype=torch.float32)
    for i in range(count):
        image = images.image(i).expand(views_each, -1, -1, -1)
        made[i::count] = crop_and_resize(
            image, plan.boxes[i::count], plan.flip[i::count], plan.size
        )
    return made


def _by_kernels(
    unfinished: Unfinished, packed: Packed, images: Tensor | Ragged | None
) -> list[Tensor]:
    from solo.kernels.views import fused_views  # asks for Triton

    counts = [len(plan.boxes) for plan in unfinished.plans]
    which = None if images is None else unfinished.indices
    if isinstance(images, Ragged):
        which = images.places
        images = images.pixels
    return [
        fused_views(
            unfinished.crops[number] if images is None else images,
            which,
            numbers,
            sides(plan.size),
            blurs=packed.blurs[number],
            equalizes=packed.equalizes[number],
        )
        for number, (plan, numbers) in enumerate(
            zip(unfinished.plans, packed.numbers.split(counts))
        )
    ]


def make_views(images: Tensor, plan: ViewPlan) -> Tensor:
    """uint8 [n, 1 or 3, H, W] -> uint8 [n, 3, h, w]."""
    cropped = plan.crop(images)
    if not plan.turns:  # grey images stay in one channel up to here
        return plan.finish(cropped).expand(-1, 3, -1, -1)
    return plan.finish(cropped.expand(-1, 3, -1, -1).contiguous())
