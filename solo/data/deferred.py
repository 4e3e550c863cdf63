"""Batches whose views the training device makes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from solo import kernels
from solo.config import sides
from solo.data.crops import crop_files
from solo.data.encoded import Files, Ragged
from solo.data.packing import Packed, pack
from solo.data.plans import ViewPlan


class Unfinished:
    """A batch of B images whose views are still to be made.

    No tuple, as whoever hands it on would change what is inside: loaders make tensors of plans, and
    ``precision=64`` doubles of numbers that kernels read.

    Args:
        plans: for each size, of V B views, view by view.
        labels: as in ``Batch``.
        indices: likewise.
        crops: for each size [V B, C, H, W], or none where the device holds or decodes the images.
        skipped: as in ``Batch``.
        files: what the device decodes.
    """

    def __init__(
        self,
        plans: list[ViewPlan],
        labels: Tensor,
        indices: Tensor,
        crops: list[Tensor],
        skipped: int = 0,
        files: Files | None = None,
    ) -> None:
        self.plans, self.labels, self.indices = plans, labels, indices
        self.crops, self.skipped, self.files = crops, skipped, files
        self.packed: Packed | None = None
        """The plans for kernels, None where those do not know them."""
        self.places = None if files is None else torch.from_numpy(files.places)
        if all(len(crop[0]) == 3 and crop.dtype == torch.uint8 for crop in crops):
            self.packed = pack(plans)

    def to(self, device: torch.device) -> Unfinished:
        """There, without waiting for it; files stay on the host, where decoders read them."""
        return self._changed(lambda x: x.to(device, non_blocking=True))

    def pin_memory(self) -> Unfinished:
        """For loaders."""
        return self._changed(lambda x: x.pin_memory())

    def _changed(self, change: Callable[[Tensor], Tensor]) -> Unfinished:
        made = object.__new__(Unfinished)
        made.__dict__ |= self.__dict__
        made.labels, made.indices = change(self.labels), change(self.indices)
        made.crops = [change(crop) for crop in self.crops]
        if self.packed is not None:
            made.packed = self.packed._replace(numbers=change(self.packed.numbers))
        if self.places is not None:
            made.places = change(self.places)
        return made


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
    if isinstance(images, Tensor):
        views_each = len(plan.boxes) // len(unfinished.indices)
        return make_views(images[unfinished.indices.repeat(views_each)], plan)
    if images is None:
        crops = unfinished.crops[number]
    else:
        crops = crop_files(images.images(), plan.boxes, plan.flip, plan.size)
    return plan.finish(crops.float(), deep=crops.dtype != torch.uint8)


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
