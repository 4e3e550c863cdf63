"""The report's pictures: each takes numbers and gives a figure, or None where there is nothing."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from solo.backbones import has_blocks
from solo.backbones.maps import feature_maps
from solo.data import ImageData
from solo.data.batches import Batch, SampleKey, TrainingViews, ValidationViews
from solo.data.sources import BadImageError, ImageSource
from solo.distributions import GeneralizedGaussian
from solo.evaluation.knn import nearest
from solo.methods import SSLMethod
from solo.report.patches import Palette
from solo.runs.metrics import describe
from solo.runs.saved import Metrics

COLOURS = ["#2a6f97", "#e07a5f", "#3d9970", "#8d6a9f", "#b8860b", "#555555"]


class Features(NamedTuple):
    """What the trained network makes of (some of) the validation set's images."""

    h: Tensor  # [N, F]
    z: Tensor  # [N, D]
    labels: Tensor  # [N] or [N, A]
    images: list[int]  # [N], positions in the data set


def displayed(image: Tensor, data: ImageData) -> np.ndarray:
    """An image [C, H, W] as people see it, [H, W, 3]: the channels that the config names; else of
    other than three the first, the middle and the last."""
    channels = len(image)
    usual = [0, 1, 2] if channels == 3 else [0, channels // 2, channels - 1]
    picked = image[data.config.data.shown_channels or usual]
    return picked.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()


def loss_curves(metrics: Metrics) -> Figure | None:
    """The method's loss and its terms, a panel each."""
    return _panels(metrics, [[name] for name in _of_panel(metrics, "loss")])


def probe_curves(metrics: Metrics) -> Figure | None:
    """Accuracies of all probes in one panel, with their final values."""
    return _one_panel(metrics, "probes")


def sparsity_curves(metrics: Metrics) -> Figure | None:
    """Measured and expected l0, over training."""
    figure = _one_panel(metrics, "sparsity")
    if figure is not None:
        figure.axes[0].set_ylim(0, 1)
    return figure


def spread_curves(metrics: Metrics) -> Figure | None:
    """Effective ranks, over training."""
    return _one_panel(metrics, "spread")


def _one_panel(metrics: Metrics, panel: str) -> Figure | None:
    names = _of_panel(metrics, panel)
    return _panels(metrics, [names] if names else [])


def _of_panel(metrics: Metrics, panel: str) -> list[str]:
    return [name for name in metrics if describe(name).panel == panel]


def activations(z: Tensor, target: GeneralizedGaussian | None) -> Figure:
    """Non-zero values against the target's density, marginals against its cdf, and activity.

    The band of marginals holds the middle 80 % of the dimensions' distribution functions.
    """
    figure = Figure((12, 3.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    values = z[z != 0].double().numpy()
    if values.size:
        low, high = min(0.0, float(values.min())), float(np.quantile(values, 0.999)) + 1e-6
        edges = np.linspace(low, high, 60)
        counts, _ = np.histogram(values, edges)
        left.stairs(counts / z.numel() / np.diff(edges), edges, fill=True, color=COLOURS[0])
        if target is not None:
            mass = np.diff(target.cdf(torch.from_numpy(edges)).numpy())
            centres = (edges[1:] + edges[:-1]) / 2
            left.plot(centres, mass / np.diff(edges), color=COLOURS[1], label="target")
            left.legend()
    left.set(xlabel="non-zero value", ylabel="density")
    points = torch.linspace(float(z.min()), float(z.max()), 100)
    below = torch.stack([(z <= point).float().mean(0) for point in points])  # [T, D]
    low_band, high_band = (below.quantile(q, dim=1).numpy() for q in (0.1, 0.9))
    middle.fill_between(points.numpy(), low_band, high_band, color=COLOURS[0], alpha=0.4)
    middle.plot(points.numpy(), below.median(1).values.numpy(), color=COLOURS[0], label="median")
    if target is not None:
        cdf = target.cdf(points.double()).numpy()
        middle.plot(points.numpy(), cdf, color=COLOURS[1], label="target")
    middle.set(xlabel="value", ylabel="distribution function of a dimension", ylim=(0, 1.02))
    middle.legend()
    activity = (z != 0).float().mean(0).sort(descending=True).values
    right.bar(range(len(activity)), activity.numpy(), width=1.0, color=COLOURS[0])
    if target is not None:
        right.axhline(target.expected_l0, color=COLOURS[1], label="expected")
        right.legend()
    right.set(xlabel="dimension, sorted", ylabel="fraction of images active", ylim=(0, 1))
    return figure


def feature_map(features: Features) -> Figure:
    """Backbone features in two dimensions: by UMAP where it is installed, else by PCA."""
    places, names = _two_dimensions(features.h)
    figure = Figure((6, 4.5), layout="constrained")
    axes = figure.subplots()
    labels = features.labels if features.labels.ndim == 1 else features.labels[:, 0]
    colours = "tab10" if labels.max() < 10 else "hsv"
    dots = axes.scatter(places[:, 0], places[:, 1], c=labels.numpy(), s=8, cmap=colours)
    if bool((labels >= 0).any()):
        figure.colorbar(dots, label="class")
    axes.set(xlabel=f"{names} 1", ylabel=f"{names} 2")
    return figure


def _two_dimensions(h: Tensor) -> tuple[np.ndarray, str]:
    try:
        from umap import UMAP  # optional: heavy, and only for this picture
    except ImportError:
        centred = h - h.mean(0)
        _, _, basis = torch.pca_lowrank(centred, q=2, center=False)
        return (centred @ basis).numpy(), "component"
    return UMAP(random_state=0, n_jobs=1).fit_transform(h.numpy()), "UMAP"


def neighbours(features: Features, data: ImageData, rows: int = 6, count: int = 7) -> Figure | None:
    """Some validation images (left) and the nearest others, by cosine of backbone features."""
    assert data.val is not None
    total = len(features.h)
    if total < 2:
        return None
    asked = torch.linspace(0, total - 1, min(rows, total)).long().unique()
    found = torch.cat(
        [w for _, w in nearest(features.h, features.h[asked], min(count + 1, total))]
    ).tolist()
    figure = Figure((1.2 * (count + 1), 1.2 * len(asked)), layout="constrained")
    grid = figure.subplots(len(asked), count + 1, squeeze=False)
    for line, query, others in zip(grid, asked.tolist(), found):
        shown = [query, *(other for other in others if other != query)][: count + 1]
        for axes, place in zip(line, shown):
            axes.imshow(displayed(_image(data.val, int(features.images[place]), data), data))
        for axes in line:
            axes.axis("off")
    return figure


def _image(source: ImageSource, index: int, data: ImageData) -> Tensor:
    """[C, H, W]; a black one for what cannot be read, where that is skipped."""
    try:
        return source.image(index)
    except BadImageError:
        if not data.config.data.skips_bad:
            raise
        return torch.zeros(source.layout.channels, 2, 2)


@torch.no_grad()
def patch_maps(method: SSLMethod, data: ImageData, count: int = 6) -> Figure | None:
    """For ViTs: the first three principal components of all patch tokens as red, green, blue."""
    size = data.config.augmentations[0].crop_size
    if data.val is None or not has_blocks(method.backbone, size, data.train.layout.channels):
        return None
    views = ValidationViews(data.val, size, data.spec.whole, data.config.data.skips_bad)
    picked = torch.linspace(0, len(data.val) - 1, min(count, len(data.val))).long().unique()
    images = views[[SampleKey(0, i) for i in picked.tolist()]].views[0][0]
    maps = feature_maps(method.backbone, method.normalize(images.to(method.device))).cpu()
    colours = Palette.of(maps).paint(maps).permute(0, 2, 3, 1)
    figure = Figure((1.6 * len(images), 3.3), layout="constrained")
    grid = figure.subplots(2, len(images), squeeze=False)
    for above, below, image, colour in zip(*grid, images, colours):
        above.imshow(displayed(image, data))
        below.imshow(colour.numpy())
        above.axis("off")
        below.axis("off")
    return figure


def view_grid(data: ImageData, rows: int = 6) -> Figure:
    """Some training images and their views in the first epoch."""
    config = data.config
    views = TrainingViews(
        data.train, config.augmentations, config.seed, skip_bad=config.data.skips_bad
    )
    batch = views[[SampleKey(0, i) for i in range(min(rows, len(data.train)))]]
    assert isinstance(batch, Batch)
    flat = [view for group in batch.views for view in group]  # [B, 3, H, W] each
    images, width = len(batch.labels), len(flat) + 1
    figure = Figure((1.2 * width, 1.2 * images), layout="constrained")
    grid = figure.subplots(images, width, squeeze=False)
    for index, (line, place) in enumerate(zip(grid, batch.indices.tolist())):
        for axes, image in zip(line, [data.train.image(place), *(view[index] for view in flat)]):
            axes.imshow(displayed(image, data))
            axes.axis("off")
    return figure


def _panels(metrics: Metrics, groups: list[list[str]]) -> Figure | None:
    """A row of panels, some metrics in each."""
    if not groups:
        return None
    figure = Figure((10, 3 * -(-len(groups) // 3)), layout="constrained")
    grid = figure.subplots(-(-len(groups) // 3), min(3, len(groups)), squeeze=False).ravel()
    for axes in grid[len(groups) :]:
        axes.axis("off")
    for axes, names in zip(grid, groups):
        for name, colour in zip(names, COLOURS):
            metric, last = describe(name), metrics[name][-1, 1]
            label = f"{metric.label}: {metric.text(last)}"
            axes.plot(*metrics[name].T, color=colour, label=label)
        axes.set_xlabel("step")
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    return figure
