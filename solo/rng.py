"""Where every random stream of a run comes from.

Each draw is a pure function of ``(seed, stream, indices)``: no generator carries state from one
step to the next, so a run can be resumed from any step and any process can make any other
process's draws without talking to it.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

import torch


def seed_for(seed: int, stream: str, *indices: int) -> int:
    """Hash ``(seed, stream, indices)`` to 63 bits.

    Args:
        seed: the run's ``seed``.
        stream: what the numbers are for, e.g. ``"projections"``.
        indices: epoch, step, sample, view, block … any number of them, in the stream's own order.
    """
    text = "/".join([str(int(seed)), stream, *(str(int(i)) for i in indices)])
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(
    seed: int, stream: str, *indices: int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A fresh generator on ``device`` for this stream and these indices."""
    return torch.Generator(device=device).manual_seed(seed_for(seed, stream, *indices))


def seed_global(seed: int, stream: str, *indices: int) -> None:
    """Seed torch's global generators (dropout, stochastic depth, initial weights)."""
    torch.manual_seed(seed_for(seed, stream, *indices))


@contextlib.contextmanager
def forked(seed: int, stream: str, *indices: int) -> Iterator[None]:
    """Seed torch's global CPU generator inside the block only, for libraries that draw from it."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_for(seed, stream, *indices))
        yield
