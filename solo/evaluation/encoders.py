"""A frozen network: images in, features out."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from solo.backbones import build_backbone, has_blocks, last_two_cls, without_weights
from solo.config import Config, ConfigError, Size, sides
from solo.data import Normalize

FeatureName = Literal["backbone", "projector", "last_two_cls", "teacher"]


class Encoder(nn.Module):
    """Images [N, C, H, W] in 0 to 255 -> features [N, F].

    Args:
        backbone: maps normalised images to [N, num_features].
        normalize: images to the network's input.
        image_size: of the images it is made for.
        whole: small images, taken whole; otherwise the centre crop of a larger one.
        projector: maps the backbone's features to embeddings, where there is one.
        features: what comes out.
        name: for tables.

    Raises:
        ConfigError: for features that this network does not have.
    """

    def __init__(
        self,
        backbone: nn.Module,
        normalize: Normalize,
        image_size: Size,
        whole: bool,
        projector: nn.Module | None,
        features: FeatureName,
        name: str,
    ) -> None:
        super().__init__()
        self.backbone, self.normalize, self.projector = backbone, normalize, projector
        self.image_size, self.whole = image_size, whole
        self.features, self.name = features, name
        self.config: Config | None = None
        """The run's, where it is one of ours."""
        self.value_range: list[float] | None = None
        """Black and white of its images, where not those of their type."""
        self.clip = False
        """Whether values outside are cut."""
        self.beside: tuple[Encoder, ...] = ()
        """Others of its run that are worth a row of their own: its teacher."""
        if features == "last_two_cls" and not has_blocks(backbone, image_size, self.channels):
            raise ConfigError(f"features is last_two_cls, but {name} is no ViT; choose backbone")
        if features == "projector" and projector is None:
            raise ConfigError(
                f"features is projector, but {name} has none; only runs and checkpoints of ours "
                "do. Choose backbone"
            )

    def forward(self, images: Tensor) -> Tensor:
        """[N, C, H, W] of either type -> [N, F]."""
        return self.features_of(self.normalize(images))

    def features_of(self, x: Tensor) -> Tensor:
        """Features of normalised images."""
        if self.features == "last_two_cls":
            return last_two_cls(self.backbone, x)[1]
        h: Tensor = self.backbone(x)
        return self.projector(h) if self.features == "projector" and self.projector else h

    @torch.no_grad()
    def num_features(self) -> int:
        """The number of features F, by asking the network."""
        was_training = self.training
        size = self.eval()(self.blank()).shape[-1]
        self.train(was_training)
        return int(size)

    @property
    def channels(self) -> int:
        """Of its images."""
        return len(self.normalize.std)

    def check_channels(self, found: int) -> None:
        """Whether images of so many channels are for it.

        Raises:
            ConfigError: where they are not.
        """
        if self.channels != found:
            raise ConfigError(
                f"{self.name} is for images of {self.channels} channels, and these have {found}"
            )

    def blank(self) -> Tensor:
        """A black image, [1, C, H, W] uint8."""
        where = next(self.parameters()).device
        return torch.zeros(
            1, self.channels, *sides(self.image_size), dtype=torch.uint8, device=where
        )


def untrained(encoder: Encoder, seed: int) -> Encoder:
    """A run's network before any training, published weights left out too."""
    assert encoder.config is not None
    torch.manual_seed(seed)
    config = encoder.config
    kwargs = without_weights(config.backbone.kwargs)
    network = build_backbone(
        config.backbone.name, kwargs, *config.view_sizes, channels=encoder.channels
    )
    return Encoder(
        network, encoder.normalize, encoder.image_size, encoder.whole, None, "backbone", "untrained"
    )
