"""Where every random stream of a run comes from.

Each draw is a pure function of ``(seed, stream, indices)``: no generator carries state from one
step to the next, so a run can be resumed from any step and any process can make any other
process's draws without talking to it.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch


class Step(NamedTuple):
    """One training step; it names the step's draws."""

    epoch: int
    batch: int


class StepCounter:
    """Names the draws of a call: by the step that is given, else by counting the calls."""

    def __init__(self) -> None:
        self.calls = 0

    def named(self, step: tuple[int, ...] | None) -> tuple[int, ...]:
        """``step``, or the number of the call."""
        if step is None:
            step, self.calls = (self.calls,), self.calls + 1
        return step


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


def uniforms(seed: int, stream: str, items: np.ndarray, count: int) -> np.ndarray:
    """``count`` numbers for each item, all at once: what a generator an item would be too slow for.

    Args:
        seed: the run's seed.
        stream: what the numbers are for.
        items: integers [n, m], one row an item, such as (epoch, image, view).
        count: how many numbers each gets.

    Returns:
        float64 [n, count], uniform in [0, 1), a function of (seed, stream, row) alone: the
        SplitMix64 generator (Steele, Lea & Flood 2014), keyed by a hash of the row.
    """
    state = np.full(len(items), seed_for(seed, stream), dtype=np.uint64)
    for column in np.asarray(items).astype(np.uint64).T:
        state = _mix(state ^ _mix(column + _GAMMA))
    steps = _GAMMA * np.arange(1, count + 1, dtype=np.uint64)
    bits = _mix(state[:, None] + steps)
    return (bits >> np.uint64(11)) * 2.0**-53


_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finalizer: every input bit changes half of the output bits."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
