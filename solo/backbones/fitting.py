"""Which arguments let a network take the views' sizes, and how wide its features are.

Asked on meta tensors, which hold no numbers, before anything is built: no attribute of a network is
trusted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from solo.config import ConfigError, Size, first_line, in_pixels, sides, square

Make = Callable[[dict[str, Any]], nn.Module]
Way = tuple[dict[str, Any], nn.Module]
"""Arguments, and the network that they make."""

FAR = 128
"""How far, in pixels, sizes are looked for that a network takes."""

STEPS = (8, 16, 32, 64)
"""What sides of views that are not square are made multiples of, together."""


class Fit(NamedTuple):
    """Arguments that let a network take all sizes, and the width of its features."""

    arguments: dict[str, Any]
    features: int


def fit(make: Make, arguments: dict[str, Any], sizes: Sequence[Size], channels: int = 3) -> Fit:
    """Find arguments for views of these sizes.

    Constructors that know them are given the image size, and leave to change it from view to view;
    what they do by themselves comes first.

    Args:
        make: arguments to the network.
        arguments: those that are given in any case.
        sizes: of the views, the global ones' first.
        channels: of the images.

    Raises:
        ConfigError: naming the nearest sizes that the network does take.
        Exception: what the constructor raises, where it cannot be called with the arguments.
    """
    first, *rest = sizes
    networks: list[Way] = []
    reason = ""
    for way in _ways(make, arguments, first):
        networks.append(way)
        found, reason = _first([way], sizes, channels)
        if found is not None:
            return found
    if _first(networks, [first], channels)[0] is None:

        def taken(size: Size) -> bool:
            return _first(_ways(make, arguments, size), [size], channels)[0] is not None

        near = _nearest(taken, first, networks)
        raise ConfigError(f"it does not take images of {in_pixels(first)} ({reason}); {near}")

    def beside(size: Size) -> bool:
        return _first(networks, [first, size], channels)[0] is not None

    odd = next((size for size in rest if not beside(size)), rest[-1])
    raise ConfigError(
        f"with images of {in_pixels(first)} it takes no views of {in_pixels(odd)} ({reason}); "
        f"{_nearest(beside, odd, networks)}"
    )


def _ways(make: Make, arguments: dict[str, Any], size: Size) -> Iterator[Way]:
    """What can be built, the arguments by themselves first.

    Raises:
        Exception: of the constructor, where nothing can.
    """
    sized: dict[str, Any] = {"img_size": size}
    more = [{}, sized, {**sized, "dynamic_img_size": True}, {**sized, "strict_img_size": False}]
    fault: Exception | None = None
    count = 0
    for extra in more:
        chosen = {**extra, **arguments}
        try:
            with torch.device("meta"):
                network = make(chosen).eval()
        except Exception as error:  # of an argument that this one does not know, or of the size
            fault = fault or error
            continue
        count += 1
        yield chosen, network
    if not count and fault is not None:
        raise fault


def _first(networks: Iterable[Way], sizes: Sequence[Size], channels: int) -> tuple[Fit | None, str]:
    """The first way in which all sizes go, or why the last does not."""
    reason = "no constructor for it"
    for chosen, network in networks:
        try:
            widths = {_width(network, channels, size) for size in sizes}
        except Exception as error:  # whatever a network raises for a size that it does not take
            reason = first_line(error).rstrip(".")
            continue
        if len(widths) == 1:
            return Fit(chosen, widths.pop()), ""
        reason = f"its features are {sorted(widths)} wide, by size"
    return None, reason


def _width(network: nn.Module, channels: int, size: Size) -> int:
    """Of the features of two images.

    Raises:
        ValueError: where they are no matrix.
    """
    with torch.no_grad():
        features = network(torch.empty(2, channels, *sides(size), device="meta"))
    if not isinstance(features, Tensor):
        raise ValueError(f"it gives a {type(features).__name__}, not one tensor of features")
    if features.ndim != 2 or len(features) != 2:
        raise ValueError(f"its features have the shape {list(features.shape)}, not [images, width]")
    return features.shape[1]


def patch_pixels(network: nn.Module) -> tuple[int, int] | None:
    """Height and width of a ViT's patches in pixels of its images, a convolutional stem before them
    included; None of a network that has none."""
    embedding: Any = getattr(network, "patch_embed", None)
    patch = getattr(embedding, "patch_size", None)
    if not isinstance(patch, tuple) or not hasattr(embedding, "grid_size"):
        return None
    stem = getattr(embedding, "feature_ratio", None) or (1, 1)
    return patch[0] * stem[0], patch[1] * stem[1]


def patch_grid(network: nn.Module) -> tuple[int, int] | None:
    """Rows and columns of patches that a ViT has positions for; None of one that has none."""
    grid = getattr(getattr(network, "patch_embed", None), "grid_size", None)
    return (grid[0], grid[1]) if grid else None


def _nearest(takes: Callable[[Size], bool], size: Size, networks: Iterable[Way]) -> str:
    """The sizes next to one that is not taken, in words."""
    patches = {side for _, network in networks for side in patch_pixels(network) or ()}
    below, above = (_beside(size, way, patches) for way in (-1, 1))
    known = [next(filter(takes, some), None) for some in (below, above)]
    words = " and ".join(in_pixels(found) for found in known if found is not None)
    return f"the nearest that it takes: {words}" if words else "no size near it is taken"


def _beside(size: Size, way: int, patches: Iterable[int]) -> list[Size]:
    """Sizes to try, the nearest first: sides that are multiples of one number.

    Args:
        size: next to which.
        way: -1 for smaller ones, 1 for larger.
        patches: sides of patches, in pixels.
    """
    if isinstance(size, int):
        sides_near = range(max(8, size - FAR), size) if way < 0 else range(size + 1, size + FAR + 1)
        steps = (8, *(patch for patch in patches if patch >= 8))
        return [side for side in sides_near[::way] if any(side % step == 0 for step in steps)]
    found = {
        tuple(way * (-(-way * side // step) + more) * step for side in size)
        for step in STEPS
        for more in (0, 1)
    }
    near = sorted(found, key=lambda other: sum(abs(a - b) for a, b in zip(other, size)))
    return [square((a, b)) for a, b in near if min(a, b) >= 8 and (a, b) != size]
