"""RDMReg and the Rectified LpJEPA loss."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from helpers import slow
from scipy import stats
from torch.nn.parallel import DistributedDataParallel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import peak_memory
from solo.distributions import GeneralizedGaussian, RectifiedGeneralizedGaussian
from solo.losses.characteristic_rdm import CharacteristicRDMReg
from solo.losses.rectified_lpjepa import (
    RDMReg,
    rectified_lpjepa_loss,
    sliced_wasserstein,
)
from solo.losses.sigreg import SIGReg
from solo.losses.vicreg import invariance_loss
from solo.losses.visreg import VISRegTest
from solo.losses.wasserstein import sorted_distance
from solo.multivariate.slices import BLOCK, RandomSlices, StructuredSlices, given_slices


def test_golden_loss_and_gradient(golden: dict[str, np.ndarray]) -> None:
    g = {name: torch.tensor(golden[f"rdm_{name}"]) for name in ("z1", "z2", "target1", "target2")}
    z = torch.stack((g["z1"], g["z2"])).requires_grad_()
    targets = torch.stack((g["target1"], g["target2"]))
    loss, invariance, reg = rectified_lpjepa_loss(
        z, targets, torch.tensor(golden["rdm_projections"])
    )
    loss.backward()
    assert invariance.item() == pytest.approx(float(golden["rdm_invariance"]), abs=1e-12)
    assert reg.item() == pytest.approx(float(golden["rdm_reg"]), abs=1e-12)
    assert loss.item() == pytest.approx(float(golden["rdm_total"]), abs=1e-12)
    assert z.grad is not None
    np.testing.assert_allclose(z.grad[0], golden["rdm_grad_z1"], atol=1e-12)
    np.testing.assert_allclose(z.grad[1], golden["rdm_grad_z2"], atol=1e-12)


def test_one_dimension_is_the_wasserstein_distance_of_scipy() -> None:
    """Along one slice, W2^2 is the least cost over all assignments."""
    from scipy.optimize import linear_sum_assignment

    x, y = torch.randn(2, 30, 1, dtype=torch.float64)
    cost = (x - y.T).square().numpy()
    rows, columns = linear_sum_assignment(cost)
    got = sliced_wasserstein(x, y, torch.ones(1, 1, dtype=torch.float64))
    assert got.item() == pytest.approx(cost[rows, columns].mean(), rel=1e-12)


def test_gradcheck() -> None:
    x, y = torch.randn(2, 7, 4, dtype=torch.float64)
    slices = torch.nn.functional.normalize(torch.randn(5, 4, dtype=torch.float64), dim=-1)
    assert torch.autograd.gradcheck(
        lambda features: sliced_wasserstein(features, y, slices), x.requires_grad_()
    )


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match=r"\(5, 3\).*\(4, 3\)"):
        sliced_wasserstein(torch.zeros(5, 3), torch.zeros(4, 3), torch.zeros(2, 3))


def test_more_views_mean_the_mean_over_pairs() -> None:
    from solo.losses.vicreg import invariance_loss

    z = torch.randn(5, 6, 3, dtype=torch.float64)
    pairs = [torch.nn.functional.mse_loss(z[i], z[j]) for i in range(5) for j in range(5) if i != j]
    assert invariance_loss(z).item() == pytest.approx(torch.stack(pairs).mean().item(), rel=1e-12)


def test_module_is_the_plain_formula_with_its_own_draws() -> None:
    target = RectifiedGeneralizedGaussian(1.0, -0.3)
    reg = RDMReg(target, num_projections=BLOCK + 40, seed=3)
    z = torch.randn(2, 16, 6).relu()
    slices = RandomSlices(BLOCK + 40, 3).matrix(z, (4, 2))
    samples = reg.target_samples((4, 2), z)
    plain = np.mean(
        [
            (np.sort(z[v].numpy() @ slices.T.numpy(), 0) - np.sort(samples[v] @ slices.T, 0)) ** 2
            for v in (0, 1)
        ]
    )
    assert reg(z, (4, 2)).item() == pytest.approx(plain, rel=1e-5)
    assert not torch.equal(samples[0], samples[1])


@pytest.mark.parametrize(
    "reg",
    [
        RDMReg(GeneralizedGaussian(), num_projections=8),
        CharacteristicRDMReg(GeneralizedGaussian(), num_projections=8),
        SIGReg(num_slices=8),
        SIGReg(num_slices=8, target=GeneralizedGaussian(1.0)),
        VISRegTest(num_projections=8),
    ],
)
def test_calls_without_a_step_draw_afresh(reg: torch.nn.Module) -> None:
    """Each is another draw, in the order of steps 0, 1, 2; a step that is given changes nothing."""
    z = torch.randn(2, 16, 6)
    value = (lambda *step: reg(z, *step).shape) if isinstance(reg, VISRegTest) else partial(reg, z)
    first = [value().item(), value((7,)).item(), value().item(), value().item()]
    assert first == [value((i,)).item() for i in (0, 7, 1, 2)]
    assert len(set(first)) == 4


def test_slices_are_uniform_and_do_not_depend_on_the_share() -> None:
    like, slices = torch.empty(1, 5), RandomSlices(1000, 1)
    whole = slices.matrix(like, (7,))
    torch.testing.assert_close(whole.norm(dim=1), torch.ones(1000))
    ranges = ((0, 333), (333, 700), (700, 1000))
    parts = [slices.matrix(like, (7,), start, stop) for start, stop in ranges]
    assert torch.equal(torch.cat(parts), whole)
    # A coordinate of a uniform slice in 5 dimensions: (1 + c) / 2 is Beta(2, 2).
    assert stats.kstest((1 + whole[:, 0].numpy()) / 2, stats.beta(2, 2).cdf).pvalue > 1e-3
    assert not torch.equal(whole, slices.matrix(like, (8,)))


@pytest.mark.parametrize(
    ("kind", "first"),
    [("torch_svd_and_random", 0), ("torch_svd_bottom_half_eigen_and_random", 3)],
)
def test_singular_slices_come_first(kind: str, first: int) -> None:
    z = torch.randn(20, 6) * torch.arange(6, 0, -1)
    reg = RDMReg(GeneralizedGaussian(), num_projections=9, projection_vectors_type=kind)
    got = torch.cat([chunk.project(torch.eye(6)) for chunk in reg.slices.share(z, (0,))])
    # Right-singular vectors are the eigenvectors of the Gram matrix, by falling eigenvalue.
    eigenvectors = torch.linalg.eigh(z.T @ z).eigenvectors.flip(1).T[first:]
    overlap = (got[: 6 - first] * eigenvectors).sum(1).abs()
    torch.testing.assert_close(overlap, torch.ones(6 - first), atol=1e-4, rtol=0)
    torch.testing.assert_close(got.norm(dim=1), torch.ones(9))
    assert got.shape == (9, 6)
    reg(z[None].expand(2, -1, -1), (0,))


@pytest.mark.parametrize("dim", [1, 7, 12, 64, 100])
@pytest.mark.parametrize("together", [True, False])
def test_structured_slices_are_orthogonal_blocks(
    together: bool, dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks that fit are worked on together."""
    if not together:
        monkeypatch.setattr("solo.multivariate.slices.CPU_CHUNK", 2 * dim)
    like = torch.empty(1, dim, dtype=torch.float64)
    identity = torch.eye(dim, dtype=torch.float64)
    stop = 2 * dim + dim // 2
    slices = StructuredSlices(stop, 3)
    chunks = list(slices.share(like, (1,)))
    parts = [chunk.project(identity) for chunk in chunks]
    assert (len(parts) == 1) == (together or dim == 1)
    rows = torch.cat(parts)
    assert rows.shape == (stop, dim)
    for block in rows.split(dim):
        gram = torch.eye(len(block), dtype=torch.float64)
        torch.testing.assert_close(block @ block.T, gram)
    # The adjoint, and any share of the rows.
    x, g = torch.randn(5, dim, dtype=torch.float64), torch.randn(stop, 5, dtype=torch.float64)
    pulled = sum(c.pull_back(own) for c, own in zip(chunks, g.split([len(p) for p in parts])))
    torch.testing.assert_close(pulled, rows.T @ g)
    third = stop // 3
    share = slices.chunks(like, (1,), third, stop - 1)
    torch.testing.assert_close(
        torch.cat([chunk.project(x.T) for chunk in share]), (rows @ x.T)[third : stop - 1]
    )


