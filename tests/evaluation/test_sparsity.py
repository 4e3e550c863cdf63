"""Sparsity metrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from solo.evaluation.sparsity import l0_sparsity, l1_sparsity


def test_golden(golden: dict[str, np.ndarray]) -> None:
    z = torch.tensor(golden["metric_input"])
    assert l0_sparsity(z).item() == pytest.approx(float(golden["l0_sparsity"]), abs=1e-6)
    assert l1_sparsity(z).item() == pytest.approx(float(golden["l1_sparsity"]), abs=1e-6)


def test_extremes() -> None:
    assert l1_sparsity(torch.ones(2, 8)).item() == pytest.approx(1)
    assert l1_sparsity(torch.eye(8)).item() == pytest.approx(1 / 8)
    assert l1_sparsity(torch.zeros(2, 8)).item() == 0
    assert l0_sparsity(torch.eye(8)).item() == pytest.approx(1 / 8)
