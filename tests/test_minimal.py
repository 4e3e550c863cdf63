"""MINIMAL.md runs as it is printed, and its parts are those of the library."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from solo.distributions import RectifiedGeneralizedGaussian
from solo.losses.rectified_lpjepa import rectified_lpjepa_loss, sliced_wasserstein

TEXT = (Path(__file__).resolve().parents[1] / "MINIMAL.md").read_text()


def blocks() -> list[str]:
    """The code, with the two constants that the text names changed."""
    code = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    joined = "\n".join(code)
    assert "solo" not in joined
    assert joined.count('DATA = "cifar100"') == joined.count('DEVICE = "cuda"') == 1
    code[0] = code[0].replace('DATA = "cifar100"', 'DATA = "digits"')
    code[0] = code[0].replace('DEVICE = "cuda"', 'DEVICE = "cpu"')
    return code


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    """What the blocks before the training define."""
    scope: dict[str, Any] = {}
    before = next(i for i, block in enumerate(blocks()) if "for step in range" in block)
    for block in blocks()[:before]:
        exec(block, scope)
    return scope


def test_its_target_is_the_librarys(page: dict[str, Any]) -> None:
    for p, mu in ((0.5, -1.0), (1.0, 0.5), (2.0, -0.67)):
        ours = RectifiedGeneralizedGaussian(p=p, mu=mu)
        assert page["sigma_of"](p) == pytest.approx(ours.sigma, rel=1e-10)
        assert page["expected_l0"](p, mu) == pytest.approx(ours.expected_l0, rel=1e-10)
        sample = page["sample_target"]((200_000,), p, mu)
        assert float(sample.mean()) == pytest.approx(ours.mean, abs=0.01)
        assert float((sample > 0).float().mean()) == pytest.approx(ours.expected_l0, abs=0.005)


def test_its_loss_is_the_librarys(page: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    z1, z2, t1, t2 = torch.randn(4, 32, 10).relu()
    directions = torch.nn.functional.normalize(torch.randn(page["S"]["slices"], 10), dim=1)
    found = page["rdm_reg"](z1, t1, directions)
    torch.testing.assert_close(found, sliced_wasserstein(z1, t1, directions))
    targets = iter([t1, t2])
    monkeypatch.setitem(page, "sample_target", lambda *_: next(targets))
    plain = torch.randn
    monkeypatch.setattr(torch, "randn", lambda *shape, **_: directions)
    total = page["loss_of"](z1, z2)
    monkeypatch.setattr(torch, "randn", plain)
    ours = rectified_lpjepa_loss(torch.stack([z1, z2]), torch.stack([t1, t2]), directions)
    torch.testing.assert_close(total, ours.loss)


def test_its_lars_is_the_golden_one(page: dict[str, Any], golden: dict[str, np.ndarray]) -> None:
    start = [torch.tensor(golden[f"lars_exclude_{name}0"]) for name in "wb"]
    w, b = (torch.nn.Parameter(value.clone()) for value in start)
    optimizer = page["LARS"]([w, b], lr=0.3)
    for gw, gb in zip(golden["lars_exclude_gw"], golden["lars_exclude_gb"]):
        w.grad, b.grad = torch.tensor(gw), torch.tensor(gb)
        optimizer.step()
    np.testing.assert_allclose(w.detach(), golden["lars_exclude_w6"], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(b.detach(), golden["lars_exclude_b6"], rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On digits: features better than raw pixels' neighbours, and as sparse as asked for."""
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    for block in blocks():
        exec(block, scope)
    assert (tmp_path / "minimal.png").stat().st_size > 10_000
    assert scope["linear"] > 95 and scope["knn"] > 92
    assert scope["l0"] == pytest.approx(scope["expected_l0"](2.0, -0.67), abs=0.1)
