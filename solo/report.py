"""report.html: a run on one page. ``python -m solo.report <run folder>`` writes it anew."""

from __future__ import annotations

import argparse
import base64
import csv
import html
import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import yaml
from matplotlib.figure import Figure
from torch import Tensor

from solo.config import ConfigError
from solo.data import ImageData
from solo.data.batches import Batch, SampleKey, TrainingViews, ValidationViews
from solo.distributions import GeneralizedGaussian
from solo.methods import SSLMethod, build_method, resolve_config

MOST_IMAGES = 2000  # validation images that are looked at

COLOURS = ["#2a6f97", "#e07a5f", "#3d9970", "#8d6a9f", "#b8860b", "#555555"]

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 68rem; color: #222;
  padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .3rem; }
img { max-width: 100%; } td { padding: .1rem 1.2rem .1rem 0; } p { color: #555; margin: .2rem 0; }
pre { background: #f5f5f5; padding: 1rem; overflow-x: auto; font-size: .8rem; }
"""


class Features(NamedTuple):
    """What the trained network makes of the validation set."""

    h: Tensor  # [N, F]
    z: Tensor  # [N, D]
    labels: Tensor  # [N] or [N, A]


def write_report(folder: Path) -> Path:
    """Write ``report.html`` from the config, metrics and last checkpoint of a run.

    Raises:
        ConfigError: for a folder that is not a run's.
    """
    metrics = read_metrics(folder)
    method, data = load_run(folder)
    features = validation_features(method, data)
    sections = [
        ("Losses", "Values of single steps.", loss_curves(metrics)),
        ("Probes", "Accuracy on the validation set, in percent.", probe_curves(metrics)),
        (
            "Sparsity",
            "Non-zero fraction of the embedding: measured on training batches and on the "
            "validation set, and expected from the target distribution.",
            sparsity_curves(metrics),
        ),
    ]
    if features is not None:
        target = getattr(getattr(method, "rdm_reg", None), "target", None)
        sections += [
            (
                "Activations",
                "Non-zero embedding values of the validation set against the target, and how "
                "often each dimension is active.",
                activations(features.z, target),
            ),
            (
                "Map",
                "Backbone features of the validation set on their first two principal "
                "components, coloured by class.",
                principal_map(features),
            ),
        ]
    sections.append(
        ("Views", "Training images (left) and what the network is fed.", view_grid(data))
    )
    body = "".join(
        f"<h2>{title}</h2><p>{text}</p><img alt='{title}' src='{_encode(figure)}'>"
        for title, text, figure in sections
        if figure is not None
    )
    config = html.escape((folder / "config.yaml").read_text())
    name = html.escape(folder.name)
    page = (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{name}</title>"
        f"<style>{STYLE}</style></head><body><h1>{name}</h1>{_numbers(metrics)}{body}"
        f"<h2>Config</h2><pre>{config}</pre></body></html>\n"
    )
    target_file = folder / "report.html"
    partial = folder / "report.html.partial"
    partial.write_text(page, encoding="utf-8")
    partial.replace(target_file)
    return target_file


def load_run(folder: Path) -> tuple[SSLMethod, ImageData]:
    """The trained method (in evaluation mode) and its data.

    Raises:
        ConfigError: for a folder without a config or checkpoint.
    """
    checkpoint = folder / "checkpoints/last.ckpt"
    if not checkpoint.is_file() or not (folder / "config.yaml").is_file():
        raise ConfigError(f"{folder} is not a run's folder: it lacks config.yaml or {checkpoint}")
    saved = yaml.safe_load((folder / "config.yaml").read_text())
    saved["data"]["preload"] = False
    config = resolve_config(saved)
    data = ImageData(config)
    method = build_method(config, data)
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    method.load_state_dict(content["state_dict"])
    return method.eval(), data


@torch.no_grad()
def validation_features(method: SSLMethod, data: ImageData) -> Features | None:
    """Features of (a part of) the validation set, None where there is none."""
    if data.val is None:
        return None
    views = ValidationViews(data.val, data.config.augmentations[0].crop_size, data.spec.whole)
    count = min(MOST_IMAGES, len(data.val))
    picked = torch.linspace(0, len(data.val) - 1, count).long().unique().tolist()
    parts = []
    for start in range(0, count, 64):
        batch = views[[SampleKey(0, i) for i in picked[start : start + 64]]]
        encoded = method.encode(batch.views)
        parts.append((encoded.h[0], encoded.z[0], batch.labels))
    return Features(*(torch.cat(column) for column in zip(*parts)))


class Metrics(dict[str, np.ndarray]):
    """Each metric's rows: [n, 2] of step and value."""


def read_metrics(folder: Path) -> Metrics:
    """metrics.csv by column."""
    path = folder / "metrics.csv"
    if not path.is_file():
        return Metrics()
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    found: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for name, value in row.items():
            if value and name not in ("step", "epoch"):
                found.setdefault(name, []).append((float(row["step"]), float(value)))
    return Metrics({name: np.array(values) for name, values in found.items()})


def loss_curves(metrics: Metrics) -> Figure | None:
    """Every train_*_loss that is not a probe's, a panel each."""
    probes = ("class", "proj", "mlp")
    names = [
        n
        for n in metrics
        if n.startswith("train_") and n.endswith("_loss") and not any(p in n for p in probes)
    ]
    return _panels(metrics, [[name] for name in names])


def probe_curves(metrics: Metrics) -> Figure | None:
    """Top-1 accuracies of all probes in one panel, with their final values."""
    names = [n for n in metrics if n.startswith("val_") and n.endswith("acc1")]
    return _panels(metrics, [names] if names else [])


def sparsity_curves(metrics: Metrics) -> Figure | None:
    """Measured and expected l0."""
    names = ["train_l0_sparsity_metric", "val_l0_sparsity_metric", "expected_l0"]
    names = [name for name in names if name in metrics]
    figure = _panels(metrics, [names] if names else [])
    if figure is not None:
        figure.axes[0].set_ylim(0, 1)
    return figure


def activations(z: Tensor, target: GeneralizedGaussian | None) -> Figure:
    """Histogram of non-zero values with the target's density, and activity by dimension."""
    figure = Figure((10, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
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
    activity = (z != 0).float().mean(0).sort(descending=True).values
    right.bar(range(len(activity)), activity.numpy(), width=1.0, color=COLOURS[0])
    if target is not None:
        right.axhline(target.expected_l0, color=COLOURS[1], label="expected")
        right.legend()
    right.set(xlabel="dimension, sorted", ylabel="fraction of images active", ylim=(0, 1))
    return figure


def principal_map(features: Features) -> Figure:
    """The first two principal components of the backbone's features."""
    centred = features.h - features.h.mean(0)
    _, _, basis = torch.pca_lowrank(centred, q=2, center=False)
    places = (centred @ basis).numpy()
    figure = Figure((6, 4.5), layout="constrained")
    axes = figure.subplots()
    labels = features.labels if features.labels.ndim == 1 else features.labels[:, 0]
    colours = "tab10" if labels.max() < 10 else "hsv"
    dots = axes.scatter(places[:, 0], places[:, 1], c=labels.numpy(), s=8, cmap=colours)
    if bool((labels >= 0).any()):
        figure.colorbar(dots, label="class")
    axes.set(xlabel="component 1", ylabel="component 2")
    return figure


def view_grid(data: ImageData, rows: int = 6) -> Figure:
    """Some training images and their views in the first epoch."""
    config = data.config
    views = TrainingViews(data.train, config.augmentations, config.seed)
    batch = views[[SampleKey(0, i) for i in range(min(rows, len(data.train)))]]
    assert isinstance(batch, Batch)
    flat = [view for group in batch.views for view in group]  # [B, 3, H, W] each
    images, width = len(batch.labels), len(flat) + 1
    figure = Figure((1.2 * width, 1.2 * images), layout="constrained")
    grid = figure.subplots(images, width, squeeze=False)
    for index, line in enumerate(grid):
        for axes, image in zip(line, [data.train.image(index), *(view[index] for view in flat)]):
            axes.imshow(image.permute(1, 2, 0).numpy())
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
            last = metrics[name][-1, 1]
            axes.plot(*metrics[name].T, color=colour, label=f"{name}: {last:.4g}")
        axes.set_xlabel("step")
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    return figure


def _numbers(metrics: Metrics) -> str:
    """The last validation values as a table."""
    names = [n for n in metrics if n.startswith("val_") or n == "expected_l0"]
    cells = (f"<tr><td>{n}</td><td>{metrics[n][-1, 1]:.4g}</td></tr>" for n in sorted(names))
    return f"<table>{''.join(cells)}</table>"


def _encode(figure: Figure) -> str:
    """A figure as a data URI."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write a run's report.html")
    parser.add_argument("folder", type=Path, help="<checkpoint.dir>/<method>/<name>-<id>")
    try:
        print(write_report(parser.parse_args().folder))
    except ConfigError as problem:
        parser.error(str(problem))
