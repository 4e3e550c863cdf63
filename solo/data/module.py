"""The LightningDataModule: loaders for training and validation."""

from __future__ import annotations

import warnings
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from solo import distributed
from solo.config import ConfigError, RunConfig
from solo.data.batches import (
    Batch,
    ResumableLoader,
    TrainingSampler,
    TrainingViews,
    ValidationSampler,
    ValidationViews,
)
from solo.data.datasets import dataset_spec, label_facts, load_splits
from solo.data.deferred import Unfinished, finish_views
from solo.data.encoded import Ragged, check_decoder, decode_files
from solo.data.operations.extra import load_extra
from solo.data.parts import hold_out, joined, labelled_part
from solo.data.plans import check_operations
from solo.data.sources import BadImageError, EncodedSource


class ImageData(pl.LightningDataModule):
    """The configured data set as loaders of :class:`Batch`.

    Reads the data set's index (and, with ``preload``, its files) when it is built, so that a
    missing path stops a run before anything long starts.

    Args:
        config: of the run.
        labelled_only: leave out training images without a label.
        choose_on: the part of every class of the training set that is set aside to choose by: the
            validation loader's first ``held`` images.

    Raises:
        ConfigError: as :func:`load_splits` does, for a batch larger than the data, and for an
            operation of the user's that cannot be loaded.
    """

    def __init__(
        self, config: RunConfig, labelled_only: bool = False, choose_on: float = 0.0
    ) -> None:
        super().__init__()
        self.config = config
        self.spec = dataset_spec(config.data.dataset)
        for path in [path for recipe in config.augmentations for path in recipe.extra]:
            load_extra(path)
        self.train, self.val = load_splits(config.data, config.seed)
        layout = self.train.layout
        if layout.channels != 3:
            config.data.channels = layout.channels  # saved with the run, for its networks
        check_operations(config.augmentations, layout)
        if config.data.decode_on == "device" and self.train.images is not None:
            raise ConfigError(
                f"data.decode_on is device, but {config.data.dataset} is in memory, decoded; set "
                "data.decode_on=loader"
            )
        if config.data.decode_on == "device" and (layout.channels != 3 or layout.deep):
            depth = "more than 8 bits" if layout.deep else "8 bits"
            raise ConfigError(
                "data.decode_on is device, which makes RGB of 8 bits, but images have "
                f"{layout.channels} channels of {depth}; set data.decode_on=loader"
            )
        if max(config.data.shown_channels or [0]) >= layout.channels:
            raise ConfigError(
                f"data.shown_channels is {config.data.shown_channels}, but images have "
                f"{layout.channels} channels, counted from 0"
            )
        if labelled_only:
            self.train = labelled_part(self.train)
            if not len(self.train):
                raise ConfigError(
                    f"none of the training images of {config.data.dataset} has a label"
                )
        self.held = 0
        if choose_on and self.val is not None:
            self.train, held = hold_out(self.train, choose_on, "grid.held_out")
            assert held is not None
            self.held, self.val = len(held), joined(held, self.val)
        self.num_classes, self.multilabel = label_facts(self.train.labels, self.train.classes)
        if config.data.no_labels:
            self.num_classes = 0
        self.check_batch(1)
        self._resident: torch.Tensor | None = None
        self._refused = 0
        self._position = (0, 0)

    def check_batch(self, processes: int) -> None:
        """Whether one global batch can be filled.

        Raises:
            ConfigError: where it cannot.
        """
        batch, images = self.config.optimizer.batch_size, len(self.train)
        if batch * processes > images:
            raise ConfigError(
                f"optimizer.batch_size {batch} x {processes} processes is more than the {images} "
                f"training images; set ++optimizer.batch_size={max(2, images // processes)} or less"
            )

    def logging_interval(self, wanted: int, processes: int) -> int:
        """``wanted`` optimizer steps, or fewer where an epoch has fewer."""
        steps = self._batches(processes) // self.config.accumulate_grad_batches
        return max(1, min(wanted, steps))

    def images_an_epoch(self, processes: int) -> int:
        """That are trained on, by all processes."""
        return self._batches(processes) * self.config.optimizer.batch_size * processes

    def _batches(self, processes: int) -> int:
        """Of an epoch, on each process."""
        batches = len(self.train) // (self.config.optimizer.batch_size * processes)
        limit = self.config.limit_train_batches
        if limit is None:
            return batches
        return int(batches * limit) if isinstance(limit, float) else min(batches, limit)

    def state_dict(self) -> dict[str, Any]:
        """The epoch and how many of its batches are done."""
        assert self.trainer is not None
        epoch = self.trainer.current_epoch
        done = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        if done >= self.trainer.num_training_batches:
            epoch, done = epoch + 1, 0
        return {"epoch": epoch, "batch": done}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Where :meth:`train_dataloader` goes on after a checkpoint."""
        self._position = (state_dict["epoch"], state_dict["batch"])

    def transfer_batch_to_device(
        self, batch: Batch | Unfinished, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """Move a batch, and make its views where the loader left that to the device."""
        if isinstance(batch, Batch):
            views = [view.to(device, non_blocking=True) for view in batch.views]
            labels, indices = (x.to(device, non_blocking=True) for x in batch[1:3])
            return Batch(views, labels, indices, batch.skipped)
        there = batch.to(device)
        images: torch.Tensor | Ragged | None = None
        if there.files is not None:
            images = self._decoded(there)
        elif not batch.crops:
            if self._resident is None or self._resident.device != device:
                assert self.train.images is not None
                self._resident = self.train.images.contiguous().to(device)
            images = self._resident
        views = finish_views(there, images)
        return Batch(views, there.labels, there.indices, there.skipped)

    def _decoded(self, batch: Unfinished) -> Ragged:
        """The images of a batch, by the training device; the first file it refuses is named."""
        assert batch.files is not None and batch.places is not None
        indices = batch.indices

        def again(position: int) -> torch.Tensor:
            index = int(indices[position])
            try:
                image = self.train.image(index)
            except BadImageError as error:
                raise BadImageError(f"{error} together with ++data.decode_on=loader") from error
            if not self._refused and isinstance(self.train, EncodedSource):
                warnings.warn(
                    f"the device does not decode {self.train.where(index)}; the training process "
                    "does, as with others like it",
                    stacklevel=2,
                )
            self._refused += 1
            return image

        return decode_files(batch.files, batch.places, again)

    def augments_on_device(self) -> bool:
        """Whether views are made on the training device."""
        if self.config.data.augment_on != "auto":
            return self.config.data.augment_on == "device"
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"

    def train_dataloader(self) -> DataLoader[Batch | Unfinished]:
        """Random views, in the order of the seed."""
        self.check_batch(distributed.world_size())
        on_device = self.augments_on_device()
        encoded = on_device and self.config.data.decode_on == "device"
        if encoded and self.trainer is not None:
            check_decoder(self.trainer.strategy.root_device)
        sampler = TrainingSampler(
            len(self.train),
            self.config.optimizer.batch_size,
            self.config.seed,
            distributed.rank(),
            distributed.world_size(),
            *self._position,
        )
        views = TrainingViews(
            self.train,
            self.config.augmentations,
            self.config.seed,
            defer=on_device,
            skip_bad=self.config.data.skips_bad,
            encoded=encoded,
        )
        return self._loader(views, sampler)

    def val_dataloader(self) -> DataLoader[Batch | Unfinished]:
        """One view without randomness of each image; only where there is a validation split."""
        assert self.val is not None
        sampler = ValidationSampler(
            len(self.val),
            self.config.optimizer.batch_size,
            distributed.rank(),
            distributed.world_size(),
        )
        size = self.config.augmentations[0].crop_size
        views = ValidationViews(self.val, size, self.spec.whole, self.config.data.skips_bad)
        return self._loader(views, sampler)

    def _loader(
        self,
        views: TrainingViews | ValidationViews,
        sampler: TrainingSampler | ValidationSampler,
    ) -> DataLoader[Batch | Unfinished]:
        workers = self.config.data.num_workers
        return ResumableLoader(
            views,  # type: ignore[arg-type]
            sampler=sampler,
            batch_size=None,  # the sampler gives whole batches of keys
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=workers > 0,
        )
