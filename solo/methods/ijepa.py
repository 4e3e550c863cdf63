"""I-JEPA (arXiv 2301.08243): predict the teacher's patches from other patches of the image."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field, model_validator
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from solo import distributed, rng
from solo.backbones import compile_calls, freeze_unused
from solo.config import ConfigError, fault, in_pixels, sides
from solo.data import Batch
from solo.losses.ijepa import Masks, draw_masks, ijepa_loss
from solo.methods.base import Loss, MethodOptions
from solo.methods.momentum import MomentumMethod, MomentumOptions
from solo.methods.probes import Encoded, at_least_float32
from solo.methods.projectors import ProjectorType
from solo.rng import Step


class IJEPAOptions(MomentumOptions):
    """``method_kwargs`` of ``ijepa``."""

    projector_type: ProjectorType = "identity"
    """The loss compares the backbone's own patches: there is no projector."""
    base_tau_momentum: float = Field(0.996, ge=0, le=1)
    """How much of the teacher each step keeps, at the start."""
    num_blocks: int = Field(4, ge=1)
    """Rectangles to predict in each image."""
    min_block_scale: float = Field(0.15, gt=0, lt=1)
    """Smallest area of a rectangle, as a part of the image's."""
    max_block_scale: float = Field(0.2, gt=0, lt=1)
    """Largest."""
    pred_dim: int = Field(384, ge=4, multiple_of=4)
    """Width of the predictor."""
    pred_depth: int = Field(6, ge=1)
    """Its transformer blocks."""
    pred_heads: int = Field(6, ge=1)
    """Heads of each."""

    @model_validator(mode="after")
    def _heads_divide(self) -> IJEPAOptions:
        if self.pred_dim % self.pred_heads:
            raise fault(f"pred_dim {self.pred_dim} is no multiple of pred_heads {self.pred_heads}")
        return self


class KeepPatches(nn.Module):
    """In the place of timm's patch dropout: inside ``only``, keep the prefix tokens and patches."""

    def __init__(self, prefix: int) -> None:
        super().__init__()
        self.prefix = prefix
        self.kept: Tensor | None = None

    @contextlib.contextmanager
    def only(self, kept: Tensor) -> Iterator[None]:
        """Inside the block, [B, C] patches of each image; outside of it, all."""
        self.kept = kept
        try:
            yield
        finally:
            self.kept = None

    def forward(self, x: Tensor) -> Tensor:
        """[B, prefix + N, F] -> [B, prefix + C, F]."""
        if self.kept is None:
            return x
        return torch.cat([x[:, : self.prefix], pick(x[:, self.prefix :], self.kept)], dim=1)


