"""The weights in the repository: they load without it, and give the numbers of their cards."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from helpers import ROOT, features_without_solo

from solo.linear import run as evaluate
from solo.runs.networks import load_encoder

WEIGHTS = ROOT / "weights/fashion-mnist"
NAMES = ("lejepa", "rectified_lpjepa")
IMAGES = Path("/usr/share/datasets/fashion-mnist")  # Debian's package dataset-fashion-mnist


@pytest.mark.parametrize("name", NAMES)
def test_they_load_with_timm_alone(name: str, tmp_path: Path) -> None:
    """In a process that cannot import this package, features are those after training."""
    with np.load(ROOT / "tests/golden/fashion-mnist.npz") as golden:
        images, expected = torch.from_numpy(golden["images"]), torch.from_numpy(golden[name])
    found = features_without_solo(WEIGHTS / name, images.expand(-1, 3, -1, -1), tmp_path)
    torch.testing.assert_close(found.float(), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(RuntimeError, match="Unknown model"):  # its own would have another stem
        timm.create_model(f"local-dir:{WEIGHTS / name}", pretrained=True)
    ours = load_encoder(str(WEIGHTS / name)).eval()
    with torch.no_grad():
        found = ours(images.expand(-1, 3, -1, -1))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    for file in (WEIGHTS / name).iterdir():
        assert file.stat().st_size < 5_000_000


def stated(name: str) -> dict[str, float]:
    """Accuracies of the card's few-shot table, by shots."""
    card = (WEIGHTS / name / "README.md").read_text()
    (table,) = re.findall(r"Evaluated by `mode=few_shot` on fashion_mnist:\n\n((?:\|.*\n)+)", card)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    own = [row for row in rows if row[1] not in ("raw pixels", "untrained network")]
    return {shots: float(score.split("±")[0]) for shots, _, score in own}


@pytest.mark.slow
@pytest.mark.skipif(not IMAGES.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
@pytest.mark.parametrize("name", NAMES)
def test_they_give_the_numbers_of_their_cards(name: str, tmp_path: Path) -> None:
    expected = stated(name)
    assert list(expected) == ["1", "10", "100", "all"]
    if name == "lejepa":  # all of one is minutes enough
        del expected["all"]
    result = evaluate(
        {
            "pretrained": str(WEIGHTS / name),
            "data": {"dataset": "fashion_mnist", "train_path": str(IMAGES)},
            "few_shot": {"shots": [*map(yaml.safe_load, expected)], "baselines": False},
            "l2": "auto",
            "checkpoint": {"dir": str(tmp_path)},
        }
    )
    found = {str(row["shots"]): row["fashion_mnist"].mean for row in result.rows}
    for shots, accuracy in expected.items():
        assert found[shots] == pytest.approx(accuracy, abs=0.05), shots
