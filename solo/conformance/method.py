"""A method as a loss of embeddings: small networks, images made from their numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from solo.config.resolve import unknown_name
from solo.conformance.samples import CLASSES, labels_of
from solo.data import Batch, Normalize
from solo.data.datasets import normalisation
from solo.methods import METHODS, resolve_config
from solo.methods.probes import Encoded
from solo.rng import Step

_VIT = {"depth": 1, "embed_dim": 24, "num_heads": 2, "patch_size": 2}
_METHODS: dict[str, dict[str, Any]] = {
    "dino": {"num_prototypes": 24},
    "ijepa": {"pred_dim": 16, "pred_depth": 1, "pred_heads": 2},
    "rectified_lpjepa": {"projector_type": "rectified_mlp"},
}


class MethodLoss(nn.Module):
    """``compute_loss`` of a method: z takes the place of embeddings, networks are small.

    BatchNorm in a method's own heads is left out: it sees what one process holds, unless it is
    synchronised. Losses that take images (teachers) see 8 x 8 noise, an image's own.

    Args:
        name: of the method.
        overrides: of its config, such as ``method_kwargs.lamb=0.1``.
        views: of an image.
        features: D.
        more: ``method_kwargs``.
    """

    def __init__(
        self,
        name: str,
        overrides: Iterable[str],
        views: int,
        features: int,
        more: Mapping[str, Any],
    ) -> None:
        super().__init__()
        pooled = {"class_token": False, "global_pool": "avg"} if name == "ijepa" else {}
        content = {
            "method": name,
            "name": "conformance",
            "backbone": {"name": "vit_tiny", "kwargs": {**_VIT, **pooled}},
            "method_kwargs": {
                "proj_hidden_dim": 16,
                "proj_output_dim": features,
                **_METHODS.get(name, {}),
                **more,
            },
            "data": {"dataset": "digits"},
            "augmentations": [{"crop_size": 8, "num_crops": views}],
            "optimizer": {"name": "sgd", "batch_size": 64, "lr": 0.1},
        }
        given = OmegaConf.merge(OmegaConf.create(content), OmegaConf.from_dotlist(list(overrides)))
        config = resolve_config(given)  # type: ignore[arg-type]
        normalize = Normalize(*normalisation(config.data))
        supervised = CLASSES if name == "supervised" else 0
        self.method = METHODS[name](config, normalize, supervised)
        _without_batchnorm(self.method)
        self.method.network_precision = contextlib.nullcontext  # type: ignore[assignment]

    def forward(
        self, z: Tensor, rows: Tensor, step: int, order: Sequence[int] | None = None
    ) -> Tensor:
        """The loss of z [V, n, D] of images of these numbers; ``order``: of the views."""
        noise = [_image(int(row), len(z)) for row in rows]
        views = torch.stack(noise, dim=1) if noise else torch.empty(len(z), 0, 3, 8, 8)
        views = views if order is None else views[list(order)]
        batch = Batch([views], labels_of(rows), rows)
        encoded = Encoded(z, z, z).for_losses()
        with torch.autocast("cpu", enabled=False):  # as the method's own step does
            total: Tensor = self.method.compute_loss(encoded, batch, Step(0, step)).total
        return total

    @staticmethod
    def check(name: str) -> None:
        """Whether there is such a method.

        Raises:
            ValueError: with the names that there are.
        """
        if name not in METHODS:
            raise ValueError(
                f"{unknown_name('method', name, METHODS)} (Another loss is written "
                "module:callable or path/to/file.py:callable.)"
            )

    @staticmethod
    def ordered(name: str) -> set[str]:
        """Where the order matters: I-JEPA's masks belong to a place in the batch."""
        return {"samples", "views"} if name == "ijepa" else set()

    @staticmethod
    def cut(name: str) -> bool:
        """Whether a part is cut off on purpose: what VISReg's shape term is divided by."""
        return name == "visreg"

    @staticmethod
    def options(name: str) -> Container[str]:
        """Names of ``method_kwargs``."""
        return METHODS[name].Options.model_fields


def _image(number: int, views: int) -> Tensor:
    """Noise [V, 3, 8, 8], uint8: an image's own; not torch's, which would be a draw of the loss."""
    noise = np.random.default_rng(number).integers(0, 256, (views, 3, 8, 8), dtype=np.uint8)
    return torch.from_numpy(noise)


def _without_batchnorm(network: nn.Module) -> None:
    for name, part in network.named_children():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            setattr(network, name, nn.Identity())
        else:
            _without_batchnorm(part)
