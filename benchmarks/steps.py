"""Views and whole steps: images per second."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks import plain
from benchmarks.measure import Row, device, side_by_side, synchronise
from benchmarks.recipes import compose
from solo.config import Augmentation
from solo.data import ImageData
from solo.data.batches import Batch, SampleKey, TrainingViews, join_resolutions
from solo.data.folders import class_folders
from solo.data.sources import ArraySource, ImageSource
from solo.methods import SSLMethod, build_method, resolve_config
from solo.methods.probes import global_means, probe_loss, score
from solo.optim import build_optimizer, parameter_groups
from solo.rng import Step


class PlainViews(TrainingViews):
    """The same batches from torchvision's pipeline, one image at a time."""

    def __getitem__(self, keys: list[SampleKey]) -> Batch:
        indices = torch.tensor([key.image for key in keys])
        views = []
        for recipe in self.recipes:
            transform = plain.view_transform(recipe)
            made = [
                torch.stack([transform(self.source.image(key.image)) for key in keys])
                for _ in range(recipe.num_crops)
            ]
            views.append(torch.stack(made))
        return Batch(join_resolutions(views), self.source.labels[indices], indices)


def cifar_recipe() -> Augmentation:
    """The published one."""
    recipe = compose("cifar/rectified_lpjepa_cifar100.yaml")
    return Augmentation.model_validate(recipe["augmentations"][0])


def cifar_like(count: int = 512) -> ArraySource:
    """Random colours at CIFAR's size."""
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
    return ArraySource(images, torch.randint(0, 2, (count,)), ["a", "b"])


def views_rows() -> Iterator[Row]:
    """Making two CIFAR views, on one core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    recipe, source = cifar_recipe(), cifar_like()
    keys = [SampleKey(0, i) for i in range(256)]
    made = len(keys) * recipe.num_crops
    ours, theirs = side_by_side(
        lambda: TrainingViews(source, [recipe], 5)[keys],
        lambda: PlainViews(source, [recipe], 5)[keys],
        repeats=3,
    )
    yield Row("views, CIFAR recipe, one core", made / ours, made / theirs, "views/s")
    imagenet = Augmentation.model_validate(
        compose("imagenet-100/rectified_lpjepa_resnet.yaml")["augmentations"][0]
    )
    with tempfile.TemporaryDirectory() as folder:
        _image_tree(Path(folder), 32, 400, 2)
        files = class_folders(folder, "benchmark")
        keys = [SampleKey(0, i) for i in range(len(files))]
        plain_views = PlainViews(files, [imagenet], 5)
        for label, defer, encoded in (
            ("decoded and cropped", True, False),
            ("coloured too", False, False),
            ("read alone (`data.decode_on=device`)", True, True),
        ):
            ours_views = TrainingViews(files, [imagenet], 5, defer=defer, encoded=encoded)
            ours, theirs = side_by_side(
                lambda views=ours_views: views[keys],  # type: ignore[misc]
                lambda: plain_views[keys],
                repeats=3,
            )
            name = f"JPEG files of 500 x 400, {imagenet.num_crops} views, {label}, one core"
            yield Row(name, len(keys) / ours, len(keys) / theirs, "images/s")
    torch.set_num_threads(threads)


class Run:
    """A recipe's training step without Lightning around it."""

    def __init__(self, config: dict[str, Any], views: type[TrainingViews]) -> None:
        self.config = resolve_config(config)
        self.data = ImageData(self.config)
        self.method: SSLMethod = build_method(self.config, self.data).to(device()).train()
        on_device = device().type == "cuda" and views is TrainingViews
        self.views = views(self.data.train, self.config.augmentations, 5, on_device)
        groups = parameter_groups(list(self.method.parameters()), 1e-3, 1e-4, False)
        self.optimizer = build_optimizer(self.config, groups)
        self.start = 0

    def step(self, plain_loss: bool = False) -> None:
        """One step: views, network, loss, probes, optimizer."""
        size = self.config.optimizer.batch_size
        keys = [SampleKey(0, (self.start + i) % len(self.data.train)) for i in range(size)]
        self.start += size
        batch = self.data.transfer_batch_to_device(self.views[keys], device(), 0)
        encoded = self.method.encode(batch.views)
        if plain_loss:
            loss = plain.rectified_lpjepa(encoded.z, self.method.options)
        else:
            loss = self.method.compute_loss(encoded, batch, Step(0, self.start)).total
        if self.method.probes is not None:
            labels = batch.labels.repeat(len(encoded.h))
            scores = score(self.method.probes(encoded.detached()), labels, metrics=False)
            loss = loss + probe_loss(global_means(scores))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def network_only(self) -> float:
        """Seconds of forward and backward through backbone and projector alone."""
        keys = [SampleKey(0, i) for i in range(self.config.optimizer.batch_size)]
        batch = self.data.transfer_batch_to_device(self.views[keys], device(), 0)
        times = []
        for _ in range(4):
            synchronise()
            start = time.perf_counter()
            self.method.encode(batch.views).z.square().mean().backward()
            synchronise()
            times.append(time.perf_counter() - start)
        return median(times[1:])


