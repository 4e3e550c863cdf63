"""Features that still have places, and what attention looks at."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from solo.backbones import has_cls


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
        last_of = partial(call, images, indices=1, intermediates_only=True)
        try:
            (maps,) = last_of(norm=hasattr(network, "blocks"))
        except AssertionError:  # of a family that has blocks and whose norm is not for places
            (maps,) = last_of(norm=False)
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
    last = blocks[-1] if isinstance(blocks, (nn.Sequential, nn.ModuleList)) else None
    attention: Any = getattr(last, "attn", None)
    if not isinstance(getattr(attention, "attn_drop", None), nn.Module):
        return None
    caught: list[Tensor] = []
    hook = attention.attn_drop.register_forward_hook(lambda _m, _i, out: caught.append(out))
    fused = getattr(attention, "fused_attn", False)
    if fused:
        attention.fused_attn = False  # else weights are never there
    try:
        height, width = feature_maps(network, images).shape[-2:]
    finally:
        hook.remove()
        if fused:
            attention.fused_attn = True
    if not caught:
        return None
    weights = caught[0].float()  # [N, heads, tokens, tokens]
    if weights.dim() != 4 or weights.shape[-1] < height * width:
        return None
    prefix = weights.shape[-1] - height * width
    rows = weights[:, :, :1] if has_cls(network) else weights[:, :, prefix:]
    return rows[..., prefix:].mean(2).unflatten(-1, (height, width))
