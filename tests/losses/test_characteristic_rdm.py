"""RDMReg by characteristic functions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import rows, slow, tiny
from torch.nn.parallel import DistributedDataParallel

from solo.config import ConfigError
from solo.distributions import (
    ExpandedProduct,
    GeneralizedGaussian,
    RectifiedGeneralizedGaussian,
    TabulatedProduct,
    product_characteristic_function,
)
from solo.losses.characteristic_rdm import CharacteristicRDMReg
from solo.losses.rectified_lpjepa import RDMReg
from solo.losses.sigreg import SIGReg, build_test
from solo.losses.unsliced import MarginalMatching
from solo.methods import resolve_config
from solo.multivariate import RandomSlices
from solo.pretrain import run

TARGETS = [
    RectifiedGeneralizedGaussian(1.0, 0.0),
    RectifiedGeneralizedGaussian(1.0, -2.0),
    RectifiedGeneralizedGaussian(2.0, 1.0),
    RectifiedGeneralizedGaussian(0.5, -1.0),
    GeneralizedGaussian(1.0),
    GeneralizedGaussian(10.0),  # nearly uniform: its characteristic function has zeros
]


@pytest.mark.parametrize("target", TARGETS, ids=repr)
@pytest.mark.parametrize("dim", [4, 300])
def test_the_product_within_its_bound(target: GeneralizedGaussian, dim: int) -> None:
    frequencies = np.linspace(0, 3, 5) / target.variance**0.5
    projected = product_characteristic_function(target, frequencies, dim)
    assert projected.error_bound <= 1e-4
    slices = RandomSlices(12).matrix(torch.zeros(1, dim, dtype=torch.float64), (0,))
    slices[0] = dim**-0.5  # all coordinates alike
    got = torch.view_as_complex(projected(slices).permute(1, 2, 0).contiguous())
    for t, values in zip(frequencies, got):
        expected = target.characteristic_function(slices * t).prod(-1)
        assert (values - expected).abs().max() <= projected.error_bound + 1e-8
    torch.testing.assert_close(
        projected(slices.float()).double(), projected(slices), atol=2e-6, rtol=0
    )


def test_the_bound_is_tight_enough_to_fail() -> None:
    """A coarse tolerance shortens the expansion and shows in the error."""
    target = RectifiedGeneralizedGaussian(1.0, 0.0)
    frequencies = np.array([0.0, 3 / target.variance**0.5])
    table = TabulatedProduct(target, frequencies, 8)
    fine, coarse = (ExpandedProduct(table, tolerance) for tolerance in (1e-4, 0.1))
    assert 0 < coarse.coefficients.shape[-1] < fine.coefficients.shape[-1]
    slices = RandomSlices(200).matrix(torch.zeros(1, 8, dtype=torch.float64), (0,))
    error = (coarse(slices) - fine(slices)).square().sum(0).sqrt().max().item()
    assert 1e-4 < error <= coarse.error_bound


def test_value_is_the_integral() -> None:
    target = RectifiedGeneralizedGaussian(2.0, -0.5)
    reg = CharacteristicRDMReg(target, num_projections=20, seed=3)
    z = torch.randn(2, 12, 6, dtype=torch.float64).relu()
    slices = RandomSlices(20, 3).matrix(z, (7,))
    u = np.linspace(-3, 3, 33)
    deviation = target.variance**0.5
    total = []
    for view in z:
        projected = (view @ slices.T).numpy()
        ecf = np.exp(1j * u[:, None, None] / deviation * projected).mean(1)
        phi = np.stack(
            [target.characteristic_function(slices * t / deviation).prod(-1).numpy() for t in u]
        )
        integrand = np.abs(ecf - phi) ** 2 * np.exp(-(u[:, None] ** 2) / 2)
        total.append(np.trapezoid(integrand, u, axis=0).mean())
    unit = np.trapezoid(u**2 * np.exp(-1.5 * u**2), u) / deviation**2
    assert reg(z, (7,)).item() == pytest.approx(np.mean(total) / unit, rel=1e-4)


@pytest.mark.parametrize("change", ["shift", "scale"])
def test_small_changes_weigh_as_in_the_sorted_loss(change: str) -> None:
    """In many dimensions, where projections are close to normal."""
    target = RectifiedGeneralizedGaussian(2.0, 0.5)
    generator = torch.Generator().manual_seed(0)
    z = target.sample((1, 4096, 64), generator=generator)
    moved = z + 0.1 if change == "shift" else (z - target.mean) * 1.1 + target.mean
    sorted_reg = RDMReg(target, num_projections=128)
    reg = CharacteristicRDMReg(target, num_projections=128)
    expected = (sorted_reg(moved) - sorted_reg(z)).item()
    assert (reg(moved) - reg(z)).item() == pytest.approx(expected, rel=0.15)


def test_gradient() -> None:
    reg = CharacteristicRDMReg(RectifiedGeneralizedGaussian(1.0, 0.0), num_projections=5)
    z = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: reg(z, (0,)), z)


def test_a_loss_serves_features_of_any_width_and_a_first_look() -> None:
    """What is made for one number of features is not taken for another; nor is inference's use."""
    generator = torch.Generator().manual_seed(0)
    narrow, wide = (torch.rand(32, dim, generator=generator) for dim in (8, 512))
    target = RectifiedGeneralizedGaussian(1.0)

    def make() -> CharacteristicRDMReg:
        return CharacteristicRDMReg(target, num_projections=8)

    used = make()
    with torch.inference_mode():
        used(wide, (0,))
    assert used(narrow, (0,)) == make()(narrow, (0,))
    used(narrow.requires_grad_(), (0,)).backward()
    sigreg = SIGReg(num_slices=8)
    with torch.inference_mode():
        sigreg(wide)
    sigreg(narrow).backward()


