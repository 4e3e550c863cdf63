"""Every univariate statistic: golden numbers, an independent formulation, gradients, processes."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from helpers import statistics_of_share
from scipy import integrate, stats

from solo import univariate

GOLDEN = [
    "AndersonDarling",
    "CramerVonMises",
    "Entropy",
    "EppsPulley",
    "ExtendedJarqueBera",
    "ShapiroWilk",
    "VCReg",
    "Watson",
]
ALL = sorted(test.__name__ for test in univariate.UNIVARIATE_TESTS.values())
VARIANTS = [
    *(f"{name}()" for name in ALL),
    "Entropy(m=2, edges='vasicek')",
    "EppsPulley(n_points=9, t_max=5.0)",
    "Moments(k_max=6)",
    "NLL(alpha=0.2)",
    "NLL(k=3)",
    "ShapiroWilk('blom')",
    "ShapiroWilk('rahman', 'rahman')",
]


def build(text: str) -> univariate.UnivariateTest:
    """The test that ``text`` constructs."""
    return eval(text, {name: getattr(univariate, name) for name in ALL})


@pytest.mark.parametrize("name", GOLDEN)
def test_golden(golden: dict[str, np.ndarray], name: str) -> None:
    test = getattr(univariate, name)()
    x = torch.tensor(golden["uni_x"], dtype=torch.float64, requires_grad=True)
    statistic = test(x)
    statistic.sum().backward()
    assert x.grad is not None
    expected, slopes = golden[f"uni_{name}"], golden[f"uni_grad_{name}"]
    # The golden Anderson–Darling approximates log F beyond |x| = 3, by up to 5 %; ours does not
    # (the quadrature below agrees with it to 1e-7).
    rough = (np.abs(golden["uni_x"]).max(0) > 3) & (name == "AndersonDarling")
    np.testing.assert_allclose(statistic.detach()[~rough], expected[~rough], rtol=1e-4)
    np.testing.assert_allclose(statistic.detach()[rough], expected[rough], rtol=2e-3)
    scale = 1e-4 * np.abs(slopes[:, ~rough]).max()
    np.testing.assert_allclose(x.grad[:, ~rough], slopes[:, ~rough], rtol=1e-3, atol=scale)


def quadrature(x: np.ndarray, weight: Callable[[float], float]) -> float:
    """Integral of (F_N - F)^2 * weight(F) dF, piece by piece between the samples."""
    u = np.concatenate([[0.0], np.sort(stats.norm.cdf(x)), [1.0]])
    n = len(x)
    return sum(
        integrate.quad(lambda f, k=k: (k / n - f) ** 2 * weight(f), u[k], u[k + 1])[0]
        for k in range(n + 1)
    )


def test_edf_statistics_are_their_integrals() -> None:
    x = torch.randn(25, 1, dtype=torch.float64) * 1.3 + 0.2
    n, values = 25, x[:, 0].numpy()
    a2 = univariate.AndersonDarling()(x).item()
    assert a2 == pytest.approx(n * quadrature(values, lambda f: 1 / (f * (1 - f))), rel=1e-7)
    w2 = n * univariate.CramerVonMises()(x).item() + 1 / (12 * n)
    assert w2 == pytest.approx(n * quadrature(values, lambda f: 1.0), rel=1e-7)
    assert w2 == pytest.approx(stats.cramervonmises(values, "norm").statistic, rel=1e-10)
    u2 = n * univariate.Watson()(x).item() + 1 / (12 * n)
    shift = stats.norm.cdf(values).mean() - 0.5
    assert u2 == pytest.approx(w2 - n * shift**2, rel=1e-9)


def test_moment_statistics_agree_with_scipy() -> None:
    x = torch.randn(40, 3, dtype=torch.float64) * 1.2 + 0.1
    values = x.numpy()
    s2 = values.var(0, ddof=1)
    vcreg = stats.ttest_1samp(values, 0).statistic ** 2 + 39 * (s2 - 1) ** 2 / 2
    np.testing.assert_allclose(univariate.VCReg()(x), vcreg, rtol=1e-10)
    factor = 39 / 40  # from the biased to the unbiased standard deviation
    skewness = stats.skew(values) * factor**1.5
    kurtosis = stats.kurtosis(values, fisher=False) * factor**2
    expected = vcreg + 40 * skewness**2 / 6 + 40 * (kurtosis - 3) ** 2 / 24
    np.testing.assert_allclose(univariate.ExtendedJarqueBera()(x), expected, rtol=1e-10)


def test_entropy_is_vasiceks() -> None:
    x = torch.randn(30, 2, dtype=torch.float64) * 3 + 1
    for m in (1, 4):
        entropy = stats.differential_entropy(x.numpy(), window_length=m, method="vasicek")
        expected = np.sqrt(2 * np.pi * np.e) * x.numpy().std(0, ddof=1) / np.exp(entropy)
        got = univariate.Entropy(m=m, edges="vasicek")(x)
        np.testing.assert_allclose(got, expected, rtol=1e-10)


def test_shapiro_wilk_agrees_with_scipy() -> None:
    x = torch.randn(60, 1, dtype=torch.float64).exp()
    x = x - x.mean()  # SciPy's is blind to the location
    w = stats.shapiro(x[:, 0].numpy()).statistic
    tridiagonal = univariate.ShapiroWilk("rahman", "rahman")(x).item()
    assert (1 - tridiagonal) ** 2 == pytest.approx(w, abs=0.01)
    blom = univariate.ShapiroWilk("blom")(x).item()
    m = stats.norm.ppf((np.arange(1, 61) - 0.375) / 60.25)
    r = np.corrcoef(m, np.sort(x[:, 0].numpy()))[0, 1]
    assert blom == pytest.approx(1 - r, rel=1e-9)


def test_tridiagonal_weights_invert_the_covariance() -> None:
    n = 12
    p = np.arange(1, n + 1) / (n + 1)
    m = stats.norm.ppf(p)
    density = stats.norm.pdf(m)
    covariance = np.minimum.outer(p, p) * (1 - np.maximum.outer(p, p)) / np.outer(density, density)
    expected = np.linalg.solve(covariance, m)
    expected /= np.linalg.norm(expected)
    np.testing.assert_allclose(
        univariate.ShapiroWilk.get_shapiro_weights(n, "rahman", "rahman", torch.float64),
        expected,
        rtol=1e-8,
    )


def test_nll_is_the_density_of_order_statistics() -> None:
    n = 7
    x = torch.randn(n, 2, dtype=torch.float64)
    values = np.sort(x.numpy(), axis=0)
    u = stats.norm.cdf(values)
    order = np.arange(1, n + 1)[:, None]
    losses = -stats.beta.logpdf(u, order, n + 1 - order) - stats.norm.logpdf(values)
    np.testing.assert_allclose(univariate.NLL()(x), losses.mean(0), rtol=1e-10)
    np.testing.assert_allclose(univariate.NLL(k=5)(x), losses[4], rtol=1e-10)
    entropies = [stats.beta(i, n + 1 - i).entropy() for i in range(1, n + 1)]
    expected = np.mean(entropies) + stats.norm.entropy()
    assert univariate.NLL().null_mean(n) == pytest.approx(expected, abs=1e-3)
    low, high = (stats.norm.ppf(stats.beta.ppf(q, order, n + 1 - order)) for q in (0.2, 0.8))
    outer = np.where((values > low) & (values < high), 0, losses).mean(0)
    np.testing.assert_allclose(univariate.NLL(alpha=0.2)(x), outer, rtol=1e-10)


def test_moments_are_the_plain_formula() -> None:
    x = torch.randn(50, 2, dtype=torch.float64)
    expected = np.abs(x.numpy().mean(0))
    for k in range(2, 7):
        moment = (x.numpy() ** k).mean(0)
        expected = expected + np.exp(-k) * np.abs(moment - stats.norm.moment(k))
    np.testing.assert_allclose(univariate.Moments(k_max=6)(x), expected, rtol=1e-10)


@pytest.mark.parametrize("text", VARIANTS)
def test_batches_gradients_and_extremes(text: str) -> None:
    test = build(text)
    x = torch.randn(2, 3, 9, 2, dtype=torch.float64, requires_grad=True)
    assert test(x).shape == (2, 3, 2)
    torch.testing.assert_close(test(x)[1, 2], test(x[1, 2]))
    assert torch.autograd.gradcheck(test, x)
    far = (torch.randn(16, 4) * 20 + 30).requires_grad_()  # float32, far out in the tail
    value = test(far)
    value.sum().backward()
    assert torch.isfinite(value).all() and far.grad is not None and torch.isfinite(far.grad).all()
    with pytest.raises(ValueError, match=r"\[\.\.\., N, K\]"):
        test(torch.zeros(5))
    try:  # a single sample has a statistic, or is refused with the number that is needed
        assert torch.isfinite(test(torch.zeros(1, 5))).all()
    except ValueError as error:
        assert re.search("at least 2|1 samples", str(error))


@pytest.mark.parametrize("text", VARIANTS)
def test_means_under_the_null(text: str) -> None:
    test = build(text)
    x = torch.randn(1000, 80, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    values = test(x)
    error = values.std().item() / 1000**0.5
    assert values.mean().item() == pytest.approx(test.null_mean(80), abs=4 * error)


def worker(rank: int, world: int) -> dict[str, torch.Tensor]:
    return statistics_of_share(rank, world, {text: build(text) for text in VARIANTS}, 32, 5)


def test_one_process_and_two_agree(agree: Callable[..., None]) -> None:
    agree(worker)


def test_bad_arguments() -> None:
    for text, message in {
        "Entropy(m=0)": "m is 0",
        "Entropy(edges='cut')": "'cut'",
        "Moments(k_max=0)": "k_max is 0",
        "NLL(alpha=0.7)": "alpha is 0.7",
        "NLL(k=0)": "k is 0",
        "ShapiroWilk('bloom')": "'bloom'",
    }.items():
        with pytest.raises(ValueError, match=message):
            build(text)
    with pytest.raises(ValueError, match="2m = 10"):
        univariate.Entropy(m=5)(torch.randn(10, 1))
    with pytest.raises(ValueError, match="k is 11"):
        univariate.NLL(k=11)(torch.randn(10, 1))
