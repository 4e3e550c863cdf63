"""Images to batches: which images make a step's batch, and what a batch is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from solo import rng
from solo.config import Augmentation, Size, sides
from solo.data.crops import crop_files
from solo.data.decode import Jpeg
from solo.data.deferred import Unfinished, make_views
from solo.data.encoded import join_files
from solo.data.plans import grouped, join_plans, numbers_of, plan_views
from solo.data.sources import BadImageError, EncodedSource, ImageSource
from solo.data.views import validation_transform

CPU_PIXELS = 2**16
"""Pixels of a view times views in work at a time on a CPU."""


class SampleKey(NamedTuple):
    """One image in one epoch. ``padding``: it only fills a batch and counts for nothing."""

    epoch: int
    image: int
    padding: bool = False


class Batch(NamedTuple):
    """A batch of B images on one process.

    ``views``: one tensor [V, B, C, H, W] for each resolution, the first recipe's first: uint8, or
    float32 in [0, 255] of images of more than 8 bits;
    ``labels``: int64 [B] or [B, A], -1 where there is none; ``indices``: int64 [B], the images'
    positions in the data set; ``skipped``: how many images could not be read.
    """

    views: list[Tensor]
    labels: Tensor
    indices: Tensor
    skipped: int = 0


class TrainingSampler(Sampler[list[SampleKey]]):
    """This process's batches of an epoch; incomplete global batches are dropped.

    The order is a function of ``(seed, epoch)``. Global batch ``g`` is the same set of images
    whatever the number of processes; process ``r`` takes its ``r``-th part.

    Args:
        length: images in the data set.
        batch_size: B, per process.
        seed: the run's seed.
        rank: this process.
        processes: how many there are.
        epoch: the first one.
        start: batches of the first epoch that are done already; they are not made again.

    Example:
        >>> sampler = TrainingSampler(length=10, batch_size=2, seed=0, rank=0, processes=2)
        >>> [[key.image for key in batch] for batch in sampler]  # half of each global batch
        [[2, 7], [8, 0]]
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        rank: int,
        processes: int,
        epoch: int = 0,
        start: int = 0,
    ) -> None:
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.rank, self.processes = rank, processes
        self.epoch = epoch
        self._resumed = (epoch, start)

    def __len__(self) -> int:
        return self.length // (self.batch_size * self.processes)

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[SampleKey]]:
        shuffle = rng.generator(self.seed, "shuffle", self.epoch)
        order = torch.randperm(self.length, generator=shuffle).tolist()
        epoch, done = self._resumed
        for step in range(done if self.epoch == epoch else 0, len(self)):
            start = (step * self.processes + self.rank) * self.batch_size
            yield [SampleKey(self.epoch, i) for i in order[start : start + self.batch_size]]


class ValidationSampler(Sampler[list[SampleKey]]):
    """Every image once over all processes; padding makes their numbers of batches equal.

    Example:
        >>> sampler = ValidationSampler(length=5, batch_size=2, rank=1, processes=2)
        >>> [[key.image for key in batch] for batch in sampler]  # image 4 is the other process's
        [[2, 3], [0]]
    """

    def __init__(self, length: int, batch_size: int, rank: int, processes: int) -> None:
        self.length, self.batch_size = length, batch_size
        self.rank, self.processes = rank, processes

    def __len__(self) -> int:
        return math.ceil(self.length / (self.batch_size * self.processes))

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for step in range(len(self)):
            start = (step * self.processes + self.rank) * self.batch_size
            keys = [
                SampleKey(0, i) for i in range(start, min(start + self.batch_size, self.length))
            ]
            yield keys or [SampleKey(0, 0, padding=True)]


class ResumableLoader(DataLoader["Batch | Unfinished"]):
    """A loader whose sampler knows where to go on; this tells Lightning so."""

    def state_dict(self) -> dict[str, Any]:
        """Empty: the data module keeps the position."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to load: the data module keeps the position."""


