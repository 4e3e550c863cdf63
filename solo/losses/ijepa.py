"""I-JEPA (arXiv 2301.08243): which patches are predicted from which, and how well."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from solo import distributed, rng


class Masks(NamedTuple):
    """Indices of patches, row by row: ``context`` [B, C], ``targets`` [B, M, T]."""

    context: Tensor
    targets: Tensor


def draw_masks(
    seed: int,
    step: tuple[int, ...],
    items: np.ndarray,
    grid: tuple[int, int],
    *,
    blocks: int = 4,
    scale: tuple[float, float] = (0.15, 0.2),
    aspect: tuple[float, float] = (0.75, 1.5),
) -> Masks:
    """M rectangles to predict in each image, and patches outside all of them to predict from.

    The rectangles' size is the step's, their places are each image's own. Every image gets as many
    context patches as are left where no two rectangles overlap, drawn from those that are left.

    Args:
        seed: the run's seed.
        step: names the draw of the size.
        items: integers [B, n], one row an image; they name the draws of its places.
        grid: rows and columns of patches.
        blocks: M.
        scale: of a rectangle's area, as a part of the image's.
        aspect: of its height to its width.
    """
    rows, columns = grid
    size = torch.rand(2, generator=rng.generator(seed, "block size", *step)).tolist()
    area = (scale[0] + (scale[1] - scale[0]) * size[0]) * rows * columns
    ratio = aspect[0] * (aspect[1] / aspect[0]) ** size[1]
    height = int(np.clip(round((area * ratio) ** 0.5), 1, max(1, rows - 1)))
    width = int(np.clip(round((area / ratio) ** 0.5), 1, max(1, columns - 1)))
    numbers = rng.uniforms(seed, "blocks", items, 2 * blocks + rows * columns)
    top = (numbers[:, :blocks] * (rows - height + 1)).astype(np.int64)
    left = (numbers[:, blocks : 2 * blocks] * (columns - width + 1)).astype(np.int64)
    inside = (np.arange(height)[:, None] * columns + np.arange(width)).reshape(-1)
    targets = (top * columns + left)[..., None] + inside  # [B, M, T]
    order = numbers[:, 2 * blocks :].copy()
    np.put_along_axis(order, targets.reshape(len(items), -1), 2.0, axis=1)  # last
    count = max(1, rows * columns - blocks * height * width)
    context = np.sort(order.argsort(1)[:, :count], axis=1)
    return Masks(torch.from_numpy(context), torch.from_numpy(targets))


def ijepa_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Smooth L1 of predicted and teacher's patches, over the global batch.

    Args:
        prediction: [B, M, T, F].
        target: the same shape, the teacher's, normalised here (LayerNorm without parameters);
            carries no gradient.
    """
    target = F.layer_norm(target.detach(), target.shape[-1:])
    return distributed.all_mean(F.smooth_l1_loss(prediction, target), alike=True)
