"""What is seen of a network: pictures with their titles and words, of its validation set."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure

from solo.data import ImageData
from solo.data.batches import SampleKey, ValidationViews
from solo.methods import SSLMethod
from solo.report.pictures import (
    Features,
    activations,
    feature_map,
    neighbours,
    patch_maps,
    view_grid,
)

MOST_IMAGES = 2000
"""Of the validation set that are looked at."""
Section = tuple[str, str, Figure | None]
"""Title, words, and a picture where there is one."""


def network_sections(
    method: SSLMethod, data: ImageData, features: Features | None = None
) -> list[Section]:
    """Pictures of a network in evaluation mode, and of the views that it is fed.

    Args:
        method: the network.
        data: its images.
        features: of the validation set, where they are known already.
    """
    features = validation_features(method, data) if features is None else features
    sections: list[Section] = []
    if features is not None:
        target = getattr(getattr(method, "rdm_reg", None), "target", None)
        sections += [
            (
                "Activations",
                "Embedding of the validation set against the target: non-zero values, the "
                "distribution of single dimensions (the middle 80 % of them), and how often each "
                "dimension is active.",
                activations(features.z, target),
            ),
            (
                "Map",
                "Backbone features of the validation set in two dimensions, coloured by class.",
                feature_map(features),
            ),
            (
                "Neighbours",
                "Validation images (left) and the nearest others, by cosine of backbone features.",
                neighbours(features, data),
            ),
            (
                "Patches",
                "Patch tokens of the last block: their first three principal components as red, "
                "green and blue.",
                patch_maps(method, data),
            ),
        ]
    words = "Training images (left) and what the network is fed."
    return [*sections, ("Views", words, view_grid(data))]


@torch.no_grad()
def validation_features(method: SSLMethod, data: ImageData) -> Features | None:
    """Features of (a part of) the validation set, None where there is none."""
    if data.val is None:
        return None
    size = data.config.augmentations[0].crop_size
    views = ValidationViews(data.val, size, data.spec.whole, data.config.data.skips_bad)
    count = min(MOST_IMAGES, len(data.val))
    picked = torch.linspace(0, len(data.val) - 1, count).long().unique().tolist()
    parts = []
    for start in range(0, count, 64):
        batch = views[[SampleKey(0, i) for i in picked[start : start + 64]]]
        encoded = method.encode([views.to(method.device) for views in batch.views])
        parts.append((encoded.h[0].cpu(), encoded.z[0].cpu(), batch.labels))
    h, z, labels = (torch.cat(column) for column in zip(*parts))
    return Features(h, z, labels, picked)
