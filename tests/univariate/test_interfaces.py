"""The statistics as users of LeJEPA's library know them: names, arguments, arrays, errors."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from scipy import integrate

import solo as lejepa
from solo import multivariate, univariate
from solo.multivariate import MULTIVARIATE_TESTS
from solo.univariate import UNIVARIATE_TESTS

TESTS = {**UNIVARIATE_TESTS, **MULTIVARIATE_TESTS}


def test_the_published_quick_start() -> None:
    embeddings = torch.randn(64, 8, requires_grad=True)
    univariate_test = lejepa.univariate.EppsPulley(num_points=17)
    loss_fn = lejepa.multivariate.SlicingUnivariateTest(
        univariate_test=univariate_test, num_slices=1024
    )
    loss_fn(embeddings).backward()
    assert embeddings.grad is not None and embeddings.grad.abs().sum() > 0
    with pytest.raises(AttributeError, match="no attribute 'univariat'"):
        lejepa.univariat  # noqa: B018


@pytest.mark.parametrize("name", TESTS)
def test_any_array_gives_the_same(name: str) -> None:
    test = TESTS[name]()
    x = np.random.default_rng(0).standard_normal((40, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        double = test(x)
        single = test(x.astype(np.float32))
    assert double.dtype == torch.float64 and single.dtype == torch.float32
    torch.testing.assert_close(double, test(torch.from_numpy(x)), rtol=0, atol=0)
    torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(test(x.tolist()).double(), double, rtol=1e-3, atol=1e-4)
    batches = test(torch.from_numpy(np.stack((x, x + 1))))
    torch.testing.assert_close(batches[0], double, rtol=1e-9, atol=1e-12)
    for wrong, words in (
        (np.zeros((0, 2)), "Input data cannot be empty"),
        (np.full((5, 2), np.nan), "contains NaN values"),
        (np.full((5, 2), np.inf), "contains infinite values"),
    ):
        with pytest.raises(ValueError, match=words):
            test(wrong)
    with pytest.raises(ValueError, match=r"Expected 2D input|expected \[\.\.\., N, K\]"):
        test(x[:, 0])


def test_arguments_and_how_they_are_shown() -> None:
    assert repr(multivariate.BHEP(beta=0.1)) == "BHEP(beta=0.1)"
    assert "num_points=17, t_max=3.0" in repr(univariate.EppsPulley())
    assert isinstance(univariate.Watson(), univariate.CramerVonMises)
    same = univariate.EppsPulley(n_points=9, t_range=(-5, 5))
    x = torch.randn(30, 2)
    assert torch.equal(same(x), univariate.EppsPulley(num_points=9, t_max=5)(x))
    for kwargs, words in (
        ({"t_range": (-1, 3)}, "t_range is"),
        ({"weight_type": "cauchy"}, "Unknown weight type"),
    ):
        with pytest.raises(ValueError, match=words):
            univariate.EppsPulley(**kwargs)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n_samples must be a positive integer"):
        multivariate.HZ.compute_bandwidth(0, 3)
    weights = univariate.ShapiroWilk.get_shapiro_weights(50, covariance_mode="rahman")
    assert weights.shape == (50,) and weights.norm().item() == pytest.approx(1, abs=1e-6)


def test_uniform_weight_is_the_integral() -> None:
    test = univariate.EppsPulley(401, 4.0, weight_type="uniform")
    x = torch.randn(20, 1, dtype=torch.float64)

    def distance(t: float) -> float:
        ecf = np.exp(1j * t * x.numpy()).mean()
        return float(abs(ecf - np.exp(-(t**2) / 2)) ** 2)

    expected = 20 * integrate.quad(distance, -4, 4)[0]
    assert test(x).item() == pytest.approx(expected, rel=1e-4)
    t = torch.linspace(-2, 2, 5)
    torch.testing.assert_close(test.normal_cf(t).real, torch.exp(-(t**2) / 2))
    found = test.empirical_cf(x, t.double())[:, 0].numpy()
    np.testing.assert_allclose(found, [np.exp(1j * s * x.numpy()).mean() for s in t.numpy()])
