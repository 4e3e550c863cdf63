"""What a recipe's training step holds on each GPU, counted from shapes, without a GPU.

python -m benchmarks.memory [words of recipes' names] [--processes 8] [key=value …]

Counts parameters, the optimizer's state, what DDP or FSDP (``strategy=fsdp``) makes of them, and
what the forward pass keeps for the backward pass, with and without ``backbone.grad_checkpointing``.
What libraries take for themselves (workspaces, fragments, NCCL's buffers) is not in it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from rich.progress import track
from torch import Tensor, nn

from benchmarks.recipes import compose
from benchmarks.rehearse import method_of_shapes, views_of_shapes
from solo.backbones.sharding import blocks, groups
from solo.config import ConfigError
from solo.methods import resolve_config
from solo.methods.base import SSLMethod

FLOAT = 4
"""Bytes of a parameter, its gradient, and each number of the optimizer's."""
RECIPES = ["imagenet/lejepa_vit.yaml", "imagenet/lejepa_vit_giant.yaml"]
RECIPES += ["imagenet/lejepa_convnext.yaml", "imagenet/lejepa_resnet.yaml"]


class Held(NamedTuple):
    """Bytes on a GPU: what training holds with DDP and with FSDP, and what a forward pass keeps of
    so many images."""

    images: int
    parameters: int
    copies: int
    shards: int
    kept: int


def held(recipe: str, processes: int, overrides: Sequence[str] = ()) -> Held:
    """Count for a recipe.

    Args:
        recipe: below scripts/pretrain.
        processes: GPUs.
        overrides: of its config, see :func:`benchmarks.recipes.compose`.

    Raises:
        ConfigError: where the network cannot be recomputed.
    """
    config = resolve_config(compose(recipe, overrides))
    moments = {"adam": 2, "adamw": 2, "sgd": 1, "lars": 1}[config.optimizer.name]
    with ExitStack() as contexts:
        method, mode = method_of_shapes(config, "cuda", processes, contexts)
        trained = sum(p.numel() for p in method.parameters() if p.requires_grad)
        fixed = sum(p.numel() for p in method.parameters()) - trained
        states = FLOAT * (trained * (2 + moments) + fixed)
        _, batch = views_of_shapes(config, mode)
        kept = kept_by_graph(method, batch)
    # DDP's buckets are a second copy of the gradients. FSDP holds two blocks' weights, as the next
    # is gathered while one runs, and a block's gradients.
    gathered = 3 * FLOAT * largest_gathered(method)
    copies, shards = states + FLOAT * trained, states // processes + gathered
    return Held(config.optimizer.batch_size, trained, copies, shards, kept)


def largest_gathered(method: SSLMethod) -> int:
    """Numbers of the largest part that runs at a time."""
    most = 0
    for network in method.networks():
        seen: set[int] = set()
        for module in groups(network):
            own = [p for p in module.parameters() if id(p) not in seen]
            seen |= {id(p) for p in own}
            most = max(most, sum(p.numel() for p in own))
    return most


def kept_by_graph(method: SSLMethod, batch: Any) -> int:
    """Bytes that a step's graph keeps of its own: activations, and weights in half precision."""
    own = {p.untyped_storage()._cdata for p in method.parameters()}
    found: dict[int, Tensor] = {}  # tensors are kept, so that no number is given twice

    def note(x: Any) -> Any:
        if isinstance(x, Tensor) and (number := x.untyped_storage()._cdata) not in own:
            found[number] = x
        return x

    def note_inputs(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        for x in inputs:  # of what runs again: no graph holds them, but the call does
            note(x)

    handles = [block.register_forward_pre_hook(note_inputs) for block in blocks(method.backbone)]
    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        method.training_step(batch, 0)
    for handle in handles:
        handle.remove()
    return sum(x.untyped_storage().nbytes() for x in found.values())


def row(recipe: str, processes: int, overrides: Sequence[str]) -> str:
    """A line of the table."""
    recomputed = "++backbone.grad_checkpointing"
    plain = held(recipe, processes, [*overrides, f"{recomputed}=false"])
    try:
        less = f"{held(recipe, processes, [*overrides, f'{recomputed}=true']).kept / 1e9:.1f}"
    except ConfigError:
        less = "not for BatchNorm"
    size = f"{plain.parameters / 1e6:,.0f} M | {plain.images}"
    figures = f"{plain.copies / 1e9:.1f} | {plain.shards / 1e9:.1f} | {plain.kept / 1e9:.1f}"
    return f"| `{recipe[:-5]}` | {size} | {figures} | {less} |"


def main(words: Sequence[str] | None = None) -> None:
    """Print a table, in GB."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.memory", description="Count what a step holds, without a GPU."
    )
    parser.add_argument("words", nargs="*", help="of recipes' names, or key=value of their config")
    parser.add_argument("--processes", type=int, default=8, help="GPUs (default: %(default)s)")
    given = parser.parse_args(words)
    names = [word for word in given.words if "=" not in word]
    overrides = [f"++{word.lstrip('+')}" for word in given.words if "=" in word]
    recipes = [recipe for recipe in RECIPES if all(name in recipe for name in names)]
    if not recipes:
        parser.error(f"no recipe of the table has {' and '.join(names)} in its name")
    state = f"states: DDP | FSDP, {given.processes} GPUs"
    print(f"| recipe | parameters | images a GPU | {state} | activations | recomputed |")
    print("|---|---|---|---|---|---|---|")
    for recipe in track(recipes, "Counting", transient=True):
        print(row(recipe, given.processes, overrides))


if __name__ == "__main__":
    main()
