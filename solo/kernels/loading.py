"""Whether kernels can run here, and how they become operators."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from solo import distributed

LIBRARY = torch.library.Library("solo", "DEF")

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Kernels run on a CPU then, slowly: for tests."""


def operator(
    schema: str, shapes: Callable[..., Any]
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a launching function the operator ``torch.ops.solo.<name>``, and give that.

    Args:
        schema: name and types, as ``torch.library`` writes them.
        shapes: the same arguments to empty results.
    """
    name = schema.partition("(")[0]
    LIBRARY.define(schema)
    torch.library.register_fake(f"solo::{name}", shapes, lib=LIBRARY)

    def register(launch: Callable[..., Any]) -> Callable[..., Any]:
        def there(first: Tensor, *rest: Any) -> Any:
            if not first.is_cuda:
                return launch(first, *rest)
            with torch.cuda.device(first.device):  # Triton launches on the current one
                return launch(first, *rest)

        LIBRARY.impl(name, there, "CompositeExplicitAutograd")
        # What is made from a tensor's shape has no gradient, and what has one is told elsewhere.
        LIBRARY.impl(name, torch.library.fallthrough_kernel, "Autograd")
        made: Callable[..., Any] = getattr(torch.ops.solo, name)
        return made

    return register


_settled: dict[torch.device, bool] = {}


def usable(x: Tensor) -> bool:
    """Whether kernels take this tensor: float32, on a device where they run.

    ``SOLO_KERNELS=off`` in the environment switches them all off.
    """
    if x.dtype != torch.float32:
        return False
    if not x.is_cuda:
        return INTERPRETED and x.device.type == "cpu"
    if not torch.cuda.is_available():  # a rehearsal, on a device that is not there
        return find_spec("triton") is not None
    return _settled[x.device] if x.device in _settled else _works(x.device)


def settle(device: torch.device) -> None:
    """Decide for all processes at once, before they train: draws must be made alike by all."""
    if device.type == "cuda":
        works = distributed.all_mean(torch.tensor(float(_works(device)), device=device))
        _settled[device] = bool(works == 1)


@lru_cache
def _works(device: torch.device) -> bool:
    """Whether the smallest kernel runs there; says so where it does not."""
    if os.environ.get("SOLO_KERNELS") == "off":
        return False
    try:
        from solo.kernels.probe import probe

        return probe(device)
    except Exception as error:  # whatever a driver, a compiler or an import can raise
        reason = str(error).strip().splitlines() or [type(error).__name__]
        warnings.warn(
            f"fused kernels cannot be loaded ({reason[-1]}); slower tensor code runs instead",
            stacklevel=2,
        )
        return False
