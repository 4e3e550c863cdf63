"""Matching over all directions, against integrals, slices, SciPy and other processes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from helpers import slow, statistics_of_share
from scipy import integrate, special, stats

from solo.distributions import GeneralizedGaussian, RectifiedGeneralizedGaussian
from solo.distributions.kernel_means import KernelMean
from solo.losses.characteristic_rdm import CharacteristicRDMReg
from solo.losses.unsliced import CheaperForm, MarginalMatching, UnslicedRDMReg
from solo.multivariate import UnslicedEppsPulley
from solo.multivariate.unsliced import direction_mixture
from solo.univariate import EppsPulley

Rectified = RectifiedGeneralizedGaussian
TARGETS = {
    "normal": GeneralizedGaussian(2.0),
    "rectified laplace, l0 0.05": Rectified.with_expected_l0(0.05, 1.0),
    "rectified laplace, l0 0.25": Rectified.with_expected_l0(0.25, 1.0),
    "rectified normal": Rectified(2.0, 0.0),
    "rectified, p 0.5": Rectified(0.5, 0.0),
    "laplace, elsewhere": GeneralizedGaussian(1.0, 0.7, 1.3),
}


# Two of them in every run of the tests, and all in the slow ones.
SOME = ("normal", "rectified laplace, l0 0.25")
NAMES = [name if name in SOME else slow(name) for name in TARGETS]


def sample(target: GeneralizedGaussian, *shape: int) -> torch.Tensor:
    """Near the target, float64: a little too wide, a little to the right."""
    generator = torch.Generator().manual_seed(1)
    drawn = target.sample(shape, generator=generator, dtype=torch.float64)
    return drawn * 1.1 + 0.02 * target.variance


@pytest.mark.parametrize("dim", [1, 2, 17, 2048])
def test_the_mixture_is_the_average_over_directions(dim: int) -> None:
    """``1F1(1/2; D/2; -s)``, where SciPy's series holds."""
    rates, weights = direction_mixture(dim)
    r2 = np.array([0.0, 0.1, 1.0, 0.5 * dim, 2.0 * dim])
    r2 = r2[r2 < 300]
    expected = special.hyp1f1(0.5, dim / 2, -r2 / 2)
    np.testing.assert_allclose(np.exp(-np.outer(r2, rates)) @ weights, expected, atol=1e-12)


def test_far_off_features_are_still_told_apart() -> None:
    """A hundred times too wide: for large s the average is a known power of s."""
    for dim in (8, 300):
        rates, weights = direction_mixture(dim)
        s = 1e4 * dim / 2
        tail = special.gamma(dim / 2) / special.gamma((dim - 1) / 2) / s**0.5
        assert np.exp(-2 * s * rates) @ weights == pytest.approx(tail, rel=1e-3)


@pytest.mark.parametrize("dim", [2, 16, slow(64), slow(300)])
def test_normal_target_in_closed_form(dim: int) -> None:
    x = torch.randn(40, dim, dtype=torch.float64) * 1.2 + 0.1
    r2 = (x[:, None] - x).square().sum(-1).numpy()
    mean = special.hyp1f1(0.5, dim / 2, -r2 / 2).mean()
    norms = x.square().sum(-1).numpy()
    single = special.hyp1f1(0.5, dim / 2, -norms / 4).mean()
    root = (2 * np.pi) ** 0.5
    expected = 40 * (root * mean - 2 * np.pi**0.5 * single + root / 3**0.5)
    # The polynomial's error is 2e-9 a pair.
    assert UnslicedEppsPulley()(x).item() == pytest.approx(expected, abs=40 * root * 2e-9 + 1e-9)
    null = UnslicedEppsPulley().null_mean(40, dim)
    assert null == pytest.approx(root * (1 - 3**-0.5), rel=1e-9)


