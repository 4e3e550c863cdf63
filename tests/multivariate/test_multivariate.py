"""Multivariate statistics: golden numbers, their defining integrals, gradients, processes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch
from helpers import statistics_of_share

from solo import multivariate, univariate

TESTS = {
    "BHEP": "BHEP(beta=0.8)",
    "BHEP_M": "BHEP_M(beta=4.0)",
    "COMB": "COMB(gamma=2.0)",
    "HV": "HV(gamma=4.0)",
    "HZ": "HZ()",
    "KernelMMD": "KernelMMD('imq', 1.5)",
    "KernelStein": "KernelStein('imq')",
    "WeakSIGReg": "WeakSIGReg()",
}


def build(text: str) -> multivariate.MultivariateTest:
    """The test that ``text`` constructs."""
    return eval(text, {name: getattr(multivariate, name) for name in TESTS})


def test_golden(golden: dict[str, np.ndarray]) -> None:
    x = torch.tensor(golden["multi_x"])
    bhep, hz = multivariate.BHEP(beta=0.5)(x).item(), multivariate.HZ()(x).item()
    assert bhep == pytest.approx(float(golden["multi_BHEP"]), rel=1e-4)
    assert hz == pytest.approx(float(golden["multi_HZ"]), rel=1e-4)


def grid(rate: float, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes t [G, dim] and weights of ``exp(-rate |t|^2) dt`` (Gauss–Hermite product rule)."""
    nodes, weights = np.polynomial.hermite.hermgauss(50)
    t = np.array(list(product(nodes, repeat=dim))) / np.sqrt(rate)
    w = np.array([np.prod(ws) for ws in product(weights, repeat=dim)]) / rate ** (dim / 2)
    return t, w


