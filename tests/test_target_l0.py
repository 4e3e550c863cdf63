"""Asking for a sparsity gives it: the digits recipe, a third of its length."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.recipes import compose
from solo.pretrain import run


@pytest.mark.slow
@pytest.mark.parametrize("wanted", [0.1, 0.75])
def test_measured_l0_is_what_was_asked(wanted: float, tmp_path: Path) -> None:
    tree = compose("digits/rectified_lpjepa.yaml")
    tree["method_kwargs"]["target_l0"] = wanted
    tree["checkpoint"] = {"dir": str(tmp_path)}
    tree |= {"max_epochs": 20, "scheduler": {"warmup_epochs": 2}}
    metrics = run(tree).metrics
    assert metrics["expected_l0"] == pytest.approx(wanted)
    assert metrics["val_l0_sparsity_metric"] == pytest.approx(wanted, abs=0.1)