class Predictor(nn.Module):
    """Context patches and the places of others -> those others.

    Args:
        features: F of the backbone.
        grid: rows and columns of patches.
        dim, depth, heads: of the transformer.
    """

    positions: Tensor

    def __init__(
        self, features: int, grid: tuple[int, int], dim: int, depth: int, heads: int
    ) -> None:
        super().__init__()
        self.inward, self.outward = nn.Linear(features, dim), nn.Linear(dim, features)
        self.mask_token = nn.Parameter(0.02 * torch.randn(dim))
        self.blocks = nn.Sequential(*(Block(dim, heads, qkv_bias=True) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.register_buffer("positions", sine_positions(grid, dim), persistent=False)

    def forward(self, context: Tensor, places: Tensor, targets: Tensor) -> Tensor:
        """context [B, C, F] at places [B, C]; targets [B, M, T] -> [B, M, T, F]."""
        blocks, wanted = targets.shape[1:]
        known = self.inward(context) + self.positions[places]
        known = known.repeat_interleave(blocks, dim=0)  # [B M, C, dim]
        asked = self.mask_token + self.positions[targets].flatten(0, 1)  # [B M, T, dim]
        tokens = self.norm(self.blocks(torch.cat([known, asked], dim=1)))
        made: Tensor = self.outward(tokens[:, -wanted:])
        return made.unflatten(0, (-1, blocks))


class IJEPA(MomentumMethod):
    """The student sees part of the patches, a predictor guesses the teacher's of the others.

    Each view is an image of its own. ViTs only. Online probes see the student's features of the
    whole image.
    """

    loss_name: ClassVar[str] = "ijepa_loss"
    against_collapse: ClassVar[str] = "Raise method_kwargs.base_tau_momentum, or lower optimizer.lr"
    Options: ClassVar[type[MethodOptions]] = IJEPAOptions
    min_views: ClassVar[int] = 1
    options: IJEPAOptions

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        network = self.backbone
        if not isinstance(network, VisionTransformer):
            raise ConfigError(
                f"method ijepa predicts patches, but {self.config.backbone.name} is no ViT; "
                "choose a backbone such as vit_small"
            )
        if network.global_pool == "token":
            raise ConfigError(
                "method ijepa trains a ViT's patches, not its CLS token; set "
                "++backbone.kwargs.class_token=false ++backbone.kwargs.global_pool=avg"
            )
        sizes = {entry.crop_size for entry in self.config.augmentations}
        height, width = sides(self.config.augmentations[0].crop_size)
        rows, columns = network.patch_embed.dynamic_feat_size((height, width))
        self.grid = (int(rows), int(columns))
        if len(sizes) > 1 or min(self.grid) < 2:
            raise ConfigError(
                f"method ijepa needs views of one size and 2 x 2 patches or more; crop_size is "
                f"{', '.join(map(in_pixels, sizes))} and the patch {height // rows} px"
            )
        channels = self.config.data.image_channels
        blank = torch.zeros(1, channels, height, width)
        # The loss sees patches, not what pools them.
        freeze_unused(network, lambda: network.forward_features(blank))
        self.keep = KeepPatches(network.num_prefix_tokens)
        network.patch_drop = self.keep  # type: ignore[assignment]
        rng.seed_global(self.config.seed, "predictor")
        options = self.options
        self.predictor = Predictor(
            network.num_features,
            self.grid,
            options.pred_dim,
            options.pred_depth,
            options.pred_heads,
        )

    @torch.no_grad()
    def encode(self, views: list[Tensor]) -> Encoded:
        """Whole images, for the probes alone."""
        return super().encode(views)

    def compute_loss(self, encoded: Encoded, batch: Batch, step: Step) -> Loss:
        """How far predicted tokens of hidden blocks are from the teacher's."""
        options, images = self.options, self.images(batch.views[0])
        rows = _global_rows(*encoded.h.shape[:2])
        items = np.concatenate([np.tile(step, (len(rows), 1)), rows], axis=1)
        scale = (options.min_block_scale, options.max_block_scale)
        masks = draw_masks(
            self.config.seed, step, items, self.grid, blocks=options.num_blocks, scale=scale
        )
        if images.is_cuda and torch.cuda.is_available():  # else the copies would wait
            masks = Masks(*(x.pin_memory() for x in masks))
        places, targets = (x.to(images.device, non_blocking=True) for x in masks)
        with torch.no_grad():
            wanted = torch.cat(self.in_parts(self._wanted, images))
        prediction = torch.cat(self.in_parts(self._predicted, images, places, targets))
        wanted = pick(at_least_float32(wanted), targets.flatten(1)).unflatten(1, targets.shape[1:])
        return Loss(ijepa_loss(at_least_float32(prediction), wanted))

    def _wanted(self, images: Tensor) -> Tensor:
        """The teacher's tokens of all patches."""
        with self.network_precision():
            return self.teacher[0].forward_features(images)[:, self.keep.prefix :]  # type: ignore[operator, no-any-return]

    def _predicted(self, images: Tensor, places: Tensor, targets: Tensor) -> Tensor:
        """The predictor's tokens of hidden patches, from those that the student sees."""
        with self.network_precision():
            with self.keep.only(places):
                context = self.backbone.forward_features(images)[:, self.keep.prefix :]  # type: ignore[operator]
            prediction: Tensor = self.predictor(context, places, targets)
        return prediction

    def compile_networks(self, **options: Any) -> None:
        """The passes over patches too, and the predictor."""
        super().compile_networks(**options)
        for network in (self.backbone, self.teacher[0]):
            compile_calls(network, ("forward_features",), **options)
        self.predictor.compile(**options)


def pick(x: Tensor, indices: Tensor) -> Tensor:
    """x [B, N, F], indices [B, C] -> [B, C, F]."""
    return x.gather(1, indices[..., None].expand(-1, -1, x.shape[-1]))


def sine_positions(grid: tuple[int, int], dim: int) -> Tensor:
    """Sines and cosines of each patch's row and column, [rows * columns, dim]."""
    rates = 10000 ** -(torch.arange(dim // 4) / (dim // 4))
    rows, columns = torch.meshgrid(*(torch.arange(n) for n in grid), indexing="ij")
    angles = torch.cat([rows.flatten()[:, None] * rates, columns.flatten()[:, None] * rates], dim=1)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def _global_rows(views: int, batch: int) -> np.ndarray:
    """(view, place in the global batch) of each image on this process, [V B, 2]."""
    own = np.arange(batch) + distributed.rank() * batch
    return np.column_stack((np.repeat(np.arange(views), batch), np.tile(own, views)))
