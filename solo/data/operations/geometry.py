"""Turning and mirroring a view, for images that have no up or down."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from solo.config.views import Chance, RotationConfig
from solo.data.operations.base import Operation, Turn, always_alike, chosen


def upside_down(x: Tensor, _: Tensor) -> Tensor:
    """Mirror top and bottom."""
    return x.flip(-2)


def quarter(x: Tensor, turns: Tensor) -> Tensor:
    """Turn image i by ``turns[i]`` (1, 2 or 3) quarters, counterclockwise; H and W are equal."""
    sideways = x.mT
    turned = torch.where((turns == 1)[:, None, None, None], sideways.flip(-2), sideways.flip(-1))
    return torch.where((turns == 2)[:, None, None, None], x.flip(-2, -1), turned)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn image i by ``angles[i]`` degrees, counterclockwise, around its middle.

    Bilinear; what was outside is black, as torchvision's ``rotate`` does it.
    """
    height, width = x.shape[-2:]
    radians = angles * (math.pi / 180)
    cos, sin, zero = radians.cos(), radians.sin(), torch.zeros_like(radians)
    # To coordinates in [-1, 1], of the pixel that each pixel comes from.
    rows = (
        torch.stack((cos, -sin * (height / width), zero), dim=-1),
        torch.stack((sin * (width / height), cos, zero), dim=-1),
    )
    grid = F.affine_grid(torch.stack(rows, dim=1), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _quarters(options: Chance, u: np.ndarray) -> Iterator[Turn]:
    """Numbers: whether, and how far."""
    views = chosen(options, u[:, 0])
    yield Turn(quarter, views, np.floor(1 + 3 * u[views, 1]).astype(np.float32))


def _rotations(options: RotationConfig, u: np.ndarray) -> Iterator[Turn]:
    """Numbers: whether, and how far."""
    views = chosen(options, u[:, 0])
    angles = options.degrees * (2 * u[views, 1] - 1)
    yield Turn(rotate, views, angles.astype(np.float32))


vertical_flip = Operation("vertical_flip", range(34, 35), always_alike(upside_down))
quarter_turns = Operation("quarter_turns", range(35, 37), _quarters)
rotation = Operation("rotation", range(37, 39), _rotations)