def step_rows() -> Iterator[Row]:
    """Whole steps of each recipe."""
    digits = compose("digits/rectified_lpjepa.yaml")
    yield _step("digits recipe", digits, repeats=8)
    batch = 256 if device().type == "cuda" else 64
    with cifar_config(batch) as cifar:
        label = f"ResNet-18 at CIFAR size, batch {batch}"
        yield _step(label, cifar, repeats=3, source=cifar_like())
    for name, label in (("resnet", "ResNet-50"), ("vit", "ViT-S/16")):
        config = compose(f"imagenet-100/rectified_lpjepa_{name}.yaml")
        batch = 128 if device().type == "cuda" else 8
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            _image_tree(root, batch, 400, 2)
            config["data"] = {"dataset": "custom", "train_path": str(root), "num_workers": 0}
            config["optimizer"]["batch_size"] = batch
            config |= {"devices": 1, "accelerator": "auto", "precision": "32", "strategy": "auto"}
            config["sync_batchnorm"] = False
            yield _step(f"{label} at ImageNet size, batch {batch}", config, repeats=2)


@contextlib.contextmanager
def cifar_config(batch: int) -> Iterator[dict[str, Any]]:
    """The ResNet-18 recipe on one device, with a few files in place of CIFAR-100."""
    config = compose("cifar/rectified_lpjepa_cifar100.yaml")
    with tempfile.TemporaryDirectory() as folder:
        _image_tree(Path(folder), batch, 32, 2)
        config["data"] = {"dataset": "custom", "train_path": folder, "num_workers": 0}
        config["optimizer"]["batch_size"] = batch
        config |= {"devices": 1, "accelerator": "auto", "precision": "32", "strategy": "auto"}
        yield config


def _step(
    label: str, config: dict[str, Any], repeats: int, source: ImageSource | None = None
) -> Row:
    ours, theirs = Run(config, TrainingViews), Run(config, PlainViews)
    if source is not None:
        for run in (ours, theirs):
            run.data.train = run.views.source = source
    taken = side_by_side(ours.step, lambda: theirs.step(plain_loss=True), repeats)
    batch = ours.config.optimizer.batch_size
    share = min(1.0, ours.network_only() / taken[0])
    return Row(
        f"whole step, {label}",
        batch / taken[0],
        batch / taken[1],
        "images/s",
        bound=f"network: {share:.0%} of the step",
    )


def _image_tree(root: Path, images: int, size: int, classes: int) -> None:
    random = np.random.default_rng(0)
    for index in range(images):
        folder = root / f"class{index % min(classes, images)}"
        folder.mkdir(exist_ok=True)
        coarse = random.integers(0, 255, (12, 15, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((size + size // 4, size))
        image.save(folder / f"{index}.jpg", quality=90)


def rows() -> Iterator[Row]:
    """Views, then steps."""
    sources: tuple[Callable[[], Iterator[Row]], ...] = (views_rows, step_rows)
    for source in sources:
        yield from source()
