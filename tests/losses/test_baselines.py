"""VICReg, SimCLR and NCL: golden numbers, plain formulations, and many processes."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from torch.nn.parallel import DistributedDataParallel

from solo.losses import (
    barlow_twins_loss,
    byol_loss,
    dino_loss,
    ncl_loss,
    over_pairs,
    simclr_loss,
    supervised_loss,
    vicreg_loss,
)
from solo.losses.dino import updated_center
from solo.losses.ncl import RECTIFIERS, rep_relu
from solo.losses.sigreg import SIGReg
from solo.losses.vicreg import covariance_loss, variance_loss
from solo.losses.visreg import VISRegTest
from solo.multivariate import RandomSlices


def test_golden(golden: dict[str, np.ndarray]) -> None:
    a, b = (torch.tensor(golden[f"pair_{name}"]) for name in "ab")
    expected = {name: float(value) for name, value in golden.items() if value.ndim == 0}
    assert vicreg_loss(a, b).item() == pytest.approx(expected["vicreg_25_25_1"], abs=1e-10)
    variance, covariance = (
        (f(a) + f(b)).item()
        for f in (variance_loss, covariance_loss)  # golden: both views
    )
    assert variance == pytest.approx(expected["variance_loss"], abs=1e-10)
    assert covariance == pytest.approx(expected["covariance_loss"], abs=1e-10)
    assert simclr_loss(a, b).item() == pytest.approx(expected["simclr_t0.2"], abs=1e-10)
    got = ncl_loss(a, b).item()
    assert got == pytest.approx(expected["ncl_relu_normalised_t0.2"], abs=1e-10)
    same = ncl_loss(a, b, non_neg="rep_relu").item()
    assert same == pytest.approx(expected["ncl_relu_normalised_t0.2"], abs=1e-10)


def test_covariance_loss_is_numpys() -> None:
    z = torch.randn(50, 6, dtype=torch.float64)
    c = np.cov(z.numpy().T)
    expected = (c[~np.eye(6, dtype=bool)] ** 2).sum() / 6
    assert covariance_loss(z).item() == pytest.approx(expected, rel=1e-12)


def test_simclr_row_by_row() -> None:
    z1, z2 = torch.nn.functional.normalize(torch.randn(2, 5, 7, dtype=torch.float64), dim=-1)
    rows = torch.cat((z1, z2)).tolist()
    total = 0.0
    for i, row in enumerate(rows):
        scores = [
            math.exp(sum(x * y for x, y in zip(row, other)) / 0.5) if i != j else 0.0
            for j, other in enumerate(rows)
        ]
        total -= math.log(scores[(i + 5) % 10] / sum(scores))
    assert simclr_loss(z1, z2, temperature=0.5).item() == pytest.approx(total / 10, rel=1e-12)
    with pytest.raises(ValueError, match="temperature is 0"):
        simclr_loss(z1, z2, temperature=0)


def test_rep_relu_has_the_gradient_of_gelu() -> None:
    z = torch.linspace(-3, 3, 41, dtype=torch.float64, requires_grad=True)
    value = rep_relu(z)
    assert torch.allclose(value, z.relu(), atol=1e-15)
    (found,) = torch.autograd.grad(value.sum(), z)
    x = z.detach().numpy()
    density, cdf = scipy.stats.norm.pdf(x), scipy.stats.norm.cdf(x)
    np.testing.assert_allclose(found.numpy(), cdf + x * density, atol=1e-12)
    half = torch.randn(1000).bfloat16()
    assert torch.equal(rep_relu(half), half.relu())  # to the bit


def test_rectifiers_have_their_signs() -> None:
    z = torch.linspace(-2, 2, 21)
    for name, rectify in RECTIFIERS.items():
        values = rectify(z)
        assert bool((values >= 0).all()) == (name not in ("gelu", "leakyrelu")), name
        assert bool((values == 0).sum() > 5) == (name in ("relu", "rep_relu")), name
        assert torch.isfinite(ncl_loss(z.view(3, 7), z.view(3, 7) + 1, non_neg=name))


def test_barlow_twins_is_numpys_correlation() -> None:
    z1, z2 = torch.randn(2, 40, 5, dtype=torch.float64)
    z2 = z2 + z1
    c = np.corrcoef(z1.numpy().T, z2.numpy().T)[:5, 5:]
    off = c[~np.eye(5, dtype=bool)]
    expected = ((1 - np.diag(c)) ** 2).sum() + 0.01 * (off**2).sum()
    found = barlow_twins_loss(z1, z2, lamb=0.01, eps=0).item()
    assert found == pytest.approx(expected, rel=1e-10)


def test_visreg() -> None:
    """The three terms in NumPy; shape knows nothing of scale and place."""
    z = torch.randn(2, 64, 6) * torch.arange(1, 7) + 3
    test = VISRegTest(num_projections=32)
    terms = test(z, (4, 1))
    values = z.double().numpy()
    mean, std = values.mean(1, keepdims=True), values.std(1, keepdims=True)
    assert terms.center.item() == pytest.approx((mean**2).mean(), rel=1e-5)
    assert terms.scale.item() == pytest.approx(((1 - std) ** 2).mean(), rel=1e-5)
    slices = RandomSlices(32).matrix(z, (4, 1)).double().numpy()
    goal = scipy.stats.norm.ppf(np.arange(1, 65) / 65)[:, None]
    sorted_ = np.sort((values - mean) / std @ slices.T, axis=1)
    assert terms.shape.item() == pytest.approx(((sorted_ - goal) ** 2).mean(), rel=1e-4)
    assert test(3 * z + 5, (4, 1)).shape.item() == pytest.approx(terms.shape.item(), rel=1e-4)
    line = z[..., :1].expand_as(z)  # normal in each coordinate, but of rank 1
    assert test(line, (0, 0)).shape > 3 * test(torch.randn_like(z), (0, 0)).shape


def test_visregs_scale_pulls_hard_at_collapse() -> None:
    """The gradient along the direction that widens z does not shrink with z."""
    pulls = []
    for size in (1e-2, 1e-6):
        z = (size * torch.randn(1, 64, 4)).requires_grad_()
        (gradient,) = torch.autograd.grad(VISRegTest(8)(z).scale, z)
        pulls.append(float(gradient.norm()))
    assert pulls[1] == pytest.approx(pulls[0], rel=0.05)


def test_visregs_gradient_is_its_slope() -> None:
    """Directional finite differences in float64; the divisor of shape is held."""
    z = torch.randn(2, 12, 5, dtype=torch.float64)
    test, way = VISRegTest(num_projections=16), torch.randn(2, 12, 5, dtype=torch.float64)
    for name in ("center", "scale"):
        probe = z.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(getattr(test(probe), name), probe)
        ends = [getattr(test(z + h * way), name).item() for h in (1e-6, -1e-6)]
        assert (gradient * way).sum().item() == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5)


def test_byol_and_dino_pair_by_pair() -> None:
    student, teacher = torch.randn(4, 3, 5), torch.randn(2, 3, 5)
    center = torch.randn(5)
    cosines, entropies = [], []
    for v in range(4):
        for t in range(2):
            if v == t:
                continue
            for p, q in zip(student[v], teacher[t]):
                cosines.append(2 - 2 * float(p @ q / p.norm() / q.norm()))
                target = scipy.special.softmax(((q - center) / 0.04).numpy())
                entropies.append(-(target * scipy.special.log_softmax((p / 0.1).numpy())).sum())
    assert byol_loss(student, teacher).item() == pytest.approx(np.mean(cosines), rel=1e-5)
    found = dino_loss(student, teacher, center).item()
    assert found == pytest.approx(np.mean(entropies), rel=1e-5)
    moved = updated_center(center, teacher, 0.9)
    np.testing.assert_allclose(
        moved, 0.9 * center + 0.1 * teacher.reshape(-1, 5).mean(0), rtol=1e-5
    )
    assert byol_loss(student[:2], student[[1, 0]]).item() == pytest.approx(0, abs=1e-6)


def test_supervised_with_missing_labels() -> None:
    logits, labels = torch.randn(7, 4), torch.tensor([0, 3, -1, 2, -1, 1, 1])
    keep = labels >= 0
    chances = scipy.special.softmax(logits[keep].numpy(), axis=1)
    expected = -np.log(chances[np.arange(5), labels[keep].numpy()]).mean()
    assert supervised_loss(logits, labels).item() == pytest.approx(expected, rel=1e-5)
    assert supervised_loss(logits, torch.full((7,), -1)) == 0


def test_more_than_two_views() -> None:
    z = torch.randn(3, 8, 4)
    pairs = [vicreg_loss(z[i], z[j]).item() for i, j in ((0, 1), (0, 2), (1, 2))]
    assert over_pairs(vicreg_loss, z).item() == pytest.approx(np.mean(pairs), rel=1e-6)


def worker(rank: int, world: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    images = torch.randn(2, 16, 12, dtype=torch.float64).chunk(world, 1)[rank]
    teacher = torch.randn(2, 16, 6, dtype=torch.float64).chunk(world, 1)[rank]
    center = torch.linspace(-1, 1, 6, dtype=torch.float64)
    labels = torch.randint(0, 6, (2, 16))
    labels[:, :3] = -1  # more of them missing on the first process
    labels = labels.chunk(world, 1)[rank].flatten()
    losses: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "vicreg": lambda z: over_pairs(vicreg_loss, z),
        "simclr": lambda z: simclr_loss(*z),
        "ncl": lambda z: ncl_loss(*z),
        "sigreg": SIGReg(num_slices=64),
        "barlow": lambda z: barlow_twins_loss(*z),
        "byol": lambda z: byol_loss(z, teacher),
        "dino": lambda z: dino_loss(z, teacher, center),
        "supervised": lambda z: supervised_loss(z.flatten(0, 1), labels),
    }
    results = {"center": updated_center(center, teacher)}
    for name, loss in losses.items():
        torch.manual_seed(1)
        network = DistributedDataParallel(torch.nn.Linear(12, 6).double())
        value = loss(network(images.flatten(0, 1)).unflatten(0, images.shape[:2]))
        value.backward()
        results |= {name: value.detach(), f"{name}_gradient": network.module.weight.grad}
    return results


def visreg_worker(rank: int, world: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    images = torch.randn(2, 16, 12).chunk(world, 1)[rank]
    torch.manual_seed(1)
    network = DistributedDataParallel(torch.nn.Linear(12, 6))
    z = network(images.flatten(0, 1)).unflatten(0, images.shape[:2])
    value = torch.stack(VISRegTest(num_projections=32)(z, (0, 0))).sum()
    value.backward()
    return {"value": value.detach().double(), "gradient": network.module.weight.grad.double()}


def test_one_process_and_two_agree(agree: Callable[..., None]) -> None:
    agree(worker)


def test_visreg_on_one_process_and_two(agree: Callable[..., None]) -> None:
    """In float32, as the sorted distance computes."""
    agree(visreg_worker, rtol=1e-4, atol=1e-6)
