"""Kernels in Triton's interpreter, on a CPU: run by test_kernels.py with TRITON_INTERPRET=1."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from solo import kernels, rng
from solo.config import Augmentation, Size, sides
from solo.data.deferred import Unfinished, finish_views, make_views
from solo.data.encoded import Ragged, join_files
from solo.data.operations import NUMBERS
from solo.data.plans import join_plans, plan_views
from solo.distributions import GeneralizedGaussian, RectifiedGeneralizedGaussian
from solo.distributions.products import ExpandedProduct, TabulatedProduct
from solo.kernels.draws import (
    launch_generalized_gaussians,
    launch_random_signs,
    launch_unit_rows,
    samples_of,
)
from solo.kernels.pairs import sums_over_pairs
from solo.kernels.products import launch_chebyshev_sums, values_along
from solo.losses.characteristic_rdm import CharacteristicRDMReg
from solo.losses.rectified_lpjepa import RDMReg
from solo.losses.sigreg import SIGReg
from solo.multivariate import SlicingUnivariateTest, unsliced
from solo.multivariate.slices import RandomSlices, build_slices
from solo.univariate.characteristic import empirical_characteristic_function

SEED = 2**61 + 12345


def test_kernels_run() -> None:
    assert kernels.usable(torch.zeros(1)) and not kernels.usable(torch.zeros(1).double())


@pytest.mark.parametrize("shape", [(1, 1), (3, 37, 45), (2, 2, 9, 33)])
@pytest.mark.parametrize("count", [2, 17, 33])
def test_characteristic_functions_and_their_gradient(shape: tuple[int, ...], count: int) -> None:
    x = (3 * torch.randn(shape)).requires_grad_()
    spacing = 3 / (count - 1)
    found = empirical_characteristic_function(x, spacing, count)
    exact = x.detach().double().requires_grad_()
    phase = exact[..., None, :, :] * (torch.arange(count) * spacing)[:, None, None]
    wanted = torch.stack((phase.cos().mean(-2), phase.sin().mean(-2)))
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-6)
    upstream = torch.randn(found.shape)
    (ours,) = torch.autograd.grad((found * upstream).sum(), x)
    (theirs,) = torch.autograd.grad((wanted * upstream).sum(), exact)
    assert (ours - theirs).abs().max() < 2e-6 * theirs.abs().max()


def test_sines_far_from_zero() -> None:
    """Where float32 itself still resolves the angle."""
    x = torch.cat((torch.linspace(-1000, 1000, 999), torch.tensor([0.0, torch.pi, -torch.pi / 2])))
    found = empirical_characteristic_function(x[None], 1.0, 2)[:, 1].double()
    wanted = torch.stack((x.double().cos(), x.double().sin()))
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-7)
    for bad in (float("nan"), float("inf")):
        broken = empirical_characteristic_function(torch.tensor([[bad]]), 1.0, 2)
        assert broken[:, 1].isnan().all()


def philox(seed: int, counters: np.ndarray) -> np.ndarray:
    """Philox-4x32-10 of [n, 4], in NumPy."""
    c = counters.astype(np.uint64)
    keys = np.array([seed & 0xFFFFFFFF, seed >> 32], np.uint64)
    for _ in range(10):
        a, b = np.uint64(0xD2511F53) * c[:, 0], np.uint64(0xCD9E8D57) * c[:, 2]
        low, high = np.uint64(0xFFFFFFFF), np.uint64(32)
        c = np.stack(
            ((b >> high) ^ c[:, 1] ^ keys[0], b & low, (a >> high) ^ c[:, 3] ^ keys[1], a & low), 1
        )
        keys = (keys + np.array([0x9E3779B9, 0xBB67AE85], np.uint64)) & low
    return c.astype(np.uint32)


def test_unit_rows_are_normals_of_philox() -> None:
    dim, quarter = 37, 10
    rows = launch_unit_rows(torch.empty(1, dim), SEED, 3, 8).double().numpy()
    for number, row in enumerate(rows, 3):
        counters = np.zeros((quarter, 4))
        counters[:, 0], counters[:, 1] = np.arange(quarter), number
        bits = philox(SEED, counters).view(np.int32).astype(np.float64)
        uniform = np.where(bits < 0, -bits - 1, bits) * 4.6566127342e-10
        size = np.sqrt(-2 * np.log(np.maximum(uniform[:, 0::2], 1e-7)))
        angle = 2 * np.pi * uniform[:, 1::2]
        pairs = np.stack((size * np.cos(angle), size * np.sin(angle)), -1)  # [quarter, 2, 2]
        normals = pairs.reshape(quarter, 4).T.ravel()[:dim]
        np.testing.assert_allclose(row, normals / np.linalg.norm(normals), atol=2e-6)


@pytest.mark.parametrize("dim", [1, 5, 2100])
def test_any_part_of_the_rows(dim: int) -> None:
    like = torch.empty(1, dim)
    whole = launch_unit_rows(like, SEED, 0, 6)
    torch.testing.assert_close(whole.norm(dim=1), torch.ones(6))
    assert torch.equal(whole[2:5], launch_unit_rows(like, SEED, 2, 5))
    assert launch_unit_rows(like, SEED, 4, 4).shape == (0, dim)
    assert dim == 1 or not torch.equal(whole, launch_unit_rows(like, SEED + 1, 0, 6))


@pytest.mark.parametrize("p", [0.5, 1.0, 2.0, 3.7])
def test_target_samples_follow_their_law(p: float) -> None:
    law = GeneralizedGaussian(p, 0.3, 0.8)
    x = samples_of(law, torch.empty(2, 61, 41), SEED)
    for view in x:
        found = stats.kstest(view.flatten().numpy(), lambda v: law.cdf(torch.from_numpy(v)).numpy())
        assert found.pvalue > 1e-3
    assert abs(np.corrcoef(x.flatten(1))[0, 1]) < 0.08
    rectified = RectifiedGeneralizedGaussian(p, 0.3, 0.8)
    assert torch.equal(samples_of(rectified, x, SEED), x.relu())
    other = launch_generalized_gaussians(x, SEED + 2**40, p, 0.3, 0.8, False)
    assert (other != x).float().mean() > 0.99


def test_signs() -> None:
    signs = launch_random_signs(torch.empty(1, 700), SEED, 0, 12)
    assert set(signs.unique().tolist()) == {-1, 1} and abs(signs.mean()) < 4 / 8400**0.5
    assert torch.equal(signs[4:7], launch_random_signs(torch.empty(1, 700), SEED, 4, 7))


@pytest.mark.parametrize("dim", [64, 200])
def test_sums_of_an_expanded_product(dim: int) -> None:
    target = RectifiedGeneralizedGaussian.with_expected_l0(0.25, p=1.0)
    product = ExpandedProduct(TabulatedProduct(target, np.arange(17) * 0.4, dim), 1e-4)
    slices = torch.nn.functional.normalize(torch.randn(9, dim), dim=1)
    terms = product.coefficients.shape[1]
    sums = launch_chebyshev_sums(slices, 2 / product.reach, terms)
    basis, total = product.sums(slices.double())
    torch.testing.assert_close(sums[:-1].double(), basis, rtol=0, atol=2e-6)
    torch.testing.assert_close(sums[-1].double(), total, rtol=0, atol=2e-6)
    values = values_along(product, slices)
    torch.testing.assert_close(values.double(), product(slices.double()), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["random", "structured"])
def test_matching_is_that_of_the_same_draws(kind: Any) -> None:
    """Losses with kernels against the plain formulas, the draws given."""
    target = RectifiedGeneralizedGaussian(1.0, -0.3)
    z = target.sample((2, 19, 24)).requires_grad_()
    reg = RDMReg(target, num_projections=30, projection_vectors_type=kind, seed=3)
    value = reg(z, (4, 2))
    (gradient,) = torch.autograd.grad(value, z)
    chunks = build_slices(kind, 30, 3).chunks(z[0].detach(), (4, 2), 0, 30)
    slices = torch.cat([chunk.project(torch.eye(24)) for chunk in chunks]).double()
    exact = z.detach().double().requires_grad_()
    goals = reg.target_samples((4, 2), z).double()
    wanted = ((exact @ slices.T).sort(1).values - (goals @ slices.T).sort(1).values).square().mean()
    (theirs,) = torch.autograd.grad(wanted, exact)
    assert value.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert (gradient - theirs).abs().max() < 1e-5 * theirs.abs().max()


def test_characteristic_losses_are_those_of_the_same_slices() -> None:
    z = 1.5 * torch.randn(2, 24, 16)
    sigreg = SIGReg(num_slices=12)
    assert isinstance(sigreg.test, SlicingUnivariateTest)
    slices = sigreg.test.slices.matrix(z, (0,)).double()
    wanted = sigreg.test.univariate_test(z.double() @ slices.T).mean()
    assert sigreg(z, (0,)).item() == pytest.approx(wanted.item(), rel=1e-5)
    reg = CharacteristicRDMReg(RectifiedGeneralizedGaussian(1.0), num_projections=12)
    found = reg(z, (0,)).item()
    values = torch.cat(list(reg.target_values(slices)))  # float64: the tensor code
    phase = (z.double() @ slices.T)[:, None] * torch.from_numpy(reg.frequencies)[:, None, None]
    parts = torch.cat((phase.cos().mean(2), phase.sin().mean(2)), dim=1)
    distance = (parts - values).square().unflatten(1, (2, -1)).sum(1)  # [V, T, K]
    assert found == pytest.approx((reg.weights @ distance).mean().item(), rel=1e-5)


@pytest.mark.parametrize("rows", [5, 100])
def test_pairs_of_samples(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All directions at once: value and gradient, in blocks of rows and at once."""
    monkeypatch.setattr(unsliced, "GPU_CHUNK", rows * 3 * 21)
    target = RectifiedGeneralizedGaussian.with_expected_l0(0.25, p=1.0)
    for law in (target, GeneralizedGaussian(2.0)):
        z = (1.3 * law.sample((3, 21, 40)) + 0.2).requires_grad_()
        exact = z.detach().double().requires_grad_()
        upstream = torch.tensor([1.0, -2.0, 0.5])
        test = unsliced.UnslicedEppsPulley(law)
        found, wanted = test(z), test(exact)
        torch.testing.assert_close(found.double(), wanted, rtol=2e-5, atol=0)
        (ours,) = torch.autograd.grad((found * upstream).sum(), z)
        (theirs,) = torch.autograd.grad((wanted * upstream).sum(), exact)
        assert (ours - theirs).abs().max() < 2e-5 * theirs.abs().max()


