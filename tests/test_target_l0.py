"""Asking for a sparsity gives it: the digits recipe, a third of its length."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from solo.pretrain import run

RECIPE = Path(__file__).resolve().parents[1] / "scripts/pretrain/digits/rectified_lpjepa.yaml"


@pytest.mark.slow
@pytest.mark.parametrize("wanted", [0.1, 0.25, 0.5, 0.75])
def test_measured_l0_is_what_was_asked(wanted: float, tmp_path: Path) -> None:
    tree = yaml.safe_load(RECIPE.read_text())
    tree["method_kwargs"]["target_l0"] = wanted
    tree["checkpoint"] = {"dir": str(tmp_path)}
    tree["max_epochs"], tree["scheduler"]["warmup_epochs"] = 20, 2
    metrics = run(tree).metrics
    assert metrics["expected_l0"] == pytest.approx(wanted)
    assert metrics["val_l0_sparsity_metric"] == pytest.approx(wanted, abs=0.1)
