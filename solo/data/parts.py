"""Parts of data sets, and two as one."""

from __future__ import annotations

import torch
from torch import Tensor

from solo import rng
from solo.config import ConfigError
from solo.data.sources import ArraySource, EncodedSource, ImageSource, Splits


def subset(source: ImageSource, indices: Tensor) -> ImageSource:
    """Some images of a source, in the order of ``indices``."""
    if isinstance(source, EncodedSource):
        return source.part(indices)
    assert source.images is not None
    return ArraySource(source.images[indices], source.labels[indices], source.classes)


def labelled_part(source: ImageSource) -> ImageSource:
    """The images that have a label: all of them, but for sets such as STL-10."""
    known = source.labels >= 0 if source.labels.ndim == 1 else (source.labels >= 0).all(-1)
    return source if bool(known.all()) else subset(source, known.nonzero()[:, 0])


def _by_class(order: Tensor, labels: Tensor) -> list[Tensor]:
    """Indices [n] of images, those of each class by themselves, in the same order."""
    own = labels[order]
    return [order[own == label] for label in own.unique()]


def hold_out(source: ImageSource, part: float, key: str = "data.held_out") -> Splits:
    """A part of every class set aside for validation: the same for every run, whatever its seed.

    Images without a label stay in training.

    Args:
        source: the whole training set.
        part: in (0, 1); at least one image of each class is held out.
        key: of the config that says so, for messages.

    Raises:
        ConfigError: where no image has a label, or a class has a single image.
    """
    order = torch.randperm(len(source), generator=rng.generator(0, "held_out"))
    if source.labels.ndim == 1:
        groups = _by_class(order[source.labels[order] >= 0], source.labels)
    else:
        groups = [order]
    if not groups or min(len(group) for group in groups) < 2:
        raise ConfigError(
            f"{key} is {part}, but "
            + ("a class has a single image" if groups else "no training image has a label")
            + ("; set data.held_out=0" if key == "data.held_out" else "; leave the grid out")
        )
    held = torch.zeros(len(source), dtype=torch.bool)
    for group in groups:
        held[group[: min(max(1, round(part * len(group))), len(group) - 1)]] = True
    return Splits(*(subset(source, chosen.nonzero()[:, 0]) for chosen in (~held, held)))


class Joined:
    """The images of two sources, one after the other.

    Args:
        first: begins.
        second: follows; of the same layout and classes.
    """

    images: Tensor | None = None

    def __init__(self, first: ImageSource, second: ImageSource) -> None:
        self.parts = first, second
        self.labels = torch.cat((first.labels, second.labels))
        self.classes, self.layout = first.classes, first.layout

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Tensor:
        """As its source gives it."""
        first, second = self.parts
        return first.image(index) if index < len(first) else second.image(index - len(first))


def joined(first: ImageSource, second: ImageSource) -> ImageSource:
    """Two sources as one, in memory where both are."""
    one, other = first.images, second.images
    if one is None or other is None or one.shape[1:] != other.shape[1:]:
        return Joined(first, second)
    labels = torch.cat((first.labels, second.labels))
    return ArraySource(torch.cat((one, other)), labels, first.classes)


def take_fraction(source: ImageSource, fraction: float, generator: torch.Generator) -> ImageSource:
    """A part of every class (at least one image of each), drawn once.

    Args:
        source: the whole set.
        fraction: in (0, 1]; -1 is all of it.
        generator: of the draw.
    """
    if fraction in (-1, 1):
        return source
    order = torch.randperm(len(source), generator=generator)
    if source.labels.ndim > 1:  # attributes have no classes to balance
        return subset(source, order[: max(1, round(fraction * len(order)))].sort().values)
    kept = [
        members[: max(1, round(fraction * len(members)))]
        for members in _by_class(order, source.labels)
    ]
    return subset(source, torch.cat(kept).sort().values)
