"""A user's own operations, by their import paths."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pkgutil import resolve_name
from typing import Any

import numpy as np
import torch
from torch import Tensor

from solo.config import ConfigError, RunError
from solo.data.operations.base import Turn

NUMBERS = 16
"""Random numbers of a view that each of them gets."""

Extra = Callable[[Tensor, Tensor], Tensor]


@cache
def load_extra(path: str) -> Extra:
    """The operation behind ``package.module.name``; a class is called once, without arguments.

    Raises:
        ConfigError: for a path that leads to nothing that can be called.
    """
    try:
        found: Any = resolve_name(path)
        found = found() if isinstance(found, type) else found
    except Exception as error:  # a user's module can raise anything
        raise ConfigError(
            f"augmentations: extra has {path}, which cannot be loaded ({error!r:.200}); give "
            "package.module.name of a function of (images, numbers), or of a class of such objects"
        ) from error
    if not callable(found):
        raise ConfigError(f"augmentations: extra has {path}, which is a {type(found).__name__}")
    return found


def apply_extra(path: str, images: Tensor, numbers: Tensor) -> Tensor:
    """Call it, and look at what it gives.

    Raises:
        RunError: for another shape or type than it was given.
    """
    result = load_extra(path)(images, numbers)
    if not isinstance(result, Tensor) or result.shape != images.shape:
        what = list(result.shape) if isinstance(result, Tensor) else type(result).__name__
        raise RunError(f"{path} was given images {list(images.shape)} and returned {what}")
    return result.to(torch.float32).clamp(0, 255)


def extra_turns(paths: list[str], uniforms: np.ndarray, first: int) -> list[Turn]:
    """What they do to n views: each to all of them, with its own columns of their numbers.

    Args:
        paths: of the recipe.
        uniforms: [n, first + NUMBERS len(paths)], of the views.
        first: where their columns begin.
    """
    views = np.arange(len(uniforms))
    turns = []
    for path in paths:
        own = uniforms[:, first : first + NUMBERS]
        turns.append(Turn(partial(apply_extra, path), views, own.astype(np.float32)))
        first += NUMBERS
    return turns
