"""VICReg, SimCLR and NCL: golden numbers, plain formulations, and many processes."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from solo.losses import ncl_loss, simclr_loss, vicreg_loss
from solo.losses.vicreg import covariance_loss, variance_loss


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


SCRIPT = """
from solo.losses import ncl_loss, simclr_loss, vicreg_loss
from solo.losses.sigreg import SIGReg
torch.manual_seed(0)
images = torch.randn(2, 16, 12, dtype=torch.float64)
size = 16 // world
for name, loss in dict(vicreg=vicreg_loss, simclr=simclr_loss, ncl=ncl_loss,
                       sigreg=lambda a, b: SIGReg(num_slices=64)(torch.stack((a, b)))).items():
    torch.manual_seed(1)
    network = torch.nn.Linear(12, 6).double()
    network = torch.nn.parallel.DistributedDataParallel(network)
    z = network(images[:, rank * size:(rank + 1) * size].flatten(0, 1)).unflatten(0, (2, size))
    value = loss(z[0], z[1])
    value.backward()
    results[name] = value.detach()
    results[name + '_gradient'] = network.module.weight.grad
"""


def test_one_process_and_two_agree(agree: Callable[[str], None]) -> None:
    agree(SCRIPT)