def test_a_process_takes_its_own_rows() -> None:
    everyone, polynomial = torch.randn(2, 13, 24), torch.tensor([0.7, 0.2, 0.1])
    values, gradient = sums_over_pairs(everyone, 0.1, polynomial, 0, 13, 100)
    for first, rows in ((0, 4), (5, 3), (9, 100)):
        found = sums_over_pairs(everyone, 0.1, polynomial, first, 4, rows)
        torch.testing.assert_close(found[0], values[:, first : first + 4])
        torch.testing.assert_close(found[1], gradient[:, first : first + 4])


def test_features_that_are_no_numbers_are_not_hidden() -> None:
    z = torch.randn(2, 9, 24)
    z[0, 3, 5] = float("nan")
    target = RectifiedGeneralizedGaussian(1.0)
    for loss in (
        unsliced.UnslicedEppsPulley(),
        SIGReg(num_slices=8),
        RDMReg(target, num_projections=8),
        CharacteristicRDMReg(target, num_projections=8),
    ):
        assert loss(z, (0,)).sum().isnan(), loss


EVERY = {"prob": 1.0}
JITTER = {"prob": 1.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
RECIPES: dict[str, dict[str, Any]] = {
    "crop": {},
    "brightness": {"color_jitter": JITTER | {"brightness": 0.8}},
    "contrast": {"color_jitter": JITTER | {"contrast": 0.8}},
    "saturation": {"color_jitter": JITTER | {"saturation": 0.8}},
    "hue": {"color_jitter": JITTER | {"hue": 0.5}},
    "grayscale": {"grayscale": EVERY},
    "blur": {"gaussian_blur": EVERY},
    "solarize": {"solarization": EVERY},
    "equalize": {"equalization": EVERY},
    "all": {
        "color_jitter": {"prob": 0.8, "brightness": 0.4, "contrast": 0.4, "saturation": 0.2}
        | {"hue": 0.1},
        "grayscale": {"prob": 0.3},
        "gaussian_blur": {"prob": 0.5},
        "solarization": {"prob": 0.3},
        "equalization": {"prob": 0.3},
        "horizontal_flip": {"prob": 0.5},
    },
}


def images(count: int, channels: int, height: int, width: int) -> torch.Tensor:
    coarse = torch.rand(count, channels, 6, 7) * 300 - 20
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return smooth.clamp(0, 255).to(torch.uint8)


CASES = [
    *((name, 8, 3, False) for name in RECIPES),
    *((name, 70, 3, True) for name in ("contrast", "all")),
    *((name, (6, 11), 3, False) for name in ("blur", "equalize", "all")),
    ("all", (90, 50), 3, True),
    ("all", (11, 5), 1, False),
    ("all", 5, 1, False),
    ("all", 33, 3, False),
]


@pytest.mark.parametrize(("name", "size", "channels", "files"), CASES)
def test_views(name: str, size: Size, channels: int, files: bool) -> None:
    """Same pixels as the tensor code's, to 1 of 255; sizes held whole, and in parts (70, 90)."""
    recipes = [
        Augmentation.model_validate({"crop_size": size, "num_crops": 2, **RECIPES[name]}),
        Augmentation.model_validate({"crop_size": size, "num_crops": 1}),
        Augmentation.model_validate({"crop_size": 9, "num_crops": 1, **RECIPES[name]}),
    ]
    data, batch = images(7, channels, 12, 9), 3
    indices = torch.tensor([5, 0, 3])
    plans = []
    for number, recipe in enumerate(recipes):
        count = batch * recipe.num_crops
        u = rng.uniforms(number, "test", np.arange(count)[:, None], NUMBERS)
        plans.append(plan_views(recipe, u, np.full(count, 12), np.full(count, 9)))
    joined = join_plans(plans)
    assert [len(plan.boxes) for plan in joined] == [9, 3]
    crops = []
    if files:
        crops = [images(len(plan.boxes), 3, *sides(plan.size)) for plan in joined]
    unfinished = Unfinished(joined, torch.zeros(3), indices, crops)
    assert unfinished.packed is not None
    found = finish_views(unfinished, None if files else data)
    for number, (views, plan) in enumerate(zip(found, joined)):
        if files:
            wanted = plan.finish(crops[number].float())
        else:
            wanted = make_views(data[indices.repeat(len(plan.boxes) // batch)], plan)
        assert views.shape[1:] == (batch, 3, *sides(plan.size))
        off = (views.flatten(0, 1).int() - wanted.int()).abs()
        if name in ("solarize", "equalize", "all") and not files:
            # A rounding of a crop the other way moves a level, which these two stretch.
            assert (off > 1).float().mean() < 0.01
        else:
            assert off.max() <= 1


@pytest.mark.parametrize("size", [8, (70, 66)])
def test_views_of_images_of_different_sizes(size: Size) -> None:
    """As the device decodes them; the tensor code takes one image after the other."""
    recipe = Augmentation.model_validate({"crop_size": size, "num_crops": 2, **RECIPES["blur"]})
    shapes = [(12, 9), (5, 30), (40, 7)]
    data = [images(1, 3, *shape)[0] for shape in shapes]
    heights, widths = np.array(shapes * 2).T
    u = rng.uniforms(0, "test", np.arange(6)[:, None], NUMBERS)
    plan = plan_views(recipe, u, heights, widths)
    files = join_files(data)
    unfinished = Unfinished([plan], torch.zeros(3), torch.arange(3), [], files=files)
    pixels = torch.cat([image.flatten() for image in data])
    assert unfinished.places is not None
    (found,) = finish_views(unfinished, Ragged(pixels, unfinished.places, files.places))
    for view in range(2):
        for number, image in enumerate(data):
            row = 3 * view + number
            single = plan_views(
                recipe, u[row : row + 1], heights[row : row + 1], widths[row : row + 1]
            )
            off = found[view, number].int() - make_views(image[None], single)[0].int()
            assert off.abs().max() <= 1


def test_draws_have_no_gradient_and_warn_of_none() -> None:
    """Slices and samples take their shape from features, and nothing else."""
    z = torch.randn(2, 9, 24, requires_grad=True)
    assert not RandomSlices(4).matrix(z, (0,)).requires_grad
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SIGReg(num_slices=8)(z).backward()
    assert z.grad is not None and bool(z.grad.isfinite().all())
