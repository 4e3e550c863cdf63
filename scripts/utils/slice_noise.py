"""How noisy slices are: the error of SIGReg's gradient against their number, a table and a figure.

    python scripts/utils/slice_noise.py [--out docs]

Samples are near the target, 10 % too wide, as in training; the error is the distance to the
gradient over all directions, relative to its length. Takes a minute on 2 cores.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from rich.progress import track
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from solo.losses.unsliced import sliced_cost, unsliced_cost
from solo.multivariate import UnslicedEppsPulley
from solo.multivariate.slices import ProjectionVectorsType, build_slices
from solo.univariate import EppsPulley

SAMPLES = 256
DIMS = (16, 64, 256, 2048)
COUNTS = (16, 64, 256, 1024, 4096, 16384)
BATCHES = sorted({round(2 ** (k / 8)) for k in range(160)})
KINDS: tuple[ProjectionVectorsType, ...] = ("random", "structured")


def sliced_gradient(z: Tensor, kind: ProjectionVectorsType, count: int) -> Tensor:
    """Of the mean Epps–Pulley statistic along so many slices, the quadrature over all that counts.

    Args:
        z: [N, D].
        kind: of slices.
        count: K.
    """
    test = EppsPulley(num_points=33, t_max=6.0)
    gradient = torch.zeros_like(z)
    for chunk in build_slices(kind, count, 0).chunks(z, (0,), 0, count):
        projected = chunk.project(z.T).T.requires_grad_()
        (slope,) = torch.autograd.grad(test(projected).sum(), projected)
        gradient += chunk.pull_back(slope.T.contiguous()).T
    return gradient / count


def errors(dims: Sequence[int], counts: Sequence[int]) -> dict[tuple[int, str, int], float]:
    """Relative error of the gradient by dimension, kind and number of slices."""
    found: dict[tuple[int, str, int], float] = {}
    for dim in track(dims, description="dimensions"):
        z = 1.1 * torch.randn(SAMPLES, dim, generator=torch.Generator().manual_seed(0))
        leaf = z.clone().requires_grad_()
        (exact,) = torch.autograd.grad(UnslicedEppsPulley()(leaf), leaf)
        for kind in KINDS:
            for count in counts:
                off = (sliced_gradient(z, kind, count) - exact).norm() / exact.norm()
                found[dim, kind, count] = off.item()
    return found


def table(found: dict[tuple[int, str, int], float], counts: Sequence[int]) -> str:
    """Markdown."""
    lines = [
        "| D | slices | " + " | ".join(f"K = {count:,}" for count in counts) + " |",
        "|---" * (len(counts) + 2) + "|",
    ]
    for dim, kind in dict.fromkeys((dim, kind) for dim, kind, _ in found):
        cells = [f"{found[dim, kind, count]:.0%}" for count in counts]
        lines.append(f"| {dim:,} | {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(found: dict[tuple[int, str, int], float], counts: Sequence[int], path: Path) -> None:
    """Noise, one line for each dimension and kind; and up to which batch no slices are cheaper."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    axes, costs = figure.subplots(1, 2)
    for number, dim in enumerate(dict.fromkeys(dim for dim, _, _ in found)):
        for kind in KINDS:
            style = {"color": f"C{number}", "linestyle": "-" if kind == "random" else "--"}
            values = [100 * found[dim, kind, count] for count in counts]
            axes.loglog(counts, values, label=f"D {dim}, {kind}", **style)
        batches = [crossover(dim, count) for count in counts]
        costs.loglog(counts, batches, color=f"C{number}", label=f"D {dim}")
    axes.set(xlabel="slices K (without slices the error is 0)", ylabel="error of the gradient, %")
    costs.set(
        xlabel="slices K", ylabel="global batch N", title="below the line, no slices cost less"
    )
    for each in (axes, costs):
        each.grid(alpha=0.3, which="both")
        each.legend(fontsize=8)
    figure.savefig(path, dpi=130)


def crossover(dim: int, slices: int, points: int = 17) -> int:
    """The largest batch that takes fewer operations without slices, the target normal."""
    costs = (unsliced_cost(n, dim) < sliced_cost(n, dim, slices, points) for n in BATCHES)
    return max([n for n, cheaper in zip(BATCHES, costs) if cheaper], default=1)


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of slices.png")
    parser.add_argument("--dims", type=int, nargs="+", default=DIMS)
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS)
    options = parser.parse_args(words)
    found = errors(options.dims, options.counts)
    print(table(found, options.counts))
    options.out.mkdir(parents=True, exist_ok=True)
    draw(found, options.counts, options.out / "slices.png")
    print(f"drawn: {options.out / 'slices.png'}")


if __name__ == "__main__":
    main()