class Loaded(NamedTuple):
    """The images of a batch before their views: ``files`` [C, H, W] where they are not in memory,
    positions in the data set, heights and widths [B], how many others were skipped, and, instead of
    ``files``, what the device decodes with what it does not."""

    files: list[Tensor]
    indices: Tensor
    heights: np.ndarray
    widths: np.ndarray
    skipped: int = 0
    encoded: Sequence[Jpeg | Tensor] = ()

    def sizes(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Heights and widths for ``count`` views, image after image, again and again."""
        return np.resize(self.heights, count), np.resize(self.widths, count)


class TrainingViews(Dataset["Batch | Unfinished"]):
    """A list of keys -> a batch of random views.

    Images in memory are cropped and resized as a batch, files one by one as they are decoded;
    colours are changed as a batch. The randomness of a view is a function of (seed, epoch, image,
    view), whoever makes it.

    Args:
        source: the images.
        recipes: ``augmentations``.
        seed: the run's seed.
        defer: leave what can be done in batches to the training device.
        skip_bad: take the next image in place of one that cannot be read.
        encoded: with ``defer``, leave also the decoding of JPEG files to the device.
    """

    def __init__(
        self,
        source: ImageSource,
        recipes: Sequence[Augmentation],
        seed: int,
        defer: bool = False,
        skip_bad: bool = False,
        encoded: bool = False,
    ) -> None:
        self.source, self.recipes, self.seed, self.defer = source, recipes, seed, defer
        self.skip_bad, self.encoded = skip_bad, encoded

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, keys: list[SampleKey]) -> Batch | Unfinished:
        loaded = self._load(keys)
        labels = self.source.labels[loaded.indices]
        numbers = list(zip(self.recipes, self._numbers(keys)))
        if self.defer:
            plans = join_plans(
                [plan_views(recipe, u, *loaded.sizes(len(u))) for recipe, u in numbers]
            )
            files = join_files(loaded.encoded) if loaded.encoded else None
            crops = [
                crop_files(loaded.files, plan.boxes, plan.flip, plan.size)
                for plan in plans
                if loaded.files
            ]
            return Unfinished(plans, labels, loaded.indices, crops, loaded.skipped, files)
        views = [self._views(loaded, recipe, u) for recipe, u in numbers]
        return Batch(join_resolutions(views), labels, loaded.indices, loaded.skipped)

    def _load(self, keys: list[SampleKey]) -> Loaded:
        """Decode the files, where images are not in memory."""
        images = self.source.images
        if images is not None:
            heights, widths = (np.full(len(keys), side) for side in images.shape[-2:])
            return Loaded([], torch.tensor([key.image for key in keys]), heights, widths)
        if self.encoded and isinstance(self.source, EncodedSource):
            undecoded = [self.source.undecoded(key.image) for key in keys]
            heights, widths = np.array([image.shape[-2:] for image in undecoded]).T
            indices = torch.tensor([key.image for key in keys])
            decoded = [image for image in undecoded if isinstance(image, Tensor)]
            if len(decoded) == len(keys):  # nothing for the device: crops are smaller
                return Loaded(decoded, indices, heights, widths)
            return Loaded([], indices, heights, widths, encoded=undecoded)
        found = [self._readable(key.image) for key in keys]
        files = [image for image, _ in found]
        skipped = sum(index != key.image for (_, index), key in zip(found, keys))
        heights, widths = (np.array([file.shape[side] for file in files]) for side in (1, 2))
        return Loaded(files, torch.tensor([i for _, i in found]), heights, widths, skipped)

    def _views(self, loaded: Loaded, recipe: Augmentation, uniforms: np.ndarray) -> Tensor:
        """[num_crops, B, C, H, W], made in parts that stay in the cache."""
        count, parts = len(uniforms), []
        heights, widths = loaded.sizes(count)
        step = max(8, CPU_PIXELS // math.prod(sides(recipe.crop_size)))
        for start in range(0, count, step):
            rows = slice(start, start + step)
            plan = plan_views(recipe, uniforms[rows], heights[rows], widths[rows])
            picked = np.arange(count)[rows] % len(loaded.indices)
            if self.source.images is not None:
                images = self.source.images[loaded.indices[torch.from_numpy(picked)]]
                parts.append(make_views(images, plan))
            else:
                files = [loaded.files[i] for i in picked]
                cropped = crop_files(files, plan.boxes, plan.flip, plan.size)
                parts.append(plan.finish(cropped.float(), self.source.layout.deep))
        return torch.cat(parts).unflatten(0, (recipe.num_crops, -1))

    def _readable(self, index: int) -> tuple[Tensor, int]:
        """The image, or the next one that can be read, and its position."""
        for position in range(index, index + len(self.source)):
            try:
                return self.source.image(position % len(self.source)), position % len(self.source)
            except BadImageError:
                if not self.skip_bad:
                    raise
        raise BadImageError(f"none of the {len(self.source)} images can be read")

    def _numbers(self, keys: list[SampleKey]) -> list[np.ndarray]:
        """For each recipe [num_crops B, numbers_of(recipe)], view by view."""
        pairs = np.array([(key.epoch, key.image) for key in keys])
        found, first = [], 0
        for recipe in self.recipes:
            views = np.repeat(np.arange(first, first + recipe.num_crops), len(keys))
            items = np.column_stack((np.tile(pairs, (recipe.num_crops, 1)), views))
            found.append(rng.uniforms(self.seed, "views", items, numbers_of(recipe)))
            first += recipe.num_crops
        return found


def join_resolutions(views: Sequence[Tensor]) -> list[Tensor]:
    """Views of each recipe [V, B, C, H, W] -> of each resolution, the first recipe's first."""
    groups = grouped(views, lambda part: (part.shape[-2], part.shape[-1]))
    return [parts[0] if len(parts) == 1 else torch.cat(parts) for parts in groups]


class ValidationViews(Dataset[Batch]):
    """A list of keys -> a batch of one view each, without randomness; padding is labelled -1.

    With ``skip_bad``, an image that cannot be read is black and labelled -1.
    """

    def __init__(
        self, source: ImageSource, size: Size, whole: bool, skip_bad: bool = False
    ) -> None:
        self.source = source
        self.size, self.skip_bad = size, skip_bad
        self.transform = validation_transform(size, whole)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, keys: list[SampleKey]) -> Batch:
        indices = torch.tensor([key.image for key in keys])
        if self.source.images is not None:
            views = self.transform(self.source.images[indices]).expand(-1, 3, -1, -1)
            views = views.contiguous()  # memory that is pinned must not overlap itself
            unread = [False] * len(keys)
        else:
            made = [self._view(key.image) for key in keys]
            layout = self.source.layout
            kind = torch.float32 if layout.deep else torch.uint8
            black = torch.zeros(layout.channels, *sides(self.size), dtype=kind)
            views = torch.stack([black if view is None else view for view in made])
            unread = [view is None for view in made]
        labels = self.source.labels[indices]
        labels[torch.tensor([key.padding for key in keys])] = -1
        labels[torch.tensor(unread)] = -1
        return Batch([views[None]], labels, indices, sum(unread))

    def _view(self, index: int) -> Tensor | None:
        """None for an image that cannot be read, where those are skipped."""
        try:
            view: Tensor = self.transform(self.source.image(index))
            return view.clamp_(0, 255)  # bicubic resizing of deep images overshoots
        except BadImageError:
            if not self.skip_bad:
                raise
            return None
