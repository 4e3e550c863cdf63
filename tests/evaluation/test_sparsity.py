"""Sparsity metrics."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch

from solo.distributions import GeneralizedGaussian, RectifiedGeneralizedGaussian
from solo.evaluation.sparsity import (
    effective_rank,
    l0_sparsity,
    l1_sparsity,
    marginal_distance,
    marginal_gap,
    sparsity_summary,
    variance_ratio,
)


def test_golden(golden: dict[str, np.ndarray]) -> None:
    z = torch.tensor(golden["metric_input"])
    assert l0_sparsity(z).item() == pytest.approx(float(golden["l0_sparsity"]), abs=1e-6)
    assert l1_sparsity(z).item() == pytest.approx(float(golden["l1_sparsity"]), abs=1e-6)


def test_extremes() -> None:
    assert l1_sparsity(torch.ones(2, 8)).item() == pytest.approx(1)
    assert l1_sparsity(torch.eye(8)).item() == pytest.approx(1 / 8)
    assert l1_sparsity(torch.zeros(2, 8)).item() == 0
    assert l0_sparsity(torch.eye(8)).item() == pytest.approx(1 / 8)


def test_effective_rank() -> None:
    """RankMe: D for orthogonal columns of one length, 1 for a single direction."""
    q = torch.linalg.qr(torch.randn(50, 8))[0]
    assert float(effective_rank(q)) == pytest.approx(8, rel=1e-5)
    assert float(effective_rank(q[:, :1] * torch.randn(1, 8))) == pytest.approx(1, abs=1e-4)
    values = torch.tensor([4.0, 2.0, 1.0, 1.0])
    shares = values / 8
    expected = float(torch.exp(-(shares * shares.log()).sum()))
    assert float(effective_rank(q[:, :4] * values)) == pytest.approx(expected, rel=1e-5)


def test_summary() -> None:
    z = torch.tensor([[1.0, 0.0, 2.0], [0.0, 0.0, 1.0], [3.0, 0.0, 1.0], [0.0, 0.0, 5.0]])
    found = sparsity_summary(z)
    assert found.activity.tolist() == [0.5, 0.0, 1.0]
    assert (found.dead, found.always_on, found.l0) == (1, 1, 0.5)


def test_marginals_against_scipy() -> None:
    """At all sample points (and just before them) the gap is the Kolmogorov–Smirnov statistic."""
    target = RectifiedGeneralizedGaussian(p=2.0, mu=0.3)
    z = torch.randn(200, 3, dtype=torch.float64).add(0.2).abs()
    for column in range(3):
        points = z[:, column].sort().values
        around = torch.cat([points, points - 1e-9])
        gap = marginal_distance(z[:, column : column + 1], target.cdf(around), around)
        expected = scipy.stats.kstest(
            z[:, column].numpy(), lambda x: target.cdf(torch.from_numpy(x)).numpy()
        )
        assert float(gap) == pytest.approx(expected.statistic, abs=1e-6)


def test_the_gap_sees_negative_values() -> None:
    """A shifted normal sample against the normal target, as SciPy sees it; and a rectified one."""
    z = torch.randn(4000, 3) - 0.8
    expected = [scipy.stats.kstest(column.numpy(), "norm").statistic for column in z.unbind(1)]
    assert marginal_gap(z, GeneralizedGaussian(2.0)) == pytest.approx(np.mean(expected), abs=5e-3)
    assert min(expected) > 0.25
    exact = (torch.randn(20000, 2) - 0.5).relu()
    assert marginal_gap(exact, RectifiedGeneralizedGaussian(p=2.0, mu=-0.5)) < 0.02


def test_variance_against_the_closed_form() -> None:
    """A rectified normal variable has E z = mu c + phi(mu), E z^2 = (mu^2 + 1) c + mu phi(mu)."""
    mu = -0.5
    above, density = scipy.stats.norm.cdf(mu), scipy.stats.norm.pdf(mu)
    variance = (mu**2 + 1) * above + mu * density - (mu * above + density) ** 2
    z = 1.5 * torch.randn(1000, 4, dtype=torch.float64)
    expected = np.mean(np.var(z.numpy(), axis=0, ddof=1)) / variance
    target = RectifiedGeneralizedGaussian(p=2.0, mu=mu, sigma=1.0)
    assert variance_ratio(z.float(), target) == pytest.approx(expected, rel=1e-5)
