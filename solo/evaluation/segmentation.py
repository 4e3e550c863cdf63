"""What features of places know of an image's parts: a linear layer, and nearest neighbours."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from torch import Tensor

from solo import rng
from solo.backbones.maps import feature_maps
from solo.config import ConfigError, first_line
from solo.config.evaluation import LinearConfig, Segmentation
from solo.data.masks import IGNORED, MaskedImages, ade20k, folders, voc
from solo.data.views import validation_transform
from solo.evaluation.encoders import Encoder
from solo.evaluation.features import device
from solo.evaluation.logistic import LinearClassifier, fit_logistic, settled_l2
from solo.evaluation.table import Found


class Patches(NamedTuple):
    """Training patches: features [N, F], the share of each class among their pixels [N, C], and
    the number of the image [N]."""

    x: Tensor
    shares: Tensor
    images: Tensor


class Overlap:
    """Pixels by true and by given class, and what follows from them.

    Args:
        classes: C.
    """

    def __init__(self, classes: int) -> None:
        self.counts = torch.zeros(classes, classes, dtype=torch.long)

    def add(self, truth: Tensor, given: Tensor) -> None:
        """Of an image, [H, W] each; where there is no true class nothing counts."""
        known = truth != IGNORED
        classes = len(self.counts)
        both = truth[known] * classes + given[known]
        self.counts += torch.bincount(both, minlength=classes**2).view(classes, classes)

    def by_class(self) -> Tensor:
        """Intersection over union in percent, [C]; NaN for a class that is nowhere."""
        counts = self.counts.double()
        hits = counts.diagonal()
        return 100 * hits / (counts.sum(0) + counts.sum(1) - hits)

    def mean(self) -> float:
        """Over the classes that are somewhere."""
        return float(self.by_class().nanmean())

    def accuracy(self) -> float:
        """Percent of pixels."""
        return 100 * float(self.counts.diagonal().sum() / self.counts.sum().clamp(min=1))


class Dense:
    """A frozen network that gives features of places.

    Args:
        encoder: of the backbone's features.

    Raises:
        ConfigError: for one that keeps no places.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder.eval().to(device())
        self.transform = validation_transform(encoder.image_size, whole=True)
        encoder.check_channels(3)
        try:
            self.maps(self.encoder.blank()[0])
        except (ValueError, AttributeError, TypeError, RuntimeError, AssertionError) as error:
            raise ConfigError(
                f"{encoder.name} gives no features of places ({first_line(error)})"
            ) from error

    @torch.no_grad()
    def maps(self, image: Tensor) -> Tensor:
        """uint8 [3, H, W] -> [F, h, w] of the image at the network's size."""
        view = self.transform(image)[None].to(device())
        return feature_maps(self.encoder.backbone, self.encoder.normalize(view))[0]


def training_patches(
    dense: Dense, images: MaskedImages, most: int, seed: int, console: Console
) -> Patches:
    """Patches with at least one pixel of a class, as many of each image as there is room for.

    Args:
        dense: the network.
        images: with their masks.
        most: how many patches in all.
        seed: of the draw.
        console: shows the progress.
    """
    share = math.ceil(most / len(images))
    xs, shares, numbers = [], [], []
    for index, (image, mask) in enumerate(track(images, "Patches", console=console)):
        maps = dense.maps(image)
        part = class_shares(mask, len(images.classes), (maps.shape[1], maps.shape[2]))
        x, part = maps.flatten(1).T.cpu(), part.flatten(1).T
        known = part.sum(1) > 0
        x, part = x[known], part[known]
        if len(x) > share:
            order = torch.randperm(len(x), generator=rng.generator(seed, "patches", index))[:share]
            x, part = x[order], part[order]
        xs.append(x)
        shares.append(part / part.sum(1, keepdim=True))
        numbers.append(torch.full((len(x),), index))
    return Patches(torch.cat(xs), torch.cat(shares), torch.cat(numbers))


def class_shares(mask: Tensor, classes: int, grid: tuple[int, int]) -> Tensor:
    """The share of each class among the pixels under each place of a grid, [C, h, w].

    Args:
        mask: [H, W], 255 where there is none.
        classes: C.
        grid: h and w.
    """
    shares = torch.zeros(classes, *grid)
    for number in mask.unique().tolist():  # one class at a time: masks are large
        if number != IGNORED:
            here = (mask == number).float()[None]
            shares[number] = F.adaptive_avg_pool2d(here, grid)[0]
    return shares


def fit_linear(patches: Patches, l2: float | Literal["auto"], seed: int = 0) -> LinearClassifier:
    """Cross-entropy with the shares, to the optimum.

    Args:
        patches: to learn from.
        l2: see :func:`settled_l2`; by the class with the largest share of each patch, of images
            that were left out.
        seed: of the draw of patches to choose by.
    """
    where = device()
    x, shares = patches.x.to(where), patches.shares.to(where)
    classes, generator = shares.shape[1], rng.generator(seed, "l2")
    groups = patches.images.to(where)
    penalty = settled_l2(l2, x, shares.argmax(1), classes, generator, groups)
    return fit_logistic(x, shares, classes, penalty, soft=True)