@pytest.mark.parametrize("dim", [48, 64])
def test_structured_slices_estimate_the_same_distance(dim: int) -> None:
    """Without bias in the value, next to none in the gradient, and with less variance of both."""
    target = RectifiedGeneralizedGaussian(1.0, 0.0)
    generator = torch.Generator().manual_seed(0)
    z = (target.sample((1, 128, dim), generator=generator) * 1.2).requires_grad_()
    samples = target.sample((1, 128, dim), generator=generator)
    values, slopes = {}, {}
    draws, count = 300, 4 * dim
    for kind, slices in (("random", RandomSlices(count)), ("structured", StructuredSlices(count))):
        drawn = []
        for draw in range(draws):
            chunks = slices.share(z[0].detach(), (draw,))
            value = sorted_distance(z, samples, chunks) / count
            drawn.append((value.item(), *torch.autograd.grad(value, z)))
        values[kind] = torch.tensor([v for v, _ in drawn])
        slopes[kind] = torch.stack([slope.flatten() for _, slope in drawn])
    means = {kind: value.mean().item() for kind, value in values.items()}
    error = (sum(value.var().item() for value in values.values()) / draws) ** 0.5
    assert means["structured"] == pytest.approx(means["random"], abs=4 * error)
    assert values["structured"].var() < 0.5 * values["random"].var()
    # Over thousands of coordinates, the squared difference of the means is noise plus bias.
    difference = slopes["structured"].mean(0) - slopes["random"].mean(0)
    noise = sum(slope.var(0).sum() for slope in slopes.values()) / draws
    bias = (difference.square().sum() - noise).clamp(min=0).sqrt()
    assert bias < 0.03 * slopes["random"].mean(0).norm()
    assert slopes["structured"].var(0).sum() < 0.5 * slopes["random"].var(0).sum()


