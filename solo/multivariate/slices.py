"""Slices: unit vectors to project samples on, K a step; dense, structured and singular ones.

They come in chunks that know how to project a sample and how to pull a gradient back, so that no
caller needs the whole [K, D] matrix, or any. What is drawn depends on seed and step alone, so that
each process can make its share.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import ClassVar, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from scipy.fft import dct
from scipy.linalg import hadamard
from torch import Tensor

from solo import distributed, kernels, rng

# Random slices are drawn in blocks with a seed each, so that a process draws its share alone and
# the matrix does not depend on how many processes there are.
BLOCK = 256

# Projections in work at a time: on a CPU they should stay in the cache.
CPU_CHUNK, GPU_CHUNK = 2**18, 2**25


class Chunk(Protocol):
    """Some slices c_1 … c_k."""

    def project(self, columns: Tensor) -> Tensor:
        """Samples as columns [D, N] -> [k, N], contiguous."""
        ...

    def pull_back(self, grad: Tensor) -> Tensor:
        """The adjoint: [k, N] -> [D, N]."""
        ...


class DenseChunk:
    """Slices as a matrix [k, D]."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def project(self, columns: Tensor) -> Tensor:
        """[D, N] -> [k, N]."""
        return self.rows @ columns

    def pull_back(self, grad: Tensor) -> Tensor:
        """[k, N] -> [D, N]."""
        return self.rows.T @ grad


class StructuredChunk:
    """Some rows of ``T S_2 T S_1``: random signs S and a fixed orthogonal transform T.

    The D rows of one such block are orthogonal to each other, and each is nearly uniform on the
    sphere: its mean and covariance are exactly those of a uniform slice. T is the Kronecker
    product of two matrices of about sqrt(D) (Hadamard's where that is a power of two, else the
    cosine transform), so that a projection is four small matrix products and no [K, D] matrix is
    ever formed. The mean gradient of RDMReg is that of uniform slices within 1 % from D = 64 on
    (and 5 % at D = 12: below D of about 32, uniform slices are better and no dearer).

    Args:
        signs: [M, 2, D], of -1 and 1, of M blocks.
        start: first of the M D rows that counts.
        stop: one beyond the last.
    """

    def __init__(self, signs: Tensor, start: int, stop: int) -> None:
        self.signs = signs[0] if len(signs) == 1 else signs  # plain products are faster
        self.start, self.stop = start, stop
        self.outer, self.inner = _transform_factors(signs.shape[-1], signs.dtype, signs.device)

    def project(self, columns: Tensor) -> Tensor:
        """[D, N] -> [k, N]."""
        if columns.shape[-1] > (step := self._columns(columns)):  # stay in the cache
            return torch.cat([self.project(part) for part in columns.split(step, dim=-1)], dim=-1)
        for signs in self.signs.unbind(-2):
            columns = _kronecker(self.outer, self.inner, columns * signs[..., None])
        return columns.view(-1, columns.shape[-1])[self.start : self.stop]

    def pull_back(self, grad: Tensor) -> Tensor:
        """[k, N] -> [D, N]."""
        if grad.shape[-1] > (step := self._columns(grad)):
            return torch.cat([self.pull_back(part) for part in grad.split(step, dim=-1)], dim=-1)
        *blocks, _, dim = self.signs.shape
        if len(grad) < self._rows:
            grad = F.pad(grad, (0, 0, self.start, self._rows - self.stop))
        grad = grad.view(*blocks, dim, -1)
        for signs in reversed(self.signs.unbind(-2)):
            grad = _kronecker(self.outer.T, self.inner.T, grad).mul_(signs[..., None])
        return grad.sum(0) if blocks else grad

    @property
    def _rows(self) -> int:
        return self.signs.numel() // 2

    def _columns(self, like: Tensor) -> int:
        return max(128, chunk_rows(self._rows, like))


def _kronecker(outer: Tensor, inner: Tensor, y: Tensor) -> Tensor:
    """Their Kronecker product times [..., D, N]."""
    shape = y.shape
    y = outer @ y.reshape(*shape[:-2], len(outer), -1)
    return (inner @ y.view(*shape[:-2], len(outer), len(inner), -1)).view(shape)