class Neighbours:
    """The classes of the nearest training patches, weighted by exp(cosine / temperature).

    Args:
        patches: to look among.
        k: how many vote.
        temperature: of their votes.
    """

    def __init__(self, patches: Patches, k: int, temperature: float) -> None:
        where = device()
        self.bank = F.normalize(patches.x.to(where), dim=1)
        self.shares = patches.shares.to(where)
        self.k, self.temperature = min(k, len(self.bank)), temperature

    def scores(self, x: Tensor) -> Tensor:
        """[N, F] -> [N, C], the logarithm of the votes' shares."""
        found = []
        for part in F.normalize(x, dim=1).split(1024):
            near, which = (part @ self.bank.T).topk(self.k)
            weights = (near / self.temperature).softmax(-1)
            votes = torch.einsum("nk,nkc->nc", weights, self.shares[which])
            found.append(votes.clamp(min=1e-6).log())
        return torch.cat(found)


def segment(dense: Dense, classifier: LinearClassifier | Neighbours, image: Tensor) -> Tensor:
    """The class of each pixel: scores of places, resized (bilinear) to the image. [H, W]."""
    maps = dense.maps(image)
    scores = classifier.scores(maps.flatten(1).T).T.unflatten(1, maps.shape[1:])
    size = list(image.shape[1:])
    resized = F.interpolate(scores[None].float(), size, mode="bilinear", align_corners=False)
    return resized[0].argmax(0).cpu()


def measure(
    dense: Dense,
    classifier: LinearClassifier | Neighbours,
    images: MaskedImages,
    console: Console,
    label: str,
) -> tuple[Overlap, list[Tensor]]:
    """How well it does on all images, and its answers to the first ones."""
    overlap = Overlap(len(images.classes))
    shown: list[Tensor] = []
    for image, mask in track(images, label, console=console):
        given = segment(dense, classifier, image)
        overlap.add(mask, given)
        if len(shown) < SHOWN:
            shown.append(given)
    return overlap, shown


SHOWN = 6
"""Images in the picture."""


def picture(images: MaskedImages, answers: dict[str, list[Tensor]]) -> Figure:
    """Some images, their masks, and what was given."""
    count = min(SHOWN, len(images))
    columns = ["image", "mask", *answers]
    figure = Figure((1.9 * len(columns), 1.9 * count), layout="constrained")
    grid = figure.subplots(count, len(columns), squeeze=False)
    colours = {"vmin": 0, "vmax": max(1, len(images.classes) - 1), "cmap": "nipy_spectral"}
    for index, line in enumerate(grid):
        image, mask = images[index]
        line[0].imshow(image.permute(1, 2, 0).numpy())
        hidden = torch.where(mask == IGNORED, torch.nan, mask.double())
        for axes, shown in zip(line[1:], [hidden, *(given[index] for given in answers.values())]):
            axes.imshow(shown.numpy(), interpolation="nearest", **colours)
        for axes, name in zip(line, columns):
            axes.axis("off")
            if not index:
                axes.set_title(name, fontsize=9)
    return figure


def each(overlap: Overlap, classes: list[str]) -> Iterator[tuple[str, float]]:
    """Classes that are somewhere, and how well they are found."""
    for name, value in zip(classes, overlap.by_class().tolist()):
        if not math.isnan(value):
            yield name, value


def segmentation_rows(config: LinearConfig, encoder: Encoder, console: Console) -> Found:
    """A row for each way to classify places, with each class's overlap, and a picture.

    Raises:
        ConfigError: for images or masks that are not there, or a network that keeps no places.
        BadImageError: for one that cannot be read, with its path.
    """
    options = config.segmentation
    if encoder.features not in ("backbone", "teacher"):
        raise ConfigError(
            f"features is {encoder.features}, and segmentation takes features of places, which "
            "only a backbone has; choose backbone, or teacher"
        )
    train, val = masked_images(options)
    dense = Dense(encoder)
    patches = training_patches(dense, train, options.patches, config.seed, console)
    rows: list[dict[str, Any]] = []
    answers: dict[str, list[Tensor]] = {}
    for method in options.method:
        classifier: LinearClassifier | Neighbours
        if method == "linear":
            classifier = fit_linear(patches, config.l2, config.seed)
        else:
            classifier = Neighbours(patches, options.k, options.temperature)
        overlap, answers[method] = measure(dense, classifier, val, console, method)
        row: dict[str, Any] = {"model": encoder.name, "method": method, "mIoU": overlap.mean()}
        row["pixels"] = overlap.accuracy()
        rows.append({**row, **dict(each(overlap, train.classes))})
    return Found(rows, picture(val, answers))


def masked_images(options: Segmentation) -> tuple[MaskedImages, MaskedImages]:
    """Training and validation images.

    Raises:
        ConfigError: where the config does not name them, or they are not there.
    """
    if options.train_path is None:
        raise ConfigError(
            "mode segmentation needs images with masks: ++segmentation.train_path=<folder>"
        )
    train = Path(options.train_path).expanduser()
    if options.kind != "folder":
        return {"voc": voc, "ade20k": ade20k}[options.kind](train)
    if options.val_path is None:
        raise ConfigError("segmentation.val_path is not set; there is nothing to score on")
    return folders(train, Path(options.val_path).expanduser())