def test_the_normal_target_is_sigreg() -> None:
    z = torch.randn(3, 50, 8, dtype=torch.float64) * 1.2
    reg = CharacteristicRDMReg(GeneralizedGaussian(2.0), num_projections=40, seed=2)
    expected = SIGReg(num_slices=40, seed=2)(z, (5,)).item()
    assert reg(z, (5,)).item() * 50 * reg.epps_pulley_unit == pytest.approx(expected, rel=1e-6)


def worker(rank: int, world: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    images = torch.randn(2, 16, 12, dtype=torch.float64).chunk(world, 1)[rank]
    network = DistributedDataParallel(torch.nn.Linear(12, 6).double())
    z = network(images.flatten(0, 1)).unflatten(0, images.shape[:2]).relu()
    reg = CharacteristicRDMReg(RectifiedGeneralizedGaussian(2.0, 0.0), num_projections=63)
    loss = reg(z, (1,))
    loss.backward()
    return {"loss": loss.detach(), "gradient": network.module.weight.grad}


def test_one_process_and_two_agree(agree: Callable[..., None]) -> None:
    agree(worker)


def test_lpjepa_from_both_methods(tmp_path: Path) -> None:
    """One step of each: the same embeddings, so the same regulariser up to the unit."""
    common = {"proj_hidden_dim": 16, "proj_output_dim": 8, "logging_interval": 1}
    common["views_together"] = True
    found = {}
    for method, kwargs, name in (
        ("lejepa", {"lp_norm_parameter": 1.0, "num_slices": 64}, "train_sigreg_loss"),
        (
            "rectified_lpjepa",
            {
                "target_distribution": "lp_distribution",
                "lp_norm_parameter": 1.0,
                "projector_type": "mlp",
                "rdm_test": "characteristic_function",
                "num_projections": 64,
            },
            "train_rdm_reg_loss",
        ),
    ):
        options = tiny(tmp_path, method=method, max_steps=1)
        options["method_kwargs"] = {**common, **kwargs}
        found[method] = float(next(r[name] for r in rows(run(options).folder) if name in r))
    unit = CharacteristicRDMReg(GeneralizedGaussian(1.0)).epps_pulley_unit
    assert found["lejepa"] == pytest.approx(64 * unit * found["rectified_lpjepa"], rel=1e-4)


def test_a_test_of_its_own_draws_follows_the_seed() -> None:
    assert build_test("weak_sigreg", {}, seed=7).seed == 7
    assert build_test("weak_sigreg", {"seed": 3}, seed=7).seed == 3


@pytest.mark.parametrize("t_max", [1.0, 3.0, 6.0])
def test_marginals_weigh_a_shift_in_the_unit_of_their_grid(t_max: float) -> None:
    target = GeneralizedGaussian(2.0, sigma=1.7)
    test = MarginalMatching(target, num_points=201, t_max=t_max)
    quantiles = torch.special.ndtri((torch.arange(4000, dtype=torch.float64) + 0.5) / 4000) * 1.7
    shifted = (quantiles + 0.05)[:, None]
    assert test(shifted).item() / (4000 * test.unit) == pytest.approx(0.05**2, rel=0.01)


@pytest.mark.parametrize("method", ["rectified_lpjepa", slow("lejepa")])
def test_the_unsliced_form_trains_in_the_same_unit(
    method: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """With auto, which says so, and a marginal term; near what 4,000 slices give."""
    test, slices, name = {
        "lejepa": ("test", "num_slices", "train_sigreg_loss"),
        "rectified_lpjepa": ("rdm_test", "num_projections", "train_rdm_reg_loss"),
    }[method]
    sliced = {"lejepa": "epps_pulley", "rectified_lpjepa": "characteristic_function"}[method]
    found = {}
    for form in (sliced, "auto"):
        options = tiny(tmp_path / form, method=method, max_steps=1)
        options["method_kwargs"] = {
            "proj_hidden_dim": 16,
            "proj_output_dim": 8,
            "logging_interval": 1,
            test: form,
            slices: 4000,
            "t_max": 6.0,
            "num_points": 41,
            "marginal_weight": 0.5 if form == "auto" else 0.0,
        }
        found[form] = next(r for r in rows(run(options).folder) if name in r)
    assert "matching without slices, the cheaper way for 64 samples" in capfd.readouterr().out
    values = [float(found[form][name]) for form in (sliced, "auto")]
    assert values[1] == pytest.approx(values[0], rel=0.03)
    assert float(found["auto"]["train_marginal_loss"]) > 0
    assert "train_marginal_loss" not in found[sliced]


@pytest.mark.parametrize(
    "method, kwargs, message",
    [
        ("lejepa", {"test": "anderson_darlin"}, "choose from anderson_darling"),
        ("lejepa", {"test": "hv", "test_kwargs": {"beta": 2}}, "beta"),
        ("lejepa", {"test": "hv", "test_kwargs": {"gamma": -2}}, "gamma.* is -2"),
        ("lejepa", {"test": "hz", "lp_norm_parameter": 1.0}, "needs test auto, epps_pulley or uns"),
        ("lejepa", {"test": "auto", "test_kwargs": {"bogus": 1}}, "bogus"),
        ("lejepa", {"test": "unsliced_epps_pulley", "test_kwargs": {"target": 1}}, "no test_kwarg"),
        ("lejepa", {"test_kwargs": {"weight_type": "uniform"}}, "weight_type"),
        ("lejepa", {"test": "hz", "marginal_weight": 1.0}, "marginal_weight 1 needs test auto"),
        (
            "rectified_lpjepa",
            {
                "rdm_test": "characteristic_function",
                "projection_vectors_type": "torch_svd_and_random",
            },
            "projection_vectors_type random",
        ),
    ],
)
def test_impossible_options(method: str, kwargs: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_config({"method": method, "method_kwargs": kwargs})


@pytest.mark.parametrize(
    "test", ["anderson_darling", slow("vcreg"), slow("bhep"), "hz", slow("stein"), "weak_sigreg"]
)
def test_any_test_trains(test: str, tmp_path: Path) -> None:
    options = tiny(tmp_path, method="lejepa", max_epochs=1, knn_eval={"enabled": False})
    options["method_kwargs"] = {
        "test": test,
        "num_slices": 32,
        "proj_hidden_dim": 16,
        "proj_output_dim": 8,
        "logging_interval": 2,
    }
    values = [
        float(r["train_sigreg_loss"]) for r in rows(run(options).folder) if "train_sigreg_loss" in r
    ]
    assert len(values) == 3 and all(np.isfinite(values))