@lru_cache(maxsize=8)
def _transform_factors(dim: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Orthogonal matrices whose sizes are the two factors of ``dim`` nearest to its root."""
    small = next(n for n in range(math.isqrt(dim), 0, -1) if dim % n == 0)

    def factor(size: int) -> Tensor:
        if size & (size - 1) == 0:
            matrix = hadamard(size) / math.sqrt(size)
        else:
            matrix = dct(np.eye(size), norm="ortho", axis=0)
        return torch.from_numpy(matrix).to(device, dtype)

    return factor(small), factor(dim // small)


def chunk_rows(samples: int, like: Tensor) -> int:
    """How many slices to work on at a time for a sample of this size."""
    limit = GPU_CHUNK if like.is_cuda else CPU_CHUNK
    return max(16, limit // max(samples, 1))


def given_slices(rows: Tensor, samples: int) -> Iterator[Chunk]:
    """A given matrix [K, D] in chunks, for so many samples."""
    for part in rows.split(chunk_rows(samples, rows)) if len(rows) else ():
        yield DenseChunk(part)


class Slices(ABC):
    """The slices of each step.

    Args:
        count: K.
        seed: the run's seed.

    Raises:
        ValueError: for no slices.
    """

    shared: ClassVar[bool] = True
    """Whether they are the same for all views."""

    def __init__(self, count: int, seed: int = 0) -> None:
        if count < 1:
            raise ValueError(f"the number of slices is {count}; at least 1 is needed")
        self.count, self.seed = count, seed

    @abstractmethod
    def chunks(
        self, samples: Tensor, step: tuple[int, ...], start: int, stop: int
    ) -> Iterator[Chunk]:
        """Rows ``start`` to ``stop`` of a step's slices, made as they are needed.

        Args:
            samples: [N, D], what will be projected; gives dtype and device as well.
            step: names the draw.
            start: first row.
            stop: one beyond the last.
        """

    def share(self, samples: Tensor, step: tuple[int, ...]) -> Iterator[Chunk]:
        """The rows that this process works on."""
        return self.chunks(samples, step, *distributed.shard_range(self.count))


class RandomSlices(Slices):
    """Slices that are uniform on the sphere.

    Example:
        >>> slices = RandomSlices(1000).matrix(torch.zeros(1, 8), (0,))
        >>> slices.shape, round(slices.norm(dim=1).mean().item(), 3)
        (torch.Size([1000, 8]), 1.0)
    """

    def chunks(
        self, samples: Tensor, step: tuple[int, ...], start: int, stop: int
    ) -> Iterator[Chunk]:
        """Rows ``start`` to ``stop`` of a step's slices, as in the base class."""
        size = max(BLOCK, chunk_rows(2 * len(samples), samples) // BLOCK * BLOCK)
        first = start
        while first < stop:
            last = min(stop, (first // size + 1) * size)
            yield DenseChunk(self.matrix(samples, step, first, last))
            first = last

    def matrix(
        self, like: Tensor, step: tuple[int, ...], start: int = 0, stop: int | None = None
    ) -> Tensor:
        """Rows ``start`` to ``stop`` (all without it) of a step's slices: [stop - start, D].

        Args:
            like: [..., D], gives D, dtype and device.
            step: names the draw.
            start: first row.
            stop: one beyond the last.
        """
        stop = self.count if stop is None else stop
        if kernels.usable(like):
            from solo.kernels.draws import launch_unit_rows

            seed = rng.seed_for(self.seed, "slices", *step)
            made: Tensor = launch_unit_rows(like, seed, start, stop)
            return made
        first, last = start // BLOCK, -(-stop // BLOCK)
        rows = like.new_empty(max(0, last - first) * BLOCK, like.shape[-1])
        for index, part in enumerate(rows.split(BLOCK)):
            generator = rng.generator(self.seed, "slices", *step, first + index, device=like.device)
            part.normal_(generator=generator)
        rows = rows[start - first * BLOCK : stop - first * BLOCK]
        return rows.div_(torch.linalg.vector_norm(rows, dim=-1, keepdim=True))


class StructuredSlices(Slices):
    """Orthogonal blocks, nearly uniform and much cheaper (see :class:`StructuredChunk`).

    Example:
        >>> identity = torch.eye(8)
        >>> (chunk,) = StructuredSlices(8).chunks(identity, (0,), 0, 8)
        >>> rows = chunk.project(identity)
        >>> torch.allclose(rows @ rows.T, identity, atol=1e-6)  # orthogonal
        True
    """

    def chunks(
        self, samples: Tensor, step: tuple[int, ...], start: int, stop: int
    ) -> Iterator[Chunk]:
        """Rows ``start`` to ``stop`` of a step's slices, as in the base class."""
        dim = samples.shape[-1]
        together = max(1, chunk_rows(2 * len(samples), samples) // dim)  # blocks
        block = start // dim
        while block * dim < stop:
            following = min(block + together, -(-stop // dim))
            rows = max(0, start - block * dim), min(following * dim, stop) - block * dim
            yield StructuredChunk(self._signs(samples, step, block, following), *rows)
            block = following

    def _signs(self, samples: Tensor, step: tuple[int, ...], first: int, last: int) -> Tensor:
        """[M, 2, D] of these blocks."""
        dim, device = samples.shape[-1], samples.device
        if kernels.usable(samples):
            from solo.kernels.draws import launch_random_signs

            seed = rng.seed_for(self.seed, "signs", *step)
            drawn: Tensor = launch_random_signs(samples, seed, 2 * first, 2 * last)
            return drawn.view(-1, 2, dim)
        drawn = torch.empty(last - first, 2, dim, device=device, dtype=torch.long)
        for block, signs in enumerate(drawn, first):
            own = rng.generator(self.seed, "signs", *step, block, device=device)
            signs.random_(2, generator=own)
        return (2 * drawn - 1).to(samples.dtype)


class SingularSlices(Slices):
    """The sample's own right-singular vectors, then random slices to fill up.

    Args:
        count: K.
        seed: the run's seed.
        smallest_half: take the half of the vectors with the smallest singular values only.

    Example:
        >>> z = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
        >>> chunks = SingularSlices(2).chunks(z, (0,), 0, 2)
        >>> [chunk.project(torch.eye(2)).abs().round().tolist() for chunk in chunks]
        [[[1.0, 0.0], [0.0, 1.0]]]
    """

    shared: ClassVar[bool] = False

    def __init__(self, count: int, seed: int = 0, *, smallest_half: bool = False) -> None:
        super().__init__(count, seed)
        self.smallest_half = smallest_half
        self.filling = RandomSlices(count, seed)

    def chunks(
        self, samples: Tensor, step: tuple[int, ...], start: int, stop: int
    ) -> Iterator[Chunk]:
        """Rows ``start`` to ``stop``, as in the base class; without gradient."""
        vectors = torch.linalg.svd(samples, full_matrices=False).Vh  # [min(N, D), D]
        if self.smallest_half:
            vectors = vectors[vectors.shape[0] // 2 :]
        own = len(vectors)
        yield from given_slices(vectors[start : min(stop, own)], 2 * len(samples))
        yield from self.filling.chunks(samples, step, max(start, own), max(stop, own))


ProjectionVectorsType = Literal[
    "random", "structured", "torch_svd_and_random", "torch_svd_bottom_half_eigen_and_random"
]

SLICES: dict[ProjectionVectorsType, Callable[[int, int], Slices]] = {
    "random": RandomSlices,
    "structured": StructuredSlices,
    "torch_svd_and_random": SingularSlices,
    "torch_svd_bottom_half_eigen_and_random": partial(SingularSlices, smallest_half=True),
}
"""The kinds by the names that configs use."""


def build_slices(kind: ProjectionVectorsType, count: int, seed: int = 0) -> Slices:
    """Slices of a named kind.

    Raises:
        ValueError: for an unknown kind or no slices.
    """
    if kind not in SLICES:
        raise ValueError(f"projection_vectors_type is {kind!r}; choose from {', '.join(SLICES)}")
    return SLICES[kind](count, seed)
