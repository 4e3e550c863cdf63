"""RDMReg and SIGReg, forward and backward, against their plain formulations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import plain
from benchmarks.measure import Row, device, matmul_rate, peak_memory, side_by_side
from solo.distributions import RectifiedGeneralizedGaussian
from solo.losses.characteristic_rdm import CharacteristicRDMReg
from solo.losses.rectified_lpjepa import RDMReg, sliced_wasserstein
from solo.univariate import EppsPulley

RDM_SIZES = ((256, 512, 8192), (128, 2048, 8192), (1024, 2048, 8192))
SIGREG_SIZES = ((512, 512, 1024), (2048, 512, 4096))

_RDM = """
import torch
import torch.nn.functional as F
from benchmarks import plain
from benchmarks.measure import device
from solo.distributions import RectifiedGeneralizedGaussian
from solo.losses.rectified_lpjepa import RDMReg, sliced_wasserstein
target = RectifiedGeneralizedGaussian(1.0, 0.0)
def make(b, d, k):
    z = torch.randn(b, d, device=device()).relu().requires_grad_()
    samples = target.sample((b, d), device=device())
    return z, samples, F.normalize(torch.randn(k, d, device=device()), dim=-1)
def run(z, samples, slices):
    {call}.backward()
little, inputs = make(8, 4, 32), make(*{size})
small, work = lambda: run(*little), lambda: run(*inputs)
"""

_SIGREG = """
import torch
import torch.nn.functional as F
from benchmarks import plain
from benchmarks.measure import device
from solo.univariate import EppsPulley
test = EppsPulley().to(device())
def make(n, d, k):
    return torch.randn(n, d, device=device(), requires_grad=True), F.normalize(
        torch.randn(k, d, device=device()), dim=-1)
def run(z, slices):
    {call}.backward()
little, inputs = make(8, 4, 32), make(*{size})
small, work = lambda: run(*little), lambda: run(*inputs)
"""


def rows() -> Iterator[Row]:
    """Each case in turn."""
    rate = matmul_rate()
    for size in RDM_SIZES:
        yield from rdm_rows(*size, rate)
    for size in SIGREG_SIZES:
        yield sigreg_row(*size, rate)


def rdm_rows(b: int, d: int, k: int, rate: float) -> Iterator[Row]:
    """RDMReg of one view: given slices, drawn slices of each kind, and in closed form."""
    where = device()
    target = RectifiedGeneralizedGaussian(1.0, 0.0)
    z = torch.randn(b, d, device=where).relu().requires_grad_()
    samples = target.sample((b, d), device=where)
    slices = F.normalize(torch.randn(k, d, device=where), dim=-1)
    size = f"B {b}, D {d}, K {k}"

    def row(
        label: str,
        ours: Callable[[], Tensor],
        theirs: Callable[[], Tensor],
        calls: tuple[str, str] | None,
        floor: float | None,
        bound: str,
    ) -> Row:
        taken = side_by_side(lambda: ours().backward(), lambda: theirs().backward())
        count = k if label == "given slices" else 1
        memory = [peak_memory(_RDM.format(call=c, size=(b, d, count))) for c in calls or ()]
        return Row(
            f"RDMReg, {label}, {size}",
            taken[0] * 1e3,
            taken[1] * 1e3,
            ours_memory=memory[0] if memory else None,
            plain_memory=memory[1] if memory else None,
            floor=None if floor is None else floor * 1e3,
            bound=bound,
        )

    products = 3 * 2 * b * d * k / rate
    yield row(
        "given slices",
        lambda: sliced_wasserstein(z, samples, slices),
        lambda: plain.rdm_reg(z, samples, slices),
        ("sliced_wasserstein(z, samples, slices)", "plain.rdm_reg(z, samples, slices)"),
        products,
        "matrix products, then sorting",
    )

    def drawn() -> Tensor:
        return plain.drawn_rdm_reg(z, target, k)

    random = RDMReg(target, num_projections=k)
    structured = RDMReg(target, num_projections=k, projection_vectors_type="structured")
    closed = CharacteristicRDMReg(target, num_projections=k).to(where)
    for label, reg, extra, bound in (
        ("random slices drawn", random, "", "matrix products, then drawing"),
        (
            "structured slices drawn",
            structured,
            ", projection_vectors_type='structured'",
            "sorting, then memory traffic of the transforms",
        ),
    ):
        code = f"RDMReg(target, num_projections={k}{extra})(z[None], (0,))"
        calls = (code, f"plain.drawn_rdm_reg(z, target, {k})")
        floor = products if reg is random else None
        yield row(label, partial(reg, z[None], (0,)), drawn, calls, floor, bound)
    bound = "powers of exp(i t x)"
    yield row("characteristic function", lambda: closed(z[None], (0,)), drawn, None, None, bound)


def sigreg_row(n: int, d: int, k: int, rate: float) -> Row:
    """SIGReg with given slices."""
    z = torch.randn(n, d, device=device(), requires_grad=True)
    slices = F.normalize(torch.randn(k, d, device=device()), dim=-1)
    test = EppsPulley().to(device())
    ours, theirs = side_by_side(
        lambda: test(z @ slices.T).mean().backward(),
        lambda: plain.sigreg(z, slices).backward(),
        repeats=3,
    )
    memory = [
        peak_memory(_SIGREG.format(call=call, size=(n, d, k)))
        for call in ("test(z @ slices.T).mean()", "plain.sigreg(z, slices)")
    ]
    return Row(
        f"SIGReg, N {n}, D {d}, K {k}, T 17",
        ours * 1e3,
        theirs * 1e3,
        ours_memory=memory[0],
        plain_memory=memory[1],
        floor=2 * 2 * n * d * k / rate * 1e3,
        bound="powers of exp(i t x), then matrix products",
    )
