"""Features of patches as pictures: principal components as colours, and attention."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


@torch.no_grad()
def feature_maps(network: nn.Module, images: Tensor) -> Tensor:
    """The last features that still have places.

    Args:
        network: a backbone of :func:`solo.backbones.build_backbone`, in evaluation mode.
        images: normalised, [N, 3, H, W].

    Returns:
        [N, C, h, w], float32.

    Raises:
        ValueError: for a network that keeps no places.
    """
    call = getattr(network, "forward_intermediates", None)
    if callable(call):
        (maps,) = call(images, indices=1, norm=hasattr(network, "blocks"), intermediates_only=True)
        return maps.float()
    last = getattr(network, "layer4", None)  # torchvision's ResNets
    if last is None:
        raise ValueError(f"{type(network).__name__} gives no feature maps")
    caught: list[Tensor] = []
    hook = last.register_forward_hook(lambda _module, _inputs, output: caught.append(output))
    try:
        network(images)
    finally:
        hook.remove()
    return caught[0].float()


@torch.no_grad()
def attention_maps(network: nn.Module, images: Tensor) -> Tensor | None:
    """What the last block's CLS token (without one: its patches, on average) attends to.

    Args:
        network: in evaluation mode.
        images: normalised, [N, 3, H, W].

    Returns:
        [N, heads, h, w], summing to at most 1 over places; None for a network that is no ViT of
        timm.
    """
    blocks = getattr(network, "blocks", None)
    last = blocks[-1] if isinstance(blocks, nn.Sequential) else None
    attention: Any = getattr(last, "attn", None)
    if not isinstance(getattr(attention, "attn_drop", None), nn.Module):
        return None
    caught: list[Tensor] = []
    hook = attention.attn_drop.register_forward_hook(lambda _m, _i, out: caught.append(out))
    fused, attention.fused_attn = attention.fused_attn, False  # else weights are never there
    try:
        height, width = feature_maps(network, images).shape[-2:]
    finally:
        hook.remove()
        attention.fused_attn = fused
    weights = caught[0].float()  # [N, heads, tokens, tokens]
    if weights.dim() != 4 or weights.shape[-1] < height * width:
        return None
    prefix = weights.shape[-1] - height * width
    rows = weights[:, :, :1] if prefix else weights
    return rows[..., prefix:].mean(2).unflatten(-1, (height, width))


class Palette(NamedTuple):
    """Three principal directions and the range that is spread over the colours."""

    mean: Tensor
    """[C]"""
    basis: Tensor
    """[C, 3], orthonormal; zero where there are fewer directions."""
    low: Tensor
    """[3]"""
    high: Tensor
    """[3]"""

    @classmethod
    def of(cls, maps: Tensor) -> Palette:
        """From feature maps [N, C, h, w], all places of all images together.

        A sign is chosen such that each component is skewed to the right, so that the same features
        have the same colours whatever the solver returned; the range leaves out one place in a
        hundred on either side.
        """
        flat = maps.permute(0, 2, 3, 1).flatten(0, 2).double()
        mean = flat.mean(0)
        centred = flat - mean
        _, vectors = torch.linalg.eigh(centred.T @ centred)
        basis = vectors.flip(1)[:, :3]
        scores = centred @ basis
        basis = basis * torch.where(scores.pow(3).sum(0) < 0, -1.0, 1.0)
        basis = torch.nn.functional.pad(basis, (0, 3 - basis.shape[1]))
        scores = centred @ basis
        low, high = (_quantile(scores, level) for level in (0.01, 0.99))
        return cls(mean.float(), basis.float(), low.float(), high.float())

    def paint(self, maps: Tensor) -> Tensor:
        """Feature maps [N, C, h, w] -> colours [N, 3, h, w] in [0, 1]."""
        scores = torch.einsum("nchw,ck->nkhw", maps - self.mean[:, None, None], self.basis)
        low, high = (bound[:, None, None] for bound in (self.low, self.high))
        return ((scores - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)


def _quantile(values: Tensor, level: float) -> Tensor:
    """Of each column, any number of rows (``torch.quantile`` ends at 2^24)."""
    rank = min(len(values), max(1, round(level * len(values))))
    return values.kthvalue(rank, dim=0).values