@pytest.mark.parametrize("dim", [1, 2])
def test_defining_integrals(dim: int) -> None:
    x = torch.randn(9, dim, dtype=torch.float64) * 1.1 + 0.2
    y = x.numpy()

    def parts(t: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return t @ y.T, np.exp(t @ y.T).mean(1), (t**2).sum(1)

    for beta in (0.3, 0.8):
        t, w = grid(1 / (2 * beta**2), dim)
        dots, _, squares = parts(t)
        distance = np.abs(np.exp(1j * dots).mean(1) - np.exp(-squares / 2)) ** 2
        expected = (w / w.sum()) @ distance
        assert multivariate.BHEP(beta)(x).item() == pytest.approx(expected, rel=1e-8)
    beta = multivariate.HZ.compute_bandwidth(9, dim)
    assert beta == pytest.approx((1 / 2**0.5) * ((2 * dim + 1) * 9 / 4) ** (1 / (dim + 4)))
    torch.testing.assert_close(multivariate.HZ()(x), multivariate.BHEP(beta)(x))

    t, w = grid(4.0, dim)
    dots, mgf, squares = parts(t)
    expected = 9 * w @ (mgf - np.exp(squares / 2)) ** 2
    assert multivariate.BHEP_M(4.0)(x).item() == pytest.approx(expected, rel=1e-8)
    gradient = (np.exp(dots)[:, :, None] * y).mean(1)
    expected = 9 * w @ ((gradient - t * mgf[:, None]) ** 2).sum(1)
    assert multivariate.HV(4.0)(x).item() == pytest.approx(expected, rel=1e-8)
    expected = 3 * w @ (np.cos(dots).mean(1) * mgf - 1)
    assert multivariate.COMB(4.0, signed=True)(x).item() == pytest.approx(expected, rel=1e-8)
    assert multivariate.COMB(4.0)(x).item() == pytest.approx(abs(expected), rel=1e-8)
    for name in ("BHEP_M", "HV", "COMB"):
        test = getattr(multivariate, name)
        ratio = (test(4.0)(x) / test(4.0, normalize=True)(x)).item()
        assert ratio == pytest.approx(w.sum(), rel=1e-8)


@pytest.mark.parametrize("text", TESTS.values())
def test_batches_gradients_and_wide_samples(text: str) -> None:
    test = build(text)
    x = torch.randn(2, 8, 3, dtype=torch.float64, requires_grad=True)
    assert test(x).shape == (2,)
    torch.testing.assert_close(test(x)[1], test(x[1]))
    assert torch.autograd.gradcheck(test, x)
    with pytest.raises(ValueError, match="N, D"):
        test(torch.zeros(5))


@pytest.mark.parametrize(
    "text",
    [
        "BHEP()",
        "BHEP_M()",
        "BHEP_M(beta=6.0, normalize=True)",
        "COMB(signed=True)",
        "HV(normalize=True)",
        "HZ()",
        "KernelMMD()",
        "KernelMMD('imq', 0.7)",
        "KernelStein()",
        "KernelStein('imq', 2.0)",
        "WeakSIGReg(squared=True)",
    ],
)
def test_means_under_the_null(text: str) -> None:
    test = build(text)
    x = torch.randn(1000, 60, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    values = test(x)
    error = values.std().item() / 1000**0.5
    assert values.mean().item() == pytest.approx(test.null_mean(60, 3), abs=4 * error)


@pytest.mark.parametrize("kernel", ["gaussian", "imq"])
def test_kernel_discrepancies_by_definition(kernel: str) -> None:
    """MMD with expectations by quadrature; Stein's kernel by automatic differentiation."""
    x = torch.randn(7, 2, dtype=torch.float64) * 1.2 + 0.1
    width = 1.3

    def f(r2: torch.Tensor) -> torch.Tensor:
        scaled = r2 / (2 * width**2)
        return (-scaled).exp() if kernel == "gaussian" else (1 + scaled) ** -0.5

    t, w = (torch.from_numpy(part) for part in grid(0.5, 2))
    w = w / w.sum()
    single = f((x[:, None] - t).square().sum(-1)) @ w
    both = w @ f((t[:, None] - t).square().sum(-1)) @ w
    pairs = f((x[:, None] - x).square().sum(-1)).mean()
    expected = pairs - 2 * single.mean() + both
    torch.testing.assert_close(multivariate.KernelMMD(kernel, width)(x), expected)

    def stein(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        a, b = a.clone().requires_grad_(), b.clone().requires_grad_()
        value = f((a - b).square().sum())
        to_a, to_b = torch.autograd.grad(value, (a, b), create_graph=True)
        trace = sum(torch.autograd.grad(to_a[i], b, retain_graph=True)[0][i] for i in range(2))
        return (a @ b * value - a @ to_b - b @ to_a + trace).detach()

    expected = torch.stack([stein(a, b) for a in x for b in x]).mean()
    torch.testing.assert_close(multivariate.KernelStein(kernel, width)(x), expected)


def test_mmd_of_a_gaussian_kernel_is_bhep() -> None:
    x = torch.randn(3, 20, 5, dtype=torch.float64)
    torch.testing.assert_close(
        multivariate.KernelMMD("gaussian", 2.0)(x), multivariate.BHEP(0.5)(x)
    )


def test_weak_sigreg_is_the_covariance() -> None:
    x = torch.randn(30, 6, dtype=torch.float64) + 3.0
    expected = np.linalg.norm(np.cov(x.numpy().T) - np.eye(6))
    assert multivariate.WeakSIGReg()(x).item() == pytest.approx(expected)
    sketched = multivariate.WeakSIGReg(sketch_dim=4, squared=True)
    assert sketched(x, (0,)) == sketched(x, (0,)) != sketched(x, (1,))
    generator = torch.Generator().manual_seed(0)
    for squared, tolerance in ((True, 0.03), (False, 0.05)):
        test = multivariate.WeakSIGReg(sketch_dim=16, squared=squared)
        wide = torch.randn(200, 90, 40, generator=generator, dtype=torch.float64)
        mean = torch.stack([test(sample) for sample in wide]).mean().item()
        assert mean == pytest.approx(test.null_mean(90, 40), rel=tolerance)


def worker(rank: int, world: int, texts: list[str]) -> dict[str, torch.Tensor]:
    names = {**vars(univariate), **vars(multivariate)}
    return statistics_of_share(rank, world, {text: eval(text, names) for text in texts}, 24, 4)


def test_one_process_and_two_agree(agree: Callable[..., None]) -> None:
    sliced = [
        f"SlicingUnivariateTest({test}(), num_slices=301, reduction={reduction!r})"
        for test in ("EppsPulley", "AndersonDarling", "VCReg")
        for reduction in ("mean", "none")
    ]
    agree(worker, [*TESTS.values(), "WeakSIGReg(sketch_dim=2)", *sliced])


def test_bad_arguments() -> None:
    for text, message in {
        "BHEP(beta=0)": "beta is 0",
        "BHEP_M(beta=0.5)": "above 1",
        "HV(gamma=-1)": "above 0",
        "KernelMMD('cauchy')": "choose gaussian or imq",
        "KernelStein(bandwidth=0)": "bandwidth is 0",
        "WeakSIGReg(sketch_dim=0)": "sketch_dim is 0",
    }.items():
        with pytest.raises(ValueError, match=message):
            build(text)
