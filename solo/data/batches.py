"""Images to batches: which images make a step's batch, and what a batch is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from solo import rng
from solo.config import Augmentation
from solo.data.sources import ImageSource
from solo.data.views import validation_transform, view_transform


class SampleKey(NamedTuple):
    """One image in one epoch. ``padding``: it only fills a batch and counts for nothing."""

    epoch: int
    image: int
    padding: bool = False


class Batch(NamedTuple):
    """A batch of B images on one process.

    ``views``: one uint8 tensor [V, B, 3, H, W] for each resolution, the first recipe's first;
    ``labels``: int64 [B] or [B, A], -1 where there is none; ``indices``: int64 [B], the images'
    positions in the data set.
    """

    views: list[Tensor]
    labels: Tensor
    indices: Tensor


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
    """

    def __init__(self, length: int, batch_size: int, seed: int, rank: int, processes: int) -> None:
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.rank, self.processes = rank, processes
        self.epoch = 0

    def __len__(self) -> int:
        return self.length // (self.batch_size * self.processes)

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[SampleKey]]:
        shuffle = rng.generator(self.seed, "shuffle", self.epoch)
        order = torch.randperm(self.length, generator=shuffle).tolist()
        for step in range(len(self)):
            start = (step * self.processes + self.rank) * self.batch_size
            yield [SampleKey(self.epoch, i) for i in order[start : start + self.batch_size]]


class ValidationSampler(Sampler[list[SampleKey]]):
    """Every image once over all processes; padding makes their numbers of batches equal."""

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


class TrainingViews(Dataset[Batch]):
    """A list of keys -> a batch of random views, made one image at a time (in loader workers).

    The randomness of a view is a function of (seed, epoch, image), whoever makes it.
    """

    def __init__(self, source: ImageSource, recipes: Sequence[Augmentation], seed: int) -> None:
        self.source = source
        self.seed = seed
        self.transforms = [(view_transform(r), r.num_crops, r.crop_size) for r in recipes]

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, keys: list[SampleKey]) -> Batch:
        samples = [self._views(key) for key in keys]
        resolutions = range(len(samples[0]))
        views = [torch.stack([s[r] for s in samples], dim=1) for r in resolutions]
        indices = torch.tensor([key.image for key in keys])
        return Batch(views, self.source.labels[indices], indices)

    def _views(self, key: SampleKey) -> list[Tensor]:
        """One [V, 3, H, W] for each resolution."""
        image = self.source.image(key.image)
        by_size: dict[int, list[Tensor]] = {}
        with rng.forked(self.seed, "views", key.epoch, key.image):
            for transform, count, size in self.transforms:
                by_size.setdefault(size, []).extend(transform(image) for _ in range(count))
        return [torch.stack(views) for views in by_size.values()]


class ValidationViews(Dataset[Batch]):
    """A list of keys -> a batch of one view each, without randomness; padding is labelled -1."""

    def __init__(self, source: ImageSource, crop_size: int, whole: bool) -> None:
        self.source = source
        self.transform = validation_transform(crop_size, whole)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, keys: list[SampleKey]) -> Batch:
        views = torch.stack([self.transform(self.source.image(key.image)) for key in keys])
        indices = torch.tensor([key.image for key in keys])
        labels = self.source.labels[indices]
        labels[torch.tensor([key.padding for key in keys])] = -1
        return Batch([views[None]], labels, indices)