def scipy_factor(target: GeneralizedGaussian, rate: float, x: float) -> float:
    """``E exp(-rate (x - Y)^2)`` by SciPy's adaptive quadrature."""
    scale = target.sigma * target.p ** (1 / target.p)
    law = stats.gennorm(target.p, loc=target.mu, scale=scale)
    sparse = isinstance(target, Rectified)
    low, high = (0.0 if sparse else float(law.ppf(1e-14))), float(law.isf(1e-14))
    middle = sorted({min(max(point, low), high) for point in (target.mu, x, x - 3, x + 3)})
    edges = [low, *middle, high]
    value = sum(
        integrate.quad(lambda y: np.exp(-rate * (x - y) ** 2) * law.pdf(y), a, b, epsabs=1e-12)[0]
        for a, b in pairwise(edges)
        if b > a
    )
    return value + (np.exp(-rate * x**2) * law.cdf(0) if sparse else 0.0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dim", [slow(2), 64, slow(1000)])
def test_kernel_means_against_scipy(name: str, dim: int) -> None:
    target = TARGETS[name]
    deviation = target.variance**0.5
    rates = np.array([0.3, 0.02]) / deviation**2 / (1 if dim == 2 else dim / 20)
    weights = np.array([0.6, 0.4])
    mean = KernelMean(target, rates, weights, dim)
    marks = np.array([-1.0, 0.0, 0.4, 2.0]) * deviation + target.mean
    factors = np.array([[scipy_factor(target, rate, mark) for mark in marks] for rate in rates])
    index = torch.randint(0, 4, (6, dim), generator=torch.Generator().manual_seed(0))
    z = torch.from_numpy(marks)[index] - target.mean
    values, gradients = mean(z, z.square().sum(-1))
    expected = weights @ np.exp(np.log(factors)[:, index.numpy()].sum(-1))
    np.testing.assert_allclose(values.numpy(), expected, atol=mean.error_bound + 1e-7)
    assert mean.error_bound < (2e-4 if dim == 2 else 1e-6)
    # Gradients by differences of the values.
    step = torch.zeros_like(z)
    step[:, 1] = 1e-4 * deviation
    ends = [mean(z + s, (z + s).square().sum(-1))[0] for s in (step, -step)]
    slope = (ends[0] - ends[1]) / (2e-4 * deviation)
    torch.testing.assert_close(gradients[:, 1], slope, atol=1e-6 / deviation, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_one_coordinate_is_the_univariate_statistic(name: str) -> None:
    target = TARGETS[name]
    x = sample(target, 30, 1).requires_grad_()
    fine = MarginalMatching(target, num_points=401, t_max=9.0)
    got, expected = UnslicedEppsPulley(target)(x), fine(x)
    bound = UnslicedEppsPulley(target).parts(1)[1].error_bound
    assert got.item() == pytest.approx(expected.item(), abs=30 * 6 * bound + 1e-6)
    slopes = [torch.autograd.grad(value, x)[0] for value in (got, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-2, atol=2e-3)


def test_marginals_of_a_normal_target_are_epps_pulley() -> None:
    x = torch.randn(3, 20, 5, dtype=torch.float64)
    expected = EppsPulley()(x).mean(-1)
    torch.testing.assert_close(MarginalMatching(GeneralizedGaussian(2.0))(x), expected)


# Target, dimensions, samples, slices.
CASES = [(SOME[1], 64, 16, 2000), slow(SOME[0], 64, 16, 2000)]
CASES += [slow(name, 2, 16, 100_000) for name in TARGETS]
CASES += [slow(name, 64, 16, 100_000) for name in SOME]
CASES += [slow(name, 512, 8, 10_000) for name in TARGETS]
CASES += [slow(name, 2048, 8, 50_000) for name in SOME]


@pytest.mark.parametrize("name, dim, samples, slices", CASES)
def test_many_slices_come_near(name: str, dim: int, samples: int, slices: int) -> None:
    """Value and gradient within the Monte Carlo error of the slices, t integrated finely."""
    target = TARGETS[name]
    z = sample(target, samples, dim).requires_grad_()
    reg = UnslicedRDMReg(target)
    value = reg(z)
    (gradient,) = torch.autograd.grad(value, z)
    sliced = CharacteristicRDMReg(target, num_projections=500, num_points=41, t_max=5.0)
    unit = sliced.epps_pulley_unit / reg.unit
    values, slopes = [], torch.zeros_like(z)
    for part in range(slices // 500):
        found = sliced(z, (part,)) * unit
        slopes += torch.autograd.grad(found, z)[0] * 500 / slices
        values.append(found.item())
    error = np.std(values) / len(values) ** 0.5
    assert value.item() == pytest.approx(np.mean(values), abs=4 * error + 2e-4 * value.item())
    off = ((slopes - gradient).norm() / gradient.norm()).item()
    assert off < 3 * (dim / slices) ** 0.5 + 2e-3


@pytest.mark.parametrize("dim", [slow(1), slow(3), 20])
def test_gradcheck(dim: int) -> None:
    for target in (TARGETS["normal"], TARGETS["rectified laplace, l0 0.25"]):
        test = UnslicedEppsPulley(target)
        z = torch.randn(2, 5, dim, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(test, z)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dim, samples", [(64, 100), slow(512, 37), slow(2048, 16)])
def test_float32_beside_float64(name: str, dim: int, samples: int) -> None:
    target = TARGETS[name]
    test = UnslicedEppsPulley(target)
    z = sample(target, samples, dim).requires_grad_()
    short = z.detach().float().requires_grad_()
    values = test(z), test(short)
    assert values[1].item() == pytest.approx(values[0].item(), rel=2e-4)
    exact, rounded = (torch.autograd.grad(*pair)[0] for pair in zip(values, (z, short)))
    assert ((rounded - exact).norm() / exact.norm()).item() < 1e-4


@pytest.mark.parametrize("name", [slow(SOME[0]), SOME[1]])
@pytest.mark.parametrize("case", ["collapsed", "collapsed far off", "far too wide"])
def test_float32_far_from_the_target(name: str, case: str) -> None:
    """Where distances between samples are small beside their size, or large."""
    noise = torch.randn(48, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scale, offset = {
        "collapsed": (0.0, 1.0),
        "collapsed far off": (1e-3, 100.0),
        "far too wide": (1e3, 0.0),
    }[case]
    deviation = TARGETS[name].variance ** 0.5
    short = ((noise * scale + offset) * deviation).float().requires_grad_()
    z = short.detach().double().requires_grad_()
    test = UnslicedEppsPulley(TARGETS[name])
    values = test(z), test(short)
    assert values[1].item() == pytest.approx(values[0].item(), rel=1e-4)
    exact, rounded = (torch.autograd.grad(*pair)[0] for pair in zip(values, (z, short)))
    assert ((rounded - exact).norm() / exact.norm()).item() < 1e-3


def test_under_autocast() -> None:
    x = torch.randn(9, 20, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        value = UnslicedEppsPulley()(x)
        value.backward()
    torch.testing.assert_close(value, UnslicedEppsPulley()(x))


def test_the_cheaper_form_by_count() -> None:
    """Near N = 2 K at D 512, and with few features later."""
    normal, rectified = UnslicedEppsPulley(), UnslicedEppsPulley(TARGETS[SOME[1]])
    form = CheaperForm(torch.nn.Identity(), normal, 1000, 17)
    assert form.takes_unsliced(2000, 512) and not form.takes_unsliced(2200, 512)
    assert form.takes_unsliced(600, 4) and not form.takes_unsliced(700, 4)
    other = CheaperForm(torch.nn.Identity(), rectified, 1000, 17)
    assert other.takes_unsliced(1500, 512) and not other.takes_unsliced(2050, 512)


def test_a_target_that_is_not_met_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="matching 1 features .* can be off by"):
        UnslicedEppsPulley(GeneralizedGaussian(0.25, 0.3)).parts(1)


def test_views_blocks_and_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that do not divide, a batch of views, and 16-bit input."""
    test = UnslicedEppsPulley(TARGETS["rectified normal"])
    z = torch.rand(3, 53, 18, dtype=torch.float64).requires_grad_()
    whole = test(z)
    (gradient,) = torch.autograd.grad(whole.sum(), z)
    monkeypatch.setattr("solo.multivariate.unsliced.CPU_CHUNK", 1)
    monkeypatch.setattr("solo.distributions.kernel_means.CPU_CHUNK", 1)
    parts = [test(view) for view in z]
    torch.testing.assert_close(torch.stack(parts), whole)
    (again,) = torch.autograd.grad(sum(parts), z)
    torch.testing.assert_close(again, gradient)
    assert test(z.bfloat16()).dtype == torch.float32
    with pytest.raises(ValueError, match="Expected 2D"):
        test(z[0, 0])


def test_null_means() -> None:
    generator = torch.Generator().manual_seed(3)
    for name in SOME:
        target = TARGETS[name]
        test = UnslicedEppsPulley(target)
        values = test(target.sample((200, 12, 20), generator=generator, dtype=torch.float64))
        error = values.std().item() / 200**0.5
        assert values.mean().item() == pytest.approx(test.null_mean(12, 20), abs=4 * error)


def worker(rank: int, world: int) -> dict[str, torch.Tensor]:
    tests = {name: UnslicedEppsPulley(TARGETS[name]) for name in SOME}
    marginals = {"marginals": MarginalMatching(TARGETS["rectified normal"])}
    return statistics_of_share(rank, world, tests | marginals, 24, 20)


@pytest.mark.parametrize("world", [2, slow(4)])
def test_one_process_and_several_agree(agree: Callable[..., None], world: int) -> None:
    agree(worker, world=world)


def pairs_worker(rank: int, world: int) -> dict[str, torch.Tensor]:
    """Pairs of samples that a process looks at."""
    from solo.multivariate import unsliced

    seen, plain = [], unsliced.RadialKernel.__call__

    def counted(self: unsliced.RadialKernel, r2: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(r2.numel())
        return plain(self, r2)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unsliced.RadialKernel, "__call__", counted)
        x = torch.randn(64, 20, generator=torch.Generator().manual_seed(0)).chunk(world)[rank]
        UnslicedEppsPulley()(x)
    return {"pairs": torch.tensor(float(sum(seen)) * world)}


@pytest.mark.slow
def test_each_process_takes_its_share_of_the_pairs(agree: Callable[..., None]) -> None:
    agree(pairs_worker)