def test_gradient_of_the_sorted_distance() -> None:
    features = torch.randn(3, 9, 4, dtype=torch.float64, requires_grad=True)
    targets, rows = torch.randn_like(features), torch.randn(20, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda z: sorted_distance(z, targets, given_slices(rows, 54)), features
    )


def backward(count: int) -> Callable[[], None]:
    """RDMReg with this many slices, after a first time with few."""

    def work(count: int) -> None:
        reg = RDMReg(RectifiedGeneralizedGaussian(), num_projections=count)
        reg(torch.randn(2, 128, 256, requires_grad=True), (0,)).backward()

    work(512)
    return partial(work, count)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_slices() -> None:
    """Peak memory of a process, forward and backward, with 16,384 and with 65,536 slices."""
    few, many = (peak_memory(backward, count) for count in (16384, 65536))
    assert many < few + 20  # MiB; 49,152 more slices are 48 of slices and 48 of projections
    assert few > 0.5


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="number of slices is 0"):
        RDMReg(GeneralizedGaussian(), num_projections=0)
    with pytest.raises(ValueError, match=r"'rando'.*random"):
        RDMReg(GeneralizedGaussian(), projection_vectors_type="rando")  # type: ignore[arg-type]


def test_the_target_is_the_minimum_in_expectation() -> None:
    target = RectifiedGeneralizedGaussian(1.0, 0.0)
    reg = RDMReg(target, num_projections=64)
    own = torch.stack([target.sample((512, 8)) for _ in range(2)])
    others = [own * 1.3, own + 0.2, torch.randn_like(own), own[..., :1].expand_as(own)]
    at_target = torch.stack([reg(own, (i,)) for i in range(8)]).mean()
    for other in others:
        assert torch.stack([reg(other, (i,)) for i in range(8)]).mean() > 1.5 * at_target


def worker(rank: int, world: int, kind: Any) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    images = torch.randn(2, 32, 12).chunk(world, 1)[rank]
    linear, relu = torch.nn.Linear, torch.nn.ReLU()
    network = torch.nn.Sequential(linear(12, 24), torch.nn.Tanh(), linear(24, 8), relu)
    ddp = DistributedDataParallel(network)
    target = RectifiedGeneralizedGaussian(1.0, -0.2)
    reg = RDMReg(target, num_projections=301, seed=5, projection_vectors_type=kind)
    z = ddp(images.flatten(0, 1)).unflatten(0, images.shape[:2])
    with FlopCounterMode(display=False) as counter:
        value = reg(z, (3, 1))
    invariance = invariance_loss(z)
    (125 * value + 25 * invariance).backward()
    return {
        "operations": torch.tensor(float(counter.get_total_flops())),
        "value": value.detach(),
        "invariance": invariance.detach(),
        **{name: p.grad for name, p in network.named_parameters()},
    }


@pytest.mark.parametrize("kind", [slow("random"), "structured", slow("torch_svd_and_random")])
def test_one_process_and_two_agree(
    kind: str, processes: Callable[..., list[dict[str, torch.Tensor]]]
) -> None:
    """Batch 32 on one process, and 16 on each of two (random slices: and 8 on each of four)."""
    (one,) = processes(worker, 1, kind)
    for world in (2, 4) if kind == "random" else (2,):
        for other in processes(worker, world, kind):
            for name, value in one.items():
                if name == "operations":  # of matrix products
                    continue
                torch.testing.assert_close(other[name], value, atol=1e-5, rtol=1e-5)
            if kind == "random":
                assert other["operations"] <= one["operations"] * (1 / world + 0.01)
    assert one["value"] > 0
