"""RDMReg and SIGReg, forward and backward, against their plain formulations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import plain
from benchmarks.measure import Row, device, matmul_rate, peak_memory, side_by_side
from solo.distributions import RectifiedGeneralizedGaussian
from solo.losses.characteristic_rdm import CharacteristicRDMReg
from solo.losses.rectified_lpjepa import RDMReg, sliced_wasserstein
from solo.losses.unsliced import UnslicedRDMReg
from solo.multivariate import UnslicedEppsPulley
from solo.univariate import EppsPulley

RDM_SIZES = ((256, 512, 8192), (128, 2048, 8192), (1024, 2048, 8192))
SIGREG_SIZES = ((512, 512, 1024), (2048, 512, 4096), (128, 2048, 8192))
TARGET = RectifiedGeneralizedGaussian(1.0, 0.0)

# Formulation, ours and the plain one, and what bounds ours.
RDM = {
    "given slices": ("given", "plain given", "matrix products, then sorting"),
    "random slices drawn": ("random", "plain drawn", "matrix products, then drawing"),
    "structured slices drawn": (
        "structured",
        "plain drawn",
        "sorting, then memory traffic of the transforms",
    ),
    "characteristic function": ("characteristic", "plain drawn", "powers of exp(i t x)"),
    "unsliced": ("unsliced", "plain drawn", "two products of pairs, then passes over pairs"),
}


Loss = Callable[[], Tensor]


def drawing(z: Tensor, slices: Tensor, kind: Literal["random", "structured"]) -> Loss:
    """Our RDMReg with as many slices of its own."""
    reg = RDMReg(TARGET, num_projections=len(slices), projection_vectors_type=kind)
    return partial(reg, z[None], (0,))


def characteristic(z: Tensor, slices: Tensor) -> Loss:
    """The same distance without samples."""
    reg = CharacteristicRDMReg(TARGET, num_projections=len(slices)).to(z.device)
    return partial(reg, z[None], (0,))


def unsliced(z: Tensor, slices: Tensor) -> Loss:
    """Over all directions; what is made once for a dimension is made before."""
    reg = UnslicedRDMReg(TARGET)
    reg.test.parts(z.shape[-1])
    return partial(reg, z[None])


def unsliced_sigreg(z: Tensor, slices: Tensor) -> Loss:
    """Likewise for the normal target."""
    test = UnslicedEppsPulley()
    test.parts(z.shape[-1])
    return partial(test, z)


def sigreg(z: Tensor, slices: Tensor) -> Loss:
    """Ours, with given slices."""
    test = EppsPulley().to(z.device)
    return lambda: test(z @ slices.T).mean()


def samples_like(z: Tensor) -> Tensor:
    """Draws of the target."""
    return TARGET.sample(z.shape, device=z.device)


# Losses of z [N, D] with slices [K, D], or as many of their own.
FORMULATIONS: dict[str, Callable[[Tensor, Tensor], Loss]] = {
    "given": lambda z, slices: partial(sliced_wasserstein, z, samples_like(z), slices),
    "plain given": lambda z, slices: partial(plain.rdm_reg, z, samples_like(z), slices),
    "plain drawn": lambda z, slices: partial(plain.drawn_rdm_reg, z, TARGET, len(slices)),
    "random": partial(drawing, kind="random"),
    "structured": partial(drawing, kind="structured"),
    "characteristic": characteristic,
    "sigreg": sigreg,
    "unsliced": unsliced,
    "unsliced sigreg": unsliced_sigreg,
    "plain sigreg": lambda z, slices: partial(plain.sigreg, z, slices),
}


def work(name: str, n: int, d: int, k: int) -> Callable[[], None]:
    """Forward and backward at this size, after a first time at a small one."""

    def prepared(n: int, d: int, k: int) -> Callable[[], None]:
        z = torch.randn(n, d, device=device())
        leaf = (z if "sigreg" in name else z.relu()).requires_grad_()
        slices = F.normalize(torch.randn(k, d, device=device()), dim=-1)
        loss = FORMULATIONS[name](leaf, slices)
        return lambda: loss().backward()

    prepared(8, 4, 32)()
    return prepared(n, d, k)


def rows() -> Iterator[Row]:
    """Each case in turn."""
    rate = matmul_rate()
    for size in RDM_SIZES:
        yield from rdm_rows(*size, rate)
    for size in SIGREG_SIZES:
        yield from sigreg_rows(*size, rate)


def rdm_rows(n: int, d: int, k: int, rate: float) -> Iterator[Row]:
    """RDMReg of one view: given slices, drawn slices of each kind, and in closed form."""
    products = {"given": 3 * k, "random": 3 * k, "unsliced": 2 * n}
    for label, (ours, theirs, bound) in RDM.items():
        floor = products[ours] * 2 * n * d / rate if ours in products else None
        yield row(f"RDMReg, {label}, B {n}, D {d}, K {k}", ours, theirs, (n, d, k), floor, bound)


def sigreg_rows(n: int, d: int, k: int, rate: float) -> Iterator[Row]:
    """SIGReg with given slices, and over all directions."""
    size, case = (n, d, k), f"SIGReg, N {n}, D {d}, K {k}, T 17"
    floor = 2 * 2 * n * d * k / rate
    bound = "powers of exp(i t x), then matrix products"
    yield row(case, "sigreg", "plain sigreg", size, floor, bound)
    floor = 2 * 2 * n * n * d / rate
    bound = "two products of pairs, then passes over pairs"
    yield row(f"{case}, unsliced", "unsliced sigreg", "plain sigreg", size, floor, bound)


def row(
    case: str, ours: str, theirs: str, size: tuple[int, int, int], floor: float | None, bound: str
) -> Row:
    """Time and memory of two formulations."""
    taken = side_by_side(work(ours, *size), work(theirs, *size))
    memory = [peak_memory(work, name, *size) for name in (ours, theirs)]
    return Row(
        case,
        taken[0] * 1e3,
        taken[1] * 1e3,
        ours_memory=memory[0],
        plain_memory=memory[1],
        floor=None if floor is None else floor * 1e3,
        bound=bound,
    )
