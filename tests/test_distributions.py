"""The rectified generalized Gaussian against SciPy, quadrature, samples and golden numbers."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from solo import rng
from solo.distributions import (
    GeneralizedGaussian,
    RectifiedGeneralizedGaussian,
    unit_variance_scale,
)

PS = [0.25, 0.5, 1.0, 1.5, 2.0, 4.0]
MUS = [-3.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0]


def scipy_law(target: GeneralizedGaussian) -> stats.rv_continuous:
    """SciPy's generalized normal, whose exponent has no 1/p in it."""
    return stats.gennorm(target.p, loc=target.mu, scale=target.sigma * target.p ** (1 / target.p))


def test_golden_moments(golden: dict[str, np.ndarray]) -> None:
    for i, p in enumerate(golden["sigma_p"]):
        assert unit_variance_scale(p) == pytest.approx(golden["sigma_gn"][i], abs=1e-10)
        for j, mu in enumerate(golden["sigma_mu"]):
            target = RectifiedGeneralizedGaussian(p, mu)
            assert target.mean == pytest.approx(golden["rgg_mean"][i, j], abs=1e-9)
            assert target.variance == pytest.approx(golden["rgg_var"][i, j], abs=1e-9)
            assert target.expected_l0 == pytest.approx(golden["rgg_expected_l0"][i, j], abs=1e-9)


def test_golden_sigma_of_unit_rectified_variance(golden: dict[str, np.ndarray]) -> None:
    for i, p in enumerate(golden["sigma_rgn_p"]):
        for j, mu in enumerate(golden["sigma_rgn_mu"]):
            target = RectifiedGeneralizedGaussian.with_unit_variance(p=p, mu=mu)
            assert target.sigma == pytest.approx(golden["sigma_rgn"][i, j], abs=1e-8)
            assert target.variance == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("p", PS)
@pytest.mark.parametrize("mu", MUS)
def test_moments_and_cdf_agree_with_scipy(p: float, mu: float) -> None:
    target = RectifiedGeneralizedGaussian(p, mu)
    law = scipy_law(target)
    assert target.expected_l0 == pytest.approx(law.sf(0), abs=1e-12)
    # E[X^k] = integral of k x^(k-1) P(X > x) over x > 0, in pieces that follow the tail.
    ends = [0.0, max(mu, 0.0), *law.isf([1e-2, 1e-5, 1e-9, 1e-15])]
    ends = sorted({max(float(end), 0.0) for end in ends})
    first, second = (
        sum(
            integrate.quad(lambda x, k=k: k * x ** (k - 1) * law.sf(x), a, b, epsabs=1e-13)[0]
            for a, b in pairwise(ends)
        )
        for k in (1, 2)
    )
    assert target.mean == pytest.approx(first, abs=1e-8)
    assert target.variance == pytest.approx(second - first**2, abs=1e-6)
    x = torch.tensor([-1.0, -1e-9, 0.0, 0.1, 0.7, 2.0, 9.0], dtype=torch.float64)
    expected = np.where(x.numpy() < 0, 0, law.cdf(x.numpy()))
    np.testing.assert_allclose(target.cdf(x).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("p", PS)
@pytest.mark.parametrize("mu", [-3.0, -1.0, 0.0, 1.0])
def test_a_million_samples(p: float, mu: float) -> None:
    target = RectifiedGeneralizedGaussian(p, mu)
    draws = target.sample((1000, 1000), generator=rng.generator(1, "test"), dtype=torch.float64)
    x = draws.flatten().numpy()
    assert x.min() >= 0
    # Five standard errors of each estimate.
    assert x.mean() == pytest.approx(target.mean, abs=5 * x.std() / 1e3 + 1e-9)
    squared = (x - x.mean()) ** 2
    assert x.var() == pytest.approx(target.variance, abs=5 * squared.std() / 1e3 + 1e-9)
    l0 = target.expected_l0
    assert (x > 0).mean() == pytest.approx(l0, abs=5 * math.sqrt(l0 * (1 - l0)) / 1e3)
    law = scipy_law(target)
    points = law.isf(l0 * np.array([0.9, 0.5, 0.1, 0.01]))
    counts = np.searchsorted(np.sort(x), points, side="right") / x.size
    np.testing.assert_allclose(counts, law.cdf(points), atol=2.5e-3)


@pytest.mark.parametrize("p", [0.1, 0.25, 1.0, 2.0, 3.0, 60.0])
def test_unrectified_samples_follow_scipys_law(p: float) -> None:
    target = GeneralizedGaussian(p, 0.3)
    x = target.sample((100_000,), generator=rng.generator(3, "test"), dtype=torch.float64).numpy()
    assert np.isfinite(x).all()
    assert stats.kstest(x, scipy_law(target).cdf).pvalue > 1e-3


def test_samples_repeat_with_the_generator() -> None:
    target = RectifiedGeneralizedGaussian(0.5, -0.5)
    first, again, other = (
        target.sample((4, 5), generator=rng.generator(0, "targets", i)) for i in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.dtype == torch.float32


@pytest.mark.parametrize("p", [0.25, 1.0, 2.0, 50.0])
@pytest.mark.parametrize("l0", [0.01, 0.25, 0.5, 0.9])
def test_with_expected_l0(p: float, l0: float) -> None:
    target = RectifiedGeneralizedGaussian.with_expected_l0(l0=l0, p=p)
    assert scipy_law(target).sf(0) == pytest.approx(l0, abs=1e-10)
    assert target.sigma == unit_variance_scale(p)
    unit = RectifiedGeneralizedGaussian.with_expected_l0(l0, p, mode_of_sigma="sigma_RGN")
    assert unit.expected_l0 == pytest.approx(l0, abs=1e-10)
    assert unit.variance == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("p", [0.25, 0.7, 1.0, 1.5, 3.0])
@pytest.mark.parametrize("t", [-4.0, 0.0, 0.7, 11.0])
def test_characteristic_function_against_quadrature(p: float, t: float) -> None:
    target = RectifiedGeneralizedGaussian(p, -0.5)
    law = scipy_law(target)
    real = integrate.quad(law.pdf, 0, np.inf, weight="cos", wvar=t, limlst=500)[0] + law.cdf(0)
    imaginary = integrate.quad(law.pdf, 0, np.inf, weight="sin", wvar=t, limlst=500)[0] if t else 0
    got = target.characteristic_function(torch.tensor([t]))
    assert got.shape == (1,)
    assert abs(complex(got[0]) - complex(real, imaginary)) < 1e-8


def test_gaussian_characteristic_function() -> None:
    t = torch.linspace(-5, 5, 11, dtype=torch.float64)
    got = GeneralizedGaussian(2.0, 0.4, 1.3).characteristic_function(t)
    expected = torch.exp(1j * t * 0.4 - (1.3 * t) ** 2 / 2)
    torch.testing.assert_close(got, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"p": 0.0}, "p is 0"),
        ({"p": -1.0}, "p is -1"),
        ({"p": math.nan}, "nan"),
        ({"sigma": 0.0}, "sigma is 0"),
        ({"mu": math.inf}, "mu is inf"),
    ],
)
def test_bad_arguments(arguments: dict[str, float], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        RectifiedGeneralizedGaussian(**arguments)
    with pytest.raises(ValueError, match="l0 is 1"):
        RectifiedGeneralizedGaussian.with_expected_l0(1.0, p=1.0)
