"""Projectors: backbone features to the embedding that the loss sees."""

from __future__ import annotations

from typing import Literal

from torch import nn

ProjectorType = Literal[
    "rectified_mlp", "mlp", "standard", "mlp3", "mlp3_with_one_more_relu", "identity"
]
"""`mlp3` and `mlp3_with_one_more_relu` are published recipes' names of the first two."""
RECTIFIED = ("rectified_mlp", "mlp3_with_one_more_relu")


def build_projector(
    kind: ProjectorType, in_features: int, hidden: int, out_features: int
) -> nn.Sequential:
    """Linear-BN-ReLU, Linear-BN-ReLU, Linear; ``rectified_mlp`` ends with one more ReLU.

    ``standard`` is SimCLR's Linear-ReLU-Linear; ``identity`` has no parameters, D = F.
    """
    if kind == "identity":
        return nn.Sequential()
    if kind == "standard":
        return nn.Sequential(
            nn.Linear(in_features, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, out_features)
        )
    layers: list[nn.Module] = [
        nn.Linear(in_features, hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, out_features),
    ]
    if kind in RECTIFIED:
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)
