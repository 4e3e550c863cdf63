"""Networks in shards: each process keeps a part of every weight, gradient and optimizer state.

FSDP2 (``torch.distributed.fsdp.fully_shard``): a block's weights are gathered when it runs, forward
and backward, and let go after it.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import nn
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

from solo.config import ConfigError

CALLED = ("forward_features", "forward_intermediates", "forward_head")
"""Methods of timm's networks that are called in place of the network."""


def shard(network: nn.Module, mesh: Any) -> None:
    """Shard a network in place, by blocks; the weights must be the same on all processes.

    They travel in their own precision, so that autocast is what it is without shards. Convolutions
    lose the channels-last order of their weights, which cannot be sharded.

    Args:
        network: called by itself, or by timm's methods of :data:`CALLED`.
        mesh: of processes, one-dimensional.

    Raises:
        ConfigError: for a weight that is a single number without dimensions (NFNet's of DeepMind).
    """
    for name, parameter in network.named_parameters():
        if parameter.ndim == 0:
            raise ConfigError(
                f"strategy is fsdp, but {type(network).__name__}'s {name} is a number without "
                "dimensions, which cannot be cut in parts; use strategy=ddp"
            )
    for parameter in network.parameters():
        parameter.data = parameter.data.contiguous()
    for module in groups(network):
        # Also the network's: after a teacher's pass nothing else lets its weights go.
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
    for name in CALLED:
        if callable(getattr(network, name, None)):
            register_fsdp_forward_method(network, name)


def groups(network: nn.Module) -> list[nn.Module]:
    """What is gathered at a time: inner blocks, what outer ones have besides, and the rest."""
    return [*reversed(blocks(network)), network]


def blocks(network: nn.Module) -> list[nn.Module]:
    """Members of a network's lists that are no lists or single layers.

    A ViT's blocks, a ResNet's, a ConvNeXt's stages and their blocks: outer ones before inner ones.
    Those that share a weight with another module (CoaT's) are left to the network.
    """
    lists = (nn.Sequential, nn.ModuleList)
    uses = Counter(id(p) for _, p in network.named_parameters(remove_duplicate=False))
    return [
        member
        for holder in network.modules()
        if isinstance(holder, lists)
        for member in holder
        if not isinstance(member, lists)
        and next(member.children(), None) is not None
        and next(member.parameters(), None) is not None
        and all(uses[id(p)] == 1 for p in member.parameters())
    ]
