"""The LeJEPA loss."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import rows, tiny
from torch.nn.parallel import DistributedDataParallel

from solo.data import ImageData
from solo.losses.sigreg import SIGReg, lejepa_loss
from solo.methods import build_method, resolve_config
from solo.multivariate import RandomSlices
from solo.pretrain import run


def test_loss_is_the_plain_formula() -> None:
    z = torch.randn(5, 8, 6, dtype=torch.float64)
    views = z.numpy()
    centre = views[:2].mean(0)
    invariance = np.mean([(views[v] - centre) ** 2 for v in range(5)])
    # Epps–Pulley of each view along the module's own slices, by numpy's trapezoid rule.
    reg = SIGReg(num_slices=40)
    value = reg(z, (3,))
    slices = RandomSlices(40).matrix(z, (3,)).T.numpy()
    t = np.linspace(-3, 3, 33)
    weight = np.exp(-(t**2) / 2)
    statistics = []
    for view in views:
        ecf = np.exp(1j * t[:, None, None] * (view @ slices)).mean(1)
        integrand = np.abs(ecf - weight[:, None]) ** 2 * weight[:, None]
        statistics.append(8 * np.trapezoid(integrand, t, axis=0).mean())
    assert value.item() == pytest.approx(np.mean(statistics), rel=1e-10)
    total, inv = lejepa_loss(z, value, 2, lamb=0.1)
    assert inv.item() == pytest.approx(invariance, rel=1e-12)
    assert total.item() == pytest.approx(0.9 * invariance + 0.1 * value.item(), rel=1e-12)
    with pytest.raises(ValueError, match="global_views is 6"):
        lejepa_loss(z, value, 6)


def worker(rank: int, world: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    images = torch.randn(4, 16, 12, dtype=torch.float64).chunk(world, 1)[rank]
    network = DistributedDataParallel(torch.nn.Linear(12, 6).double())
    z = network(images.flatten(0, 1)).unflatten(0, images.shape[:2])
    loss = lejepa_loss(z, SIGReg(num_slices=64)(z, (1,)), 2).loss
    loss.backward()
    return {"loss": loss.detach(), "gradient": network.module.weight.grad}


def test_one_process_and_two_agree(agree: Callable[..., None]) -> None:
    agree(worker)


@pytest.mark.parametrize("per_view", [True, False])
def test_multi_crop_run(per_view: bool, tmp_path: Path) -> None:
    options = tiny(tmp_path, method="lejepa", max_epochs=1)
    options["method_kwargs"] = {
        "num_slices": 32,
        "proj_hidden_dim": 16,
        "proj_output_dim": 8,
        "logging_interval": 1,
        "per_view": per_view,
    }
    options["augmentations"] = [{"crop_size": 8, "num_crops": 2}, {"crop_size": 4, "num_crops": 3}]
    written = rows(run(options).folder)
    first = next(row for row in written if "train_lejepa_loss" in row)
    expected = 0.95 * float(first["train_invariance_loss"])
    expected += 0.05 * float(first["train_sigreg_loss"])
    assert float(first["train_lejepa_loss"]) == pytest.approx(expected, rel=1e-4)


def test_running_statistics_follow_the_first_resolution(tmp_path: Path) -> None:
    """Validation sees views of that size; small crops must not blur its statistics."""
    options = tiny(tmp_path, method="lejepa")
    options["method_kwargs"] = {"proj_hidden_dim": 16, "proj_output_dim": 8}
    options["augmentations"] = [{"crop_size": 8, "num_crops": 2}, {"crop_size": 4, "num_crops": 3}]
    config = resolve_config(options)
    data = ImageData(config)
    method = build_method(config, data).train()
    batch = next(iter(data.train_dataloader()))
    before = copy.deepcopy(method.backbone.state_dict())
    method.encode(batch.views)
    both = copy.deepcopy(method.backbone.state_dict())
    method.backbone.load_state_dict(before)
    method.encode(batch.views[:1])
    first = method.backbone.state_dict()
    changed = 0
    for name, value in first.items():
        if "running" in name:
            torch.testing.assert_close(both[name], value)
            changed += not torch.equal(value, before[name])
    assert changed > 4
    momenta = {m.momentum for m in method.modules() if isinstance(m, torch.nn.BatchNorm2d)}
    assert momenta == {0.1}
