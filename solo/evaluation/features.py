"""Images through a frozen network, once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor
from torch.utils.data import DataLoader

from solo.data.batches import Batch, ValidationSampler, ValidationViews
from solo.data.sources import ImageSource
from solo.evaluation.encoders import Encoder
from solo.losses.supervised import has_label


class FeatureSet(NamedTuple):
    """Features of a data set: ``x`` [N, F] float32, ``labels`` [N] or [N, A]; in host memory."""

    x: Tensor
    labels: Tensor


def device() -> torch.device:
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def feature_batches(
    encoder: Encoder,
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
    """
    where = device()
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


def extract(encoder: Encoder, source: ImageSource, **options: object) -> FeatureSet:
    """All features of a data set; images that could not be read are left out.

    Options are those of :func:`feature_batches`.
    """
    parts, labels = [], []
    for x, batch in feature_batches(encoder, source, **options):  # type: ignore[arg-type]
        parts.append(x)
        labels.append(batch.labels)
    x, y = torch.cat(parts), torch.cat(labels)
    present = has_label(y)
    return FeatureSet(x[present], y[present])


def pixels(source: ImageSource, image_size: int, whole: bool) -> FeatureSet:
    """Raw pixels in place of features: what a network has to beat. [N, 3 H W] in [0, 1]."""
    views = ValidationViews(source, image_size, whole)
    batches = [views[keys] for keys in ValidationSampler(len(source), 256, 0, 1)]
    x = torch.cat([batch.views[0][0].flatten(1) for batch in batches]).float() / 255
    return FeatureSet(x, torch.cat([batch.labels for batch in batches]))
