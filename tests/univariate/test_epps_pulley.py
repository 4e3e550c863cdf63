"""Epps–Pulley and its sliced form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import integrate

from solo import multivariate, univariate
from solo.losses.sigreg import SIGReg


def test_golden(golden: dict[str, np.ndarray]) -> None:
    x = torch.tensor(golden["uni_x"], requires_grad=True)
    statistic = univariate.EppsPulley(num_points=17)(x)
    statistic.sum().backward()
    np.testing.assert_allclose(statistic.detach(), golden["uni_EppsPulley"], rtol=1e-4)
    assert x.grad is not None
    scale = np.abs(golden["uni_grad_EppsPulley"]).max()
    np.testing.assert_allclose(x.grad, golden["uni_grad_EppsPulley"], rtol=1e-4, atol=1e-4 * scale)


@pytest.mark.parametrize("step", [0, 1])
def test_golden_slices(golden: dict[str, np.ndarray], step: int) -> None:
    directions = torch.tensor(golden[f"slice_directions_step{step}"])
    got = univariate.EppsPulley()(torch.tensor(golden["multi_x"]) @ directions).mean()
    assert got.item() == pytest.approx(float(golden[f"sliced_step{step}"]), rel=1e-4)


def test_many_points_converge_to_the_integral() -> None:
    x = torch.randn(40, 1, dtype=torch.float64) * 1.4
    got = univariate.EppsPulley(n_points=2001, t_max=4.0)(x).item()

    def integrand(t: float) -> float:
        ecf = np.exp(1j * t * x.numpy()).mean()
        return abs(ecf - np.exp(-(t**2) / 2)) ** 2 * np.exp(-(t**2) / 2)

    assert got == pytest.approx(40 * integrate.quad(integrand, -4, 4)[0], rel=1e-6)


def test_batched_and_differentiable() -> None:
    x = torch.randn(2, 3, 9, 4, dtype=torch.float64, requires_grad=True)
    test = univariate.EppsPulley(num_points=5)
    assert test(x).shape == (2, 3, 4)
    torch.testing.assert_close(test(x)[1, 2], test(x[1, 2]))
    assert torch.autograd.gradcheck(test, x)


def test_slicing_reductions_and_repeatability() -> None:
    z = torch.randn(64, 8)
    make = multivariate.SlicingUnivariateTest
    test = univariate.EppsPulley(num_points=17)
    every = make(test, num_slices=33, reduction="none")(z)
    assert every.shape == (33,)
    torch.testing.assert_close(make(test, 33)(z), every.mean())
    torch.testing.assert_close(make(test, 33, "sum")(z), every.sum())
    clipped = make(test, 33, "none", clip_value=float(every.median()))(z)
    assert ((clipped == 0) | (clipped == every)).all() and (clipped == 0).any()
    counted = make(test, 33)
    assert counted(z) != counted(z)
    assert counted(z, (5,)) == make(test, 33)(z, (5,))
    with pytest.raises(ValueError, match="'median'"):
        make(test, reduction="median")  # type: ignore[arg-type]


def test_sigreg_prefers_the_gaussian() -> None:
    reg = SIGReg(num_slices=64)
    gaussian = torch.randn(2, 256, 16)
    assert reg(gaussian).shape == ()
    constant = gaussian[..., :1].expand_as(gaussian)
    for other in (gaussian * 1.5, gaussian + 0.5, constant, gaussian.abs()):
        assert reg(other) > 2 * reg(gaussian)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="num_points is 1"):
        univariate.EppsPulley(1)
