"""What no direction sees: how often matching notices a wrong law of each feature, over D.

    python scripts/utils/power.py [--dims 4 16 64 256 1024]

Samples have the target's mean and variance in each feature, which are independent, but another
law: a Laplace instead of a normal one, and a normal one (not sparse) instead of a rectified Laplace
of l0 0.25. Power is the share of 200 such samples of 256 points that lie above the 95 % quantile of
400 samples of the target itself. Takes two minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from solo.distributions import GeneralizedGaussian, RectifiedGeneralizedGaussian
from solo.losses.characteristic_rdm import CharacteristicRDMReg
from solo.losses.unsliced import MarginalMatching
from solo.multivariate import UnslicedEppsPulley

SAMPLES, NULLS, ALTERNATIVES, SLICES = 256, 400, 200, 256
DIMS = (4, 16, 64, 256, 1024)
NORMAL = GeneralizedGaussian(p=2.0)
SPARSE = RectifiedGeneralizedGaussian.with_expected_l0(l0=0.25, p=1.0)
CASES = {
    "Laplace for normal": (NORMAL, GeneralizedGaussian(p=1.0)),
    "normal for rectified Laplace": (
        SPARSE,
        GeneralizedGaussian(p=2.0, mu=SPARSE.mean, sigma=SPARSE.variance**0.5),
    ),
}


def statistics(target: GeneralizedGaussian) -> dict[str, Callable[[Tensor], Tensor]]:
    """By name, z [N, D] to a scalar."""
    return {
        f"{SLICES} slices": CharacteristicRDMReg(target, num_projections=SLICES),
        "all directions": UnslicedEppsPulley(target),
        "each feature by itself": MarginalMatching(target),
    }


def power(target: GeneralizedGaussian, other: GeneralizedGaussian, dim: int) -> dict[str, float]:
    """Of each statistic, at 5 %."""
    generator = torch.Generator().manual_seed(0)
    draws = {
        law: [law.sample((SAMPLES, dim), generator=generator) for _ in range(count)]
        for law, count in ((target, NULLS), (other, ALTERNATIVES))
    }
    found = {}
    for name, statistic in statistics(target).items():
        null, alternative = (
            torch.stack([statistic(z).mean() for z in draws[law]]) for law in (target, other)
        )
        found[name] = (alternative > null.quantile(0.95)).float().mean().item()
    return found


def table(dims: Sequence[int]) -> str:
    """Markdown."""
    lines = [
        "| features have the law | statistic | " + " | ".join(f"D = {d:,}" for d in dims) + " |",
        "|---" * (len(dims) + 2) + "|",
    ]
    jobs = [(case, dim) for case in CASES for dim in dims]
    found = {job: power(*CASES[job[0]], job[1]) for job in track(jobs, "Drawing")}
    for case in CASES:
        for name in found[case, dims[0]]:
            cells = [f"{found[case, dim][name]:.0%}" for dim in dims]
            lines.append(f"| {case} | {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--dims", type=int, nargs="+", default=DIMS, help="numbers of features D")
    with torch.no_grad():
        print(table(parser.parse_args(words).dims))


if __name__ == "__main__":
    main()
