"""Write docs/statistics.md: every statistic under the null and under alternatives.

    python scripts/utils/statistics_table.py

Each row is a statistic, univariate ones along 16 random slices; each column is a law, from which
1,000 samples of 256 points in 2 dimensions are drawn. Takes a few minutes on 2 cores.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from solo.multivariate import (
    BHEP,
    COMB,
    MULTIVARIATE_TESTS,
    MultivariateTest,
    SlicingUnivariateTest,
    WeakSIGReg,
)
from solo.univariate import UNIVARIATE_TESTS, ShapiroWilk

DRAWS, SAMPLES, DIM, SLICES = 1000, 256, 2, 16

HEAD = """\
# Statistics

LeJEPA's loss is `(1 - lamb) * invariance + lamb * SIGReg`; centres come from the global views
(those of the first recipe's size). `method_kwargs.test` names what embeddings are tested with: a
univariate statistic along random slices, or a multivariate one, with `method_kwargs.test_kwargs`:

```bash
python main_pretrain.py --config-path scripts/pretrain/digits --config-name lejepa \\
  -m method_kwargs.test=epps_pulley,anderson_darling,vcreg
```

All statistics are differentiable, take batches, and are those of the global batch under DDP:

```python
import torch
from solo import multivariate, univariate

univariate_test = univariate.EppsPulley(num_points=17)
loss_fn = multivariate.SlicingUnivariateTest(univariate_test=univariate_test, num_slices=1024)
embeddings = torch.randn(256, 64, requires_grad=True)
loss = loss_fn(embeddings)
loss.backward()
```

## Under the null and under alternatives"""

# What a statistic is blind to: by construction (no location, no scale, two moments only), or, with
# samples of this size, because it looks at low moments or upper tails.
BLIND = {
    "bhep_m": {"bimodal"},
    "entropy": {"shifted", "scaled", "rank-deficient"},
    "hv": {"bimodal"},
    "moments": {"bimodal"},
    "shapiro_wilk": {"scaled", "rank-deficient"},
    "shapiro_wilk (tridiagonal)": {"scaled", "rank-deficient"},
    "vcreg": {"skewed", "heavy-tailed", "bimodal"},
    "weak_sigreg": {"shifted", "skewed", "heavy-tailed", "bimodal"},
}


def samples() -> dict[str, Tensor]:
    """Draws of each law, [DRAWS, SAMPLES, DIM]; all but the first two alternatives standardised."""
    generator = torch.Generator().manual_seed(0)
    options = {"generator": generator, "dtype": torch.float64}

    def normal(dim: int = DIM) -> Tensor:
        return torch.randn(DRAWS, SAMPLES, dim, **options)  # type: ignore[call-overload]

    sign = torch.randint(0, 2, (DRAWS, SAMPLES, DIM), generator=generator) * 2 - 1
    squares = torch.stack([normal().square() for _ in range(4)])
    heavy = normal() * (5 / torch.stack([normal().square() for _ in range(5)]).sum(0)).sqrt()
    return {
        "N(0, I)": normal(),
        "shifted": normal() + 0.5,
        "scaled": normal() * 1.5,
        "skewed": (squares[:2].sum(0) - 2) / 2,  # chi-squared, 2 degrees of freedom
        "heavy-tailed": heavy / math.sqrt(5 / 3),  # Student's t, 5 degrees of freedom
        "bimodal": (sign * 0.95 + normal() * math.sqrt(1 - 0.95**2)),
        "rank-deficient": normal(1).expand(-1, -1, DIM),
    }


def tests() -> dict[str, MultivariateTest]:
    """Every test by the name of its row."""
    univariate = {name: test() for name, test in UNIVARIATE_TESTS.items()}
    univariate["shapiro_wilk (tridiagonal)"] = ShapiroWilk("rahman", "rahman")
    found: dict[str, MultivariateTest] = {
        name: SlicingUnivariateTest(test, SLICES) for name, test in sorted(univariate.items())
    }
    multivariate = {name: test() for name, test in sorted(MULTIVARIATE_TESTS.items())}
    multivariate["weak_sigreg"] = WeakSIGReg(squared=True)  # its null value is exact
    multivariate["bhep"] = BHEP(beta=1.0)  # at its default, 0.1, it sees two moments only
    return found | multivariate


def values_of(test: MultivariateTest, sample: Tensor) -> Tensor:
    """[DRAWS], in parts that fit into memory."""
    return torch.cat([test(part, (0,)) for part in sample.split(50)])


def main() -> None:
    """Measure, print and write the table."""
    data = samples()
    lines = [
        HEAD,
        "",
        f"{DRAWS:,} samples of {SAMPLES} points in {DIM} dimensions from each law, univariate",
        f"tests along {SLICES} random slices; written by",
        "`python scripts/utils/statistics_table.py`.",
        "",
        "*Null value* is each test's `null_mean`: a closed form, or what its docstring says;",
        "*mean* is the measured mean under N(0, I) with its standard error. Then the median under",
        "each law, and the share of samples whose statistic is above the 95 % quantile under",
        "N(0, I). A dash marks what a statistic does not see: by construction (`vcreg` has two",
        "moments only, `weak_sigreg` second ones, `entropy` no location and scale, `shapiro_wilk`",
        "no scale), or at this sample size (`moments`, `bhep_m` and `hv` on a bimodal law, whose",
        "tails are light). All laws but the first three have variance 1.",
        "",
        "| test | null value | mean | median, " + " | ".join(data) + " |",
        "|---" * (len(data) + 3) + "|",
    ]
    wrong = []
    for name, test in tests().items():
        null = values_of(test, data["N(0, I)"])
        plain = values_of(COMB(signed=True), data["N(0, I)"]) if name == "comb" else null
        expected = test.null_mean(SAMPLES, DIM)
        mean, error = plain.mean().item(), plain.std().item() / DRAWS**0.5
        if abs(mean - expected) > 4 * error:
            wrong.append(f"{name}: {mean} under the null, not {expected}")
        cells = [f"{expected:.4g}", f"{mean:.4g} ± {error:.1g}", f"{null.median().item():.3g}"]
        for law, sample in list(data.items())[1:]:
            values = values_of(test, sample)
            share = (values > null.quantile(0.95)).double().mean().item()
            if law in BLIND.get(name, ()):
                cells.append("–")
                continue
            cells.append(f"{values.median().item():.3g} ({share:.0%})")
            if share < 0.08 or values.median() <= null.median():
                wrong.append(f"{name} does not see {law}: {cells[-1]}")
        label = name + (" (first two columns: signed)" if name == "comb" else "")
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    Path(__file__).parents[2].joinpath("docs/statistics.md").write_text("\n".join(lines) + "\n")
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
