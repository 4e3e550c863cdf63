"""Projectors: backbone features to the embedding that the loss sees."""

from __future__ import annotations

from typing import Literal

from torch import nn

ProjectorType = Literal["rectified_mlp", "mlp"]


def build_projector(
    kind: ProjectorType, in_features: int, hidden: int, out_features: int
) -> nn.Sequential:
    """Linear-BN-ReLU, Linear-BN-ReLU, Linear; ``rectified_mlp`` ends with one more ReLU."""
    layers: list[nn.Module] = [
        nn.Linear(in_features, hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, out_features),
    ]
    if kind == "rectified_mlp":
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)
