"""Random directions to project samples on: dense and structured ones.

Directions come in chunks that know how to project a sample and how to pull a gradient back, so
that no caller needs the whole [K, D] matrix, or any. What is drawn depends on seed and step alone,
so that each process can make its share.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from scipy.fft import dct
from scipy.linalg import hadamard
from torch import Tensor

from solo import rng

# Dense directions are drawn in blocks with a seed each, so that a process draws its share alone and
# the matrix does not depend on how many processes there are.
BLOCK = 256

# Projections in work at a time: on a CPU they should stay in the cache.
CPU_CHUNK, GPU_CHUNK = 2**18, 2**25


class Slices(Protocol):
    """Some directions c_1 … c_k, unit rows."""

    def project(self, columns: Tensor) -> Tensor:
        """Samples as columns [D, N] -> [k, N], contiguous."""
        ...

    def pull_back(self, grad: Tensor) -> Tensor:
        """The adjoint: [k, N] -> [D, N]."""
        ...


class DenseSlices:
    """Directions as a matrix [k, D]."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def project(self, columns: Tensor) -> Tensor:
        """[D, N] -> [k, N]."""
        return self.rows @ columns

    def pull_back(self, grad: Tensor) -> Tensor:
        """[k, N] -> [D, N]."""
        return self.rows.T @ grad


class StructuredSlices:
    """Some rows of ``T S_2 T S_1``: random signs S and a fixed orthogonal transform T.

    The D rows of one such block are orthogonal to each other, and each is nearly uniform on the
    sphere: its mean and covariance are exactly those of a uniform direction. T is the Kronecker
    product of two matrices of about sqrt(D) (Hadamard's where that is a power of two, else the
    cosine transform), so that a projection is four small matrix products and no [K, D] matrix is
    ever formed. The mean gradient of RDMReg is that of uniform slices within 1 % from D = 64 on
    (and 5 % at D = 12: below D of about 32, uniform slices are better and no dearer).

    Args:
        signs: [2, D], of -1 and 1.
        start: first row of the block that counts.
        stop: one beyond the last.
    """

    def __init__(self, signs: Tensor, start: int, stop: int) -> None:
        self.signs = signs
        self.start, self.stop = start, stop
        self.outer, self.inner = (
            factor.to(signs) for factor in _transform_factors(signs.shape[-1])
        )

    def project(self, columns: Tensor) -> Tensor:
        """[D, N] -> [k, N]."""
        if columns.shape[-1] > (step := self._columns(columns)):  # stay in the cache
            return torch.cat([self.project(part) for part in columns.split(step, dim=-1)], dim=-1)
        for signs in self.signs:
            columns = _kronecker(self.outer, self.inner, columns * signs[:, None])
        return columns[self.start : self.stop]

    def pull_back(self, grad: Tensor) -> Tensor:
        """[k, N] -> [D, N]."""
        if grad.shape[-1] > (step := self._columns(grad)):
            return torch.cat([self.pull_back(part) for part in grad.split(step, dim=-1)], dim=-1)
        if len(grad) < self.signs.shape[-1]:
            grad = F.pad(grad, (0, 0, self.start, self.signs.shape[-1] - self.stop))
        for signs in self.signs.flip(0):
            grad = _kronecker(self.outer.T, self.inner.T, grad).mul_(signs[:, None])
        return grad

    def _columns(self, like: Tensor) -> int:
        return max(128, chunk_rows(self.signs.shape[-1], like))


def _kronecker(outer: Tensor, inner: Tensor, y: Tensor) -> Tensor:
    """Their Kronecker product times [D, N]."""
    size = y.shape[-1]
    y = outer @ y.reshape(len(outer), -1)
    return (inner @ y.view(len(outer), len(inner), size)).view(-1, size)


@lru_cache(maxsize=8)
def _transform_factors(dim: int) -> tuple[Tensor, Tensor]:
    """Orthogonal matrices whose sizes are the two factors of ``dim`` nearest to its root."""
    small = next(n for n in range(math.isqrt(dim), 0, -1) if dim % n == 0)

    def factor(size: int) -> Tensor:
        if size & (size - 1) == 0:
            return torch.from_numpy(hadamard(size) / math.sqrt(size))
        return torch.from_numpy(dct(np.eye(size), norm="ortho", axis=0))

    return factor(small), factor(dim // small)


def chunk_rows(samples: int, like: Tensor) -> int:
    """How many directions to work on at a time for a sample of this size."""
    limit = GPU_CHUNK if like.is_cuda else CPU_CHUNK
    return max(16, limit // max(samples, 1))


def dense_chunks(rows: Tensor, samples: int) -> Iterator[DenseSlices]:
    """A given matrix [K, D] in parts."""
    for part in rows.split(chunk_rows(samples, rows)) if len(rows) else ():
        yield DenseSlices(part)


def random_chunks(
    like: Tensor, seed: int, step: tuple[int, ...], start: int, stop: int
) -> Iterator[DenseSlices]:
    """Rows ``start`` to ``stop`` of a step's uniform directions, drawn as they are needed.

    Args:
        like: [N, D], gives the size, dtype and device.
        seed: the run's seed.
        step: names the draw.
        start: first row.
        stop: one beyond the last.
    """
    size = max(BLOCK, chunk_rows(2 * len(like), like) // BLOCK * BLOCK)
    first = start
    while first < stop:
        last = min(stop, (first // size + 1) * size)
        yield DenseSlices(random_directions(like, seed, step, first, last))
        first = last


def structured_chunks(
    like: Tensor, seed: int, step: tuple[int, ...], start: int, stop: int
) -> Iterator[StructuredSlices]:
    """Rows ``start`` to ``stop`` of a step's structured directions; arguments as above."""
    dim = like.shape[-1]
    for block in range(start // dim, -(-stop // dim)):
        generator = rng.generator(seed, "signs", *step, block, device=like.device)
        bits = torch.randint(0, 2, (2, dim), generator=generator, device=like.device)
        signs = (2 * bits - 1).to(like.dtype)
        yield StructuredSlices(signs, max(0, start - block * dim), min(dim, stop - block * dim))


def random_directions(
    like: Tensor, seed: int, step: tuple[int, ...], start: int, stop: int
) -> Tensor:
    """Rows ``start`` to ``stop`` of a step's directions, uniform on the sphere: [stop - start, D].

    Args:
        like: [..., D], gives D, dtype and device.
        seed: the run's seed.
        step: names the draw.
        start: first row.
        stop: one beyond the last.
    """
    first, last = start // BLOCK, -(-stop // BLOCK)
    dim = like.shape[-1]
    rows = like.new_empty(max(0, last - first) * BLOCK, dim)
    for index, part in enumerate(rows.split(BLOCK)):
        generator = rng.generator(seed, "slices", *step, first + index, device=like.device)
        part.normal_(generator=generator)
    rows = rows[start - first * BLOCK : stop - first * BLOCK]
    return rows.div_(torch.linalg.vector_norm(rows, dim=-1, keepdim=True))
