"""Images through a frozen network, once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn
from torch.utils.data import DataLoader

from solo.config import Size, sides, square
from solo.data.batches import Batch, ValidationSampler, ValidationViews
from solo.data.sources import ImageSource
from solo.evaluation.encoders import Encoder
from solo.losses.supervised import has_label

MOST_PIXEL_BYTES = 2**30


class FeatureSet(NamedTuple):
    """Features of a data set: ``x`` [N, F] float32, ``labels`` [N] or [N, A]; in host memory."""

    x: Tensor
    labels: Tensor

    def to(self, where: torch.device) -> FeatureSet:
        """The same there."""
        return FeatureSet(self.x.to(where), self.labels.to(where))


def device() -> torch.device:
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Pixels(nn.Module):
    """What a network has to beat: raw pixels as features, [N, C, H, W] -> [N, C h w].

    Args:
        image_size: of the images that it is given.
        whole: see :class:`Encoder`.
        size: h and w, to which they are shrunk.
        channels: how many are told apart; of grey images in three channels, one.
    """

    name = "raw pixels"

    def __init__(self, image_size: Size, whole: bool, size: Size, channels: int = 3) -> None:
        super().__init__()
        self.image_size, self.whole, self.size = image_size, whole, size
        self.channels = channels

    def forward(self, images: Tensor) -> Tensor:
        """Pixels as features in [0, 1]."""
        x = images[:, : self.channels].float()
        if self.size != self.image_size:
            x = F.interpolate(x, sides(self.size), mode="bilinear", antialias=True)
        return x.flatten(1) / 255


def feature_batches(
    encoder: Encoder | Pixels,
    source: ImageSource,
    *,
    batch_size: int = 256,
    num_workers: int = 0,
    skip_bad: bool = False,
    console: Console | None = None,
    label: str = "Features",
) -> Iterator[tuple[Tensor, Batch]]:
    """Features of each batch in order, [B, F] on the CPU, with a progress bar.

    Args:
        encoder: the network; moved to the GPU where there is one.
        source: the images; one view without randomness of each.
        skip_bad: an image that does not decode is black and labelled -1 instead of an error.
        console: for the bar; None shows none.

    Raises:
        BadImageError: for an image that does not decode, with its path.
        ConfigError: for images of other channels than the network's.
    """
    where = device()
    if isinstance(encoder, Encoder):
        encoder.check_channels(source.layout.channels)
    encoder = encoder.eval().to(where)
    views = ValidationViews(source, encoder.image_size, encoder.whole, skip_bad)
    sampler = ValidationSampler(len(source), batch_size, 0, 1)
    loader = DataLoader(views, sampler=sampler, batch_size=None, num_workers=num_workers)
    with Progress(console=console or Console(quiet=True), transient=True) as progress:
        task = progress.add_task(label, total=len(source))
        for batch in loader:
            with torch.no_grad():
                x = encoder(batch.views[0][0].to(where, non_blocking=True))
            yield x.float().cpu(), batch
            progress.advance(task, len(x))


def extract(encoder: Encoder | Pixels, source: ImageSource, **options: object) -> FeatureSet:
    """All features of a data set; images that could not be read are left out.

    Options are those of :func:`feature_batches`.
    """
    x: Tensor | None = None
    done, labels = 0, []
    for rows, batch in feature_batches(encoder, source, **options):  # type: ignore[arg-type]
        if x is None:
            x = rows.new_empty(len(source), rows.shape[1])
        x[done : done + len(rows)] = rows
        done += len(rows)
        labels.append(batch.labels)
    assert x is not None
    y = torch.cat(labels)
    present = has_label(y)
    return FeatureSet(x, y) if bool(present.all()) else FeatureSet(x[present], y[present])


def pixel_size(images: int, image_size: Size, channels: int = 3) -> Size | None:
    """The largest size at which the raw pixels of so many images stay below 1 GiB, None for none.

    Raw pixels of ImageNet-100 at 224 px are 76 GB; shrunk to 26 px they are 1 GB. Below 8 px
    nothing is left to compare with.
    """
    height, width = sides(image_size)
    most = MOST_PIXEL_BYTES / (images * channels * 4)
    if most >= height * width:
        return image_size
    scale = math.sqrt(most / (height * width))
    shrunk = int(height * scale), int(width * scale)
    return square(shrunk) if min(shrunk) >= min(8, height, width) else None
